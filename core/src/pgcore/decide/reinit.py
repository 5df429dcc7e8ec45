"""A new copy of this node that an operator asked for: nothing is removed before the leader is known to answer. (HA rules 24.5)"""

from __future__ import annotations

from pgcore.decide.restart import in_progress, without_store
from pgcore.decide.sync_duty import leave_sync
from pgcore.decide.table import Table
from pgcore.decide.upstream import clone_source, upstream
from pgcore.model.actions import CancelTask, CompareTimelines, RefuseOrder, Reinitialize
from pgcore.model.decision import Decision, act, end, rest
from pgcore.model.orders import ReinitOrder
from pgcore.model.world import World

CANCEL_LIMIT_S = 30.0
"""A program that ignores its end is killed after 10 s; what has not ended after this is left and named in the answer."""


def _order(w: World) -> ReinitOrder:
    assert isinstance(w.memory.order, ReinitOrder)
    return w.memory.order


def no_leader(w: World) -> Decision | None:
    """Nobody leads: this data directory may be the best there is. (HA rules 24.5)"""
    if not w.store_lost and w.cluster.unlocked:
        return act(RefuseOrder("Cluster has no leader, can not reinitialize"), because="a new copy was asked for, nobody leads")
    return None


def leader_itself(w: World) -> Decision | None:
    """The leader's data directory is the one the others copy. (HA rules 24.5)"""
    if w.is_holder:
        return act(RefuseOrder("I am the leader, can not reinitialize"), because="a new copy was asked for, but I am the leader")
    return None


def cancel_running(w: World) -> Decision | None:
    """With ``force`` a running long action is cancelled first; the new copy begins when it has ended. (HA rules 24.5, EC 94)"""
    free = w.memory.procedure is None and not w.memory.stopping and w.now - (_order(w).asked_at or w.now) < CANCEL_LIMIT_S
    if _order(w).force and w.node.task is not None and free:
        return rest(CancelTask(), because=f"a new copy was asked for with force: cancelling {w.node.task.kind}", wake_after=0.2)
    return None


def ask_leader(w: World) -> Decision | None:
    """Make sure that the leader answers before anything is removed. (principles: never the only copy)"""
    source = w.leader_upstream
    if source is not None and not w.timeline_asked:
        return act(CompareTimelines(source), because=f"a new copy was asked for: does {source.name} answer?")
    return None


def leader_silent(w: World) -> Decision | None:
    """The leader cannot be copied from now: nothing is removed, and the answer says why."""
    found, source = w.leader_timeline, w.leader_upstream
    promoted = found is not None and (not found.in_recovery or w.settings.standby_cluster is not None)
    if source is not None and promoted:
        return None
    what = "is not a primary yet" if found is not None else "does not answer a replication connection"
    where = f"{source.host}:{source.port}" if source is not None else "no address is published"
    reason = f"the leader {w.cluster.leader} ({where}) {what}, can not reinitialize: nothing was removed"
    return act(RefuseOrder(reason), because=reason)


def begin(w: World) -> Decision | None:
    """Stop, remove, copy and start in one long action, so that nothing else starts it meanwhile. (HA rules 24.5, EC 94)"""
    leader = w.leader_upstream
    willing = w.upstream_of(clone_source(w))
    source = leader if _order(w).from_leader or willing is None else willing
    assert source is not None
    return end(
        Reinitialize(source, upstream(w), basebackup_only=_order(w).from_leader),
        because=f"a new copy was asked for: the data directory is replaced by a copy of {source.name}",
    )


REINIT = Table("reinit", without_store, no_leader, leader_itself, cancel_running, in_progress, leave_sync, ask_leader,
               leader_silent, begin)
