"""Giving up the primary role, step by step, and the end of the agent. (HA rules 17, 27)

An orderly hand-over releases the lock only when a candidate has received everything up to the end of the shutdown checkpoint.
That is why a switchover can never lose an acknowledged commit. If nobody gets there in bounded time, the node resumes as primary.
"""

from __future__ import annotations

from pgcore.decide.candidates import best_with, describe
from pgcore.decide.lease import lease_running_out, renew
from pgcore.decide.table import Table
from pgcore.model.actions import (
    Action,
    BeginDemotion,
    CancelTask,
    Checkpoint,
    DemoteMode,
    EndProcedure,
    EnterPhase,
    Exit,
    Phase,
    PollPeers,
    ReleaseLease,
    SetRole,
    StartServer,
    StopMode,
    StopServer,
    WriteFailover,
    WriteStatus,
)
from pgcore.model.basics import Lsn, Role
from pgcore.model.cluster import ClusterStatus
from pgcore.model.decision import Decision, act, end, rest
from pgcore.model.node import ControlState, TaskKind
from pgcore.model.world import Demotion, World

CHECKPOINT_LIMIT_S = 300.0
STOP_LIMIT_S = 60.0
"""A switchover whose stop takes longer, checkpoint aside, is ended the hard way; the node then resumes as primary."""
SHUTDOWN_LIMIT_S = 300.0
GONE_LIMIT_S = 2.0
"""After the server is gone its standbys have what they have: how long a candidate may take to write it down."""
STREAMING_LIMIT_S = 15.0
"""While the stopping server still streams: how long a candidate may take to receive the rest."""
AWAIT_LEADER_S = 3.0


def _d(w: World) -> Demotion:
    assert w.demotion is not None
    return w.demotion


def _orderly(w: World) -> bool:
    return _d(w).mode in (DemoteMode.GRACEFUL, DemoteMode.SHUTDOWN)


def _in(w: World, phase: Phase) -> bool:
    return _d(w).phase is phase


def asked_to_end(w: World) -> Decision | None:
    """The agent is asked to end during a switchover: the same hand-over, and the end afterwards. (HA rules 27)"""
    d = _d(w)
    if w.memory.stopping and d.mode is DemoteMode.GRACEFUL and d.phase in (Phase.CHECKPOINT, Phase.STOP):
        return act(BeginDemotion(DemoteMode.SHUTDOWN, d.phase, d.candidates), because="the agent was asked to end")
    return None


def _others(w: World) -> tuple[str, ...]:
    return tuple(m.name for m in w.others if m.api_url and not m.tags.nofailover)


# -- checkpoint while still serving --------------------------------------------------------------------------


def lost_while_serving(w: World) -> Decision | None:
    """The lock is lost before the stop: no more order, stop at once. (HA rules 8.2)"""
    if _in(w, Phase.CHECKPOINT) and (w.refused or (not w.store_lost and not w.is_holder)) and w.node.is_primary:
        return act(
            BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP),
            because=f"the lock was lost to {w.cluster.leader or 'nobody'} during the hand-over",
        )
    return None


def unproven_while_serving(w: World) -> Decision | None:
    """The store is away and the lease runs out before the stop. (HA rules 9.3)"""
    if _in(w, Phase.CHECKPOINT) and w.store_lost and lease_running_out(w):
        return act(
            BeginDemotion(DemoteMode.OFFLINE, Phase.STOP),
            because="the store does not answer and the lease runs out during the hand-over",
        )
    return None


def checkpoint(w: World) -> Decision | None:
    """Write a checkpoint while still serving, so that the stop is short."""
    if _in(w, Phase.CHECKPOINT) and not w.busy and w.ended(TaskKind.CHECKPOINT) is None and w.node.running:
        return end(Checkpoint(), because="a checkpoint before the stop, while still serving")
    return None


def checkpoint_too_long(w: World) -> Decision | None:
    """A checkpoint that does not end would only be repeated by the stop: refuse the request, keep serving."""
    if _in(w, Phase.CHECKPOINT) and w.busy and w.now - _d(w).since > CHECKPOINT_LIMIT_S and _d(w).mode is DemoteMode.GRACEFUL:
        return end(
            CancelTask(),
            EndProcedure(f"the checkpoint before the stop took longer than {CHECKPOINT_LIMIT_S:.0f} s"),
            WriteFailover(),
            because="the checkpoint does not end; the server keeps serving",
        )
    return None


