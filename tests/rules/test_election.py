"""Who may lead under ``/sync``, and the race while it is in force. (HA rules 15.1.10, 15.3, 16.3, 20)"""

from __future__ import annotations

from typing import Any

import pytest

from pgcore.decide.election import Claim, verdict
from pgcore.model.actions import AcquireLease, BeginDemotion, PollPeers, Promote, ReadCluster, RenewLease
from pgcore.model.basics import Instant, Lsn, Tags
from pgcore.model.cluster import ClusterView, SyncView
from pgcore.model.node import NodeView
from pgcore.model.settings import RemoteCluster
from pgcore.model.world import PeerView, World
from pgcore.testing.builders import NOW, history, peer, peers, primary, request, standby, view, world
from rules.cases import Case, case, nothing
from rules.driver import Script, play

PRIORITY = SyncView("5", "c", ("a", "b"))
QUORUM = SyncView("5", "c", ("a", "b"), 1)
OUTSIDE = SyncView("5", "c", ("b", "d"), 1)
MINE = SyncView("5", "a", ("b", "c"), 1)

# -- the pure question -------------------------------------------------------------------------------------------------


def asked(sync: SyncView, *answers: PeerView, mode: str = "quorum", timeline: int | None = 1, at: int = 1000) -> bool:
    """May ``a`` lead?"""
    return verdict(Claim("a", Lsn(at), timeline), sync, mode, answers).may_lead


VERDICTS = (
    ("priority form: listed", asked(PRIORITY, mode="on"), True),
    ("priority form: listed under another spelling (EC 127)", asked(SyncView("5", "c", ("A",)), mode="on"), True),
    ("priority form: the leader itself", asked(SyncView("5", "A"), mode="on"), True),
    ("priority form: not listed, whatever others say", asked(SyncView("5", "c", ("b",)), peer("b"), peer("c"), mode="on"), False),
    ("the mode is off but /sync is not yet deleted", asked(SyncView("5", "c", ("b",)), mode="off"), False),
    ("configured as on, but written with a quorum: votes decide", asked(QUORUM, mode="on"), False),
    ("quorum 1, no vote", asked(QUORUM), False),
    ("quorum 1, the vote of a standby that is as far", asked(QUORUM, peer("b")), True),
    ("quorum 1, the vote of the former leader (EC 126)", asked(QUORUM, peer("c", 990)), True),
    ("its name is spelled otherwise", asked(SyncView("5", "C", ("A", "B"), 1), peer("b")), True),
    ("quorum 1, the only peer is ahead", asked(QUORUM, peer("b", 1001)), False),
    ("quorum 1, the only peer does not answer", asked(QUORUM, peer("b", reachable=False)), False),
    ("the server of the peer is down: no vote (EC 48)", asked(QUORUM, peer("b", 0)), False),
    ("a peer outside /sync has no vote", asked(QUORUM, peer("d")), False),
    ("a voter tagged nofailover has one (EC 148)", asked(QUORUM, peer("b", nofailover=True)), True),
    ("a voter without a working watchdog has one", asked(QUORUM, peer("b", watchdog_failed=True)), True),
    ("my own answer is no vote", asked(QUORUM, peer("a")), False),
    ("quorum 2 needs two", asked(SyncView("5", "c", ("a", "b", "d"), 2), peer("b")), False),
    ("and gets two", asked(SyncView("5", "c", ("a", "b", "d"), 2), peer("b"), peer("d")), True),
    ("quorum 0: a voter needs nobody", asked(SyncView("5", "c", ("a",))), True),
    ("quorum 0: a node that is no voter needs one (EC 146)", asked(SyncView("5", "c", ("b",))), False),
    ("and gets one (EC 145)", asked(SyncView("5", "c", ("b",)), peer("b")), True),
    ("no voter, only quorum votes (EC 146)", asked(OUTSIDE, peer("b")), False),
    ("no voter, quorum + 1 votes (EC 145)", asked(OUTSIDE, peer("b"), peer("d")), True),
    ("the leader of /sync alone (EC 147)", asked(MINE), True),
    ("the leader of /sync, somebody is behind", asked(MINE, peer("b", 10)), True),
    ("the leader of /sync, a voter is ahead (EC 147)", asked(MINE, peer("b", 1001)), False),
    ("even one tagged nofailover", asked(MINE, peer("b", 1001, nofailover=True)), False),
    ("the leader of /sync, one ahead, but votes enough", asked(MINE, peer("b", 1001), peer("c", 10)), True),
    ("a peer on a newer timeline has what is not here", asked(QUORUM, peer("b", 10, timeline=2)), False),
    ("a peer on an older timeline votes", asked(QUORUM, peer("b", 1000), timeline=2), True),
    ("not if it is farther there", asked(QUORUM, peer("b", 1001), timeline=2), False),
    ("an unknown timeline is taken for the same", asked(QUORUM, peer("b", 1001, timeline=None)), False),
    ("a negative quorum, written by hand, is none", asked(SyncView("5", "c", ("a",), -3)), True),
)


