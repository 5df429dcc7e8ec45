"""Bookkeeping before the decision: keys a holder finds missing. (HA rules 4.2 to 4.5)"""

from __future__ import annotations

from pgcore.decide.table import Table
from pgcore.model.actions import WriteConfig, WriteInitialize
from pgcore.model.decision import Decision, act
from pgcore.model.world import World


def _may_restore(w: World) -> bool:
    return w.is_holder and not w.store_lost and w.bootstrapping is None and w.has_data


def initialize_missing(w: World) -> Decision | None:
    """I hold the lock and ``/initialize`` is no system identifier: write mine. (HA rules 4.4, EC 15)"""
    if _may_restore(w) and not w.cluster.initialized and w.node.system_id is not None:
        return act(WriteInitialize(w.node.system_id, w.cluster.initialize_version), because="/initialize is missing or invalid")
    return None


def config_missing(w: World) -> Decision | None:
    """I hold the lock and ``/config`` is missing or unreadable: write the last known one back. (HA rules 4.5, EC 16)"""
    config = w.cluster.config
    if _may_restore(w) and (config is None or config.document is None) and w.settings.dynamic:
        return act(
            WriteConfig(w.settings.dynamic, config.version if config else None), because="/config is missing or unreadable"
        )
    return None


PREPARE = Table("prepare", initialize_missing, config_missing)
