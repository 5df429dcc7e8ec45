"""Repairs that must not delay the decision: adoption, status, history, settings, slots, fulfilled requests. (HA rules 4.14, 8)"""

from __future__ import annotations

from pgcore.decide import failsafe, restart, slot_upkeep, slots, switchover, synchronous
from pgcore.decide.identity import in_question
from pgcore.decide.slot_upkeep import copy_slots, slot_feedback
from pgcore.decide.slots_wanted import retained
from pgcore.decide.sync_duty import return_to_sync
from pgcore.decide.table import Table
from pgcore.decide.upstream import upstream
from pgcore.model.actions import (
    Adopt,
    ApplySettings,
    CompareRecovery,
    DropSync,
    FollowByReload,
    FollowByRestart,
    ReadHistory,
    ResumeReplay,
    RewindState,
    RunCheckpoint,
    TellChange,
    WriteFailover,
    WriteHistory,
    WriteStatus,
)
from pgcore.model.basics import Role
from pgcore.model.changes import replace
from pgcore.model.cluster import ClusterStatus, HistoryEntry
from pgcore.model.decision import Decision, act, rest
from pgcore.model.node import TaskKind
from pgcore.model.world import LeaseState, World


def _serving_leader(w: World) -> bool:
    return w.holds and w.node.is_primary and w.node.answering and w.demotion is None


def _publishing_leader(w: World) -> bool:
    return w.holds and w.serves_as_leader and w.node.answering and w.demotion is None


def adopt(w: World) -> Decision | None:
    """A server of this cluster runs and is now in this agent's charge. (HA rules 4.14, EC 219)"""
    known = w.node.running and w.node.answering and not w.store_lost
    if known and not w.memory.managed and w.bootstrapping is None:
        return act(Adopt(), because="taking charge of the running server")
    return None


def changed_by_others(w: World) -> Decision | None:
    """The server was started or promoted without this agent, or was up later than waited for: told once. (HA rules 8.5, 25)"""
    told, role = w.memory.told, w.node.role.told
    known = w.node.running and w.node.answering and not w.busy and w.bootstrapping is None and w.demotion is None
    if not known or told is None:
        return None
    if role is not told.role:
        return act(TellChange("on_role_change"), because=f"the server is a {role}, the callbacks know it as {told.role}")
    if w.node.postmaster_pid != told.postmaster:
        return act(TellChange("on_start"), because=f"postmaster {w.node.postmaster_pid} is not the one the callbacks know of")
    return None


def request_done(w: World) -> Decision | None:
    """The request that brought me the lock, or that I won over, is cleared. (HA rules 15.4, EC 60)"""
    request = w.cluster.failover
    if request is None or not w.holds or w.demotion is not None or not switchover.fulfilled(w):
        return None
    if w.serves_as_leader or (w.task_is(TaskKind.PROMOTE) and not request.is_switchover):
        return act(WriteFailover(), because="the switchover request is fulfilled")
    return None


def checkpoint_after_promotion(w: World) -> Decision | None:
    """A fresh primary writes a checkpoint, so that others can rewind against it; asked for until it is written. (HA rules 8.4)"""
    if _serving_leader(w) and w.memory.checkpoint_needed and not w.checkpoint_asked:
        return act(RunCheckpoint(w.node.timeline), because="first checkpoint after the promotion")
    return None


def _due_status(w: World) -> ClusterStatus | None:
    if not _publishing_leader(w) or w.node.position is None:
        return None
    value = ClusterStatus(w.node.position, slots.published(w), retained(w))
    return None if value == w.memory.written_status and value.optime == w.cluster.status.optime else value


def status(w: World) -> Decision | None:
    """Position and slots, right after the renewal, if they changed; received ones on a standby leader. (HA rules 8.2, 22.2)"""
    value = _due_status(w)
    return None if value is None else act(WriteStatus(value), because=f"position {value.optime}")


def status_to_carry(w: World) -> ClusterStatus | None:
    """What a renewal that succeeds may write along, where the store has both in one object: what ``status`` would write then."""
    return None if in_question(w) else _due_status(replace(w, lease=LeaseState.HELD))


def _history_stored(w: World) -> bool:
    return w.memory.written_timeline == w.node.timeline and (w.node.timeline == 1 or w.cluster.history is not None)