@pytest.mark.parametrize(("situation", "found", "expected"), VERDICTS, ids=[row[0] for row in VERDICTS])
def test_may_it_lead(situation: str, found: bool, expected: bool) -> None:
    assert found is expected


def test_the_verdict_names_the_numbers() -> None:
    found = verdict(Claim("a", Lsn(1000), 1), OUTSIDE, "quorum", [peer("b")])
    assert found.because == "1 votes, 2 needed, one more as a is not in /sync"


# -- the race ----------------------------------------------------------------------------------------------------------

EQUAL = peers(peer("b"), peer("c", reachable=False))


def race(sync: SyncView, node: NodeView | None = None, cluster: ClusterView | None = None, **facts: Any) -> World:
    """A standby that finds the lock of ``c`` free under this /sync; ``b`` is as far, ``c`` does not answer."""
    known: dict[str, Any] = {"peers": EQUAL, "old_cluster": view("c"), "synchronous_mode": "quorum" if sync.quorum else "on"}
    return world(node or standby(), cluster or view(None, sync=sync), **known | facts)


def asks(sync: SyncView, leader: str | None, candidate: str | None, **changes: Any) -> ClusterView:
    """The lock is free and this request stands."""
    return view(None, sync=sync, failover=request(leader, candidate), **changes)


PRIORITY_FORM = (
    nothing("not part of synchronous replication", race(SyncView("5", "c", ("b",))), "race.not_synchronous"),
    case("listed: the lock is taken on the proof of that /sync", race(PRIORITY), "race.acquire", AcquireLease(proof="5")),
    case("listed under another spelling (EC 127)", race(SyncView("5", "c", ("A",))), "race.acquire", AcquireLease(proof="5")),
    case("without /sync nothing is proven", race(SyncView()), "race.acquire", AcquireLease()),
    case(
        "a standby cluster promises nothing",
        race(SyncView("5", "c", ("b",)), standby_cluster=RemoteCluster("x")),
        "race.acquire",
        AcquireLease(),
    ),
    case(
        "the former leader is ahead with what was never confirmed (EC 126)",
        race(PRIORITY, peers=peers(peer("c", 5000))),
        "race.acquire",
        AcquireLease(proof="5"),
    ),
    nothing(
        "the former leader is on a newer timeline: it was promoted since, and races itself (HA rules 30.9)",
        race(PRIORITY, peers=peers(peer("c", 10, timeline=2))),
        "race.peer_ahead",
    ),
    nothing("another synchronous standby is ahead", race(PRIORITY, peers=peers(peer("b", 1001))), "race.peer_ahead"),
    case(
        "an asynchronous node that is ahead does not count",
        race(SyncView("5", "c", ("a",)), peers=peers(peer("b", 1001))),
        "race.acquire",
    ),
    nothing(
        "it counts when it runs as a primary (EC 46)",
        race(SyncView("5", "c", ("a",)), peers=peers(peer("b", 0, is_primary=True))),
        "race.primary_alive",
    ),
    nothing(
        "two synchronous standbys: the priority counts among them (EC 45)",
        race(PRIORITY, peers=peers(peer("b", failover_priority=2))),
        "race.peer_preferred",
    ),
    case(
        "that of the former leader does not (EC 44, 45)",
        race(PRIORITY, peers=peers(peer("c", failover_priority=2))),
        "race.acquire",
    ),
    case(
        "the name of the former leader is that of /sync (EC 45)",
        race(PRIORITY, peers=peers(peer("c", failover_priority=2)), old_cluster=view("b")),
        "race.acquire",
    ),
    case(
        "nor that of an asynchronous node",
        race(SyncView("5", "c", ("a",)), peers=peers(peer("b", failover_priority=2))),
        "race.acquire",
    ),
    case(
        "preferred, but it has not taken the lock for ttl",
        race(PRIORITY, peers=peers(peer("b", failover_priority=2)), unlocked_since=Instant(NOW - 31)),
        "race.acquire",
    ),
    case(
        "a running primary that /sync names takes it back on its proof",
        world(primary(), view(None, sync=MINE)),
        "race.primary_takes_it",
        AcquireLease(proof="5"),
    ),
    case(
        "one that /sync does not name has proven nothing",
        world(primary(), view(None, sync=PRIORITY)),
        "race.primary_takes_it",
        AcquireLease(),
    ),
)

