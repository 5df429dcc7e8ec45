"""The member card: what this node tells the others about itself. (dcs-layout 3)"""

from __future__ import annotations

from pgcore import PATRONI_VERSION, __version__
from pgcore.decide.sync_duty import effective_tags
from pgcore.decide.table import Table
from pgcore.model.actions import Announce
from pgcore.model.basics import Json
from pgcore.model.decision import Decision, rest
from pgcore.model.node import TaskKind
from pgcore.model.world import World


def card(w: World) -> dict[str, Json]:
    """The fields of the card; only those that are known. (dcs-layout 3)"""
    s, node = w.settings, w.node
    fields: dict[str, Json] = {
        "conn_url": s.conn_url,
        "api_url": s.api_url,
        "state": str(w.shown_state),
        "role": str(node.role),
        "version": PATRONI_VERSION,
        "pgcore_version": __version__,
    }
    if s.proxy_url:
        fields["proxy_url"] = s.proxy_url
    if w.memory.checkpoint_needed and w.is_holder:
        fields["checkpoint_after_promote"] = False
    if tags := effective_tags(w).published():
        fields["tags"] = tags
    if node.pending_restart:
        fields["pending_restart"] = True
        fields["pending_restart_reason"] = {name: dict(change) for name, change in node.pending_restart.items()}
    if w.memory.scheduled_restart is not None:
        fields["scheduled_restart"] = dict(w.memory.scheduled_restart.shown)
    if w.paused:
        fields["pause"] = True
    if node.answering and (node.task is None or w.task_is(TaskKind.PROMOTE, TaskKind.CHECKPOINT)):
        fields |= _positions(w)
    if node.task is not None and node.task.progress:
        fields["progress"] = {"action": str(node.task.kind), **node.task.progress}
    return fields


def _positions(w: World) -> dict[str, Json]:
    node = w.node
    fields: dict[str, Json] = {
        "xlog_location": int(node.position) if node.position is not None else None,
        "timeline": node.timeline,
        "replication_state": node.replication_state,
    }
    if not node.is_primary:
        fields["receive_lsn"] = int(node.received) if node.received else None
        fields["replay_lsn"] = int(node.replayed) if node.replayed else None
    return {name: value for name, value in fields.items() if value is not None}


def announce(w: World) -> Decision | None:
    """Publish the card at the end of every beat that could reach the store. (HA rules 4.15)"""
    if w.store_lost:
        return rest(because="the store is away: nothing is published")
    return rest(Announce(card(w)), because="member card")


PUBLISH = Table("publish", announce)
