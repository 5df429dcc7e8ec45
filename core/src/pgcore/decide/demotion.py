"""Giving up the primary role, step by step, and the end of the agent. (HA rules 17, 27)

An orderly hand-over releases the lock only when a candidate has received everything up to the end of the shutdown checkpoint.
That is why a switchover can never lose an acknowledged commit. If nobody gets there in bounded time, the node resumes as primary.
"""

from __future__ import annotations

from pgcore.decide.candidates import caught_up, describe
from pgcore.decide.demote_cluster import DEMOTE_CLUSTER_RULES
from pgcore.decide.handover import HANDOVER_RULES
from pgcore.decide.lease import lease_running_out, renew
from pgcore.decide.phases import demotion_of, orderly, within
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
    StopMode,
    StopServer,
    WriteFailover,
)
from pgcore.model.basics import Lsn, Role
from pgcore.model.decision import Decision, act, end, rest
from pgcore.model.node import ControlState, TaskKind
from pgcore.model.world import World

CHECKPOINT_LIMIT_S = 300.0
SESSIONS_LIMIT_S = {DemoteMode.GRACEFUL: 60.0, DemoteMode.SHUTDOWN: 300.0}
"""Sessions that were told to end and do not are stuck: the stop is ended the hard way. The checkpoint takes what it takes."""
VERIFY_LIMIT_S = 3.0
AWAIT_LEADER_S = 3.0


def _serving(w: World) -> bool:
    return demotion_of(w).phase in (Phase.CHECKPOINT, Phase.VERIFY)


def asked_to_end(w: World) -> Decision | None:
    """The agent is asked to end during a switchover or a conversion: the same stop, and the end afterwards. (HA rules 27)"""
    d = demotion_of(w)
    begun_well = d.mode in (DemoteMode.GRACEFUL, DemoteMode.CLUSTER)
    if w.memory.stopping and begun_well and d.phase in (Phase.CHECKPOINT, Phase.VERIFY, Phase.STOP):
        phase = Phase.STOP if d.phase is Phase.VERIFY else d.phase
        return act(BeginDemotion(DemoteMode.SHUTDOWN, phase, d.candidates), because="the agent was asked to end")
    return None


def lost_while_serving(w: World) -> Decision | None:
    """The lock is lost before the stop: no more order, stop at once. (HA rules 8.2)"""
    if _serving(w) and (w.refused or (not w.store_lost and not w.is_holder)) and w.node.is_primary:
        return act(
            BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP),
            because=f"the lock was lost to {w.cluster.leader or 'nobody'} during the hand-over",
        )
    return None


def store_lost_while_serving(w: World) -> Decision | None:
    """In failsafe mode the members may carry this primary: it serves on, the hand-over waits for the store. (HA rules 9)"""
    asked = w.settings.failsafe_mode and demotion_of(w).mode is DemoteMode.GRACEFUL
    if asked and _serving(w) and w.store_lost and w.node.is_primary:
        cancel = (CancelTask(),) if w.busy else ()
        return act(*cancel, EndProcedure(), because="the store does not answer: the hand-over is begun anew when it is back")
    return None


def unproven_while_serving(w: World) -> Decision | None:
    """The store is away and the lease runs out before the stop. (HA rules 9.3)"""
    if _serving(w) and w.store_lost and lease_running_out(w):
        return act(
            BeginDemotion(DemoteMode.OFFLINE, Phase.STOP),
            because="the store does not answer and the lease runs out during the hand-over",
        )
    return None


def checkpoint(w: World) -> Decision | None:
    """Write a checkpoint while still serving, so that the stop is short."""
    if within(w, Phase.CHECKPOINT) and not w.busy and w.ended(TaskKind.CHECKPOINT) is None and w.node.running:
        return end(Checkpoint(), because="a checkpoint before the stop, while still serving")
    return None


def checkpoint_too_long(w: World) -> Decision | None:
    """A checkpoint that does not end would only be repeated by the stop: refuse the request, keep serving."""
    if (
        within(w, Phase.CHECKPOINT)
        and w.busy
        and w.now - demotion_of(w).since > CHECKPOINT_LIMIT_S
        and demotion_of(w).mode is DemoteMode.GRACEFUL
    ):
        return end(
            CancelTask(),
            EndProcedure(f"the checkpoint before the stop took longer than {CHECKPOINT_LIMIT_S:.0f} s"),
            WriteFailover(),
            because="the checkpoint does not end; the server keeps serving",
        )
    return None


