"""Two histories side by side: is the WAL of this server part of the leader's? Only comparisons, no rules. (HA rules 12.2)

The answer must never be a false "diverged": a data directory may be removed for it. What cannot be proven is undecided, unless
pg_rewind can look for itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgcore.model.actions import RewindState
from pgcore.model.basics import Lsn
from pgcore.model.node import ControlData, ControlState, NodeView
from pgcore.model.world import LeaderTimeline, OwnTimeline, Switches, World

UNCLEAN = (ControlState.IN_PRODUCTION, ControlState.SHUTTING_DOWN, ControlState.IN_CRASH_RECOVERY)
"""A primary that ended without its shutdown checkpoint: where its WAL ends is not written down anywhere."""

FIRST_RECORD = 80
"""Bytes behind the switch point that this server must have for a comparison of the first records to say something."""

Verdict = tuple[RewindState | None, str]


@dataclass(frozen=True, slots=True)
class OwnEnd:
    """How far this server has WAL: for certain up to ``reached``, and nothing beyond if ``last``."""

    timeline: int
    reached: Lsn
    last: bool = True


def unclean(node: NodeView) -> bool:
    """Its server died as a primary, and no backup_label says that a normal start recovers it. (HA rules 13.3)"""
    return not node.running and node.control is not None and node.control.state in UNCLEAN and not node.restored_backup


def own_timeline(control: ControlData) -> int:
    """The timeline a server that cannot be asked is on. (HA rules 12.2.1)"""
    if control.state in UNCLEAN or control.shut_down_primary:
        return control.checkpoint_timeline
    return control.minimum_recovery_timeline or control.checkpoint_timeline


def own_end(node: NodeView, leader: LeaderTimeline) -> OwnEnd | None:
    """How far this server has WAL; None when that cannot be told. (HA rules 12.2.1)"""
    if node.running and node.answering:
        known = not node.is_primary and leader.own is not None and node.replayed is not None
        return OwnEnd(leader.own.timeline, node.replayed) if known and leader.own and node.replayed is not None else None
    control = node.control
    if control is None or node.restored_backup:
        return None
    timeline = own_timeline(control)
    beyond_checkpoint = Lsn(control.checkpoint + 1)
    if control.shut_down_primary:
        end = control.checkpoint_end
        return OwnEnd(timeline, beyond_checkpoint if end is None else end, last=end is not None)
    if control.state in UNCLEAN:
        return OwnEnd(timeline, beyond_checkpoint, last=False)
    if control.state not in (ControlState.SHUT_DOWN_IN_RECOVERY, ControlState.IN_ARCHIVE_RECOVERY):
        return None
    replayed = control.minimum_recovery
    return OwnEnd(timeline, max(replayed, beyond_checkpoint) if control.checkpoint_timeline == timeline else replayed)


def verdict(w: World) -> Verdict:
    """NEED, TWIN, NOT_NEED or None (undecided), with the reason. (HA rules 12.2)"""
    leader = w.leader_timeline
    own = own_end(w.node, leader) if leader is not None else None
    if leader is None or own is None:
        asked = w.rewind_source.label if w.rewind_source is not None else "the leader"
        return None, f"{asked} did not answer" if leader is None else "the own position is unknown"
    if leader.in_recovery:
        return None, "the leader is still in recovery"
    if own.timeline > leader.timeline:
        return RewindState.NEED, f"own timeline {own.timeline} is ahead of the leader's {leader.timeline}"
    fork = _fork(own.timeline, leader)
    if fork:
        return (RewindState.TWIN if own.timeline == leader.timeline else RewindState.NEED), fork
    parted = _parted(own, leader)
    if parted:
        return RewindState.TWIN, parted
    if own.timeline == leader.timeline:
        return RewindState.NOT_NEED, f"both are on timeline {own.timeline}"
    switch = dict(leader.switches).get(own.timeline)
    if switch is None:
        return RewindState.NEED, f"own timeline {own.timeline} is not in the leader's history"
    if w.memory.rewind is RewindState.TWIN:
        return RewindState.TWIN, f"timeline {own.timeline} here was found to be another than the leader's of that number"
    return _against_switch(w, own, switch)


def _fork(timeline: int, leader: LeaderTimeline) -> str:
    """Where the leader's way to this timeline differs from mine: two nodes have given the same number to different timelines."""
    if leader.own is None or leader.own.timeline != timeline or leader.own.switches is None:
        return ""
    mine: Switches = leader.own.switches
    theirs = tuple(entry for entry in leader.switches if entry[0] < timeline)
    if timeline != leader.timeline and timeline not in dict(leader.switches):
        return ""  # it is not the leader's at all, which says more
    if mine == theirs:
        return ""
    return f"both know a timeline {timeline}, but this one began {_begin(mine)} and the leader's {_begin(theirs)}"