def read_history(w: World) -> Decision | None:
    """A new timeline, or a store that lost what it knew: the history must be known to everybody. (HA rules 8.6, EC 17)"""
    timeline = w.node.timeline
    if not _serving_leader(w) or timeline is None or _history_stored(w) or w.history is not None:
        return None
    if timeline > 1:
        return act(ReadHistory(timeline), because=f"timeline {timeline} is new here")
    if w.cluster.history:
        return act(WriteHistory(()), because="on timeline 1, but /history is not empty")
    return None


def write_history(w: World) -> Decision | None:
    """Merge the local history with what is stored: stored times and names stay. (HA rules 8.6)"""
    local = w.history
    if not _serving_leader(w) or not local or _history_stored(w):
        return None
    stored = {(e.timeline, e.lsn): e for e in w.cluster.history or ()}
    entries = [stored.get((e.timeline, e.lsn), e) for e in local if isinstance(e, HistoryEntry)]
    limit = w.settings.max_timelines_history
    merged = tuple(entries[-limit:] if limit else entries)
    return act(WriteHistory(merged), because=f"{len(merged)} timelines ended before {w.node.timeline}")


def apply_settings(w: World) -> Decision | None:
    """The configuration changed: give it to the running server. (config 1.7)"""
    if (
        w.settings.server_stale
        and w.node.running
        and w.node.answering
        and not w.busy
        and w.bootstrapping is None
        and w.demotion is None
    ):
        return act(ApplySettings(), because="the configuration changed")
    return None


def paused_replay(w: World) -> Decision | None:
    """Replay is paused, maybe because the primary raised a setting: then it goes on, as it does not by itself. (EC 214)"""
    able = w.node.answering and not w.node.is_primary and not w.busy and (w.node.server_version or 0) >= 140000
    if able and w.node.replay_paused and not w.paused:
        return act(ResumeReplay(), because="replay is paused; it goes on if the primary's settings have outgrown this server's")
    return None


def left_sync(w: World) -> Decision | None:
    """A ``/sync`` left by a normal cluster: what it protected is not the remote's, so it must not choose who is promoted later.

    (HA rules 22.5, EC 198) Dropped once this server streams the remote's WAL.
    """
    follows = w.memory.rewind is RewindState.NOT_NEED and w.node.replication_state is not None
    if w.left_sync is None or not _publishing_leader(w) or w.node.is_primary or not follows:
        return None
    return act(DropSync(w.left_sync), because="/sync is left from the time before this was a standby cluster")


def _unled(w: World) -> bool:
    """A standby of a standby cluster that has had no leader for a while, and nothing else to do."""
    since, ready = w.memory.unlocked_since, w.node.running and w.node.answering and not w.node.is_primary and not w.busy
    lasting = w.cluster.unlocked and since is not None and w.now - since >= w.settings.timing.loop_wait
    return w.standby_cluster and lasting and ready and not w.paused and not w.store_lost and w.demotion is None


def compare_with_remote(w: World) -> Decision | None:
    """Nobody has led for a ``loop_wait``: see whether this standby follows the remote itself. (HA rules 22.6)"""
    if _unled(w) and w.recovery_change is None and w.bootstrapping is None:
        return act(CompareRecovery(upstream(w), Role.REPLICA), because="nobody leads the standby cluster")
    return None


def follow_remote(w: World) -> Decision | None:
    """Losers of the race follow the remote until somebody leads. (HA rules 11.1, 22.6)"""
    if not _unled(w) or w.recovery_change not in ("reload", "restart"):
        return None
    follow = FollowByReload if w.recovery_change == "reload" else FollowByRestart
    return rest(follow(upstream(w), Role.REPLICA), because="nobody leads the standby cluster: following the remote meanwhile")


UPKEEP = Table(
    "upkeep",
    adopt,
    changed_by_others,
    return_to_sync,
    request_done,
    checkpoint_after_promotion,
    left_sync,
    status,
    failsafe.failsafe_key,
    read_history,
    write_history,
    slot_feedback,
    apply_settings,
    *synchronous.UPKEEP_RULES,
    *slot_upkeep.RULES,
    paused_replay,
    *restart.UPKEEP_RULES,
    compare_with_remote,
    follow_remote,
    copy_slots,
)