def checkpoint_done(w: World) -> Decision | None:
    """The checkpoint is written, or could not be: see who receives it, or stop now if the agent ends."""
    if not within(w, Phase.CHECKPOINT) or w.busy:
        return None
    if demotion_of(w).mode is DemoteMode.GRACEFUL and w.node.answering and w.node.position is not None:
        return act(
            EnterPhase(Phase.VERIFY, mark=w.node.position), because=f"checkpoint done; who has received {w.node.position}?"
        )
    return act(EnterPhase(Phase.STOP), because="checkpoint done; stopping")


def checkpointing(w: World) -> Decision | None:
    """The checkpoint before the stop is being written while the server still serves."""
    if within(w, Phase.CHECKPOINT) and w.busy:
        return rest(because="the checkpoint before the stop is being written; the server still serves", wake_after=0.5)
    return None


def verify(w: World) -> Decision | None:
    """Ask the candidates for what they have received, while still serving."""
    if within(w, Phase.VERIFY) and w.peers is None:
        return act(
            PollPeers(tuple(m for m in w.others if m.name in demotion_of(w).candidates), 1.0), because="asking who still receives"
        )
    return None


def verified(w: World) -> Decision | None:
    """A candidate has received the checkpoint, so its stream is alive, or the server is gone anyway: stop."""
    mark = demotion_of(w).mark
    if within(w, Phase.VERIFY) and not w.node.running:
        return act(EnterPhase(Phase.STOP), because="the server is gone")
    alive = caught_up(w, demotion_of(w).candidates, mark) if within(w, Phase.VERIFY) and mark is not None else ()
    return act(EnterPhase(Phase.STOP), because=f"{alive[0]} has received {mark}; stopping") if alive else None


def unverified(w: World) -> Decision | None:
    """No candidate receives what is written: a stop would only be an outage, so the request ends and the server serves on."""
    if not within(w, Phase.VERIFY):
        return None
    heard = describe(w, demotion_of(w).candidates)
    if w.now - demotion_of(w).since <= VERIFY_LIMIT_S:
        return rest(because=f"waiting until a candidate has received {demotion_of(w).mark}: {heard}", wake_after=0.05)
    reason = f"no candidate received {demotion_of(w).mark} within {VERIFY_LIMIT_S:.0f} s ({heard})"
    return end(WriteFailover(), EndProcedure(reason), because=reason + ": the server was not stopped")


def lost_while_stopping(w: World) -> Decision | None:
    """Another node took the lock during an orderly stop: no more order, stop at once. (HA rules 8.2)"""
    task = w.node.task
    if not (within(w, Phase.STOP) and orderly(w) and task is not None and task.kind is TaskKind.STOP and w.node.is_primary):
        return None
    taken = w.refused or (not w.store_lost and not w.is_holder and not w.cluster.unlocked)
    if taken and not task.progress.get("shut_down_end"):
        return act(
            CancelTask(),
            BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP),
            because=f"the lock was lost to {w.cluster.leader or 'nobody'} during the stop",
        )
    return None


def cancel_running(w: World) -> Decision | None:
    """Another long action is still running: it must end before the stop."""
    if within(w, Phase.STOP) and w.node.task is not None and w.node.task.kind is not TaskKind.STOP:
        return rest(CancelTask(), because=f"cancelling {w.node.task.kind} before the stop", wake_after=0.2)
    return None


def stop(w: World) -> Decision | None:
    """Stop the server: immediately when the lock is not ours, fast in every other case. (HA rules 17)"""
    if not (within(w, Phase.STOP) and not w.busy and w.node.running and w.ended(TaskKind.STOP) is None):
        return None
    mode = StopMode.IMMEDIATE if demotion_of(w).mode in (DemoteMode.IMMEDIATE, DemoteMode.IMMEDIATE_NOLOCK) else StopMode.FAST
    limit = _stop_limit(w)
    sessions = None if limit is not None else SESSIONS_LIMIT_S.get(demotion_of(w).mode)
    return end(StopServer(mode, limit, sessions), because=f"{demotion_of(w).mode}: stopping the server ({mode})")


