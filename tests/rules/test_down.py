"""PostgreSQL is not running, nothing is under way, the data directory is ours. (HA rules 12, 13)"""

from __future__ import annotations

import pytest

from pgcore.model.actions import (
    BeginDemotion,
    CompareTimelines,
    CrashRecover,
    DemoteMode,
    MarkUndecided,
    Phase,
    PollPeers,
    ReleaseLease,
    RemoveDataDir,
    RenewLease,
    Rewind,
    RewindState,
    SetRewind,
    SetRole,
    StartServer,
)
from pgcore.model.basics import Instant, Role
from pgcore.model.decision import Then
from pgcore.model.node import ControlData, ControlState, TaskKind
from pgcore.model.world import LeaseState, World
from pgcore.testing.builders import NOW, control, crashed, did, down, leads, member, peer, peers, upstream, view, world
from rules.cases import Case, case, nothing

MINE, B_LEADS, FREE = view("a"), view("b"), view(None)
PENDING = view("b", member("a"), member("b", role="primary", checkpoint_pending=True))
NEED, CHECK = {"rewind": RewindState.NEED}, {"rewind": RewindState.CHECK}
ALLOWED = {"remove_data_directory_on_diverged_timelines": True}
NO_REWIND = down(Role.DEMOTED, rewind_possible=False)


def judged(found: ControlData, switch: int) -> World:
    """A stopped server whose leader ``b`` left timeline 1 at ``switch``."""
    return world(down(Role.DEMOTED, found=found), B_LEADS, timeline_asked=True, leader_timeline=leads(2, switch), **CHECK)


HOLDER = (
    case("the lock names me", world(down(), MINE, lease=LeaseState.UNRENEWED), "down.renew", RenewLease),
    case(
        "stopped by hand in maintenance mode: the holder gives the lock back (EC 188)",
        world(down(Role.PRIMARY), MINE, paused=True),
        "down.paused",
        ReleaseLease(),
        then=Then.END,
    ),
    case(
        "a demoted primary is rewound in maintenance mode (EC 196)",
        world(down(Role.DEMOTED), B_LEADS, paused=True, **NEED),
        "down.rewind",
        Rewind(upstream("b")),
    ),
    case(
        "and started afterwards (EC 196)",
        world(down(Role.DEMOTED), B_LEADS, paused=True, rewind=RewindState.SUCCESS),
        "down.start_as_standby",
    ),
    case(
        "one that need not be rewound is started as well, after the comparison that precedes every start (EC 73)",
        world(down(Role.DEMOTED), B_LEADS, paused=True, rewind=RewindState.NOT_NEED),
        "down.check_first",
        SetRewind(RewindState.CHECK),
        then=Then.AGAIN,
    ),
    nothing(
        "one that would have to be rewound but cannot stays stopped",
        world(down(Role.DEMOTED, rewind_possible=False), B_LEADS, paused=True, rewind=RewindState.NEED),
        "down.paused",
    ),
    nothing("a stopped server stays stopped in maintenance mode (EC 191)", world(down(), B_LEADS, paused=True), "down.paused"),
    case(
        "a crashed primary with the lock starts again as a primary (EC 80)",
        world(crashed(), MINE),
        "down.restart_as_primary",
        StartServer(Role.PRIMARY, timeout_s=300, after_crash=True),
        then=Then.END,
    ),
    case(
        "although it was in crash recovery (EC 81)",
        world(crashed(ControlState.IN_CRASH_RECOVERY), MINE),
        "down.restart_as_primary",
    ),
    case(
        "a crashed primary whose lock is not proven is not started as one (EC 2)",
        world(crashed(), MINE, lease=LeaseState.GONE),
        "down.crash_recovery",
        CrashRecover(),
    ),
    case(
        "primary_start_timeout 0 and a running replica: ask whether it is well (EC 82)",
        world(crashed(), MINE, primary_start_timeout=0),
        "down.ask_others",
        PollPeers,
    ),
    case(
        "it does not answer: restart here (EC 82)",
        world(crashed(), MINE, primary_start_timeout=0, peers=peers(peer("b", reachable=False))),
        "down.restart_as_primary",
    ),
    case(
        "primary_start_timeout 0 and a healthy replica: fail over at once (EC 82)",
        world(crashed(), MINE, primary_start_timeout=0, peers=peers(peer("b"))),
        "down.fail_over_at_once",
        BeginDemotion(DemoteMode.IMMEDIATE, Phase.STOP),
    ),
    case(
        "primary_start_timeout 0 and no healthy replica: restart here (EC 82)",
        world(crashed(), view("a", member("a"), member("b", state="stopped")), primary_start_timeout=0),
        "down.restart_as_primary",
    ),
    case(
        "the crashed primary could not be started: role and lock are given up (EC 83)",
        world(crashed(), MINE, recovering=True, last_result=did(TaskKind.START_PRIMARY, "out of disk")),
        "down.start_failed",
        SetRole(Role.DEMOTED),
        SetRewind(RewindState.CHECK),
        ReleaseLease(),
    ),
    case(
        "a holder's server could not be started in recovery: the lock is given up (HA rules 13.4)",
        world(down(), MINE, last_result=did(TaskKind.START, "FATAL: bad parameter")),
        "down.start_failed",
        SetRole(Role.DEMOTED),
        SetRewind(RewindState.CHECK),
        ReleaseLease(),
    ),
    case(
        "the lock is mine but the agent did not see this server run: start in recovery, then promote",
        world(down(Role.DEMOTED), MINE),
        "down.start_to_promote",
        SetRewind(RewindState.INITIAL),
        StartServer(Role.REPLICA),
        then=Then.END,
    ),
    nothing(
        "a long action failed a moment ago: no tight loop (EC 86)",
        world(down(), B_LEADS, failed_at=Instant(NOW - 1)),
        "down.failed_recently",
    ),
)