QUORUM_FORM = (
    case("one vote of one needed", race(QUORUM), "race.acquire", AcquireLease(proof="5")),
    nothing("no vote", race(QUORUM, peers={}), "race.too_few_votes"),
    nothing("a node that is no voter needs one more (EC 146)", race(OUTSIDE), "race.too_few_votes"),
    case(
        "and may lead with it (EC 145)",
        race(OUTSIDE, peers=peers(peer("b"), peer("d"))),
        "race.acquire",
        AcquireLease(proof="5"),
    ),
    case(
        "the old leader restarts alone, nobody is ahead (EC 147)",
        race(MINE, peers={}, old_cluster=view("a")),
        "race.acquire",
        AcquireLease(proof="5"),
    ),
    nothing(
        "not if a voter is ahead that may not lead itself (EC 147)",
        race(MINE, peers=peers(peer("b", 1001, nofailover=True)), old_cluster=view("a")),
        "race.too_few_votes",
    ),
    case(
        "the vote of one tagged nofailover counts (EC 148)", race(QUORUM, peers=peers(peer("b", nofailover=True))), "race.acquire"
    ),
    nothing(
        "a voter tagged nofailover never leads (EC 148)",
        race(QUORUM, tags=Tags({"nofailover": True}), rewind="check"),
        "race.nofailover",
    ),
    nothing(
        "only voters' priorities count, b is one",
        race(OUTSIDE, peers=peers(peer("b", failover_priority=2), peer("d"))),
        "race.peer_preferred",
    ),
    case(
        "e is none",
        race(OUTSIDE, peers=peers(peer("b"), peer("d"), peer("e", failover_priority=2))),
        "race.acquire",
    ),
    nothing(
        "a peer on a newer timeline is ahead, whatever its position (HA rules 30.9)",
        race(QUORUM, peers=peers(peer("b", 10, timeline=2))),
        "race.peer_ahead",
    ),
    case(
        "asking took 0.6 s: /sync is read again",
        race(QUORUM, read_at=Instant(NOW - 0.6)),
        "race.look_again",
        ReadCluster(fresh=True),
    ),
    nothing("/sync was changed meanwhile: the votes were for another one", race(QUORUM, asked_under="4"), "race.sync_changed"),
    case("asking took 0.4 s", race(QUORUM, read_at=Instant(NOW - 0.4)), "race.acquire"),
    case("without /sync nothing is read again", race(SyncView(), read_at=Instant(NOW - 2)), "race.acquire"),
)