def checkpoint_done(w: World) -> Decision | None:
    """The checkpoint is written, or could not be: stop now."""
    if _in(w, Phase.CHECKPOINT) and not w.busy:
        return act(EnterPhase(Phase.STOP), because="checkpoint done; stopping")
    return None


# -- stop ----------------------------------------------------------------------------------------------------


def cancel_running(w: World) -> Decision | None:
    """Another long action is still running: it must end before the stop."""
    if _in(w, Phase.STOP) and w.node.task is not None and w.node.task.kind is not TaskKind.STOP:
        return rest(CancelTask(), because=f"cancelling {w.node.task.kind} before the stop", wake_after=0.2)
    return None


def stop(w: World) -> Decision | None:
    """Stop the server: immediately when the lock is not ours, fast in every other case. (HA rules 17)"""
    if not (_in(w, Phase.STOP) and not w.busy and w.node.running and w.ended(TaskKind.STOP) is None):
        return None
    mode = StopMode.IMMEDIATE if _d(w).mode in (DemoteMode.IMMEDIATE, DemoteMode.IMMEDIATE_NOLOCK) else StopMode.FAST
    return end(StopServer(mode, _stop_limit(w)), because=f"{_d(w).mode}: stopping the server ({mode})")


def _stop_limit(w: World) -> float:
    """Without the store, user sessions must end before the lease does. (HA rules 30.1)"""
    timing, d = w.settings.timing, _d(w)
    if d.mode is DemoteMode.OFFLINE or w.store_lost:
        return max(0.5, w.lease_left - 0.2 * timing.ttl)
    if d.mode in (DemoteMode.IMMEDIATE, DemoteMode.IMMEDIATE_NOLOCK):
        return float(timing.retry_timeout)
    return float(w.settings.primary_stop_timeout) or (STOP_LIMIT_S if d.mode is DemoteMode.GRACEFUL else SHUTDOWN_LIMIT_S)


def stop_failed(w: World) -> Decision | None:
    """The stop did not succeed: again, immediately."""
    result = w.ended(TaskKind.STOP)
    if _in(w, Phase.STOP) and result is not None and not result.ok and w.node.running:
        return end(
            StopServer(StopMode.IMMEDIATE, float(w.settings.timing.retry_timeout)), because=f"the stop failed: {result.error}"
        )
    return None


def shut_down_seen(w: World) -> Decision | None:
    """pg_control says "shut down" while the postmaster still streams the rest: hand over meanwhile. (HA rules 17.2, EC 63)"""
    if _in(w, Phase.STOP) and w.task_is(TaskKind.STOP) and _orderly(w) and w.is_holder and w.node.task is not None:
        seen = w.node.task.progress.get("shut_down_end")
        if seen:
            return act(EnterPhase(Phase.HANDOVER, Lsn(seen)), because=f"shut down; its WAL ends at {Lsn(seen)}")
    return None


def stopping(w: World) -> Decision | None:
    """The server is stopping."""
    return rest(because="the server is stopping", wake_after=1.0) if _in(w, Phase.STOP) and w.busy else None


def stopped_orderly(w: World) -> Decision | None:
    """Stopped cleanly with the lock still mine: find out who has everything. (HA rules 17.2)"""
    was_primary = not w.node.recovery_files and w.node.control is not None
    if not (_in(w, Phase.STOP) and _orderly(w) and w.is_holder and was_primary):
        return None
    control = w.node.control
    clean = control is not None and control.state is ControlState.SHUT_DOWN
    return act(
        EnterPhase(Phase.HANDOVER, control.checkpoint_end if clean and control else None),
        because="stopped" if clean else f"stopped, but pg_control says {control.state if control else 'nothing'}",
    )


def stopped_immediately(w: World) -> Decision | None:
    """Stopped as unsuitable with the lock still mine: give it to whoever is fit. (HA rules 17 immediate)"""
    if _in(w, Phase.STOP) and _d(w).mode is DemoteMode.IMMEDIATE and w.is_holder:
        return act(SetRole(Role.DEMOTED), ReleaseLease(), EnterPhase(Phase.AWAIT_LEADER), because="stopped; giving the lock away")
    return None


