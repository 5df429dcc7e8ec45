"""Requests for another leader: under ``/sync``, during a long action, with a sick candidate, in pause. (HA rules 16)"""

from __future__ import annotations

from typing import Any

import pytest

from pgcore.decide import MAIN, decide
from pgcore.model.actions import AcquireLease, BeginDemotion, DemoteMode, Phase, PollPeers, Refuse, ReleaseLease, WriteFailover
from pgcore.model.basics import Instant
from pgcore.model.cluster import FailoverRequest, SyncView
from pgcore.model.node import TaskKind
from pgcore.model.world import PeerView, World
from pgcore.testing.builders import NOW, crashed, doing, history, member, peer, peers, primary, request, standby, view, world
from rules.cases import Case, case, nothing
from rules.demoting import GRACEFUL, STOPPED
from rules.demoting import during as demoting
from rules.driver import after, play

QUORUM = SyncView("5", "a", ("b", "c"), 1)
DROPPED = (Refuse, WriteFailover(version="7"))
GOOD = peers(peer("b"), peer("c"))


def asked(failover: FailoverRequest, sync: SyncView, *answers: PeerView, **facts: Any) -> World:
    """The holder ``a`` under this /sync; only these answer."""
    heard = {"peers": peers(*answers), "synchronous_mode": "quorum" if sync.quorum else "on"}
    return world(primary(), view("a", failover=failover, sync=sync), **heard | facts)


def during(kind: TaskKind, failover: FailoverRequest, **facts: Any) -> World:
    """The holder while this long action runs."""
    node = crashed() if kind is TaskKind.START_PRIMARY else primary()
    return world(doing(kind, node), view("a", failover=failover), **facts)


HOLDER = (
    case(
        "no candidate, priority form: only the synchronous one, however far the other is (EC 65)",
        asked(request("a"), SyncView("5", "a", ("b",)), peer("b"), peer("c", 5000)),
        "leader.hand_over",
        BeginDemotion(DemoteMode.GRACEFUL, Phase.CHECKPOINT, ("b",)),
    ),
    case(
        "no candidate and no synchronous standby",
        asked(request("a"), SyncView("5", "a"), peer("b")),
        "leader.no_candidate",
        *DROPPED,
    ),
    case(
        "no candidate, votes decide: quorum + 1 are fit (EC 67)",
        asked(request("a"), QUORUM, peer("b"), peer("c")),
        "leader.hand_over",
        BeginDemotion(DemoteMode.GRACEFUL, Phase.CHECKPOINT, ("b", "c")),
    ),
    case("only quorum are fit (EC 67)", asked(request("a"), QUORUM, peer("b")), "leader.too_few_candidates", *DROPPED),
    case(
        "with a candidate one is enough (EC 67)",
        asked(request("a", "b"), QUORUM, peer("b")),
        "leader.hand_over",
        BeginDemotion(DemoteMode.GRACEFUL, Phase.CHECKPOINT, ("b",)),
    ),
    case(
        "one of the two needed is just starting: it is waited for",
        asked(request("a"), QUORUM, peer("b"), peer("c", 0, reachable=False, starting=True)),
        "leader.candidate_starting",
    ),
    case(
        "check_timeline, and the candidate does not tell its own (EC 52)",
        asked(request("a", "b"), SyncView(), peer("b", timeline=None), check_timeline=True),
        "leader.unfit_candidates",
        *DROPPED,
    ),
    case(
        "without check_timeline that does not matter (EC 52)",
        asked(request("a", "b"), SyncView(), peer("b", timeline=None)),
        "leader.hand_over",
    ),
    case(
        "the candidate is on a timeline the cluster has left (HA rules 30.9)",
        world(primary(timeline=2), view("a", failover=request("a", "b"), history=history(900)), peers=GOOD),
        "leader.unfit_candidates",
    ),
)

BUSY = (
    case(
        "a checkpoint runs: refused by its name (EC 76)", during(TaskKind.CHECKPOINT, request("a", "b")), "busy.refuse_while_busy"
    ),
    case(
        "a restart runs: refused by its name (EC 76)",
        during(TaskKind.RESTART, request("a", "b")),
        "busy.refuse_while_busy",
        Refuse("restart already in progress"),
        WriteFailover(version="7"),
    ),
    case(
        "a switchover while the crashed server is started again (EC 76)",
        during(TaskKind.START_PRIMARY, request("a", "b")),
        "busy.refuse_while_busy",
        *DROPPED,
    ),
    nothing("a request for later waits (EC 76)", during(TaskKind.RESTART, request("a", "b", due=60)), "busy.wait"),
    nothing(
        "the request that has just brought the lock is none (EC 76)", during(TaskKind.PROMOTE, request("b", "a")), "busy.wait"
    ),
    nothing(
        "nor does a node without the lock refuse",
        world(doing(TaskKind.RESTART, standby()), view("b", failover=request("b", "c"))),
        "busy.wait",
    ),
    case(
        "a manual failover while the crashed server is started again: ask the candidate (EC 72)",
        during(TaskKind.START_PRIMARY, request(None, "b")),
        "busy.ask_candidate",
        PollPeers,
    ),
    case(
        "the candidate is well: give way at once (EC 72)",
        during(TaskKind.START_PRIMARY, request(None, "b"), peers=GOOD),
        "busy.fail_over",
        BeginDemotion(DemoteMode.IMMEDIATE, Phase.STOP, ("b",)),
    ),
    nothing(
        "it is not: go on starting, the request waits for the end of that (EC 72)",
        during(TaskKind.START_PRIMARY, request(None, "b"), peers={}),
        "busy.wait",
    ),
)


