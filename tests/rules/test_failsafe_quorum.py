"""``failsafe_quorum``: whom a primary without the store may do without, and who must stand back. (decisions/0005)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcore.decide.failsafe import votes_count
from pgcore.model.actions import AcquireLease, AskFailsafe, PollPeers
from pgcore.model.basics import Instant, Lsn
from pgcore.model.cluster import ClusterView, Member, SyncView
from pgcore.model.failsafe import FailsafeAnswer, FailsafeMap
from pgcore.model.synchronous import SyncMemory
from pgcore.model.world import World
from pgcore.testing.builders import NOW, TTL, member, peer, peers, primary, request, standby, view, world
from rules.cases import Case, case, nothing
from rules.driver import play

URLS = {name: f"http://10.0.0.{number}:8008/patroni" for number, name in enumerate("abcd", 1)}
BOUND, LOOSE = FailsafeAnswer(True, Lsn(1000), binding=True), FailsafeAnswer(True, Lsn(1000))
SILENT = FailsafeAnswer(False, problem="timed out")
REFUSED = FailsafeAnswer(False, problem="answered 500 Running as a leader", refused=True)
OF_A = SyncView("5", "a", ("b", "c"), 1)
"""A commit needs one of ``b`` and ``c``: another leader needs one vote."""


def ours(name: str, **card: Any) -> Member:
    """A member whose card says that it is pgcore."""
    return member(name, data={"pgcore_version": "1"}, **card)


OURS = view("a", *(ours(name) for name in "abcd"))


def away(sync: SyncView = OF_A, *, undecided: bool = False, members: str = "abc", **facts: Any) -> World:
    """The primary without its store, 15 s of the lease left; the setting is on."""
    known: dict[str, Any] = {
        "failsafe_mode": True,
        "failsafe_quorum": True,
        "synchronous_mode": "quorum",
        "failsafe_map": FailsafeMap({name: URLS[name] for name in members}, mine=True),
        "sync_stored": sync,
        "sync": SyncMemory(undecided=undecided),
        "old_cluster": OURS,
        "lease_until": Instant(NOW + 15),
    }
    return world(primary(), None, **known | facts)


def told(b: FailsafeAnswer, c: FailsafeAnswer, **more: FailsafeAnswer) -> dict[str, FailsafeAnswer]:
    return {"b": b, "c": c, **more}


def goes_on(situation: str, at: World, **answers: FailsafeAnswer) -> Case:
    return nothing(situation, replace(at, failsafe_answers=answers), "store_lost.members_agree")


def does_not(situation: str, at: World, **answers: FailsafeAnswer) -> Case:
    return nothing(situation, replace(at, failsafe_answers=answers), "store_lost.primary_waits")


SENDER = (
    goes_on("one of two voters is silent, and one vote is needed: the silent one cannot get it", away(), b=BOUND, c=SILENT),
    does_not("the setting is off: all must accept (EC 23)", away(failsafe_quorum=False), b=BOUND, c=SILENT),
    does_not("both voters are silent", away(), b=SILENT, c=SILENT),
    does_not("a commit needs both, so another leader needs no vote", away(SyncView("5", "a", ("b", "c"), 0)), b=BOUND, c=SILENT),
    does_not("it has just given a vote, or has just begun: what it accepted does not bind it", away(), b=LOOSE, c=SILENT),
    goes_on("all accepted, bound or not: nobody is left who could lead", away(), b=LOOSE, c=LOOSE),
    does_not("one answered no: it may know more", away(), b=BOUND, c=REFUSED),
    does_not("the last write of /sync was not confirmed", away(undecided=True), b=BOUND, c=SILENT),
    does_not("/sync names another leader", away(replace(OF_A, leader="c")), b=BOUND, c=SILENT),
    does_not("/sync is empty", away(SyncView()), b=BOUND, c=SILENT),
    does_not("priority mode", away(synchronous_mode="on"), b=BOUND, c=SILENT),
    does_not(
        "the silent one is a Patroni member: it would not honour a promise",
        away(old_cluster=view("a", ours("a"), ours("b"), member("c", data={"version": "4.1.0"}))),
        b=BOUND,
        c=SILENT,
    ),
    does_not("its card is gone: who knows what runs there", away(old_cluster=view("a", ours("a"), ours("b"))), b=BOUND, c=SILENT),
    goes_on(
        "a member outside /sync is silent: it needs one vote more",
        away(SyncView("5", "a", ("b",), 0), members="abc"),
        b=BOUND,
        c=SILENT,
    ),
    goes_on("names compare without case", away(SyncView("5", "A", ("B", "c"), 1)), b=BOUND, c=SILENT),
    does_not(
        "three voters of which two are silent and one may be",
        away(SyncView("5", "a", ("b", "c", "d"), 1), members="abcd"),
        b=BOUND,
        c=SILENT,
        d=SILENT,
    ),
    goes_on(
        "three voters of which two are silent and two may be",
        away(SyncView("5", "a", ("b", "c", "d"), 2), members="abcd"),
        b=BOUND,
        c=SILENT,
        d=SILENT,
    ),
)

FREE = view(None, sync=SyncView("5", "c", ("a", "b"), 1), failsafe={name: URLS[name] for name in "abc"})


def free(*heard: Any, cluster: ClusterView = FREE, **facts: Any) -> World:
    """``a`` finds the lock of ``c`` free; quorum commit and failsafe mode are on."""
    on = {"failsafe_mode": True, "failsafe_quorum": True, "synchronous_mode": "quorum"}
    known: dict[str, Any] = {**on, "old_cluster": view("c")}
    asked = {"peers": peers(*heard), "asked_under": "5"} if heard else {"peers": None}
    return world(standby(), cluster, **known | asked | facts)


GONE = peer("c", reachable=False)
ACCEPTED, YOUNG = peer("b", failsafe_leader="c"), peer("b", failsafe_unknown=True)
WIPED, BEFORE = replace(FREE, sync=SyncView(), failsafe=None), replace(FREE, leader="c")
FORCED = replace(FREE, failover=request(None, "a"))

RACERS = (
    case("enough free votes", free(peer("b"), GONE), "race.acquire", AcquireLease),
    nothing("the one who could vote has accepted the primary", free(ACCEPTED, GONE), "race.peer_accepted"),
    nothing("whatever the setting here says", free(ACCEPTED, GONE, failsafe_quorum=False), "race.peer_accepted"),
    nothing("nor by an operator's order", free(ACCEPTED, GONE, cluster=FORCED), "race.peer_accepted"),
    case("what it accepted was this node", free(peer("b", failsafe_leader="a"), GONE), "race.acquire", AcquireLease),
    case(
        "without quorum commit the primary must ask this node as well, so another's word does not matter",
        free(ACCEPTED, GONE, cluster=replace(FREE, sync=SyncView()), synchronous_mode="off"),
        "race.acquire",
        AcquireLease,
    ),
    nothing("who could vote has just begun and may have forgotten", free(YOUNG, GONE), "race.peer_forgetful"),
    case("it has, but everybody answers and nobody is a primary", free(YOUNG, peer("c")), "race.acquire", AcquireLease),
    nothing(
        "an operator's order without enough free members",
        free(peer("b", reachable=False), GONE, cluster=FORCED),
        "race.forced_unproven",
    ),
    case("with enough of them", free(peer("b"), GONE, cluster=FORCED), "race.forced_on_me", AcquireLease),
    nothing(
        "the store has lost its data, and with it /sync: those who could vote are asked all the same (EC 17)",
        free(peer("b", reachable=False), GONE, cluster=WIPED, old_cluster=BEFORE),
        "race.sync_vanished",
    ),
    nothing("they have accepted the primary", free(ACCEPTED, GONE, cluster=WIPED, old_cluster=BEFORE), "race.peer_accepted"),
    case("they have not", free(peer("b"), GONE, cluster=WIPED, old_cluster=BEFORE), "race.acquire", AcquireLease),
    case("it was never in force", free(peer("b", reachable=False), GONE, cluster=WIPED), "race.acquire", AcquireLease),
    case(
        "with the setting switched off the operator vouches for it",
        free(peer("b", reachable=False), GONE, cluster=FORCED, failsafe_quorum=False),
        "race.forced_on_me",
        AcquireLease,
    ),
)

CASES: tuple[Case, ...] = SENDER + RACERS


@pytest.mark.parametrize("each", CASES, ids=str)
def test_failsafe_quorum(each: Case) -> None:
    each.check()


def test_the_word_of_enough_members_moves_the_lease() -> None:
    played = play(away(), AskFailsafe=told(BOUND, SILENT))
    [asked_at] = [at.now for action, at in played.steps if isinstance(action, AskFailsafe)]
    assert played.beat.world.memory.lease_until == asked_at + TTL
    assert "c did not answer" in (played.beat.main.because if played.beat.main else "")
    assert play(away(), AskFailsafe=told(LOOSE, SILENT)).beat.world.memory.lease_until == NOW + 15


def test_the_reason_says_what_the_quorum_lacks() -> None:
    played = play(away(), AskFailsafe=told(SILENT, SILENT))
    because = played.beat.main.because if played.beat.main else ""
    assert "b: timed out" in because and "b, c not bound, of 2 voters 1 may be missing" in because


def test_a_poll_for_votes_is_known_as_one() -> None:
    played = play(free(), PollPeers=peers(peer("b"), GONE))
    assert played.did(PollPeers)
    [at] = [at for action, at in played.steps if isinstance(action, PollPeers)]
    assert votes_count(at)
    assert not votes_count(world(primary(), OURS, failsafe_mode=True, synchronous_mode="quorum"))