def stopped(w: World) -> Decision | None:
    """Stopped; there is no lock to give away."""
    if not _in(w, Phase.STOP):
        return None
    actions: tuple[Action, ...] = (SetRole(Role.DEMOTED),) if w.node.role in (Role.PRIMARY, Role.PROMOTED) else ()
    if w.memory.stopping:
        return act(*actions, EnterPhase(Phase.AWAIT_LEADER), because="stopped")
    return act(*actions, EndProcedure(), because="stopped; going on as a standby")


# -- hand-over -----------------------------------------------------------------------------------------------


def lock_lost_stopped(w: World) -> Decision | None:
    """The lock went elsewhere while the server was stopping: nothing to hand over."""
    if _in(w, Phase.HANDOVER) and not w.store_lost and (w.refused or not w.is_holder):
        return act(SetRole(Role.DEMOTED), EnterPhase(Phase.AWAIT_LEADER), because="the lock is not mine any more")
    return None


def store_away_stopped(w: World) -> Decision | None:
    """The store is away during the hand-over: the server is stopped, so waiting is safe, but bounded."""
    if not (_in(w, Phase.HANDOVER) and w.store_lost):
        return None
    waited = w.memory.stopping and w.now - _d(w).since > GONE_LIMIT_S
    if w.lease_left == 0 or waited:
        what = "the lease ended" if w.lease_left == 0 else "the agent was asked to end"
        return act(SetRole(Role.DEMOTED), EnterPhase(Phase.AWAIT_LEADER), because=f"{what} while the store was away")
    return rest(because="the store does not answer during the hand-over", wake_after=0.2)


def ask_candidates(w: World) -> Decision | None:
    """Ask the candidates what they have received."""
    if not _in(w, Phase.HANDOVER) or w.peers is not None or _d(w).end is None:
        return None
    asked = tuple(m for m in w.others if m.name in _d(w).candidates and m.api_url)
    return act(PollPeers(asked, 1.0), because="asking who has everything") if asked else None


def give_away(w: World) -> Decision | None:
    """A candidate has everything: name it, release the lock; it acquires and promotes at once. (HA rules 17.2, 30.2)"""
    d = _d(w)
    winner = best_with(w, d.candidates, d.end) if _in(w, Phase.HANDOVER) and d.end is not None else None
    if winner is None or d.end is None:
        return None
    request = w.cluster.failover
    named = request is not None and request.candidate == winner and request.leader == w.me
    naming: tuple[Action, ...] = () if named else (WriteFailover(leader=w.me, candidate=winner),)
    return act(
        *naming,
        SetRole(Role.DEMOTED),
        ReleaseLease(_final_status(w)),
        EnterPhase(Phase.AWAIT_LEADER),
        because=f"{winner} has everything up to {d.end}: handing over to it",
    )


def _final_status(w: World) -> ClusterStatus:
    """The end of the shutdown checkpoint as the last known position. (HA rules 17.4)"""
    return ClusterStatus(_d(w).end, w.cluster.status.slots, w.cluster.status.retain_slots)


def nobody_else(w: World) -> Decision | None:
    """The agent ends and no other member exists that could lead: leave a free lock behind. (HA rules 27)"""
    if _in(w, Phase.HANDOVER) and _d(w).mode is DemoteMode.SHUTDOWN and not _others(w) and not w.busy:
        status = _final_status(w) if _d(w).end is not None else None
        return act(
            SetRole(Role.DEMOTED), ReleaseLease(status), EnterPhase(Phase.AWAIT_LEADER), because="no other member could lead"
        )
    return None


def _handover_over(w: World) -> bool:
    limit = STREAMING_LIMIT_S if w.busy else GONE_LIMIT_S
    return _d(w).end is None or w.now - _d(w).since > limit


def nobody_caught_up(w: World) -> Decision | None:
    """No candidate has everything in time: resume as primary, or end and leave the lock to its lease. (principles, safety 2)"""
    if not (_in(w, Phase.HANDOVER) and _handover_over(w)):
        return None
    heard = describe(w, _d(w).candidates)
    if _d(w).mode is DemoteMode.GRACEFUL:
        return act(
            CancelTask(),
            EnterPhase(Phase.RESUME),
            because=f"no candidate has everything up to {_d(w).end} ({heard}): resuming as primary",
        )
    if w.busy:
        return None
    end_known = (WriteStatus(_final_status(w)),) if _d(w).end is not None else ()
    return act(
        *end_known,
        SetRole(Role.DEMOTED),
        EnterPhase(Phase.AWAIT_LEADER),
        because=f"no candidate has everything up to {_d(w).end} ({heard}): the lock is left to its lease, so that nobody behind "
        "is promoted in a hurry",
    )