def unheeded(failover: FailoverRequest, *, seconds: float = 31, **facts: Any) -> World:
    """The old leader ``a`` after the lock has been free for so long."""
    at = view(None, failover=failover)
    return world(standby(), at, unlocked_since=Instant(NOW - seconds), peers=GOOD, **facts)


UNHEEDED = (
    case("nobody followed it for ttl: over, not the next outage", unheeded(request("a", "b")), "race.came_to_nothing", *DROPPED),
    case("a manual failover as well", unheeded(request(None, "b")), "race.came_to_nothing", *DROPPED),
    nothing(
        "the lock was free for long when an operator asked: it is b's turn (EC 78)",
        unheeded(request(None, "b"), request_waits=(request(None, "b").version, Instant(NOW - 1))),
        "race.candidate_first",
    ),
    nothing("it is still b's turn", unheeded(request("a", "b"), seconds=29), "race.candidate_first"),
    case("another leader was asked to go: its own affair", unheeded(request("b", "c")), "race.acquire"),
    case("a schedule is for later", unheeded(request("a", "b", due=60)), "race.acquire"),
)


def came_back(*answers: PeerView, candidate: str | None = None, sync: SyncView = SyncView(), position: int = 1000) -> World:
    """The lock is free after a switchover away from ``a``, whose server runs again as a standby."""
    cluster = view(None, failover=request("a", candidate), sync=sync)
    mode = "quorum" if sync.quorum else "on" if sync.active else "off"
    return world(standby(position), cluster, peers=peers(*answers), old_cluster=view("a"), synchronous_mode=mode)


OLD_LEADER = (
    nothing("another has everything (EC 64)", came_back(peer("b")), "race.others_before_old_leader"),
    case("the others lack a byte of what I have (EC 64)", came_back(peer("b"), position=1001), "race.acquire"),
    case(
        "only an asynchronous node has everything (EC 64)",
        came_back(peer("c"), sync=SyncView("5", "a", ("b",))),
        "race.acquire",
        AcquireLease(proof="5"),
    ),
    case(
        "the other is on a timeline that was left",
        world(standby(timeline=2), view(None, failover=request("a")), peers=peers(peer("b")), old_cluster=view("a")),
        "race.acquire",
    ),
    nothing(
        "votes decide, and with mine c has enough (EC 64)", came_back(peer("c"), sync=QUORUM), "race.others_before_old_leader"
    ),
    case(
        "votes decide, and nobody else can get enough (EC 64)",
        came_back(peer("c"), sync=SyncView("5", "a", ("b", "c", "d"), 2)),
        "race.acquire",
        AcquireLease(proof="5"),
    ),
)

CASES: tuple[Case, ...] = HOLDER + BUSY + OLD_LEADER + UNHEEDED


@pytest.mark.parametrize("each", CASES, ids=str)
def test_requests(each: Case) -> None:
    each.check()


@pytest.mark.parametrize(
    ("at", "words"),
    [
        (asked(request("a", "c"), SyncView("5", "a", ("b",))), "c is not synchronous (b)"),
        (asked(request("a"), SyncView("5", "a")), "/sync lists nobody"),
        (asked(request("a"), QUORUM, peer("b")), "2 (quorum + 1) nodes of /sync must be fit"),
        (during(TaskKind.RESTART, request("a", "b")), "restart already in progress"),
    ],
)
def test_a_refusal_says_why(at: World, words: str) -> None:
    """EC 66-68, 76: the one who asked reads it in the answer."""
    assert words in play(at, PollPeers=at.peers).beat.world.memory.refusal


def test_that_a_sick_candidate_is_passed_over_is_said() -> None:
    """HA rules 30.12, EC 64."""
    at = world(standby(), view(None, failover=request("c", "b")), peers=peers(peer("b", watchdog_failed=True)))
    decision = decide(MAIN, at)
    assert decision is not None and decision.because.startswith(
        "the request names b, but b has no working watchdog: treated as without a candidate; healthy"
    )


def test_in_maintenance_mode_a_primary_drops_a_request_for_a_candidate_that_vanished_and_takes_the_lock_again() -> None:
    """EC 74."""
    gone = view(None, member("a", role="primary"), member("c"), failover=request("a", "b"))
    played = play(world(primary(), gone, paused=True))
    assert played.rules[0] == "race.primary_takes_it"
    assert played.did(AcquireLease) == [AcquireLease()]
    assert played.did(WriteFailover) == [WriteFailover(version="7")]
    assert played.beat.world.cluster.leader == "a"


def test_the_candidate_of_maintenance_mode_keeps_the_lock_until_it_is_a_primary() -> None:
    """EC 75: also while its promotion runs, and after a beat in which the request is still there."""
    mine = view("a", failover=request("b", "a"))
    first = play(world(standby(), mine, paused=True))
    assert "leader.promote" in first.rules
    second = play(after(first, node=doing(TaskKind.PROMOTE, standby())))
    assert second.rules[:2] == ["busy.renew", "busy.wait"]
    assert second.beat.world.holds and not second.did(ReleaseLease)


def test_a_candidate_of_the_hand_over_must_say_its_timeline_with_check_timeline() -> None:
    """EC 52."""
    untold = peers(peer("b", 1200, timeline=None))
    for check, rule in ((False, "demotion.give_away"), (True, "demotion.wait_for_candidate")):
        decision = decide(MAIN, demoting(GRACEFUL, Phase.HANDOVER, STOPPED, peers=untold, check_timeline=check))
        assert decision is not None and decision.rule == rule
