"""Histories compared, servers that died as primaries, data directories that are mended or kept. (HA rules 12, 13.3)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcore.decide.histories import verdict
from pgcore.model.actions import (
    CompareTimelines,
    CrashRecover,
    ReadCluster,
    RemoveDataDir,
    Rewind,
    RewindState,
    SetRewind,
    StartServer,
    StopMode,
    StopServer,
)
from pgcore.model.basics import Instant, Lsn, Role
from pgcore.model.node import ControlData, ControlState, NodeView, TaskKind
from pgcore.model.settings import RemoteCluster
from pgcore.model.world import LeaderTimeline, LeaseState, World
from pgcore.testing.builders import (
    NOW,
    control,
    crashed,
    did,
    down,
    leads,
    on_timeline,
    request,
    silent,
    standby,
    starting,
    upstream,
    view,
    world,
)
from rules.cases import Case, case, nothing
from rules.driver import after, play

MINE, B_LEADS, FREE = view("a"), view("b"), view(None)
CHECK, NEED, TWIN = {"rewind": RewindState.CHECK}, {"rewind": RewindState.NEED}, {"rewind": RewindState.TWIN}
ALLOWED = {"remove_data_directory_on_diverged_timelines": True}
ON_FAILURE = {"remove_data_directory_on_rewind_failure": True}
DIED = control(ControlState.IN_PRODUCTION, None)
KILLED = control(ControlState.IN_ARCHIVE_RECOVERY, minimum_recovery=Lsn(1000), minimum_recovery_timeline=1)
DEAD = down(Role.DEMOTED, found=DIED)
RECOVERING = starting(standby())


def answered(node: NodeView, leader: LeaderTimeline | None, **facts: Any) -> World:
    """The leader ``b`` was asked in this beat."""
    return world(node, B_LEADS, timeline_asked=True, leader_timeline=leader, **CHECK | facts)


def stopped(found: ControlData, **changes: Any) -> NodeView:
    """A former primary that is down."""
    return down(Role.DEMOTED, found=found, **changes)


def second(found: ControlState, end: int | None, *switches: int, **changes: Any) -> tuple[NodeView, Any]:
    """A former primary on timeline 2 and its history."""
    return stopped(control(found, end, timeline=2), **changes), on_timeline(2, *switches)


TWIN_NODE, TWIN_HISTORY = second(ControlState.SHUT_DOWN, 1500, 1000)

VERDICTS = (
    ("a running standby replayed up to the switch point (EC 102)", answered(standby(1000), leads(2, 1000)), "NOT_NEED"),
    ("a byte beyond", answered(standby(1001), leads(2, 1000)), "NEED"),
    (
        "the WAL receiver is on timeline 2 already, replay is on 1 beyond the switch: IDENTIFY_SYSTEM counts (EC 108)",
        answered(standby(1001, timeline=2), leads(2, 1000, own=on_timeline(1))),
        "NEED",
    ),
    ("IDENTIFY_SYSTEM was not answered: undecided (EC 108)", answered(standby(1001), leads(2, 1000, own=None)), None),
    ("a running server that does not answer: undecided", answered(silent(standby()), leads(2, 1000)), None),
    (
        "still starting: pg_control says how far it is, before the switch point (EC 109)",
        answered(replace(RECOVERING, control=KILLED), leads(2, 1000)),
        "NOT_NEED",
    ),
    (
        "still starting: pg_control says how far it is, beyond the switch point (EC 109)",
        answered(replace(RECOVERING, control=KILLED), leads(2, 999)),
        "NEED",
    ),
    (
        "still starting after a crash: where its WAL ends is not known yet (EC 109)",
        answered(replace(RECOVERING, control=DIED, rewind_possible=True), leads(2, 5000)),
        None,
    ),
    (
        "own timeline is missing in the leader's history (EC 103)",
        answered(stopped(control(timeline=2)), LeaderTimeline(3, False, ((1, Lsn(500)),))),
        "NEED",
    ),
    (
        "the leader jumped over own timeline (EC 103)",
        answered(standby(1000), LeaderTimeline(4, False, ((1, Lsn(500)), (3, Lsn(900))), on_timeline(2, 500))),
        "NEED",
    ),
    ("own timeline is ahead of the leader's", answered(stopped(control(timeline=3)), leads(2, 1000)), "NEED"),
    ("the leader is still in recovery (EC 104)", answered(stopped(control()), leads(1, in_recovery=True)), None),
    ("the leader did not answer (EC 104)", answered(stopped(control()), None), None),
    (
        "the shutdown checkpoint ends at the switch point (EC 101)",
        answered(stopped(control(end=1000)), leads(2, 1000)),
        "NOT_NEED",
    ),
    ("it ends a byte beyond (EC 101)", answered(stopped(control(end=1001)), leads(2, 1000)), "NEED"),
    (
        "the new leader has everything but the shutdown checkpoint itself (EC 228)",
        answered(stopped(control(end=1000)), leads(2, 900)),
        "NEED",
    ),
    (
        "the end of the shutdown checkpoint cannot be read: pg_rewind looks for itself (EC 101)",
        answered(stopped(control(end=None)), leads(2, 5000)),
        "NEED",
    ),
    (
        "nor can pg_rewind: nothing is proven",
        answered(stopped(control(end=None), rewind_possible=False), leads(2, 5000)),
        None,
    ),
    (
        "a former primary that ended before the switch point: strange, pg_rewind looks for itself",
        answered(stopped(control(end=1000)), leads(2, 1100)),
        "NEED",
    ),
    (
        "it ended before the switch point and cannot be rewound: not proven to have diverged (EC 112)",
        answered(stopped(control(end=1000), rewind_possible=False), leads(2, 1100)),
        "NOT_NEED",
    ),
    (
        "a start as a standby got as far as its own shutdown checkpoint, which the leader lacks (EC 228)",
        answered(
            down(found=control(ControlState.IN_ARCHIVE_RECOVERY, minimum_recovery=Lsn(900), minimum_recovery_timeline=1)),
            leads(2, 900),
        ),
        "NEED",
    ),
    (
        "in archive recovery, minimum recovery 0/0, its checkpoint ends at the switch point (EC 110)",
        answered(stopped(control(ControlState.IN_ARCHIVE_RECOVERY, 1000)), leads(2, 1000)),
        "NOT_NEED",
    ),
    ("died as a primary, its checkpoint lies beyond the switch point", answered(DEAD, leads(2, 900)), "NEED"),
    ("died as a primary before the switch point: undecided", answered(DEAD, leads(2, 5000)), None),
    (
        "crash recovery was tried and failed: pg_rewind looks for itself (EC 96)",
        answered(DEAD, leads(2, 5000), crash_recovered=True),
        "NEED",
    ),
    ("died as a primary on the leader's timeline", answered(DEAD, leads(1)), "NOT_NEED"),
    (
        "a restored backup: its backup_label counts, not pg_control",
        answered(replace(DEAD, restored_backup=True), leads(2, 5000)),
        None,
    ),
    ("starting up for the first time: undecided", answered(stopped(control(ControlState.STARTING_UP, None)), leads(2, 9)), None),
    # the same number given twice
    ("both are on timeline 2 and left 1 at the same position", answered(TWIN_NODE, leads(2, 1000, own=TWIN_HISTORY)), "NOT_NEED"),
    ("both are on timeline 2 but left 1 at different positions", answered(TWIN_NODE, leads(2, 1100, own=TWIN_HISTORY)), "TWIN"),
    (
        "the same for a running standby of such a primary",
        answered(standby(1500, timeline=2), leads(2, 1100, own=TWIN_HISTORY)),
        "TWIN",
    ),
    (
        "both left 1 at the same position but began 2 with different records",
        answered(TWIN_NODE, leads(2, 1000, own=on_timeline(2, 1000, alike=False))),
        "TWIN",
    ),
    ("both began 2 with the same record", answered(TWIN_NODE, leads(2, 1000, own=on_timeline(2, 1000, alike=True))), "NOT_NEED"),
    (
        "this one has not received the first record of timeline 2 yet: nothing is proven (EC 112)",
        answered(standby(1010, timeline=2), leads(2, 1000, own=on_timeline(2, 1000, alike=False))),
        "NOT_NEED",
    ),
    (
        "this one went from 1 to 3, the leader by way of 2",
        answered(stopped(control(timeline=3)), leads(3, 1000, 1200, own=on_timeline(3, 1000))),
        "TWIN",
    ),
    (
        "its timeline 2 is another than the one the leader has left since: pg_rewind sees that",
        answered(TWIN_NODE, leads(3, 1100, 2000, own=TWIN_HISTORY)),
        "NEED",
    ),
    (
        "known to be another timeline 2 than its leader's, which has gone on since: numbers do not take that back (EC 112)",
        answered(TWIN_NODE, leads(3, 1000, 2000, own=TWIN_HISTORY), **TWIN),
        "TWIN",
    ),
    (
        "its timeline 2 began with another record than the one the leader has left since: pg_rewind does not see that (EC 112)",
        answered(TWIN_NODE, leads(3, 1000, 2000, own=on_timeline(2, 1000, alike=False))),
        "TWIN",
    ),
    (
        "its timeline 2 began with the same record as the one the leader has left since",
        answered(second(ControlState.SHUT_DOWN, 2000)[0], leads(3, 1000, 2000, own=on_timeline(2, 1000, alike=True))),
        "NOT_NEED",
    ),
    (
        "the own history file is not here: the numbers are all there is",
        answered(TWIN_NODE, leads(2, 1100, own=replace(TWIN_HISTORY, switches=None))),
        "NOT_NEED",
    ),
)


@pytest.mark.parametrize(("situation", "at", "expected"), VERDICTS, ids=[row[0] for row in VERDICTS])
def test_the_verdict_on_two_histories(situation: str, at: World, expected: str | None) -> None:
    state, reason = verdict(at)
    assert (state.name if state else None) == expected, reason
    assert reason


RECOVERY = (
    case(
        "died as a primary and diverged perhaps: crash recovery first (EC 95)",
        answered(DEAD, leads(2, 5000)),
        "down.crash_recovery",
        CrashRecover(),
    ),
    case(
        "died as a primary, the leader does not answer: crash recovery meanwhile (EC 95)",
        answered(DEAD, None),
        "down.crash_recovery",
        CrashRecover(),
    ),
    case(
        "died as a primary, nobody leads, and pg_rewind is not possible (EC 95)",
        world(replace(DEAD, rewind_possible=False), FREE, **CHECK),
        "down.crash_recovery",
        CrashRecover(),
    ),
    case(
        "once per episode, whatever came of it (EC 95, 96)",
        world(DEAD, FREE, crash_recovered=True, last_result=did(TaskKind.CRASH_RECOVERY, "FATAL"), **CHECK),
        "down.start_as_standby",
    ),
    case(
        "a plain start suffices: it is on the leader's timeline",
        answered(DEAD, leads(1), rewind=RewindState.NOT_NEED),
        "down.start_as_standby",
    ),
    case(
        "a restored backup is recovered by a normal start (EC 95)",
        answered(replace(DEAD, restored_backup=True), leads(2, 5000), undecided_since=NOW),
        "down.start_as_standby",
    ),
    case(
        "somebody leads and pg_rewind is not possible: started as a standby at once, its WAL will tell (EC 95)",
        answered(replace(DEAD, rewind_possible=False), leads(2, 5000), undecided_since=NOW),
        "down.start_as_standby",
        StartServer(Role.REPLICA, upstream("b")),
    ),
    case(
        "shut down in order: nothing to recover",
        world(down(), FREE, rewind=RewindState.CHECK),
        "down.start_as_standby",
    ),
    case(
        "the lock is mine but this agent did not see the server run: crash recovery before the promotion (HA rules 13.3)",
        world(DEAD, MINE, **CHECK),
        "down.recover_to_promote",
        CrashRecover(),
    ),
    case(
        "a crashed primary with the lock needs none: a plain start recovers it (EC 80)",
        world(crashed(rewind_possible=True), MINE),
        "down.restart_as_primary",
    ),
    case(
        "diverged and killed as a standby: shut down in order before pg_rewind (HA rules 12.3.1)",
        world(down(found=KILLED), B_LEADS, **NEED),
        "down.recover_before_rewind",
        CrashRecover(),
    ),
    case(
        "that was tried: pg_rewind decides",
        world(down(found=KILLED), B_LEADS, crash_recovered=True, **NEED),
        "down.rewind",
        Rewind(upstream("b")),
    ),
)

COPIES = (
    case(
        "the leader is asked once more before anything is removed (EC 112)",
        world(stopped(control(), rewind_possible=False), B_LEADS, **NEED | ALLOWED),
        "down.confirm",
        CompareTimelines(upstream("b")),
    ),
    case(
        "also when the server still runs",
        world(standby(), B_LEADS, **NEED | ALLOWED),
        "replica.confirm",
        CompareTimelines(upstream("b")),
    ),
    nothing(
        "it does not answer: the data directory is kept (EC 112)",
        answered(stopped(control(), rewind_possible=False), None, **NEED | ALLOWED),
        "down.keep_the_copy",
    ),
    nothing(
        "it is in recovery: the data directory is kept (EC 112)",
        answered(stopped(control(), rewind_possible=False), leads(2, 500, in_recovery=True), **NEED | ALLOWED),
        "down.keep_the_copy",
    ),
    nothing(
        "pg_rewind failed and the leader does not answer: the data directory is kept (EC 111)",
        answered(stopped(control()), None, **ALLOWED | {"rewind": RewindState.FAILED}),
        "down.keep_the_copy",
    ),
    case(
        "its answer has changed: it is not diverged any more, nothing is removed (EC 112)",
        answered(stopped(control(), rewind_possible=False), leads(1), **NEED | ALLOWED),
        "down.judge",
        SetRewind(RewindState.NOT_NEED),
    ),
    case(
        "a running one whose leader does not answer goes on (EC 112)",
        answered(standby(1001), None, probed=True, recovery_change="none", **NEED | ALLOWED),
        "replica.keep",
    ),
    case(
        "in a standby cluster a diverged node is not copied anew (HA rules 12.3.2)",
        answered(stopped(control(), rewind_possible=False), leads(2, 500), standby_cluster=RemoteCluster("x"), **NEED | ALLOWED),
        "down.start_as_standby",
    ),
    case(
        "nothing is removed in maintenance mode",
        world(stopped(control()), B_LEADS, paused=True, rewind=RewindState.FAILED, **ALLOWED),
        "down.paused",
    ),
    case(
        "a pg_control damaged by pg_rewind, and no new copy is allowed: started all the same, it will complain (EC 111)",
        world(down(control=None, rewind_possible=False), B_LEADS, rewind=RewindState.FAILED),
        "down.start_as_standby",
    ),
    nothing(
        "diverged and not to be mended: an operator is told what to do",
        world(standby(streaming=False), B_LEADS, rewind=RewindState.NEED, recovery_change="none", probed=True),
        "replica.diverged",
    ),
)

TWINS = (
    case(
        "the leader's timeline number, another history: pg_rewind is not even tried",
        answered(TWIN_NODE, leads(2, 1100, own=TWIN_HISTORY)),
        "down.judge",
        SetRewind(RewindState.TWIN),
    ),
    case("it is compared again in each beat: the leader may move on", world(TWIN_NODE, B_LEADS, **TWIN), "down.compare"),
    case(
        "the leader moved on to timeline 3: pg_rewind can tell the two apart now",
        answered(TWIN_NODE, leads(3, 1100, 2000, own=TWIN_HISTORY), **TWIN),
        "down.judge",
        SetRewind(RewindState.NEED),
    ),
    nothing(
        "a new copy is not allowed: it stays down, as it must not stream from the leader (EC 112)",
        answered(TWIN_NODE, leads(2, 1100, own=TWIN_HISTORY), **TWIN),
        "down.stay_apart",
    ),
    case(
        "a new copy is allowed",
        answered(TWIN_NODE, leads(2, 1100, own=TWIN_HISTORY), **TWIN | ON_FAILURE),
        "down.copy_anew",
        RemoveDataDir,
        SetRewind(RewindState.INITIAL),
    ),
    case(
        "a running standby of the other one is stopped",
        answered(standby(1500, timeline=2), leads(2, 1100, own=TWIN_HISTORY), **TWIN),
        "replica.stay_apart",
        StopServer(StopMode.FAST, 10.0),
    ),
    case(
        "but not in maintenance mode",
        answered(standby(1500, timeline=2), leads(2, 1100, own=TWIN_HISTORY), paused=True, **TWIN),
        "replica.compare_recovery",
    ),
    case("nobody leads: it may lead itself", world(TWIN_NODE, FREE, **TWIN), "down.start_as_standby"),
)

STARTING = (
    case(
        "a standby that is still starting is compared as well (EC 109)", world(RECOVERING, B_LEADS, **CHECK), "starting.compare"
    ),
    case(
        "and judged by its pg_control (EC 109)",
        answered(replace(RECOVERING, control=KILLED), leads(2, 999)),
        "starting.judge",
        SetRewind(RewindState.NEED),
    ),
    case(
        "and rewound without waiting for a start that cannot end (EC 109)",
        world(replace(RECOVERING, rewind_possible=True), B_LEADS, **NEED),
        "starting.rewind",
        Rewind(upstream("b")),
    ),
)

ELSEWHERE = (
    case(
        "own timeline is missing in the leader's history (EC 103)",
        answered(stopped(control(timeline=2)), LeaderTimeline(3, False, ((1, Lsn(500)),))),
        "down.judge",
        SetRewind(RewindState.NEED),
    ),
    case(
        "a named candidate was faster to the lock: it need not be the most advanced (HA rules 12.1)",
        world(standby(), view(None, failover=request("c", "b")), race_lost=True),
        "race.lost",
        SetRewind(RewindState.CHECK),
        ReadCluster(fresh=True),
    ),
)

CASES: tuple[Case, ...] = RECOVERY + COPIES + TWINS + STARTING + ELSEWHERE


@pytest.mark.parametrize("each", CASES, ids=str)
def test_a_history_that_may_differ(each: Case) -> None:
    each.check()


@pytest.mark.parametrize("recovers", [True, False], ids=["recovered", "recovery failed"])
def test_an_old_primary_that_died_is_recovered_once_compared_and_rewound(recovers: bool) -> None:
    """EC 95, 96: single-user recovery, then pg_rewind, then a start as a standby; a failed recovery does not stop the rest."""
    ahead = leads(2, 1000)
    played = play(world(DEAD, B_LEADS), CompareTimelines=ahead)
    assert played.did(CrashRecover)
    found = control(end=1200) if recovers else DIED
    error = "" if recovers else "FATAL:  could not locate a valid checkpoint record"
    node = stopped(found, finished=did(TaskKind.CRASH_RECOVERY, error))
    played = play(after(played, seconds=1.0, node=node), CompareTimelines=ahead)
    assert played.did(Rewind) and not played.did(CrashRecover)
    node = stopped(
        control(ControlState.IN_ARCHIVE_RECOVERY, minimum_recovery=Lsn(1100), minimum_recovery_timeline=2),
        finished=did(TaskKind.REWIND),
    )
    played = play(after(played, seconds=1.0, node=node))
    assert played.did(StartServer) == [StartServer(Role.REPLICA, upstream("b"))]


def test_crash_recovery_may_be_tried_again_when_the_server_has_run_since() -> None:
    played = play(world(standby(), B_LEADS, crash_recovered=True))
    assert not played.beat.world.memory.crash_recovered


def test_a_decision_that_stays_open_is_taken_when_the_leader_is_a_primary() -> None:
    """EC 104, 229: the new leader is not on its timeline yet; nothing is decided, the decision is taken in a later beat."""
    node = stopped(control(end=1001))
    played = play(world(node, B_LEADS), CompareTimelines=leads(1, in_recovery=True))
    assert played.beat.main is not None and played.beat.main.rule == "down.wait_for_comparison"
    played = play(after(played, seconds=2.0), CompareTimelines=leads(2, 1000))
    assert played.did(Rewind)


def test_a_lost_lock_does_not_keep_a_dead_primary_from_crash_recovery() -> None:
    at = world(DEAD, MINE, lease=LeaseState.TAKEN, lease_until=Instant(NOW + 5), **CHECK)
    assert play(at).did(CrashRecover) or play(at).did(StartServer)