def wait_for_candidate(w: World) -> Decision | None:
    """The rest of the WAL is on its way."""
    if _in(w, Phase.HANDOVER):
        return rest(
            because=f"waiting until a candidate has everything up to {_d(w).end}: {describe(w, _d(w).candidates)}",
            wake_after=0.02,
        )
    return None


# -- resume --------------------------------------------------------------------------------------------------


def resume(w: World) -> Decision | None:
    """Start again as the primary, with the lock still proven."""
    if _in(w, Phase.RESUME) and not w.busy and w.holds and not w.node.running and w.ended(TaskKind.START_PRIMARY) is None:
        return end(
            StartServer(Role.PRIMARY, timeout_s=float(w.settings.primary_start_timeout or 300), after_crash=True),
            because="starting again as the primary",
        )
    return None


def finish_stop(w: World) -> Decision | None:
    """The old postmaster still waits for its standbys: its data directory is shut down, so it may be ended at once."""
    if (
        _in(w, Phase.RESUME)
        and not w.busy
        and w.node.running
        and not w.node.answering
        and w.ended(TaskKind.START_PRIMARY) is None
    ):
        return end(
            StopServer(StopMode.IMMEDIATE, float(w.settings.timing.retry_timeout)), because="ending the stopping postmaster"
        )
    return None


def resumed(w: World) -> Decision | None:
    """It serves again; the request is over, and its sender is told why."""
    if _in(w, Phase.RESUME) and not w.busy and w.node.is_primary and w.node.answering:
        reason = f"no candidate received everything in time; {w.me} resumed as primary"
        return act(SetRole(Role.PRIMARY), WriteFailover(), EndProcedure(reason), because=reason)
    return None


def resume_failed(w: World) -> Decision | None:
    """It could not be resumed: the lock is gone, or the start failed."""
    if not _in(w, Phase.RESUME) or w.busy:
        return None
    if w.ended(TaskKind.START_PRIMARY) is not None or (not w.store_lost and not w.is_holder) or w.refused:
        return act(
            SetRole(Role.DEMOTED), EndProcedure("the old primary could not be resumed"), because="could not resume as the primary"
        )
    return None


def resuming(w: World) -> Decision | None:
    """The start goes on."""
    return rest(because="resuming as the primary", wake_after=0.2) if _in(w, Phase.RESUME) else None


# -- afterwards ----------------------------------------------------------------------------------------------


def leave(w: World) -> Decision | None:
    """The server is stopped and the agent was asked to end. (HA rules 27)"""
    if w.memory.stopping and not w.busy and not w.node.running:
        return end(Exit(0, "stopped"), because="PostgreSQL is stopped")
    return None


def leader_found(w: World) -> Decision | None:
    """Somebody took the lock, or nobody did in time: go on as a standby. (HA rules 17.3)"""
    if w.busy or w.memory.stopping:
        return None
    other = not w.cluster.unlocked and not w.is_holder
    if other or w.now - _d(w).since > AWAIT_LEADER_S or (w.refused and not w.store_lost):
        whom = f"{w.cluster.leader} leads" if other else "nobody took the lock yet"
        return act(EndProcedure(), because=f"{whom}; going on as a standby")
    return None


def await_leader(w: World) -> Decision | None:
    """Give the others time to take the lock."""
    return rest(because="waiting for the new leader", wake_after=0.5)


DEMOTION = Table(
    "demotion",
    asked_to_end,
    renew,
    lost_while_serving,
    unproven_while_serving,
    checkpoint,
    checkpoint_too_long,
    checkpoint_done,
    cancel_running,
    stop,
    stop_failed,
    shut_down_seen,
    stopping,
    stopped_orderly,
    stopped_immediately,
    stopped,
    lock_lost_stopped,
    store_away_stopped,
    ask_candidates,
    give_away,
    nobody_else,
    nobody_caught_up,
    wait_for_candidate,
    resume,
    finish_stop,
    resumed,
    resume_failed,
    resuming,
    leave,
    leader_found,
    await_leader,
)
