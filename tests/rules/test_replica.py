"""Another node holds the lock and PostgreSQL runs: follow it, and prove first that the histories agree. (HA rules 11, 12)"""

from __future__ import annotations

import pytest

from pgcore.model.actions import (
    BeginDemotion,
    CompareRecovery,
    CompareTimelines,
    DemoteMode,
    FollowByReload,
    FollowByRestart,
    MarkUndecided,
    Phase,
    ProbePeers,
    Rewind,
    RewindState,
    SetRewind,
    SetRole,
    StopMode,
    StopServer,
)
from pgcore.model.basics import Instant, Role, Tags
from pgcore.model.changes import replace
from pgcore.model.decision import Then
from pgcore.model.world import OwnTimeline
from pgcore.testing.builders import NOW, history, leads, member, primary, silent, standby, upstream, view, world
from rules.cases import Case, case, nothing

B_LEADS = view("b")
ON_2 = view("b", member("a"), member("b", role="primary", timeline=2), member("c"))
STILL = {"rewind": RewindState.NOT_NEED, "recovery_change": "none", "probed": True}


CASES: tuple[Case, ...] = (
    case(
        "a second primary stops at once (EC 5)",
        world(primary(), B_LEADS),
        "replica.second_primary",
        BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP),
    ),
    case("although it does not answer (EC 8)", world(silent(primary()), B_LEADS), "replica.second_primary", BeginDemotion),
    nothing(
        "a second primary in maintenance mode is left alone", world(primary(), B_LEADS, paused=True), "replica.paused_primary"
    ),
    case(
        "a demoted server that follows is a replica",
        world(standby(role=Role.DEMOTED), B_LEADS),
        "replica.become_replica",
        SetRole(Role.REPLICA),
    ),
    case(
        "the leader went to a newer timeline and nothing streams (EC 107)",
        world(standby(streaming=False), ON_2),
        "replica.timeline_grew",
        SetRewind(RewindState.CHECK),
    ),
    nothing("the leader is on a newer timeline, and the stream is up", world(standby(), ON_2, **STILL), "replica.keep"),
    case(
        "the histories must be compared",
        world(standby(), B_LEADS, rewind=RewindState.CHECK),
        "replica.compare",
        CompareTimelines(upstream("b")),
    ),
    case(
        "replayed up to the switch point, not beyond (EC 102)",
        world(
            standby(1000),
            ON_2,
            rewind=RewindState.CHECK,
            timeline_asked=True,
            leader_timeline=leads(2, 1000),
        ),
        "replica.judge",
        SetRewind(RewindState.NOT_NEED),
    ),
    case(
        "replayed beyond the switch point (EC 54)",
        world(
            standby(1001),
            ON_2,
            rewind=RewindState.CHECK,
            timeline_asked=True,
            leader_timeline=leads(2, 1000),
        ),
        "replica.judge",
        SetRewind(RewindState.NEED),
    ),
    case(
        "the leader could not be asked: since when (EC 229)",
        world(standby(), B_LEADS, rewind=RewindState.CHECK, timeline_asked=True),
        "replica.undecided",
        MarkUndecided(),
    ),
    case(
        "the leader is still in recovery: no verdict (EC 104)",
        world(standby(), B_LEADS, rewind=RewindState.CHECK, timeline_asked=True, leader_timeline=leads(1, in_recovery=True)),
        "replica.undecided",
    ),
    case(
        "diverged",
        world(standby(rewind_possible=True), B_LEADS, rewind=RewindState.NEED),
        "replica.rewind",
        Rewind(upstream("b")),
        then=Then.END,
    ),
    case(
        "diverged, cannot be rewound, a new copy is allowed: the server is stopped first",
        world(
            standby(1001),
            ON_2,
            rewind=RewindState.NEED,
            remove_data_directory_on_diverged_timelines=True,
            timeline_asked=True,
            leader_timeline=leads(2, 1000),
        ),
        "replica.copy_anew",
        StopServer(StopMode.FAST, 10.0),
        then=Then.END,
    ),
    case(
        "diverged, cannot be rewound, a new copy is not allowed: it goes on and will complain (EC 112)",
        world(standby(), B_LEADS, rewind=RewindState.NEED, probed=True),
        "replica.compare_recovery",
    ),
    nothing(
        "the leader's newer timeline was compared with already",
        world(standby(streaming=False), ON_2, compared_timeline=2, **STILL),
        "replica.not_streaming",
    ),
    case(
        "compared with already, but it has replayed beyond the end of its timeline since (EC 102, 107)",
        world(standby(950, streaming=False), replace(ON_2, history=history(900)), compared_timeline=2, **STILL),
        "replica.timeline_grew",
        SetRewind(RewindState.CHECK),
    ),
    nothing(
        "it ends before the end of its timeline",
        world(standby(900, streaming=False), replace(ON_2, history=history(900)), compared_timeline=2, **STILL),
        "replica.not_streaming",
    ),
    nothing(
        "compared in this beat, and the leader's member key lags behind its server: not again in the same beat (EC 107)",
        world(
            standby(900, streaming=False),
            ON_2,
            compared_timeline=3,
            timeline_asked=True,
            leader_timeline=leads(3, 1000, 1100),
            **STILL,
        ),
        "replica.not_streaming",
    ),
    case(
        "compared in an earlier beat with a leader on another timeline (EC 107)",
        world(standby(900, streaming=False), ON_2, compared_timeline=3, **STILL),
        "replica.timeline_grew",
        SetRewind(RewindState.CHECK),
    ),
    case(
        "the upstream is not known to be right",
        world(standby(), B_LEADS, rewind=RewindState.NOT_NEED),
        "replica.compare_recovery",
        CompareRecovery(upstream("b"), Role.REPLICA),
    ),
    case(
        "a change that needs a restart",
        world(standby(), B_LEADS, rewind=RewindState.NOT_NEED, recovery_change="restart", timeline_asked=True),
        "replica.follow_by_restart",
        SetRewind(RewindState.CHECK),
        FollowByRestart(upstream("b"), Role.REPLICA),
        then=Then.END,
    ),
    nothing(
        "the last restart failed a moment ago",
        world(
            standby(),
            B_LEADS,
            rewind=RewindState.NOT_NEED,
            recovery_change="restart",
            timeline_asked=True,
            probed=True,
            failed_at=Instant(NOW - 1),
        ),
        "replica.keep",
    ),
    nothing(
        "the leader took its lock back before its card: nobody lets go of the stream meanwhile (EC 199)",
        world(standby(), view("b", member("a")), rewind=RewindState.NOT_NEED, timeline_asked=True),
        "replica.keep_upstream",
    ),
    case(
        "a change that a reload can make",
        world(standby(), B_LEADS, rewind=RewindState.NOT_NEED, recovery_change="reload", timeline_asked=True),
        "replica.follow_by_reload",
        FollowByReload(upstream("b"), Role.REPLICA),
        then=Then.AGAIN,
    ),
    case(
        "the upstream changes: its history is compared before its WAL is asked for (HA rules 12.1)",
        world(standby(), B_LEADS, rewind=RewindState.NOT_NEED, recovery_change="reload"),
        "replica.compare_before_following",
        SetRewind(RewindState.CHECK),
    ),
    case(
        "also after a pg_rewind that failed",
        world(standby(), B_LEADS, rewind=RewindState.FAILED, recovery_change="restart"),
        "replica.compare_before_following",
        SetRewind(RewindState.CHECK),
    ),
    case(
        "a new leader that cannot be compared with yet is followed all the same; the comparison stays open (EC 104)",
        world(
            standby(),
            B_LEADS,
            rewind=RewindState.CHECK,
            undecided_since=NOW,
            timeline_asked=True,
            recovery_change="reload",
        ),
        "replica.follow_by_reload",
    ),
    nothing(
        "a new leader that still is in recovery on an older timeline may begin one of the same number (EC 112)",
        world(
            standby(),
            B_LEADS,
            rewind=RewindState.CHECK,
            undecided_since=NOW,
            timeline_asked=True,
            leader_timeline=leads(2, in_recovery=True, own=OwnTimeline(3)),
            recovery_change="reload",
        ),
        "replica.ahead_of_recovering",
    ),
    case(
        "the leader is probed in every beat",
        world(standby(), B_LEADS, **STILL | {"probed": False}),
        "replica.probe_leader",
        ProbePeers((B_LEADS.members[1],)),
    ),
    nothing("not streaming yet", world(standby(streaming=False), B_LEADS, **STILL), "replica.not_streaming"),
    nothing(
        "tagged nostream: nothing to wait for",
        world(standby(streaming=False), B_LEADS, tags=Tags({"nostream": True}), **STILL),
        "replica.keep",
    ),
    nothing(
        "a standby that does not answer is not asked",
        world(silent(standby()), B_LEADS, rewind=RewindState.NOT_NEED, probed=True),
        "replica.not_streaming",
    ),
    nothing("a healthy follower", world(standby(), B_LEADS, **STILL), "replica.keep"),
    case(
        "a cascading member follows the one it is told to (EC 221)",
        world(standby(), B_LEADS, rewind=RewindState.NOT_NEED, tags=Tags({"replicatefrom": "c"})),
        "replica.compare_recovery",
        CompareRecovery(upstream("c"), Role.REPLICA),
    ),
    case(
        "and the leader when that one is absent (EC 221)",
        world(standby(), B_LEADS, rewind=RewindState.NOT_NEED, tags=Tags({"replicatefrom": "x"})),
        "replica.compare_recovery",
        CompareRecovery(upstream("b"), Role.REPLICA),
    ),
    case(
        "never itself",
        world(standby(), B_LEADS, rewind=RewindState.NOT_NEED, tags=Tags({"replicatefrom": "a"})),
        "replica.compare_recovery",
        CompareRecovery(upstream("b"), Role.REPLICA),
    ),
)


@pytest.mark.parametrize("each", CASES, ids=str)
def test_the_follower(each: Case) -> None:
    each.check()
