"""PostgreSQL is not running, nothing is under way, the data directory is ours. (HA rules 13)"""

from __future__ import annotations

from pgcore.decide import divergence
from pgcore.decide.candidates import another_could_lead, ask_them
from pgcore.decide.histories import verdict
from pgcore.decide.lease import renew
from pgcore.decide.table import Table
from pgcore.decide.upstream import upstream
from pgcore.model.actions import (
    BeginDemotion,
    DemoteMode,
    Phase,
    ReleaseLease,
    RewindState,
    SetRewind,
    SetRole,
    StartServer,
)
from pgcore.model.basics import Role
from pgcore.model.decision import Decision, act, end, rest
from pgcore.model.node import ControlState, TaskKind
from pgcore.model.world import World

RESTARTABLE = (ControlState.IN_PRODUCTION, ControlState.IN_CRASH_RECOVERY, ControlState.SHUTTING_DOWN, ControlState.SHUT_DOWN)


def paused(w: World) -> Decision | None:
    """Paused: a stopped server stays stopped, but for a primary that a switchover demoted. (HA rules 23, EC 73, 188, 196)"""
    follows = w.memory.rewind in (RewindState.CHECK, RewindState.NOT_NEED, RewindState.SUCCESS)
    mendable = w.memory.rewind is RewindState.NEED and w.node.rewind_possible
    demoted = w.node.role is Role.DEMOTED and not w.is_holder and (follows or mendable)
    if not w.paused or demoted:
        return None
    if w.is_holder:
        return end(ReleaseLease(), because="paused and PostgreSQL is not running: giving the lock back")
    return rest(because="paused: PostgreSQL stays stopped")


def start_failed(w: World) -> Decision | None:
    """A crashed or restarted primary did not come up, or a holder's server: give the lock away. (HA rules 13.4, EC 83, 209)"""
    crashed = (w.ended(TaskKind.START_PRIMARY) or w.ended(TaskKind.RESTART)) if w.memory.recovering else None
    started = (w.ended(TaskKind.START) or w.ended(TaskKind.RESTART)) if w.is_holder else None
    result = crashed or (started if started is not None and not started.ok else None)
    if result is None:
        return None
    because = f"the server could not be started: {_gist(result.error) or 'it is not running'}"
    free = (ReleaseLease(),) if w.is_holder else ()
    return act(SetRole(Role.DEMOTED), SetRewind(RewindState.CHECK), *free, because=because)


def restartable(w: World) -> bool:
    """The agent saw this primary running, and its data directory can simply be started again. (HA rules 13.2)

    Not in a standby cluster: nobody in it may accept writes, so it is started as a standby.
    """
    control = w.node.control
    return (
        w.crashed
        and not w.standby_cluster
        and w.node.role is Role.PRIMARY
        and not w.node.recovery_files
        and control is not None
        and control.state in RESTARTABLE
    )


def _impatient(w: World) -> bool:
    return w.holds and restartable(w) and w.settings.primary_start_timeout == 0


def ask_others(w: World) -> Decision | None:
    """A crash is to be a failover: see first whether somebody else is well. (HA rules 13.1, 16.5, EC 82)"""
    return ask_them(w, "it crashed and primary_start_timeout is 0") if _impatient(w) else None


def fail_over_at_once(w: World) -> Decision | None:
    """``primary_start_timeout`` 0: a crashed primary is not restarted while another could lead. (HA rules 13.1, EC 82)"""
    if _impatient(w) and another_could_lead(w):
        return act(BeginDemotion(DemoteMode.IMMEDIATE, Phase.STOP), because="it crashed and primary_start_timeout is 0")
    return None


def restart_as_primary(w: World) -> Decision | None:
    """A crashed primary whose lock is proven is started again on the same timeline, once. (HA rules 13.2, EC 80, 81)"""
    if w.holds and restartable(w) and not w.memory.recovering:
        limit = w.settings.primary_start_timeout or 300
        return end(
            StartServer(Role.PRIMARY, timeout_s=limit, after_crash=True),
            because="PostgreSQL crashed; the lock is proven, so it is started again as the primary",
        )
    return None


def failed_recently(w: World) -> Decision | None:
    """One attempt per ``loop_wait``, no tight loop. (EC 86)"""
    if w.cooling_down:
        error = _gist(w.memory.last_result.error) if w.memory.last_result else ""
        return rest(because=f"the last attempt failed ({error}); the next begins soon", wake_after=w.cooling_down)
    return None


def _gist(error: str) -> str:
    """Of several lines the server's FATAL one, else the beginning."""
    return next((part for part in error.split(" | ") if "FATAL" in part), error[:200])


def recover_to_promote(w: World) -> Decision | None:
    """I hold the lock, and the server died as a primary unseen by this agent: replay its WAL to the end first. (HA rules 13.3)"""
    return divergence.crash_recovery(w) if w.holds else None


def start_to_promote(w: World) -> Decision | None:
    """I hold the lock with a stopped server: start it in recovery; it is promoted once it is up. (HA rules 13.3)"""
    if w.holds and not w.standby_cluster:
        return end(
            SetRewind(RewindState.INITIAL),
            StartServer(Role.REPLICA),
            because="the lock is mine and PostgreSQL is down: starting it in recovery, to be promoted",
        )
    return None


def check_first(w: World) -> Decision | None:
    """Before dead PostgreSQL follows somebody, its history is compared, each time anew. (HA rules 12.1)"""
    known = w.memory.rewind not in (RewindState.INITIAL, RewindState.NOT_NEED) or w.timeline_asked
    if not known and w.rewind_source is not None:
        return act(SetRewind(RewindState.CHECK), because="it must be known whether this server has diverged")
    return None


def wait_for_comparison(w: World) -> Decision | None:
    """A leader exists but cannot be compared with yet: wait a bounded time. (HA rules 17.6, EC 228, 229)"""
    if divergence.still_undecided(w) and not divergence.own_part_unknown(w) and w.rewind_source is not None:
        return rest(because=f"waiting until {w.rewind_source.label} can be compared with: {verdict(w)[1]}", wake_after=0.2)
    return None


def start_as_standby(w: World) -> Decision | None:
    """Start as a standby of the leader, in a standby cluster the holder as one of the remote. (HA rules 13.3, 11.1, 22)"""
    source = upstream(w)
    role = Role.STANDBY_LEADER if w.standby_cluster and w.holds else Role.REPLICA
    nobody = "the archive" if role is Role.STANDBY_LEADER else "nobody yet"
    diverged = w.memory.rewind in divergence.DIVERGED and source is not None
    complaint = f" although it has diverged and will not stream: {divergence.remedy(w)}" if diverged else ""
    return end(StartServer(role, source), because=f"starting as a standby of {source.label if source else nobody}{complaint}")


DOWN = Table(
    "down",
    renew,
    paused,
    start_failed,
    ask_others,
    fail_over_at_once,
    restart_as_primary,
    failed_recently,
    recover_to_promote,
    start_to_promote,
    check_first,
    divergence.compare,
    divergence.judge,
    divergence.set_histories_aside,
    divergence.crash_recovery,
    divergence.undecided,
    divergence.recover_before_rewind,
    divergence.rewind,
    divergence.confirm,
    divergence.keep_the_copy,
    divergence.copy_anew,
    divergence.stay_apart,
    wait_for_comparison,
    start_as_standby,
)
