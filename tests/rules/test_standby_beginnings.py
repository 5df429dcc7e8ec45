"""How a standby cluster begins, races without a leader, and starts its stopped servers. (HA rules 6, 13, 15, 22)"""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgcore.decide.publish import card
from pgcore.model.actions import (
    AcquireLease,
    BootstrapPhase,
    ClaimInitialize,
    Clone,
    CompareRecovery,
    CrashRecover,
    EndProcedure,
    EnterBootstrap,
    FollowByReload,
    FollowByRestart,
    ReleaseLease,
    RewindState,
    SetRewind,
    SetRole,
    StartServer,
    WriteConfig,
    WriteInitialize,
    WriteStatus,
)
from pgcore.model.basics import Instant, Role
from pgcore.model.cluster import ClusterView, SyncView
from pgcore.model.decision import Then
from pgcore.model.node import TaskKind
from pgcore.testing.builders import (
    END,
    NOW,
    SYSTEM,
    crashed,
    did,
    doing,
    down,
    empty,
    history,
    leads,
    peer,
    peers,
    primary,
    silent,
    standby,
    upstream,
)
from rules.cases import Case, case, nothing
from rules.cases import silent as no_answer
from rules.driver import after, play
from rules.remote import AGREES, ARCHIVE, B_LEADS, FREE, LEADER, NO_CARD, NOTHING, SOURCE, making, of_remote

BEGINNING = (
    case(
        "no standby cluster exists: it begins as a copy of the remote",
        of_remote(empty(), NOTHING, has_bootstrap=True),
        "no_data.claim_standby_cluster",
        ClaimInitialize(),
        EnterBootstrap(BootstrapPhase.CREATE),
        Clone(SOURCE),
    ),
    case(
        "or of the archive alone",
        of_remote(empty(), NOTHING, ARCHIVE, has_bootstrap=True),
        "no_data.claim_standby_cluster",
        ClaimInitialize(),
        EnterBootstrap(BootstrapPhase.CREATE),
        Clone(None),
    ),
    nothing("another node is making it", of_remote(empty(), ClusterView(initialize=""), has_bootstrap=True), "no_data.wait"),
    nothing("the remote is being copied", making(doing(TaskKind.CLONE, empty())), "bootstrap.working"),
    case(
        "the copy is complete: it is started as a standby of the remote",
        making(down(), last_result=did(TaskKind.CLONE)),
        "bootstrap.start_copy",
        StartServer(Role.STANDBY_LEADER, SOURCE),
    ),
    case(
        "it runs: take the lock and publish the cluster",
        making(LEADER, last_result=did(TaskKind.START), dynamic={"ttl": 30}),
        "bootstrap.lead_copy",
        WriteConfig({"ttl": 30}),
        AcquireLease(force=True),
        SetRole(Role.STANDBY_LEADER),
        EndProcedure(),
        WriteInitialize(SYSTEM, "3"),
    ),
    nothing("it runs but does not answer yet", making(silent(LEADER), last_result=did(TaskKind.START)), "bootstrap.lead_copy"),
    case(
        "the remote could not be copied",
        making(empty(), last_result=did(TaskKind.CLONE, "no route to host")),
        "bootstrap.failed",
        EnterBootstrap(BootstrapPhase.FAILED),
    ),
    case(
        "the copy does not start",
        making(down(), last_result=did(TaskKind.START, "FATAL")),
        "bootstrap.failed",
        EnterBootstrap(BootstrapPhase.FAILED),
    ),
    case("a further node is copied from the standby leader", of_remote(empty(), B_LEADS), "no_data.clone", SetRole, Clone),
    case(
        "the standby leader has no card: the remote is copied",
        of_remote(empty(), NO_CARD),
        "no_data.clone_remote",
        SetRole(Role.UNINITIALIZED),
        Clone(SOURCE),
        then=Then.END,
    ),
)