def _parted(own: OwnEnd, leader: LeaderTimeline) -> str:
    """Both left the timeline before at the same position; two promotions there still wrote different first records."""
    start = max((position for timeline, position in leader.switches if timeline < own.timeline), default=Lsn(0))
    known = leader.own is not None and leader.own.timeline == own.timeline and own.reached >= start + FIRST_RECORD
    if not known or leader.own is None or leader.own.begins_alike is not False:
        return ""
    return f"both know a timeline {own.timeline} that begins at {start}, but with different records"


def _begin(switches: Switches) -> str:
    return f"where timeline {switches[-1][0]} ended at {switches[-1][1]}" if switches else "without a timeline before it"


def _against_switch(w: World, own: OwnEnd, switch: Lsn) -> Verdict:
    """My timeline ended at ``switch`` in the leader's history; a former primary's end must be exactly there. (EC 101, 102)"""
    control, can = w.node.control, w.node.rewind_possible
    if own.reached > switch:
        return RewindState.NEED, f"own WAL reaches {own.reached}, beyond the switch point {switch}"
    if not own.last:
        looked = not w.node.running and (w.memory.crash_recovered or not unclean(w.node))
        if not (can and looked):
            return None, f"own WAL reaches at least {own.reached}; it may end beyond the switch point {switch}"
        return RewindState.NEED, f"own WAL may end beyond the switch point {switch}; pg_rewind will tell"
    former_primary = not w.node.running and control is not None and control.shut_down_primary
    if former_primary and own.reached < switch and can:
        return RewindState.NEED, f"this primary ended at {own.reached}, before the switch point {switch}; pg_rewind will tell"
    return RewindState.NOT_NEED, f"own WAL ends at {own.reached}, not beyond the switch point {switch}"


def misleading(w: World) -> tuple[int, ...]:
    """Newer timelines whose history files here are not the leader's, when PostgreSQL would go by one of them.

    It goes by the newest it finds, counting up from the timeline of its data. A running one keeps to its own timeline until it
    has fetched what it lacks of the leader's, and counts from there.
    """
    leader, own, foreign, begin = w.leader_timeline, _own(w), _foreign(w), _begin_of_search(w)
    if leader is None or own is None or (w.node.running and leader.timeline == begin):
        return ()
    if w.node.running:
        begin = leader.timeline
        foreign = {timeline: switches for timeline, switches in foreign.items() if timeline >= begin}
    return tuple(sorted(foreign)) if _newest(begin, own) in foreign else ()


def heading_elsewhere(w: World) -> tuple[int, ...]:
    """Timelines that are not the leader's and that this running standby may have chosen to follow, as they begin ahead of it."""
    own, replayed, foreign = _own(w), w.node.replayed, _foreign(w)
    if own is None or replayed is None or not w.node.running or _newest(_begin_of_search(w), own) not in foreign:
        return ()
    return tuple(sorted(timeline for timeline, switches in foreign.items() if dict(switches).get(own.timeline, -1) >= replayed))


def _own(w: World) -> OwnTimeline | None:
    leader = w.leader_timeline
    return None if leader is None or leader.in_recovery else leader.own


def _begin_of_search(w: World) -> int:
    own, control = _own(w), w.node.control
    known = 0 if own is None else own.timeline
    if control is None or w.node.running:
        return known
    return max(known, control.checkpoint_timeline, control.minimum_recovery_timeline)


def _newest(begin: int, own: OwnTimeline) -> int:
    known = dict(own.newer)
    while begin + 1 in known:
        begin += 1
    return begin


def _foreign(w: World) -> dict[int, Switches]:
    leader, own = w.leader_timeline, _own(w)
    if leader is None or own is None:
        return {}
    passed = {*dict(leader.switches), leader.timeline}
    return {
        timeline: switches
        for timeline, switches in own.newer
        if timeline > _begin_of_search(w)
        and not (timeline in passed and switches == tuple(entry for entry in leader.switches if entry[0] < timeline))
    }
