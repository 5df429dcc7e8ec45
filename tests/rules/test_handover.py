"""The hand-over and the way back: no release before a candidate has everything. (HA rules 17.2, 30.2)"""

from __future__ import annotations

from typing import Any

import pytest

from pgcore.model.actions import (
    CancelTask,
    DemoteMode,
    EnterPhase,
    Phase,
    PollPeers,
    ReleaseLease,
    SetRole,
    StartServer,
    WriteFailover,
    WriteStatus,
    WriteSync,
)
from pgcore.model.basics import Instant, Lsn, Role
from pgcore.model.cluster import ClusterStatus, SyncView
from pgcore.model.synchronous import SyncMemory
from pgcore.model.world import LeaseState, PeerView, World
from pgcore.testing.builders import (
    END,
    NOW,
    peer,
    peers,
    primary,
    request,
    view,
)
from rules.cases import Case, case, nothing
from rules.demoting import ALL, ALONE, B_LEADS, GRACEFUL, MINE, SEEN, SHUTDOWN, STOPPED, STOPPING, during
from rules.driver import play

HANDOVER = (
    case(
        "the lock was lost while stopping",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, B_LEADS),
        "demotion.lock_lost_stopped",
        SetRole(Role.DEMOTED),
        EnterPhase(Phase.AWAIT_LEADER),
    ),
    case(
        "the renewal is refused while stopping",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, lease=LeaseState.GONE),
        "demotion.lock_lost_stopped",
    ),
    nothing(
        "the store is away: nothing is released",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, None, lease_until=Instant(NOW + 1)),
        "demotion.store_away_stopped",
    ),
    case(
        "until the lease is over",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, None),
        "demotion.store_away_stopped",
        SetRole(Role.DEMOTED),
        EnterPhase(Phase.AWAIT_LEADER),
    ),
    case(
        "the candidates are asked",
        during(GRACEFUL, Phase.HANDOVER, STOPPED),
        "demotion.ask_candidates",
        PollPeers((MINE.members[1], MINE.members[2]), 1.0),
    ),
    nothing(
        "all lack a byte (EC 62)",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, peers=peers(peer("b", 1199), peer("c", 1199))),
        "demotion.wait_for_candidate",
    ),
    nothing(
        "who has everything is no candidate (EC 62)",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, peers=peers(peer("d", 1200))),
        "demotion.wait_for_candidate",
    ),
    nothing(
        "who has everything runs as a primary",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, peers=peers(peer("b", 1200, is_primary=True))),
        "demotion.wait_for_candidate",
    ),
    nothing(
        "who has everything is tagged nofailover",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, peers=peers(peer("b", 1200, nofailover=True))),
        "demotion.wait_for_candidate",
    ),
    case(
        "b has everything (EC 61)",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, peers=ALL),
        "demotion.give_away",
        WriteFailover("a", "b"),
        SetRole(Role.DEMOTED),
        ReleaseLease(ClusterStatus(Lsn(1200))),
        EnterPhase(Phase.AWAIT_LEADER),
    ),
    case(
        "b is named already",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, view("a", failover=request("a", "b")), peers=ALL),
        "demotion.give_away",
        SetRole,
        ReleaseLease,
        EnterPhase,
    ),
    case("while the postmaster still streams (EC 63)", during(GRACEFUL, Phase.HANDOVER, SEEN, peers=ALL), "demotion.give_away"),
    case(
        "both have everything: the higher priority",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, peers=peers(peer("b", 1200), peer("c", 1200, failover_priority=2))),
        "demotion.give_away",
        WriteFailover("a", "c"),
        SetRole,
        ReleaseLease,
        EnterPhase,
    ),
    case(
        "the agent ends and is alone: others may only be cut off, so the lock is left to its lease, at once",
        during(SHUTDOWN, Phase.HANDOVER, STOPPED, ALONE, peers={}, stopping=True, candidates=()),
        "demotion.nobody_caught_up",
        WriteStatus(ClusterStatus(Lsn(1200))),
        SetRole(Role.DEMOTED),
        EnterPhase(Phase.AWAIT_LEADER),
    ),
    nothing(
        "the agent ends while the candidates are cut off and their cards end: they have their time",
        during(SHUTDOWN, Phase.HANDOVER, STOPPED, ALONE, peers={}, stopping=True),
        "demotion.wait_for_candidate",
    ),
    case(
        "they did not come back: who is back first must not take the lock from one that has more",
        during(SHUTDOWN, Phase.HANDOVER, STOPPED, ALONE, peers={}, seconds=3, stopping=True),
        "demotion.nobody_caught_up",
        WriteStatus(ClusterStatus(Lsn(1200))),
        SetRole(Role.DEMOTED),
        EnterPhase(Phase.AWAIT_LEADER),
    ),
    nothing(
        "alone, and the server still ends",
        during(SHUTDOWN, Phase.HANDOVER, SEEN, ALONE, peers={}, stopping=True, candidates=()),
        "demotion.wait_for_candidate",
    ),
    case(
        "nobody has everything after 2 s: resume, release nothing",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, peers={}, seconds=2.1),
        "demotion.nobody_caught_up",
        CancelTask(),
        EnterPhase(Phase.RESUME),
    ),
    nothing(
        "while it streams 5 s are given",
        during(GRACEFUL, Phase.HANDOVER, SEEN, peers={}, seconds=4.9),
        "demotion.wait_for_candidate",
    ),
    case("and no more (EC 63)", during(GRACEFUL, Phase.HANDOVER, SEEN, peers={}, seconds=5.1), "demotion.nobody_caught_up"),
    case(
        "its end is not known: nobody can be shown to have it",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, peers=ALL, end=None),
        "demotion.nobody_caught_up",
        CancelTask(),
        EnterPhase(Phase.RESUME),
    ),
    case(
        "the agent ends and nobody has everything: the lock is left to its lease",
        during(SHUTDOWN, Phase.HANDOVER, STOPPED, peers={}, seconds=3, stopping=True),
        "demotion.nobody_caught_up",
        WriteStatus(ClusterStatus(Lsn(1200))),
        SetRole(Role.DEMOTED),
        EnterPhase(Phase.AWAIT_LEADER),
    ),
)



