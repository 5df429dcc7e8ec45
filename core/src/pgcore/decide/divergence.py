"""Has this data directory diverged from the leader's history, and what to do about it. (HA rules 12)"""

from __future__ import annotations

from pgcore.decide.histories import heading_elsewhere, misleading, own_end, unclean, verdict
from pgcore.model.actions import (
    CompareTimelines,
    CrashRecover,
    MarkUndecided,
    RemoveDataDir,
    Rewind,
    RewindState,
    SetHistoriesAside,
    SetRewind,
    StopMode,
    StopServer,
)
from pgcore.model.decision import Decision, act, end, rest
from pgcore.model.node import ControlState
from pgcore.model.world import World

UNDECIDED_LIMIT_S = 10.0
"""A dead server is started as a standby anyway when the leader could not be compared with for so long. (HA rules 17.6)"""
ASK_AGAIN_S = 1.0

OPEN = (RewindState.CHECK, RewindState.TWIN)
DIVERGED = (RewindState.NEED, RewindState.TWIN, RewindState.FAILED)


def compare(w: World) -> Decision | None:
    """The history must be compared with the leader's before this server may follow it. (HA rules 12.2)"""
    if w.memory.rewind in OPEN and not w.timeline_asked and (source := w.rewind_source) is not None:
        return act(CompareTimelines(source), because=f"comparing the history with {source.label}")
    return None


def judge(w: World) -> Decision | None:
    """The leader has answered: decide. (HA rules 12.2.3)"""
    if w.memory.rewind not in (*OPEN, RewindState.NEED) or w.leader_timeline is None:
        return None
    state, reason = verdict(w)
    if state is None or state is w.memory.rewind:
        return None
    return act(SetRewind(state), because=reason)


def leave_dead_end(w: World) -> Decision | None:
    """A running standby may be heading for a timeline that is not the leader's: only a start turns it round. (HA rules 12.1)"""
    found = heading_elsewhere(w) if w.memory.rewind is RewindState.NOT_NEED and not w.paused else ()
    if not found:
        return None
    because = f"{_not_the_leaders(w, found)}; this server may be waiting for WAL of such a timeline: stopping it for a new start"
    return end(StopServer(StopMode.FAST, float(w.settings.timing.retry_timeout)), because=because)


def set_histories_aside(w: World) -> Decision | None:
    """PostgreSQL would go by a history file that is not the leader's, and never stream: it is renamed. (HA rules 12.1)"""
    found = misleading(w) if w.memory.rewind is RewindState.NOT_NEED and not (w.paused and w.node.running) else ()
    if not found:
        return None
    because = f"{_not_the_leaders(w, found)}; PostgreSQL would go by what is here and could not follow: setting it aside"
    return act(SetHistoriesAside(found), because=because)


def _not_the_leaders(w: World, timelines: tuple[int, ...]) -> str:
    source, leader = w.rewind_source, w.leader_timeline
    whose = f"{source.label if source else 'the leader'} (timeline {leader.timeline if leader else '?'})"
    files = ", ".join(f"{timeline:08X}.history" for timeline in timelines)
    return f"{files} in pg_wal {'do' if len(timelines) > 1 else 'does'} not belong to the history of {whose}"


def undecided(w: World) -> Decision | None:
    """The comparison stays open: the leader is not ready, or did not answer. Remember since when. (EC 104, 229)"""
    if w.memory.rewind is RewindState.CHECK and w.rewind_source is not None and w.memory.undecided_since is None:
        return act(MarkUndecided(), because=f"{w.rewind_source.label} cannot be compared with yet: {verdict(w)[1]}")
    return None


def still_undecided(w: World) -> bool:
    """Waiting for the comparison is still worth it."""
    since = w.memory.undecided_since
    return (
        w.memory.rewind is RewindState.CHECK
        and w.rewind_source is not None
        and since is not None
        and w.now - since < UNDECIDED_LIMIT_S
    )


def own_part_unknown(w: World) -> bool:
    """The leader has said all it can; waiting for it would not decide the comparison."""
    leader = w.leader_timeline
    if leader is None or leader.in_recovery:
        return False
    own = own_end(w.node, leader)
    return own is None or not own.last


def crash_recovery(w: World) -> Decision | None:
    """It died as a primary and a plain start may not suffice: replay its WAL to the end first, once. (HA rules 13.3, EC 95)"""
    wanted = w.memory.rewind in (RewindState.INITIAL, *OPEN, RewindState.NEED) and (w.cluster.unlocked or w.node.rewind_possible)
    if unclean(w.node) and wanted and not w.memory.crash_recovered:
        assert w.node.control is not None
        leader = "this node" if w.holds else None if w.is_holder else w.cluster.leader
        whom = f"{leader or 'nobody'} holds the lock"
        return end(CrashRecover(), because=f"pg_control says {w.node.control.state} and {whom}: single-user crash recovery first")
    return None


