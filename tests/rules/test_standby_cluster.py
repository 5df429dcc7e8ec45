"""The leader of a standby cluster and those who follow it. (HA rules 11, 12, 22)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcore.decide.publish import card
from pgcore.model.actions import (
    BeginDemotion,
    CompareRecovery,
    CompareTimelines,
    DemoteMode,
    DropSync,
    FollowByReload,
    FollowByRestart,
    Phase,
    Promote,
    ReadHistory,
    ReleaseLease,
    Rewind,
    RewindState,
    SetRewind,
    SetRole,
    StopServer,
    WriteFailover,
)
from pgcore.model.basics import Instant, Role, Tags
from pgcore.model.decision import Then
from pgcore.model.server import Upstream
from pgcore.model.settings import RemoteCluster
from pgcore.model.world import LeaseState
from pgcore.testing.builders import (
    END,
    NOW,
    history,
    leads,
    peer,
    peers,
    primary,
    request,
    silent,
    standby,
    upstream,
    world,
)
from rules.cases import Case, case, nothing
from rules.driver import play
from rules.remote import AGREES, ARCHIVE, B_LEADS, CLUSTER, HISTORY_2, LEADER, MINE, NO_CARD, SOURCE, STILL, of_remote

FAILED: dict[str, Any] = {"rewind": RewindState.FAILED, "remove_data_directory_on_rewind_failure": True}

HOLDER = (
    case("the lock is proven first", of_remote(LEADER, lease=LeaseState.UNRENEWED), "standby_leader.renew"),
    nothing("the lock is lost", of_remote(LEADER, lease=LeaseState.TAKEN), "standby_leader.refused_standby", then=Then.END),
    case(
        "a primary without the lock does not wait for the conversion (EC 1)",
        of_remote(primary(), lease=LeaseState.TAKEN),
        "standby_leader.refused",
        BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP),
    ),
    nothing("it does not answer", of_remote(silent(LEADER), silent_since=Instant(NOW - 1)), "standby_leader.cannot_look"),
    case(
        "a replica has won the lock: only its role changes, and that is told (EC 218)",
        of_remote(standby(), **AGREES),
        "standby_leader.become_standby_leader",
        SetRole(Role.STANDBY_LEADER),
        then=Then.AGAIN,
    ),
    case(
        "has the history of another timeline arrived?",
        of_remote(LEADER, rewind=RewindState.NOT_NEED),
        "standby_leader.look_for_history",
        ReadHistory(2),
    ),
    case(
        "the remote switched its timeline: compare (EC 200)",
        of_remote(LEADER, **HISTORY_2),
        "standby_leader.new_history",
        SetRewind(RewindState.CHECK),
    ),
    case(
        "compared with the remote, not with a member (EC 200)",
        of_remote(LEADER, rewind=RewindState.CHECK),
        "standby_leader.compare",
        CompareTimelines(SOURCE),
    ),
    case(
        "it went on beyond the switch (EC 200)",
        of_remote(LEADER, rewind=RewindState.CHECK, timeline_asked=True, leader_timeline=leads(2, 900)),
        "standby_leader.judge",
        SetRewind(RewindState.NEED),
    ),
    case(
        "and is rewound against the remote (EC 200)",
        of_remote(replace(LEADER, rewind_possible=True), rewind=RewindState.NEED),
        "standby_leader.rewind",
        Rewind(SOURCE),
    ),
    case(
        "diverged and not to be rewound: no new copy in a standby cluster (EC 112)",
        of_remote(LEADER, rewind=RewindState.NEED, remove_data_directory_on_diverged_timelines=True),
        "standby_leader.compare_recovery",
    ),
    case(
        "a failed rewind may end in a new copy: the remote is asked once more",
        of_remote(LEADER, **FAILED),
        "standby_leader.confirm",
        CompareTimelines(SOURCE),
    ),
    case(
        "it answers as a primary",
        of_remote(LEADER, timeline_asked=True, leader_timeline=leads(2, 900), **FAILED),
        "standby_leader.copy_anew",
        StopServer,
    ),
    case(
        "diverged under the same number: it must not stream from the remote",
        of_remote(LEADER, rewind=RewindState.TWIN, timeline_asked=True),
        "standby_leader.stay_apart",
        StopServer,
    ),
    case(
        "the remote could not be asked: since when",
        of_remote(LEADER, rewind=RewindState.CHECK, timeline_asked=True),
        "standby_leader.undecided",
    ),
    case(
        "whom it follows is looked at",
        of_remote(LEADER, **AGREES),
        "standby_leader.compare_recovery",
        CompareRecovery(SOURCE, Role.STANDBY_LEADER),
    ),
    case(
        "only restore_command: it follows nobody (EC 203)",
        of_remote(LEADER, remote=ARCHIVE, **AGREES),
        "standby_leader.compare_recovery",
        CompareRecovery(None, Role.STANDBY_LEADER),
    ),
    case(
        "one host with a slot: any server will do (EC 205)",
        of_remote(LEADER, remote=RemoteCluster("h", primary_slot_name="Site-B"), **AGREES),
        "standby_leader.compare_recovery",
        CompareRecovery(Upstream("h", 5432, slot="site_b"), Role.STANDBY_LEADER),
    ),
    case(
        "several hosts: only one that accepts writes (EC 205)",
        of_remote(LEADER, remote=RemoteCluster("h,i", 5433, "s"), **AGREES),
        "standby_leader.compare_recovery",
        CompareRecovery(Upstream("h,i", 5433, slot="s", read_write=True), Role.STANDBY_LEADER),
    ),
    case(
        "another upstream: its history comes first",
        of_remote(LEADER, **AGREES, recovery_change="reload"),
        "standby_leader.compare_before_following",
        SetRewind(RewindState.CHECK),
    ),
    case(
        "then it is followed by reload (EC 218)",
        of_remote(LEADER, **AGREES, recovery_change="reload", timeline_asked=True),
        "standby_leader.follow_by_reload",
        FollowByReload(SOURCE, Role.STANDBY_LEADER),
    ),
    case(
        "or by restart",
        of_remote(LEADER, **AGREES, recovery_change="restart", timeline_asked=True),
        "standby_leader.follow_by_restart",
        SetRewind(RewindState.CHECK),
        FollowByRestart(SOURCE, Role.STANDBY_LEADER),
    ),
    nothing(
        "the comparison is open",
        of_remote(LEADER, rewind=RewindState.CHECK, timeline_asked=True, undecided_since=NOW, recovery_change="none"),
        "standby_leader.waiting_for_comparison",
    ),
    nothing("all is well", of_remote(LEADER, **STILL), "standby_leader.keep"),
    nothing(
        "no stream from the remote is up",
        of_remote(standby(role=Role.STANDBY_LEADER, timeline=1, streaming=False), **STILL),
        "standby_leader.not_streaming",
    ),
    nothing(
        "nothing to stream from: it lives from the archive",
        of_remote(standby(role=Role.STANDBY_LEADER, timeline=1, streaming=False), remote=ARCHIVE, **STILL),
        "standby_leader.keep",
    ),
    nothing(
        "a standby leader in maintenance mode keeps the lock (EC 197)",
        of_remote(LEADER, paused=True, **STILL),
        "standby_leader.keep",
    ),
    case(
        "the section was removed: the holder is promoted (EC 202)",
        world(LEADER, MINE),
        "leader.promote",
        SetRewind(RewindState.INITIAL),
        Promote,
    ),
)

SYNC = (
    case(
        "what a normal cluster left in /sync is dropped once the remote is followed (EC 198)",
        of_remote(LEADER, left_sync="7", **AGREES),
        "upkeep.left_sync",
        DropSync("7"),
        stage="upkeep",
    ),
    case(
        "not before: the section may be a mistake",
        of_remote(LEADER, left_sync="7", rewind=RewindState.CHECK),
        "upkeep.status",
        stage="upkeep",
    ),
)

SWITCHOVER = (
    case(
        "a switchover: the candidates are asked",
        of_remote(LEADER, replace(MINE, failover=request("a", "b")), **STILL),
        "standby_leader.ask_candidates",
    ),
    case(
        "a good candidate streams: it gets the lock, no server stops",
        of_remote(
            replace(LEADER, senders=primary().senders),
            replace(MINE, failover=request("a", "b")),
            peers=peers(peer("b"), peer("c")),
            **STILL,
        ),
        "standby_leader.hand_over",
        ReleaseLease(),
        then=Then.END,
    ),
    case(
        "nobody could take over",
        of_remote(LEADER, replace(MINE, failover=request("a", "x")), **STILL),
        "standby_leader.no_candidate",
    ),
    case(
        "it names another leader",
        of_remote(LEADER, replace(MINE, failover=request("c", "b")), **STILL),
        "standby_leader.wrong_leader",
    ),
    case(
        "it names the leader as the candidate",
        of_remote(LEADER, replace(MINE, failover=request("a", "a")), **STILL),
        "standby_leader.candidate_is_leader",
    ),
    case(
        "a manual failover to the holder itself",
        of_remote(LEADER, replace(MINE, failover=request(None, "a")), **STILL),
        "standby_leader.keep",
    ),
    case(
        "a schedule without a zone",
        of_remote(LEADER, replace(MINE, failover=request("a", "b", text="tomorrow")), **STILL),
        "standby_leader.unreadable_schedule",
    ),
    case(
        "a schedule found too late",
        of_remote(LEADER, replace(MINE, failover=request("a", "b", due=-99)), **STILL),
        "standby_leader.stale_schedule",
    ),
    nothing(
        "a schedule due soon",
        of_remote(LEADER, replace(MINE, failover=request("a", "b", due=3)), **STILL),
        "standby_leader.scheduled",
    ),
    case(
        "a candidate that is just starting is waited for",
        of_remote(
            LEADER, replace(MINE, failover=request("a", "b")), peers=peers(peer("b", 0, reachable=False, starting=True)), **STILL
        ),
        "standby_leader.candidate_starting",
    ),
    case(
        "no candidate answers",
        of_remote(LEADER, replace(MINE, failover=request("a", "b")), peers={}, **STILL),
        "standby_leader.unfit_candidates",
    ),
    case(
        "a candidate that does not stream is waited for",
        of_remote(LEADER, replace(MINE, failover=request("a", "b")), peers=peers(peer("b"), peer("c")), **STILL),
        "standby_leader.candidate_not_streaming",
    ),
    nothing(
        "in maintenance mode a standby leader deals with no request",
        of_remote(LEADER, replace(MINE, failover=request("a", "b")), paused=True, **STILL),
        "standby_leader.keep",
    ),
    case(
        "the winner clears the request that brought it the lock",
        of_remote(LEADER, replace(MINE, failover=request("b", "a"))),
        "upkeep.request_done",
        WriteFailover(),
        stage="upkeep",
    ),
)

FOLLOWERS = (
    case(
        "a replica follows the standby leader, not the remote",
        of_remote(standby(), B_LEADS, **AGREES),
        "replica.compare_recovery",
        CompareRecovery(upstream("b"), Role.REPLICA),
    ),
    case(
        "a cascading one the member it names",
        of_remote(standby(), B_LEADS, tags=Tags({"replicatefrom": "c"}), **AGREES),
        "replica.compare_recovery",
        CompareRecovery(upstream("c"), Role.REPLICA),
    ),
    nothing("the card of the holder is missing (EC 199)", of_remote(standby(), NO_CARD, **AGREES), "replica.keep_upstream"),
    nothing(
        "and in maintenance mode (EC 190, 199)",
        of_remote(standby(), NO_CARD, paused=True, **AGREES),
        "replica.paused_without_upstream",
    ),
    case(
        "a standby leader whose lock went to another is a replica",
        of_remote(LEADER, B_LEADS, **AGREES),
        "replica.become_replica",
        SetRole(Role.REPLICA),
    ),
    case(
        "in maintenance mode it keeps its role",
        of_remote(LEADER, B_LEADS, paused=True, **AGREES),
        "replica.compare_recovery",
    ),
    case(
        "has the history of another timeline arrived?",
        of_remote(standby(), B_LEADS, rewind=RewindState.NOT_NEED),
        "replica.look_for_history",
        ReadHistory(2),
    ),
    case("it has", of_remote(standby(), B_LEADS, **HISTORY_2), "replica.new_history", SetRewind(RewindState.CHECK)),
    case(
        "the standby leader was rewound to an older timeline",
        of_remote(standby(timeline=2, streaming=False), B_LEADS, rewind=RewindState.NOT_NEED, compared_timeline=1),
        "replica.timeline_grew",
        SetRewind(RewindState.CHECK),
    ),
    nothing(
        "or is only behind: the remote was found on our timeline",
        of_remote(standby(timeline=2, streaming=False), B_LEADS, **STILL | {"compared_timeline": 2}),
        "replica.not_streaming",
    ),
    case(
        "a replica is compared with the remote as well",
        of_remote(standby(), B_LEADS, rewind=RewindState.CHECK),
        "replica.compare",
        CompareTimelines(SOURCE),
    ),
    case(
        "a primary beside a standby leader stops in order, and offers nobody the lock",
        of_remote(primary(), B_LEADS),
        "replica.primary_in_standby_cluster",
        BeginDemotion(CLUSTER, Phase.STOP, ()),
    ),
)

CASES: tuple[Case, ...] = HOLDER + SYNC + SWITCHOVER + FOLLOWERS


@pytest.mark.parametrize("each", CASES, ids=str)
def test_the_standby_cluster(each: Case) -> None:
    each.check()


def test_the_published_timeline_follows_the_remote() -> None:
    """EC 200: the standby leader went with the remote to timeline 2 and says so; nothing is rewound."""
    at = of_remote(standby(timeline=2, role=Role.STANDBY_LEADER), MINE, rewind=RewindState.NOT_NEED, compared_timeline=1)
    played = play(at, ReadHistory=())
    assert card(played.beat.world)["timeline"] == 2
    assert not played.did(Rewind)
    ahead = play(
        of_remote(LEADER, **AGREES | {"history": None}),
        ReadHistory=history(1000),
        CompareTimelines=leads(2, END),
    )
    assert ahead.beat.world.memory.rewind is RewindState.NOT_NEED and not ahead.beat.repeated


def test_without_the_section_the_holder_is_promoted_and_the_others_follow_it() -> None:
    """EC 202, through the gates of an ordinary promotion."""
    assert play(world(LEADER, MINE)).did(Promote)
    follower = play(world(standby(), replace(B_LEADS, leader="b"), **STILL))
    assert not follower.did(Promote, FollowByReload, FollowByRestart)