FOLLOWER = (
    case(
        "before it follows, the histories are compared", world(down(), B_LEADS), "down.check_first", SetRewind(RewindState.CHECK)
    ),
    case("ask the leader", world(down(), B_LEADS, **CHECK), "down.compare", CompareTimelines(upstream("b"))),
    case(
        "the shutdown checkpoint ends exactly at the switch point (EC 101)",
        judged(control(end=1000), 1000),
        "down.judge",
        SetRewind(RewindState.NOT_NEED),
    ),
    case("it ends one byte beyond (EC 101, 228)", judged(control(end=1001), 1000), "down.judge", SetRewind(RewindState.NEED)),
    case(
        "in archive recovery with minimum recovery 0/0: it was a primary (EC 110)",
        judged(control(ControlState.IN_ARCHIVE_RECOVERY, 1000), 800),
        "down.judge",
        SetRewind(RewindState.NEED),
    ),
    case(
        "the leader did not answer: since when (EC 229)",
        world(down(), B_LEADS, timeline_asked=True, **CHECK),
        "down.undecided",
        MarkUndecided(),
    ),
    nothing(
        "still undecided: wait (EC 104, 229)",
        world(down(), B_LEADS, timeline_asked=True, undecided_since=Instant(NOW - 9), **CHECK),
        "down.wait_for_comparison",
    ),
    case(
        "undecided for 11 s: start anyway (HA rules 17.6)",
        world(down(), B_LEADS, timeline_asked=True, undecided_since=Instant(NOW - 11), **CHECK),
        "down.start_as_standby",
    ),
    case("diverged: pg_rewind", world(down(), B_LEADS, **NEED), "down.rewind", Rewind(upstream("b")), then=Then.END),
    nothing(
        "diverged, but the leader has no checkpoint on its timeline yet (EC 105)",
        world(down(), PENDING, **NEED),
        "down.rewind",
        then=Then.END,
    ),
    case(
        "diverged, and it cannot be rewound: started all the same, it will complain",
        world(NO_REWIND, B_LEADS, **NEED),
        "down.start_as_standby",
    ),
    case(
        "diverged, cannot be rewound, a new copy is allowed",
        world(NO_REWIND, B_LEADS, timeline_asked=True, leader_timeline=leads(2, 900), **NEED | ALLOWED),
        "down.copy_anew",
        RemoveDataDir,
        SetRewind(RewindState.INITIAL),
        then=Then.END,
    ),
    case(
        "pg_rewind failed for good, a new copy is allowed (EC 111)",
        world(
            down(control=None, rewind_possible=False),
            B_LEADS,
            timeline_asked=True,
            leader_timeline=leads(2, 900),
            rewind=RewindState.FAILED,
            remove_data_directory_on_rewind_failure=True,
        ),
        "down.copy_anew",
    ),
    case(
        "not diverged: never wiped (EC 112)",
        world(NO_REWIND, B_LEADS, rewind=RewindState.NOT_NEED, timeline_asked=True, leader_timeline=leads(1), **ALLOWED),
        "down.start_as_standby",
    ),
    case(
        "comparison open: never wiped (EC 112)",
        world(NO_REWIND, B_LEADS, timeline_asked=True, undecided_since=Instant(0.0), **CHECK | ALLOWED),
        "down.start_as_standby",
    ),
    case(
        "diverged but without a leader: the only copy is never removed",
        world(NO_REWIND, FREE, **NEED | ALLOWED),
        "down.start_as_standby",
        StartServer(Role.REPLICA),
    ),
    case(
        "start as a standby of the leader",
        world(down(), B_LEADS, rewind=RewindState.NOT_NEED, timeline_asked=True),
        "down.start_as_standby",
        StartServer(Role.REPLICA, upstream("b")),
    ),
    case("start as a standby of nobody yet", world(down(), FREE), "down.start_as_standby", StartServer(Role.REPLICA)),
    case(
        "the leader has no card yet: start as a standby of nobody",
        world(down(), view("b", member("a"))),
        "down.start_as_standby",
        StartServer(Role.REPLICA),
    ),
)

CASES: tuple[Case, ...] = HOLDER + FOLLOWER


@pytest.mark.parametrize("each", CASES, ids=str)
def test_a_server_that_is_down(each: Case) -> None:
    each.check()