def promised(found: SyncView, *answers: PeerView, phase: Phase = Phase.HANDOVER, **facts: Any) -> World:
    """The hand-over while /sync is in force."""
    known = {"peers": peers(*answers), "synchronous_mode": "quorum"}
    return during(GRACEFUL, phase, STOPPED, view("a", sync=found), **known | facts)


VOTERS = SyncView("5", "a", ("b", "c", "d"), 2)
VOUCHED = SyncView("6", "a", ("b",))

VOUCHING = (
    case(
        "votes decide: the stopped leader writes who has everything, so that no vote is needed (EC 67)",
        promised(VOTERS, peer("b", 1200), peer("c", 1199)),
        "demotion.vouch",
        WriteSync("a", ("b",), 0, "5"),
    ),
    case(
        "both have everything: the lock goes to one, the other may lead as well (EC 64)",
        promised(VOTERS, peer("b", 1200), peer("c", 1200)),
        "demotion.vouch",
        WriteSync("a", ("b", "c"), 0, "5"),
    ),
    case(
        "a manual failover to an asynchronous node that has everything (EC 66)",
        promised(SyncView("5", "a", ("c",)), peer("b", 1200), synchronous_mode="on"),
        "demotion.vouch",
        WriteSync("a", ("b",), 0, "5"),
    ),
    case("it is written: hand over", promised(VOUCHED, peer("b", 1200)), "demotion.give_away"),
    case(
        "priority form: who is listed needs nothing written",
        promised(SyncView("5", "a", ("b", "c")), peer("b", 1200), synchronous_mode="on"),
        "demotion.give_away",
    ),
    nothing("nobody has everything: nothing is written", promised(VOTERS, peer("b", 1199)), "demotion.wait_for_candidate"),
    case(
        "another leads in /sync: it is not mine to say",
        promised(SyncView("5", "b", ("a", "c"), 1), peer("b", 1200)),
        "demotion.give_away",
    ),
    case(
        "nobody came in time: before it serves again only this node may lead",
        promised(VOUCHED, peers={}, phase=Phase.RESUME),
        "demotion.lead_alone",
        WriteSync("a", (), 0, "6"),
    ),
    case(
        "nobody is listed, but a write of unknown fate could still list somebody",
        promised(SyncView("7", "a"), peers={}, phase=Phase.RESUME, sync=SyncMemory(undecided=True)),
        "demotion.lead_alone",
        WriteSync("a", (), 0, "7"),
    ),
    case(
        "then it serves",
        promised(SyncView("7", "a"), peers={}, phase=Phase.RESUME, sync=SyncMemory(undecided=False)),
        "demotion.resume",
        StartServer,
    ),
    nothing(
        "without the proven lock nothing is written",
        promised(VOUCHED, peers={}, phase=Phase.RESUME, lease=LeaseState.NONE, store_lost=True),
        "demotion.resuming",
    ),
)

CASES: tuple[Case, ...] = HANDOVER + VOUCHING


def test_a_refused_write_to_sync_hands_nothing_over() -> None:
    """It was changed since it was read: look again before anybody is named. (HA rules 19.1)"""
    at = promised(VOTERS, peer("b", 1200))
    played = play(at, WriteSync=None, PollPeers=at.peers)
    assert played.did(WriteSync)
    assert not played.did(ReleaseLease, WriteFailover)


def test_it_does_not_serve_again_before_sync_is_written() -> None:
    """The node that was vouched for could lead without the commits to come."""
    played = play(promised(VOUCHED, peers={}, phase=Phase.RESUME), WriteSync=None)
    assert played.did(WriteSync) and not played.did(StartServer)
    assert play(promised(VOUCHED, peers={}, phase=Phase.RESUME), WriteSync="7").did(StartServer)


@pytest.mark.parametrize("each", CASES, ids=str)
def test_a_hand_over(each: Case) -> None:
    each.check()


@pytest.mark.parametrize("phase", [Phase.CHECKPOINT, Phase.VERIFY, Phase.STOP, Phase.HANDOVER, Phase.RESUME])
@pytest.mark.parametrize("mode", [GRACEFUL, SHUTDOWN])
@pytest.mark.parametrize("answers", [{}, peers(peer("b", int(END)), peer("c", 1199))], ids=["nobody answers", "all lack a byte"])
def test_no_orderly_demotion_releases_the_lock_before_a_candidate_has_everything(
    phase: Phase, mode: DemoteMode, answers: dict
) -> None:
    for node in (primary(), STOPPING, SEEN, STOPPED):
        for seconds in (0.1, 3.0, 20.0, 400.0):
            for end in (None, Lsn(1200)):
                at = during(mode, phase, node, end=end, peers=answers, seconds=seconds, stopping=mode is SHUTDOWN)
                decision = case("", at, "").decision()
                assert decision is not None
                assert not any(isinstance(action, ReleaseLease) for action in decision.actions), decision