REQUESTS = (
    nothing(
        "a switchover goes to no node outside /sync (EC 66)",
        race(SyncView("5", "c", ("b",)), None, asks(SyncView("5", "c", ("b",)), "c", "a")),
        "race.outside_sync",
    ),
    nothing(
        "nor one without candidate, however far it is (EC 65)",
        race(SyncView("5", "c", ("b",)), standby(2000), asks(SyncView("5", "c", ("b",)), "c", None)),
        "race.outside_sync",
    ),
    nothing(
        "also where votes decide",
        race(OUTSIDE, None, asks(OUTSIDE, "c", None), peers=peers(peer("b"), peer("d"))),
        "race.outside_sync",
    ),
    case(
        "a manual failover does, and proves nothing (EC 66)",
        race(SyncView("5", "c", ("b",)), None, asks(SyncView("5", "c", ("b",)), None, "a")),
        "race.forced_on_me",
        AcquireLease(),
    ),
    nothing(
        "the candidate of a manual failover is sick: nodes outside /sync stand back",
        race(SyncView("5", "c", ("b",)), None, asks(SyncView("5", "c", ("b",)), None, "b"), peers={}),
        "race.not_synchronous",
    ),
    case(
        "the candidate of a switchover has everything and is listed: no question is needed",
        race(PRIORITY, None, asks(PRIORITY, "c", "a"), peers=None),
        "race.asked_for_me",
        AcquireLease(proof="5"),
    ),
    case(
        "where votes decide the others are asked",
        race(QUORUM, None, asks(QUORUM, "c", "a"), peers=None),
        "race.ask_candidate",
        PollPeers,
    ),
    nothing(
        "too few votes for the candidate",
        race(QUORUM, None, asks(QUORUM, "c", "a"), peers={}),
        "race.unproven_candidate",
    ),
    case(
        "the old leader vouched for the candidate: no question is needed (EC 67)",
        race(SyncView("6", "c", ("a",)), None, asks(SyncView("6", "c", ("a",)), "c", "a"), peers=None, synchronous_mode="quorum"),
        "race.asked_for_me",
        AcquireLease(proof="6"),
    ),
    case(
        "votes enough for the candidate",
        race(QUORUM, None, asks(QUORUM, "c", "a")),
        "race.asked_for_me",
        AcquireLease(proof="5"),
    ),
    case(
        "the candidate died after the old leader stepped down: a synchronous one races (EC 64)",
        race(PRIORITY, None, asks(PRIORITY, "c", "b"), peers=peers(peer("b", reachable=False))),
        "race.acquire",
        AcquireLease(proof="5"),
    ),
)

CASES: tuple[Case, ...] = PRIORITY_FORM + QUORUM_FORM + REQUESTS


@pytest.mark.parametrize("each", CASES, ids=str)
def test_the_race_under_sync(each: Case) -> None:
    each.check()


def test_the_proof_is_remembered_with_the_lock() -> None:
    won = race(QUORUM, peers=None)
    script = Script({PollPeers: EQUAL}, fails=lambda number, action: action == ReadCluster(fresh=True))
    played = script.play(won)
    assert played.did(AcquireLease) == [AcquireLease(proof="5")]
    assert played.beat.world.memory.elected == "5"


def test_a_forced_failover_is_remembered_as_unproven() -> None:
    played = play(race(QUORUM, None, asks(QUORUM, None, "a"), elected="4"))
    assert played.did(AcquireLease) == [AcquireLease()]
    assert played.beat.world.memory.elected is None


def test_a_node_on_the_newer_timeline_is_not_held_up_by_one_that_is_farther_on_the_older() -> None:
    """Each compared with the other by position alone would stand back for ever. (HA rules 30.9)"""
    before = view(None, history=history(900))
    assert play(world(standby(950, timeline=2), before, peers={}), PollPeers=peers(peer("b", 1000))).did(AcquireLease)


@pytest.mark.parametrize(("node", "left", "did"), [(standby(), 30, ()), (primary(), 30, ()), (primary(), 5, (BeginDemotion,))])
def test_reading_the_own_name_in_the_lock_is_not_enough(node: NodeView, left: int, did: tuple[type, ...]) -> None:
    """EC 2: no renewal is answered, as by a store whose minority still serves reads. No promotion; a primary ends in time."""
    at = world(node, view("a"), lease_until=Instant(NOW + left))
    played = Script(fails=lambda number, action: isinstance(action, RenewLease)).play(at)
    assert not played.did(Promote)
    assert tuple(type(action) for action in played.did(BeginDemotion)) == did
