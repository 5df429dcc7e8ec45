"""Nobody holds the lock and PostgreSQL runs. (HA rules 15, 16.3)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcore.decide import MAIN, decide
from pgcore.model.actions import AcquireLease, BeginDemotion, DemoteMode, Phase, PollPeers, ReadCluster, RewindState, SetRewind
from pgcore.model.basics import Instant, Lsn, Tags
from pgcore.model.cluster import ClusterView
from pgcore.model.node import NodeView
from pgcore.model.settings import RemoteCluster
from pgcore.model.world import World
from pgcore.testing.builders import NOW, history, member, peer, peers, primary, request, silent, standby, view, world
from rules.cases import Case, case, nothing
from rules.driver import after, play

FREE = view(None, optime=1000)
BEFORE = view("c")
ON_2 = view(None, history=history(900))
EMPTIED = replace(FREE, initialize=None, initialize_version=None)
TO_ME, LATER = view(None, failover=request("c", "a")), view(None, failover=request("c", "a", due=60))
EQUAL = peers(peer("b"), peer("c", reachable=False))


def free(node: NodeView | None = None, cluster: ClusterView | None = None, **facts: Any) -> World:
    """A standby that finds the lock of ``c`` free; the others have answered: ``b`` is as far, ``c`` does not answer."""
    return world(node or standby(), cluster or FREE, **{"peers": EQUAL, "old_cluster": BEFORE} | facts)


PRIMARY = (
    case(
        "a primary on the cluster's timeline takes the free lock back (EC 4, 17, 29)",
        world(primary(), FREE),
        "race.primary_takes_it",
        AcquireLease(),
    ),
    case(
        "a primary while /history is wiped: unknown does not block (EC 4)",
        world(primary(timeline=3), view(None, history=None)),
        "race.primary_takes_it",
    ),
    case(
        "a thawed primary on an older timeline stops and takes nothing (EC 3, 100)",
        world(primary(timeline=1), ON_2),
        "race.outdated_primary",
        BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP),
    ),
    case(
        "its timeline is remembered while it does not answer (EC 3)",
        world(silent(primary()), ON_2, last_timeline=1),
        "race.outdated_primary",
    ),
    nothing(
        "a primary whose timeline nobody knows does not take the lock of a cluster with a history (EC 3)",
        world(silent(primary()), ON_2),
        "race.primary_unsure",
    ),
    case(
        "in a cluster without one it does (EC 4, 7)",
        world(silent(primary()), FREE),
        "race.primary_takes_it",
    ),
    case(
        "a promotion that was given up ended after all: the primary is not kept from the lock",
        world(primary(timeline=2), FREE, promotion_failed_at=Instant(NOW - 1)),
        "race.primary_takes_it",
    ),
    case(
        "an outdated primary in maintenance mode is left alone",
        world(primary(timeline=1), ON_2, paused=True),
        "race.primary_takes_it",
    ),
    case(
        "a primary in maintenance mode takes the free lock",
        world(primary(), FREE, paused=True),
        "race.primary_takes_it",
        AcquireLease(),
    ),
)

GATES = (
    case("another was faster: read who leads (EC 42)", free(race_lost=True), "race.lost", ReadCluster(fresh=True)),
    nothing("another was faster and has let go again: the next beat looks anew", free(beaten=True), "race.beaten"),
    nothing("my promotion failed 29 s ago (EC 55)", free(promotion_failed_at=Instant(NOW - 29)), "race.failed_before"),
    case("my promotion failed 31 s ago (EC 55)", free(promotion_failed_at=Instant(NOW - 31)), "race.acquire"),
    nothing("no standby races in maintenance mode (EC 190)", free(paused=True), "race.paused"),
    case("but the one an operator has named (EC 73)", free(None, TO_ME, paused=True), "race.asked_for_me", AcquireLease()),
    case("once it knows that no primary runs (EC 73)", free(None, TO_ME, paused=True, peers=None), "race.ask_candidate"),
    nothing("a request for later names nobody in maintenance mode", free(None, LATER, paused=True), "race.paused"),
    case(
        "tagged nofailover: compare with the next leader (EC 54)",
        free(tags=Tags({"nofailover": True})),
        "race.nofailover",
        SetRewind(RewindState.CHECK),
    ),
    nothing(
        "tagged nofailover: others race (EC 54)",
        free(tags=Tags({"nofailover": True}), rewind=RewindState.CHECK),
        "race.nofailover",
    ),
    nothing(
        "nofailover does not race even when asked for",
        free(None, view(None, failover=request(None, "a")), tags=Tags({"nofailover": True}), rewind=RewindState.CHECK),
        "race.nofailover",
    ),
    nothing("the own position is unknown (EC 50)", free(silent(standby())), "race.unanswering"),
    nothing("one byte more behind than allowed (EC 41)", free(standby(1000), view(None, optime=1000 + 1048577)), "race.lagging"),
    case("exactly as far behind as allowed (EC 41)", free(standby(1000), view(None, optime=1000 + 1048576)), "race.acquire"),
    nothing("on an older timeline than the cluster's", free(None, ON_2), "race.old_timeline"),
    nothing(
        "own timeline unknown and check_timeline on (EC 52)",
        free(standby(timeline=None), check_timeline=True),
        "race.old_timeline",
    ),
    case("own timeline unknown and check_timeline off (EC 52)", free(standby(timeline=None)), "race.acquire"),
    case(
        "the others are asked, also those whose card expired (EC 51)",
        free(None, view(None, member("a")), peers=None),
        "race.ask_peers",
        PollPeers((BEFORE.members[1], BEFORE.members[2])),
    ),
    case(
        "there is nobody to ask",
        free(None, view(None, member("a")), peers=None, old_cluster=None),
        "race.acquire",
        AcquireLease(),
    ),
    nothing(
        "the old primary still answers as one (EC 46)",
        free(peers=peers(peer("b"), peer("c", 0, is_primary=True))),
        "race.primary_alive",
    ),
    nothing(
        "whatever its tags (HA rules 30.3)",
        free(peers=peers(peer("c", 0, is_primary=True, nofailover=True))),
        "race.primary_alive",
    ),
    nothing(
        "somebody has removed the lock, and the primary, whose server is too slow to answer, still counts on it",
        free(peers=peers(peer("b"), peer("c", 0, reachable=False, counts_on_lock=True))),
        "race.primary_counts_on_lock",
    ),
    nothing(
        "somebody has removed the lock while its holder was being promoted, which cannot be taken back (EC 17)",
        free(peers=peers(peer("b"), peer("c", promoting=True))),
        "race.peer_promoting",
    ),
    nothing(
        "the same, and its server does not answer",
        free(peers=peers(peer("b"), peer("c", 0, reachable=False, promoting=True)), unlocked_since=Instant(NOW - 30)),
        "race.peer_promoting",
    ),
    case(
        "its promotion has not ended for longer than ttl, in which its guard has stopped it",
        free(peers=peers(peer("b"), peer("c", promoting=True)), unlocked_since=Instant(NOW - 31)),
        "race.acquire",
    ),
    nothing(
        "the store was emptied 3 s ago, and the former leader does not answer: its lease may run on (EC 17)",
        free(cluster=EMPTIED, unlocked_since=Instant(NOW - 3)),
        "race.wiped",
    ),
    case(
        "the store was emptied longer than ttl ago",
        free(cluster=EMPTIED, unlocked_since=Instant(NOW - 31)),
        "race.acquire",
        AcquireLease(),
    ),
    case(
        "the store was emptied, and the former leader answers as a standby",
        free(cluster=EMPTIED, unlocked_since=Instant(NOW - 3), peers=peers(peer("b"), peer("c"))),
        "race.acquire",
        AcquireLease(),
    ),
    nothing("a peer is ahead by one byte (EC 43)", free(peers=peers(peer("b", 1001))), "race.peer_ahead"),
    nothing(
        "ahead by a byte beats any priority (EC 43)",
        free(peers=peers(peer("b", 1001)), tags=Tags({"failover_priority": 9})),
        "race.peer_ahead",
    ),
    case(
        "a peer that is ahead but tagged nofailover (EC 54)", free(peers=peers(peer("b", 1001, nofailover=True))), "race.acquire"
    ),
    case(
        "a peer that is ahead but has no working watchdog (EC 53)",
        free(peers=peers(peer("b", 1001, watchdog_failed=True))),
        "race.acquire",
    ),
    case(
        "a peer that does not answer does not block (EC 49)", free(peers=peers(peer("b", 1001, reachable=False))), "race.acquire"
    ),
    case("a peer whose server is down is not ahead (EC 48)", free(peers=peers(peer("b", 0))), "race.acquire"),
    case(
        "a peer that is ahead on a timeline the cluster has left",
        free(standby(timeline=2), ON_2, peers=peers(peer("b", 5000))),
        "race.acquire",
    ),
    nothing(
        "I lack WAL, and one that may have it is just starting",
        free(standby(990), peers=peers(peer("b", 0, starting=True)), unlocked_since=Instant(NOW - 29)),
        "race.peer_may_have_more",
    ),
    case(
        "it has been starting for longer than ttl",
        free(standby(990), peers=peers(peer("b", 0, starting=True)), unlocked_since=Instant(NOW - 31)),
        "race.acquire",
    ),
    case(
        "I lack nothing: nobody is waited for", free(peers=peers(peer("b", 0, starting=True)), unlocked_since=NOW), "race.acquire"
    ),
    nothing(
        "as far, and b has the higher priority (EC 43)", free(peers=peers(peer("b", failover_priority=2))), "race.peer_preferred"
    ),
    case(
        "preferred, but it has not taken the lock for ttl: it may be unable to (EC 43)",
        free(peers=peers(peer("b", failover_priority=2)), unlocked_since=Instant(NOW - 31)),
        "race.acquire",
    ),
    nothing(
        "the own watchdog is required and does not work (EC 53)", free(standby(watchdog_failed=True)), "race.watchdog_failed"
    ),
    nothing(
        "asked for by an operator it would take the lock and give it back, again and again (EC 53)",
        free(standby(watchdog_failed=True), TO_ME),
        "race.named_without_watchdog",
    ),
    nothing(
        "the same in a manual failover (EC 53)",
        free(standby(watchdog_failed=True), view(None, failover=request(None, "a"))),
        "race.named_without_watchdog",
    ),
    case(
        "in maintenance mode no watchdog runs, so none is missed",
        free(standby(watchdog_failed=True), TO_ME, paused=True),
        "race.asked_for_me",
    ),
    case(
        "the former leader's priority does not count (EC 44)", free(peers=peers(peer("c", failover_priority=2))), "race.acquire"
    ),
    case("equal in everything: the atomic create decides (EC 42)", free(), "race.acquire", AcquireLease()),
)


def gone(leader: str, candidate: str | None, **facts: Any) -> World:
    """The lock is free and the request still there."""
    return free(None, view(None, optime=1000, failover=request(leader, candidate)), **facts)


REQUESTS = (
    nothing(
        "the candidate lacks one byte of the hand-over",
        free(standby(999), view(None, failover=request("c", "a"))),
        "race.missing_wal",
    ),
    nothing(
        "nobody else who lacks a byte takes it either",
        free(standby(999), view(None, failover=request("c", "b"))),
        "race.missing_wal",
    ),
    nothing(
        "the candidate is on a timeline the cluster has left",
        free(standby(5000), view(None, history=history(900), failover=request("c", "a"))),
        "race.missing_wal",
    ),
    case(
        "the hand-over has led to nothing for ttl: the usual race (principles, safety 2)",
        free(standby(999), view(None, failover=request("c", "a")), peers={}, unlocked_since=Instant(NOW - 31)),
        "race.acquire",
    ),
    nothing(
        "not a moment earlier",
        free(standby(999), view(None, failover=request("c", "a")), unlocked_since=Instant(NOW - 29)),
        "race.missing_wal",
    ),
    case(
        "the named candidate lacks a byte of the hand-over and may not take it: whoever has everything does",
        gone("c", "b", peers=peers(peer("b", 999))),
        "race.acquire",
    ),
    case("the candidate has everything", gone("c", "a", peers=None), "race.asked_for_me", AcquireLease()),
    case(
        "a manual failover goes to a lagging candidate as well, also without a leader (EC 78)",
        free(standby(1), view(None, optime=2**30, failover=request(None, "a"))),
        "race.forced_on_me",
        AcquireLease(),
    ),
    nothing(
        "not beside a primary that still runs, as in maintenance mode (EC 46)",
        free(None, view(None, failover=request(None, "a")), paused=True, peers=peers(peer("c", 0, is_primary=True))),
        "race.beside_a_primary",
    ),
    case(
        "before a manual failover everybody is asked whether one runs (EC 46)",
        free(None, view(None, failover=request(None, "a")), peers=None),
        "race.ask_candidate",
        PollPeers,
    ),
    case("the request names another: ask it", gone("c", "b", peers=None), "race.ask_candidate", PollPeers),
    nothing("the named candidate is well: leave it the lock", gone("c", "b"), "race.candidate_first"),
    case(
        "the named candidate is dead: others race (EC 64)",
        gone("c", "b", peers=peers(peer("b", reachable=False))),
        "race.acquire",
    ),
    case("the former leader asks first (EC 64)", gone("a", None, peers=None), "race.others_before_old_leader", PollPeers),
    nothing(
        "the former leader leaves it to one who has everything",
        gone("a", None, peers=peers(peer("b"))),
        "race.others_before_old_leader",
    ),
    case(
        "nobody else has everything: the former leader comes back (EC 64)",
        gone("a", "b", peers=peers(peer("b", reachable=False), peer("c", 999))),
        "race.acquire",
    ),
    case("a request for later does not matter now", free(None, view(None, failover=request("c", "b", due=60))), "race.acquire"),
)


def frozen(seconds: float, *, grew: float | None = 0.5, streaming: bool = True, **facts: Any) -> World:
    """The lock has been free for so long; WAL was last seen to arrive so long ago; the setting is 15 s, the loop 10 s."""
    since = {"unlocked_since": Instant(NOW - seconds), "grew_at": None if grew is None else Instant(NOW - grew)}
    return free(standby(streaming=streaming), **since | {"primary_race_backoff": 15} | facts)


BACKOFF = (
    nothing("WAL of the old primary still arrives (EC 59)", frozen(14), "race.backoff"),
    case("it still does, but the time is over (EC 59)", frozen(15), "race.acquire"),
    case("it stopped arriving a loop ago", frozen(14, grew=10.1), "race.acquire"),
    case("nothing streams any more, and a loop has passed", frozen(10, streaming=False), "race.acquire"),
    nothing("in the first loop that is not waited for being seen", frozen(9.9, grew=None, streaming=False), "race.backoff"),
    nothing("6 s of waiting are 6 s, whatever the loop (EC 59)", frozen(5.9, primary_race_backoff=6), "race.backoff"),
    case("and not more (EC 59)", frozen(6, primary_race_backoff=6), "race.acquire"),
    case("off by default", frozen(1, primary_race_backoff=0), "race.acquire"),
    case("a standby cluster does not wait", frozen(1, standby_cluster=RemoteCluster("x")), "race.acquire"),
    case(
        "after an orderly hand-over nobody waits",
        free(None, TO_ME, unlocked_since=NOW, grew_at=NOW, primary_race_backoff=15),
        "race.asked_for_me",
    ),
    nothing("in maintenance mode nobody races anyway", frozen(20, paused=True), "race.paused"),
)

CASES: tuple[Case, ...] = PRIMARY + GATES + REQUESTS + BACKOFF


def test_the_race_begins_exactly_at_the_end_of_the_backoff() -> None:
    """EC 59: the beat of that moment is asked for, not the next one by the clock of the loop."""
    decision = decide(MAIN, frozen(14.75))
    assert decision is not None and decision.wake_after == pytest.approx(0.25)


def test_growth_is_seen_by_looking_at_the_own_position() -> None:
    """A backoff counts from the last look that showed more WAL than the one before. (EC 59)"""
    first = play(world(standby(1000), view("c")))
    assert first.beat.world.memory.grew_at is None
    second = play(after(first, node=standby(1001)))
    assert second.beat.world.memory.grew_at == pytest.approx(NOW + 1, abs=0.1)
    third = play(after(second, node=standby(1001)))
    assert third.beat.world.memory.grew_at == second.beat.world.memory.grew_at


@pytest.mark.parametrize("each", CASES, ids=str)
def test_the_race(each: Case) -> None:
    each.check()


def test_the_peers_are_known_by_name_once_and_the_present_card_wins() -> None:
    now_at = member("b", xlog_location=Lsn(5))
    known = world(standby(), view(None, now_at), old_cluster=BEFORE).known_peers()
    assert [each.name for each in known] == ["b", "c"]
    assert known[0] == now_at