RACE = (
    case(
        "the race is as usual: the peers are asked",
        of_remote(standby(), FREE),
        "race.ask_peers",
    ),
    case(
        "no timeline counts, nor is one needed: that of the history is a thing of the past",
        of_remote(standby(timeline=None), replace(FREE, history=history(500, 600)), check_timeline=True, peers={}),
        "race.acquire",
    ),
    nothing(
        "a peer on an old timeline counts as well",
        of_remote(standby(), replace(FREE, history=history(500, 600)), peers=peers(peer("b", 1001))),
        "race.peer_ahead",
    ),
    case(
        "a primary takes the free lock, to be converted with it",
        of_remote(primary(), replace(FREE, history=history(500, 600))),
        "race.primary_takes_it",
    ),
    nothing(
        "nobody takes it in maintenance mode, and the upstream stays (EC 190, 197)",
        of_remote(standby(), FREE, paused=True, unlocked_since=Instant(NOW - 99)),
        "race.paused",
    ),
    no_answer(
        "nor is it changed by a repair (EC 190, 197)",
        of_remote(standby(), FREE, paused=True, unlocked_since=Instant(NOW - 99)),
        "upkeep",
    ),
    no_answer("a lock that has just become free changes no upstream", of_remote(standby(), FREE, unlocked_since=NOW), "upkeep"),
    case(
        "nobody has taken the lock for long: the remote is followed meanwhile",
        of_remote(standby(), FREE, unlocked_since=Instant(NOW - 10)),
        "upkeep.compare_with_remote",
        CompareRecovery(SOURCE, Role.REPLICA),
        stage="upkeep",
    ),
    case(
        "by reload",
        of_remote(standby(), FREE, unlocked_since=Instant(NOW - 10), recovery_change="reload"),
        "upkeep.follow_remote",
        FollowByReload(SOURCE, Role.REPLICA),
        stage="upkeep",
    ),
    case(
        "or by restart",
        of_remote(standby(), FREE, unlocked_since=Instant(NOW - 10), recovery_change="restart"),
        "upkeep.follow_remote",
        FollowByRestart(SOURCE, Role.REPLICA),
        stage="upkeep",
    ),
)

STOPPED = (
    case(
        "the holder is compared with the remote before it starts",
        of_remote(down(Role.STANDBY_LEADER, recovery_files=True)),
        "down.check_first",
        SetRewind(RewindState.CHECK),
    ),
    case(
        "and starts as a standby of the remote",
        of_remote(down(Role.DEMOTED), rewind=RewindState.NOT_NEED, timeline_asked=True),
        "down.start_as_standby",
        StartServer(Role.STANDBY_LEADER, SOURCE),
    ),
    case(
        "or of the archive alone (EC 203)",
        of_remote(down(Role.DEMOTED), remote=ARCHIVE),
        "down.start_as_standby",
        StartServer(Role.STANDBY_LEADER, None),
    ),
    case(
        "without a leader on the remote, too",
        of_remote(down(), FREE, rewind=RewindState.NOT_NEED, timeline_asked=True),
        "down.start_as_standby",
        StartServer(Role.REPLICA, SOURCE),
    ),
    case(
        "a replica on the standby leader",
        of_remote(down(), B_LEADS, rewind=RewindState.NOT_NEED, timeline_asked=True),
        "down.start_as_standby",
        StartServer(Role.REPLICA, upstream("b")),
    ),
    case(
        "a crashed primary is not started as one again: its WAL is replayed to the end",
        of_remote(crashed()),
        "down.recover_to_promote",
        CrashRecover(),
    ),
    case(
        "the holder cannot be started: the lock goes away",
        of_remote(down(Role.STANDBY_LEADER), last_result=did(TaskKind.START, "FATAL")),
        "down.start_failed",
        SetRole(Role.DEMOTED),
        SetRewind(RewindState.CHECK),
        ReleaseLease(),
    ),
)

CASES: tuple[Case, ...] = BEGINNING + RACE + STOPPED


@pytest.mark.parametrize("each", CASES, ids=str)
def test_the_standby_cluster_begins(each: Case) -> None:
    each.check()


def test_synchronous_replication_is_ignored_in_a_standby_cluster() -> None:
    """EC 198: what is left in /sync stands in nobody's way, and no name is taken from it."""
    left = SyncView("7", "x", ("y",))
    at = of_remote(standby(), replace(FREE, sync=left), last_position=END)
    played = play(at, AcquireLease=True, PollPeers=peers(peer("b")))
    assert played.beat.world.cluster.sync == SyncView()
    assert played.did(AcquireLease) and played.did(SetRole) == [SetRole(Role.STANDBY_LEADER)]


def test_the_winner_of_a_race_follows_the_remote_in_the_same_beat() -> None:
    played = play(
        of_remote(standby(), FREE),
        PollPeers=peers(peer("b")),
        CompareRecovery="reload",
        CompareTimelines=leads(1),
    )
    assert [type(action) for action in played.did(AcquireLease, SetRole, FollowByReload)] == [
        AcquireLease,
        SetRole,
        FollowByReload,
    ]
    assert [write.status.optime for write in played.did(WriteStatus) if isinstance(write, WriteStatus)] == [END]
    assert card(played.beat.world)["role"] == "standby_leader"


def test_a_reload_that_goes_with_another_role_is_not_told_as_a_reload() -> None:
    """EC 218: whoever performs the reload knows that the role has just been told; the next one is told again."""
    played = play(of_remote(standby(), **AGREES), CompareRecovery="reload", CompareTimelines=leads(1))
    assert [at.role_changed for action, at in played.steps if isinstance(action, FollowByReload)] == [True]
    played = play(after(played), CompareRecovery="reload", CompareTimelines=leads(1))
    assert [at.role_changed for action, at in played.steps if isinstance(action, FollowByReload)] == [False]
