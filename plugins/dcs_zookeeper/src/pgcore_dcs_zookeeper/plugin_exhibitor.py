"""The entry point ``exhibitor``: ZooKeeper whose servers Exhibitor lists."""

from __future__ import annotations

from collections.abc import Iterable

from pgcore.plugin import StoreBackend, hookimpl
from pgcore_dcs_zookeeper.plugin import TTL_FLOOR, open_store
from pgcore_dcs_zookeeper.section import ExhibitorSection


@hookimpl
def pgcore_stores() -> Iterable[StoreBackend]:
    """ZooKeeper by Exhibitor's list."""
    return [StoreBackend("exhibitor", ExhibitorSection, open_store, lambda section: TTL_FLOOR)]
