"""Has this data directory diverged from the leader's history, and what to do about it. (HA rules 12)"""

from __future__ import annotations

from pgcore.model.actions import (
    CompareTimelines,
    MarkUndecided,
    RemoveDataDir,
    Rewind,
    RewindState,
    SetRewind,
    StopMode,
    StopServer,
)
from pgcore.model.basics import Lsn
from pgcore.model.decision import Decision, act, end
from pgcore.model.node import ControlState, NodeView
from pgcore.model.world import LeaderTimeline, World

UNDECIDED_LIMIT_S = 10.0
"""A dead server is started as a standby anyway when the leader could not be compared with for so long. (HA rules 17.6)"""


def own_position(node: NodeView) -> tuple[int, Lsn, bool] | None:
    """Timeline, position and whether it was in recovery; None when that cannot be told. (HA rules 12.2.1)

    For a clean former primary the position is the end of its shutdown checkpoint when known, so that an end that equals
    the switch point is not divergence (EC 101).
    """
    if node.running and node.answering and not node.is_primary and node.timeline and node.replayed is not None:
        return node.timeline, node.replayed, True
    control = node.control
    if control is None:
        return None
    if control.state in (ControlState.SHUT_DOWN_IN_RECOVERY, ControlState.IN_ARCHIVE_RECOVERY):
        if control.minimum_recovery and control.minimum_recovery_timeline:
            return control.minimum_recovery_timeline, control.minimum_recovery, True
        return control.checkpoint_timeline, control.checkpoint, False
    if control.state is ControlState.SHUT_DOWN:
        return control.checkpoint_timeline, control.checkpoint_end or Lsn(control.checkpoint + 1), False
    return control.checkpoint_timeline, Lsn(control.checkpoint + 1), False


def verdict(node: NodeView, leader: LeaderTimeline) -> tuple[RewindState | None, str]:
    """NEED, NOT_NEED or None (undecided), with the reason. (HA rules 12.2)

    A crashed primary's end of WAL is unknown: behind a timeline switch it counts as diverged only if its last checkpoint
    already lies beyond the switch; otherwise pg_rewind decides, so it is NEED as well.
    """
    own = own_position(node)
    if own is None:
        return None, "the own position is unknown"
    if leader.in_recovery:
        return None, "the leader is still in recovery"
    timeline, position, standby = own
    if timeline > leader.timeline:
        return RewindState.NEED, f"own timeline {timeline} is ahead of the leader's {leader.timeline}"
    if timeline == leader.timeline:
        return RewindState.NOT_NEED, f"both are on timeline {timeline}"
    for ended, switch in leader.switches:
        if ended > timeline:
            break
        if ended == timeline:
            return _against_switch(node, position, switch, standby)
    return RewindState.NEED, f"own timeline {timeline} is not in the leader's history"


def _against_switch(node: NodeView, position: Lsn, switch: Lsn, standby: bool) -> tuple[RewindState, str]:
    if position > switch:
        return RewindState.NEED, f"own position {position} is beyond the switch point {switch}"
    unclean = not standby and node.control is not None and node.control.state is not ControlState.SHUT_DOWN
    if unclean and not node.running:
        return RewindState.NEED, f"it ended uncleanly as a primary before the switch point {switch}; its last WAL may lie beyond"
    return RewindState.NOT_NEED, f"own position {position} is not beyond the switch point {switch}"


def compare(w: World) -> Decision | None:
    """The history must be compared with the leader's before this server may follow it. (HA rules 12.2)"""
    source = w.leader_upstream
    if w.memory.rewind is RewindState.CHECK and source is not None and not w.timeline_asked:
        return act(CompareTimelines(source), because=f"comparing the history with {source.name}")
    return None


def judge(w: World) -> Decision | None:
    """The leader has answered: decide. (HA rules 12.2.3)"""
    if w.memory.rewind is not RewindState.CHECK or w.leader_timeline is None:
        return None
    state, reason = verdict(w.node, w.leader_timeline)
    if state is None:
        return None
    return act(SetRewind(state), because=reason)


def undecided(w: World) -> Decision | None:
    """The comparison stays open: the leader is not ready, or did not answer. Remember since when. (EC 104, 229)"""
    if w.memory.rewind is RewindState.CHECK and w.leader_upstream is not None and w.memory.undecided_since is None:
        return act(MarkUndecided(), because=f"{w.cluster.leader} cannot be compared with yet")
    return None


def still_undecided(w: World) -> bool:
    """Waiting for the comparison is still worth it."""
    since = w.memory.undecided_since
    return (
        w.memory.rewind is RewindState.CHECK
        and w.leader_upstream is not None
        and since is not None
        and w.now - since < UNDECIDED_LIMIT_S
    )


def rewind(w: World) -> Decision | None:
    """Diverged, and pg_rewind is possible: wait for the leader's checkpoint, then rewind. (HA rules 12.3, 12.4)"""
    source = w.leader_upstream
    if w.memory.rewind is not RewindState.NEED or source is None or not w.node.rewind_possible:
        return None
    leader = w.cluster.leader_member
    if leader is not None and leader.checkpoint_pending:
        return end(because=f"diverged; waiting for the first checkpoint of {leader.name} after its promotion", wake_after=0.5)
    if w.cooling_down:
        return end(because="diverged; the last pg_rewind failed a moment ago", wake_after=w.cooling_down)
    return end(Rewind(source), because=f"diverged from {source.name}: running pg_rewind")


def copy_anew(w: World) -> Decision | None:
    """Diverged, rewind impossible or failed, and the operator allowed a new copy. (HA rules 12.3.2, 12.4.7, EC 112)"""
    settings = w.settings
    diverged = (
        w.memory.rewind is RewindState.NEED
        and settings.remove_data_directory_on_diverged_timelines
        and not w.node.rewind_possible
    )
    failed = w.memory.rewind is RewindState.FAILED and (
        settings.remove_data_directory_on_rewind_failure or settings.remove_data_directory_on_diverged_timelines
    )
    if not (diverged or failed) or w.leader_upstream is None:
        return None
    because = ("pg_rewind failed" if failed else "diverged, and pg_rewind is not possible") + "; a new copy is allowed"
    if w.node.running:
        return end(
            StopServer(StopMode.FAST, float(settings.timing.retry_timeout)), because=because + ": stopping the server first"
        )
    return end(RemoveDataDir(because), SetRewind(RewindState.INITIAL), because=because)