def _stop_limit(w: World) -> float | None:
    """Without the store, user sessions must end before the lease does; a conversion is not cut. (HA rules 17, 18.3, 30.1)

    ``primary_stop_timeout`` counts in synchronous mode only, where nothing that a cut checkpoint leaves behind can be lost.
    """
    timing, d = w.settings.timing, demotion_of(w)
    if d.mode is DemoteMode.OFFLINE or w.store_lost:
        return max(0.5, w.lease_left - 0.2 * timing.ttl)
    if d.mode in (DemoteMode.IMMEDIATE, DemoteMode.IMMEDIATE_NOLOCK):
        return float(timing.retry_timeout)
    synchronous = w.settings.synchronous_mode != "off" and d.mode is not DemoteMode.CLUSTER
    return float(w.settings.primary_stop_timeout) if synchronous and w.settings.primary_stop_timeout else None


def stop_failed(w: World) -> Decision | None:
    """The stop did not succeed: again, immediately."""
    result = w.ended(TaskKind.STOP)
    if within(w, Phase.STOP) and result is not None and not result.ok and w.node.running:
        return end(
            StopServer(StopMode.IMMEDIATE, float(w.settings.timing.retry_timeout)), because=f"the stop failed: {result.error}"
        )
    return None


def shut_down_seen(w: World) -> Decision | None:
    """pg_control says "shut down" while the postmaster still streams the rest: hand over meanwhile. (HA rules 17.2, EC 63)"""
    if within(w, Phase.STOP) and w.task_is(TaskKind.STOP) and orderly(w) and w.is_holder and w.node.task is not None:
        seen = w.node.task.progress.get("shut_down_end")
        if seen:
            return act(EnterPhase(Phase.HANDOVER, Lsn(seen)), because=f"shut down; its WAL ends at {Lsn(seen)}")
    return None


def stopping(w: World) -> Decision | None:
    """The server is stopping."""
    return rest(because="the server is stopping", wake_after=1.0) if within(w, Phase.STOP) and w.busy else None


def stopped_orderly(w: World) -> Decision | None:
    """Stopped cleanly with the lock still mine, as far as is known: find out who has everything. (HA rules 17.2)"""
    control = w.node.control
    was_primary = not w.node.recovery_files and control is not None
    maybe_holder = w.is_holder or (w.store_lost and w.lease_left > 0)
    if control is None or not (within(w, Phase.STOP) and orderly(w) and maybe_holder and was_primary):
        return None
    clean = control.state is ControlState.SHUT_DOWN
    return act(
        EnterPhase(Phase.HANDOVER, control.checkpoint_end if clean else None),
        because="stopped" if clean else f"stopped, but pg_control says {control.state}",
    )


def stopped_immediately(w: World) -> Decision | None:
    """Stopped as unsuitable with the lock still mine: give it to whoever is fit. (HA rules 17 immediate)"""
    if within(w, Phase.STOP) and demotion_of(w).mode is DemoteMode.IMMEDIATE and w.is_holder:
        return act(SetRole(Role.DEMOTED), ReleaseLease(), EnterPhase(Phase.AWAIT_LEADER), because="stopped; giving the lock away")
    return None


def stopped(w: World) -> Decision | None:
    """Stopped; a lock that is still mine, of a standby that had just won it, is given back."""
    if not within(w, Phase.STOP):
        return None
    actions: tuple[Action, ...] = (SetRole(Role.DEMOTED),) if w.node.role in (Role.PRIMARY, Role.PROMOTED) else ()
    if w.holds and w.node.recovery_files:
        actions += (ReleaseLease(),)
    if w.memory.stopping:
        return act(*actions, EnterPhase(Phase.AWAIT_LEADER), because="stopped")
    return act(*actions, EndProcedure(), because="stopped; going on as a standby")


def see_off(w: World) -> Decision | None:
    """Stopped and handed over: stay until the new leader has the lock, as it may need this node's vote in the store for that."""
    d = demotion_of(w)
    handed_over = d.released and d.candidates and w.cluster.unlocked and not w.store_lost
    if w.memory.stopping and handed_over and not w.node.running and w.now - d.since < AWAIT_LEADER_S:
        return rest(because="handed over; waiting until the new leader has the lock", wake_after=0.5)
    return None


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
    if other or w.now - demotion_of(w).since > AWAIT_LEADER_S or (w.refused and not w.store_lost):
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
    store_lost_while_serving,
    unproven_while_serving,
    checkpoint,
    checkpoint_too_long,
    checkpoint_done,
    checkpointing,
    verify,
    verified,
    unverified,
    lost_while_stopping,
    cancel_running,
    stop,
    stop_failed,
    shut_down_seen,
    stopping,
    stopped_orderly,
    stopped_immediately,
    *DEMOTE_CLUSTER_RULES,
    stopped,
    *HANDOVER_RULES,
    see_off,
    leave,
    leader_found,
    await_leader,
)