def recover_before_rewind(w: World) -> Decision | None:
    """A diverged standby that was killed is shut down in order before pg_rewind, by single-user recovery. (HA rules 12.3.1)"""
    control = w.node.control
    killed = not w.node.running and control is not None and control.state is ControlState.IN_ARCHIVE_RECOVERY
    if w.memory.rewind is RewindState.NEED and killed and w.node.rewind_possible and not w.memory.crash_recovered:
        return end(CrashRecover(), because="diverged and killed as a standby: single-user crash recovery before pg_rewind")
    return None


def rewind(w: World) -> Decision | None:
    """Diverged, and pg_rewind is possible: wait for the leader's checkpoint, then rewind. (HA rules 11.2.4, 12.3, 12.4)"""
    if w.memory.rewind is not RewindState.NEED or not w.node.rewind_possible or (source := w.rewind_source) is None:
        return None
    leader = w.cluster.leader_member
    if leader is not None and leader.checkpoint_pending and source.name == leader.name:
        return end(because=f"diverged; waiting for the first checkpoint of {leader.name} after its promotion", wake_after=0.5)
    if w.cooling_down:
        return end(because="diverged; the last pg_rewind failed a moment ago", wake_after=w.cooling_down)
    return end(Rewind(source), because=f"diverged from {source.label}: running pg_rewind")


def _new_copy_allowed(w: World) -> str:
    """Why a new copy is wanted, if an operator has allowed it; never in maintenance mode. (HA rules 12.3.2, 12.4.7)"""
    settings, state = w.settings, w.memory.rewind
    if state not in DIVERGED or w.paused or w.rewind_source is None:
        return ""
    diverged = settings.remove_data_directory_on_diverged_timelines and settings.standby_cluster is None
    if state is RewindState.FAILED and (settings.remove_data_directory_on_rewind_failure or diverged):
        return "pg_rewind failed"
    if state is RewindState.TWIN and (settings.remove_data_directory_on_rewind_failure or diverged):
        return "diverged under the same timeline number, which pg_rewind cannot mend"
    if state is RewindState.NEED and diverged and not w.node.rewind_possible:
        return "diverged, and pg_rewind is not possible"
    return ""


def confirm(w: World) -> Decision | None:
    """Before a data directory is removed the leader is asked once more. (principles, safety 3)"""
    if not w.timeline_asked and _new_copy_allowed(w) and (source := w.rewind_source) is not None:
        return act(CompareTimelines(source), because=f"a new copy is wanted: does {source.label} still answer as a primary?")
    return None


def _confirmed(w: World) -> bool:
    """In this beat the leader has answered as a primary, and not so that the divergence would be gone."""
    leader = w.leader_timeline
    answers = leader is not None and not leader.in_recovery
    return answers and (w.memory.rewind is RewindState.FAILED or verdict(w)[0] is w.memory.rewind)


def keep_the_copy(w: World) -> Decision | None:
    """A new copy is allowed but the leader does not answer as a primary, or not as diverged: nothing is removed. (EC 112)"""
    why = _new_copy_allowed(w)
    if why and not w.node.running and not _confirmed(w):
        because = f"{why}; the data directory is kept, as {verdict(w)[1]}"
        return rest(because=because, wake_after=ASK_AGAIN_S)
    return None


def copy_anew(w: World) -> Decision | None:
    """Diverged, rewind impossible or failed, and the operator allowed a new copy. (HA rules 12.3.2, 12.4.7, EC 112)"""
    why, leader = _new_copy_allowed(w), w.leader_timeline
    if not why or leader is None or (source := w.rewind_source) is None or not _confirmed(w):
        return None
    evidence = f"{source.label} answers as the primary on timeline {leader.timeline}"
    because = f"{why} ({verdict(w)[1]}); {evidence}, and a new copy is allowed"
    if w.node.running:
        limit = float(w.settings.timing.retry_timeout)
        return end(StopServer(StopMode.FAST, limit), because=because + ": stopping the server first")
    return end(RemoveDataDir(because), SetRewind(RewindState.INITIAL), because=because)


def stay_apart(w: World) -> Decision | None:
    """Diverged under the leader's timeline number and not to be copied: it must not stream from it, so it stays down. (EC 112)"""
    if w.memory.rewind is not RewindState.TWIN or (source := w.rewind_source) is None:
        return None
    because = f"diverged from {source.label} under the same timeline number: {remedy(w)}"
    if not w.node.running:
        return rest(because=because)
    return None if w.paused else end(StopServer(StopMode.FAST, float(w.settings.timing.retry_timeout)), because=because)


def remedy(w: World) -> str:
    """What an operator can do about a server that has diverged and is not mended by itself."""
    if w.memory.rewind is RewindState.FAILED:
        cause = "pg_rewind failed (the log says why)"
    elif w.memory.rewind is RewindState.TWIN:
        cause = "pg_rewind cannot tell the two apart"
    else:
        cause = "pg_rewind is not possible here (it needs use_pg_rewind, and data checksums or wal_log_hints)"
    return (
        f"{cause}. Nothing was removed. Copy what you need from it, then reinitialise this node, or set "
        "remove_data_directory_on_diverged_timelines to have that done"
    )
