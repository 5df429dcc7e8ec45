"""Failsafe mode: who may go on without the store, who must wait for whom. (HA rules 9, 15.1.9)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcore.decide import MAIN, decide
from pgcore.decide.advance import advance
from pgcore.model.actions import (
    AcquireLease,
    AskFailsafe,
    BeginDemotion,
    DemoteMode,
    Outcome,
    Phase,
    PollPeers,
    ReleaseLease,
    RenewLease,
    WriteFailsafe,
    WriteStatus,
)
from pgcore.model.basics import Instant, Lsn, Role
from pgcore.model.cluster import ClusterView
from pgcore.model.decision import Then
from pgcore.model.failsafe import FailsafeAnswer, FailsafeMap, FailsafeRecord
from pgcore.model.node import NodeView, Slot, TaskKind
from pgcore.model.world import LeaseState, World
from pgcore.testing.builders import (
    NOW,
    TTL,
    demotion,
    doing,
    down,
    history,
    member,
    peer,
    peers,
    primary,
    request,
    silent,
    standby,
    view,
    world,
)
from rules.cases import Case, case, nothing
from rules.cases import silent as nobody_answers
from rules.driver import Played, Script, after, play

ABC = {"a": "http://10.0.0.1:8008/patroni", "b": "http://10.0.0.2:8008/patroni", "c": "http://10.0.0.3:8008/patroni"}
OTHERS = {name: ABC[name] for name in "bc"}
URL = {"api_url": ABC["a"]}
MINE = FailsafeMap(ABC, mine=True)
YES, NO = FailsafeAnswer(True, Lsn(1000)), FailsafeAnswer(False, problem="did not answer within 2.0 s")
ALL = {"b": YES, "c": YES}
ONE_SILENT = {"b": YES, "c": NO}
OFFLINE = BeginDemotion(DemoteMode.OFFLINE, Phase.STOP)
NOLOCK = BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP)
FREE = view(None, failsafe=ABC)
LATER = Instant(NOW + TTL)


def accepted(name: str = "c", *, ago: float = 1.0, ttl: float = TTL) -> FailsafeRecord:
    """``a`` accepted this primary so many seconds ago."""
    return FailsafeRecord(name, f"postgres://10.0.0.3:5432/{name}", ABC.get(name, ""), {"c": Lsn(1500)}, Instant(NOW - ago), ttl)


def away(node: NodeView, seconds_of_lease: float = 15, **facts: Any) -> World:
    """The store does not answer; failsafe mode is on and the key known."""
    known = {"failsafe_mode": True, "failsafe_map": MINE, "lease_until": Instant(NOW + seconds_of_lease)}
    return world(node, None, **known | facts)


def free(node: NodeView | None = None, cluster: ClusterView | None = None, **facts: Any) -> World:
    """A standby that finds the lock of ``c`` free, in failsafe mode; ``b`` has answered, ``c`` has not."""
    heard = peers(peer("b"), peer("c", reachable=False))
    known: dict[str, Any] = {"failsafe_mode": True, "peers": heard, "old_cluster": view("c")}
    return world(node or standby(), cluster or FREE, **known | facts)


ASK_4 = AskFailsafe(OTHERS, {"a": Lsn(1000)}, 4.0)

SENDER = (
    case("the store is away: everybody in /failsafe is asked (EC 23)", away(primary()), "store_lost.ask_members", ASK_4),
    case(
        "the slots go with it, also those of logical decoding",
        away(primary(slots=(Slot("b", True, True, Lsn(900)), Slot("cdc", False, True, Lsn(1), Lsn(800), "pgoutput", "db")))),
        "store_lost.ask_members",
        AskFailsafe(OTHERS, {"b": Lsn(900), "cdc": Lsn(800), "a": Lsn(1000)}, 4.0),
    ),
    case(
        "little is left: asking ends where the demotion must begin",
        away(primary(), 11.5),
        "store_lost.ask_members",
        AskFailsafe(OTHERS, {"a": Lsn(1000)}, 1.5),
    ),
    case(
        "the server does not answer at the moment: it is a primary all the same (EC 7)",
        away(silent(primary())),
        "store_lost.ask_members",
        AskFailsafe(OTHERS, {}, 4.0),
    ),
    nothing("everybody has accepted: it goes on (EC 23)", away(primary(), 29, failsafe_answers=ALL), "store_lost.members_agree"),
    nothing(
        "one did not: the lease it has is used up, no more (EC 23, 30)",
        away(primary(), failsafe_answers=ONE_SILENT),
        "store_lost.primary_waits",
    ),
    case(
        "one did not, and the lease ends: the primary demotes (EC 23, 30)",
        away(primary(), 10, failsafe_answers=ONE_SILENT),
        "store_lost.primary_must_stop",
        OFFLINE,
    ),
    case("there is no time left to ask", away(primary(), 10), "store_lost.primary_must_stop", OFFLINE),
    case("the lock was never proven: nobody is asked", away(primary(), 0), "store_lost.primary_must_stop", OFFLINE),
    case(
        "a cluster of one node asks nobody (EC 24)",
        away(primary(), failsafe_map=FailsafeMap({"a": ABC["a"]}, mine=True)),
        "store_lost.ask_members",
        AskFailsafe({}, {"a": Lsn(1000)}, 4.0),
    ),
    nothing("and goes on (EC 24)", away(primary(), failsafe_answers={}), "store_lost.members_agree"),
    case(
        "/failsafe lacks my name (EC 25)",
        away(primary(), 10, failsafe_map=FailsafeMap(OTHERS, mine=True)),
        "store_lost.primary_must_stop",
        OFFLINE,
    ),
    nothing(
        "nor is anybody asked while the lease lasts (EC 25)",
        away(primary(), failsafe_map=FailsafeMap(OTHERS, mine=True)),
        "store_lost.primary_waits",
    ),
    nothing(
        "/failsafe is a string or absent (EC 25)",
        away(primary(), failsafe_map=FailsafeMap(None, mine=True)),
        "store_lost.primary_waits",
    ),
    nothing("/failsafe is empty (EC 25)", away(primary(), failsafe_map=FailsafeMap({}, mine=True)), "store_lost.primary_waits"),
    nothing(
        "/failsafe was not confirmed under the present lock: a late write of another may have changed it",
        away(primary(), failsafe_map=FailsafeMap(ABC)),
        "store_lost.primary_waits",
    ),
    case(
        "a write of the key was not confirmed: those it names are asked as well",
        away(primary(), failsafe_map=FailsafeMap(ABC, {"d": "http://10.0.0.4:8008/patroni"}, mine=True)),
        "store_lost.ask_members",
        AskFailsafe({**OTHERS, "d": "http://10.0.0.4:8008/patroni"}, {"a": Lsn(1000)}, 4.0),
    ),
    nothing("the mode is off (EC 22)", away(primary(), failsafe_mode=False), "store_lost.primary_waits"),
    nothing("in maintenance mode nobody is asked (EC 40)", away(primary(), 0, paused=True), "store_lost.paused"),
    nothing("a standby asks nobody", away(standby(), 0), "store_lost.standby_waits"),
    nothing("nor does a server that crashed", away(down(Role.PRIMARY), 20), "store_lost.standby_waits"),
    nothing(
        "a slow stop for the outage is not begun twice (EC 38)",
        away(doing(TaskKind.STOP, primary()), 0, procedure=demotion(DemoteMode.OFFLINE, Phase.STOP)),
        "demotion.stopping",
    ),
    case(
        "the key belongs to somebody else: a definite refusal is not overridden (EC 1, 28)",
        world(primary(), view("a"), lease=LeaseState.TAKEN, failsafe_mode=True, failsafe_map=MINE),
        "leader.refused",
        NOLOCK,
    ),
)

GATES = (
    case("the key was unreadable or absent: no restriction (EC 25)", free(None, view(None, failsafe=None)), "race.acquire"),
    case("the key is empty: no restriction (EC 25)", free(None, view(None, failsafe={})), "race.acquire"),
    case("the mode is off: no restriction", free(None, view(None, failsafe=OTHERS), failsafe_mode=False), "race.acquire"),
    case(
        "who is in the key is asked although there is no card (HA rules 9)",
        free(None, view(None, member("a"), failsafe=ABC), peers=None, old_cluster=None),
        "race.ask_peers",
        PollPeers,
    ),
    case(
        "the agent has just begun: what it accepted before is forgotten, so all are asked first",
        free(None, view(None, failsafe=ABC, failover=request(None, "a")), began=Instant(NOW - 1), peers=None),
        "race.ask_after_start",
        PollPeers,
    ),
    nothing("one does not answer: it may be the primary that was accepted", free(began=Instant(NOW - 1)), "race.forgetful"),
    case(
        "all answer and none is a primary",
        free(began=Instant(NOW - 1), peers=peers(peer("b"), peer("c"))),
        "race.acquire",
    ),
    case("what was accepted before the start has ended by now", free(began=Instant(NOW - TTL)), "race.acquire"),
    case(
        "the lock is mine although another was accepted meanwhile: nobody is promoted beside it",
        world(standby(), view("a"), failsafe=accepted()),
        "leader.accepted_another",
        ReleaseLease(),
        then=Then.END,
    ),
    case("what was accepted is over", world(standby(), view("a"), failsafe=accepted(ago=TTL)), "leader.promote"),
)

KEY = view("a", failsafe=ABC, failsafe_version="9")


def holder(cluster: ClusterView, **facts: Any) -> World:
    """A leader in failsafe mode with nothing else to repair."""
    known: dict[str, Any] = {"failsafe_mode": True, "failsafe_map": MINE, "written_timeline": 1, "use_slots": False}
    return world(primary(position=None), cluster, **known | URL | facts)


UPKEEP = (
    case(
        "the mode was switched on: the members and I",
        holder(view("a"), failsafe_map=FailsafeMap()),
        "upkeep.failsafe_key",
        WriteFailsafe(ABC, None),
        stage="upkeep",
    ),
    nobody_answers("it stands there, written by me under this lock", holder(KEY), "upkeep"),
    case(
        "it stands there, but another wrote it: mine ends what may still be under way",
        holder(KEY, failsafe_map=FailsafeMap(ABC)),
        "upkeep.failsafe_key",
        WriteFailsafe(ABC, "9"),
        stage="upkeep",
    ),
    case(
        "the last write was not confirmed",
        holder(KEY, failsafe_map=FailsafeMap(ABC, {"d": "x"}, mine=True)),
        "upkeep.failsafe_key",
        WriteFailsafe(ABC, "9"),
        stage="upkeep",
    ),
    case(
        "somebody wrote nonsense there",
        holder(view("a", failsafe=None, failsafe_version="9")),
        "upkeep.failsafe_key",
        WriteFailsafe(ABC, "9"),
        stage="upkeep",
    ),
    case(
        "a member is gone",
        holder(view("a", member("a"), member("b"), failsafe=ABC, failsafe_version="9")),
        "upkeep.failsafe_key",
        WriteFailsafe({name: ABC[name] for name in "ab"}, "9"),
        stage="upkeep",
    ),
    nobody_answers(
        "its card is not back yet after an outage of the store: the name stays",
        holder(
            view("a", member("a"), member("b"), failsafe=ABC, failsafe_version="9"),
            failsafe_map=FailsafeMap(ABC, mine=True, keep_until=LATER),
        ),
        "upkeep",
    ),
    case(
        "a member without a REST URL cannot be asked and is left out",
        holder(view("a", member("a"), member("b"), member("d", api=False), failsafe=None)),
        "upkeep.failsafe_key",
        WriteFailsafe({name: ABC[name] for name in "ab"}, None),
        stage="upkeep",
    ),
    nobody_answers(
        "the mode is off: the key is left as it is", holder(view("a", failsafe={"x": "y"}), failsafe_mode=False), "upkeep"
    ),
    nobody_answers("not without a proven lock", holder(view("a"), lease=LeaseState.UNRENEWED), "upkeep"),
)

CASES: tuple[Case, ...] = SENDER + GATES + UPKEEP


@pytest.mark.parametrize("each", CASES, ids=str)
def test_failsafe(each: Case) -> None:
    each.check()


# -- whole beats ---------------------------------------------------------------------------------------------


def test_an_agreement_moves_the_lease_to_ttl_after_the_asking_began() -> None:
    """(EC 23)"""
    played = play(away(primary(), 15), AskFailsafe=ALL)
    assert played.rules[-2:] == ["store_lost.members_agree", "publish.announce"]
    [asked_at] = [at.now for action, at in played.steps if isinstance(action, AskFailsafe)]
    memory = played.beat.world.memory
    assert (memory.lease_until, memory.failsafe_until) == (asked_at + TTL, asked_at + TTL)
    assert memory.failsafe_positions == {"b": Lsn(1000), "c": Lsn(1000)}


def test_a_single_node_goes_on_beat_after_beat() -> None:
    """(EC 24)"""
    alone = FailsafeMap({"a": ABC["a"]}, mine=True)
    at = away(primary(), 15, failsafe_map=alone)
    for _ in range(10):
        played = play(at, AskFailsafe={})
        assert played.beat.main is not None and played.beat.main.rule == "store_lost.members_agree"
        at = after(played, seconds=10, store_lost=True, cluster=ClusterView(), failsafe_answers=None)


@pytest.mark.parametrize("answers", [ONE_SILENT, {"b": YES}, {}, None, "Accepted"])
def test_anything_but_the_agreement_of_all_leaves_the_lease_as_it_is(answers: object) -> None:
    """(EC 23, 30)"""
    played = play(away(primary(), 15), AskFailsafe=answers)
    assert played.beat.world.memory.lease_until == NOW + 15
    assert "store_lost.members_agree" not in played.rules


def test_an_agreement_that_comes_after_the_end_of_the_lease_is_worth_nothing() -> None:
    at = away(primary(), 15)
    action = AskFailsafe(OTHERS, {}, 4.0)
    late = advance(at, action, Outcome(Instant(NOW + 15), value=ALL, began=NOW))
    assert late.memory.lease_until == NOW + 15
    decision = decide(MAIN, late)
    assert decision is not None and decision.rule == "store_lost.primary_must_stop"


def test_a_store_that_reads_but_does_not_write_leads_to_the_same_question() -> None:
    """(EC 2, 27): the lock names me, then nobody; every write fails. Being named is not enough, the members' word is."""
    at = world(primary(), KEY, failsafe_mode=True, failsafe_map=MINE, lease_until=Instant(NOW + 15), **URL)
    for cluster in (KEY, FREE, FREE):
        played = play_without_writes(replace(at, cluster=cluster))
        assert played.did(AskFailsafe) and played.beat.main is not None and played.beat.main.rule == "store_lost.members_agree"
        at = after(played, seconds=10, lease=LeaseState.UNKNOWN, store_lost=False, failsafe_answers=None)


def play_without_writes(at: World) -> Played:
    """A beat in which the store is read but every write fails."""
    writes = (RenewLease, AcquireLease, WriteStatus, WriteFailsafe)
    return Script({AskFailsafe: ALL}, lambda number, action: isinstance(action, writes)).play(replace(at, store_lost=False))


def test_without_the_members_word_a_store_that_reads_but_does_not_write_ends_the_primary() -> None:
    """(EC 2)"""
    at = world(primary(), KEY, failsafe_mode=False, lease_until=Instant(NOW + 9.9), **URL)
    played = play_without_writes(at)
    assert "store_lost.primary_must_stop" in played.rules


def test_replicas_of_a_primary_that_lost_the_store_follow_it_and_do_not_race() -> None:
    """(EC 26, 27)"""
    node = standby(failsafe=accepted("c"))
    played = play(free(node))
    assert played.rules[0] == "replica.compare_recovery"
    assert not played.did(AcquireLease, PollPeers)
    assert played.beat.world.cluster.leader == "c"
    assert played.beat.world.cluster.status.slots["c"] == 1500


def test_a_leader_that_was_accepted_needs_no_card_to_be_followed() -> None:
    played = play(free(standby(failsafe=accepted("c")), view(None, member("a"), failsafe=ABC)))
    assert played.beat.world.cluster.member("c") is not None


def test_a_real_lock_is_stronger_than_what_was_accepted() -> None:
    played = play(free(standby(failsafe=accepted("c")), view("b")))
    assert played.beat.world.cluster.leader == "b"


def test_the_race_begins_when_what_was_accepted_is_over() -> None:
    """(EC 31): the primary has died since."""
    node = standby(failsafe=None)  # the receiver gives it out no longer than it is valid
    assert play(free(node)).did(AcquireLease)
    assert not play(free(standby(failsafe=accepted("c", ago=TTL - 1)))).did(AcquireLease)
    assert play(free(standby(failsafe=accepted("c", ago=TTL)))).did(AcquireLease)


def test_a_primary_that_was_accepted_just_before_the_lock_was_to_be_taken_is_followed() -> None:
    played = play(free(), AcquireLease=accepted("c", ago=0))
    assert played.beat.world.cluster.leader == "c"
    assert played.beat.main is not None and played.beat.main.rule.startswith("replica.")


def test_a_promotion_by_hand_beside_an_accepted_primary_is_ended() -> None:
    played = play(free(primary(failsafe=accepted("c"))))
    assert "replica.second_primary" in played.rules
    assert not played.did(AcquireLease)


def test_a_new_primary_forgets_whom_it_accepted() -> None:
    """(EC 33)"""
    played = play(world(primary(failsafe=accepted("c")), view("a"), failsafe_mode=True, failsafe_map=MINE, **URL))
    assert played.beat.world.memory.failsafe is None
    assert played.beat.main is not None and played.beat.main.rule == "leader.keep"


@pytest.mark.parametrize("renewal", [None, "gone"])
def test_the_former_holder_takes_the_lock_back_on_its_timeline(renewal: str | None) -> None:
    """(EC 29): the lock has expired, before the read or right after it."""
    cluster = view("a" if renewal else None, failsafe=ABC, history=history(500))
    proven = {"failsafe_map": MINE, "lease_until": LATER, "failsafe_until": LATER}
    at = world(primary(timeline=2), cluster, failsafe_mode=True, **proven, **URL)
    played = play(at, **({"RenewLease": renewal} if renewal else {}))
    assert played.did(AcquireLease)
    assert not played.did(BeginDemotion)
    memory = played.beat.world.memory
    assert memory.failsafe_until is None and memory.lease_until is not None
    assert played.did(WriteFailsafe), "under the new lock the key is mine only when I have written it"
    assert memory.failsafe_map.keep_until is not None


def test_a_foreign_name_in_the_lock_ends_what_the_members_agreed_on() -> None:
    """(EC 6, 28): the expiry is gone at once, so /primary answers 503."""
    at = world(primary(), view("b"), failsafe_mode=True, failsafe_map=MINE, lease_until=LATER, failsafe_until=LATER)
    played = play(at)
    assert played.beat.world.memory.lease_until is None
    assert played.beat.world.memory.failsafe_until is None
    assert "replica.second_primary" in played.rules


@pytest.mark.parametrize("answer", ["gone", "taken"])
def test_a_refused_renewal_or_a_release_ends_leadership_at_once(answer: str) -> None:
    """(EC 1, 6)"""
    played = play(world(primary(), view("a"), lease=LeaseState.UNRENEWED), RenewLease=answer)
    assert played.beat.world.memory.lease_until is None
    assert played.did(BeginDemotion) == [NOLOCK]


def test_an_unconfirmed_write_of_the_key_is_remembered_until_one_is_confirmed() -> None:
    at = holder(view("a", *KEY.members, member("d"), failsafe=ABC, failsafe_version="9"))
    lost = Script({}, lambda number, action: isinstance(action, WriteFailsafe)).play(at)
    assert lost.beat.world.memory.failsafe_map.others("a") is not None
    assert "d" in (lost.beat.world.memory.failsafe_map.others("a") or {})
    again = play(after(lost), WriteFailsafe="10")
    assert again.did(WriteFailsafe)
    assert not again.beat.world.memory.failsafe_map.unsure


WIPED: dict[str, Any] = {"store_lost": False, "old_cluster": view("a"), "lease": LeaseState.NONE, **URL}


def test_a_wiped_store_is_filled_again_by_the_primary() -> None:
    """(EC 17): initialize, config, history, status and the rest; nobody is demoted."""
    at = world(primary(timeline=2), ClusterView(), written_timeline=2, **WIPED)
    first = play(at)
    second = play(after(first, cluster=ClusterView(leader="a"), store_lost=False), ReadHistory=history(500))
    kinds = {type(action).__name__ for action, _ in (*first.steps, *second.steps)}
    assert {"AcquireLease", "WriteInitialize", "WriteConfig", "WriteStatus", "WriteHistory", "Announce"} <= kinds
    assert "BeginDemotion" not in kinds


def test_a_replica_that_finds_the_store_wiped_asks_whom_it_remembers_and_sees_the_primary() -> None:
    """(EC 17)"""
    at = world(standby(), ClusterView(), **WIPED | {"old_cluster": view("b")})
    played = play(at, PollPeers=peers(peer("b", 0, is_primary=True)))
    assert played.did(PollPeers)
    assert played.beat.main is not None and played.beat.main.rule == "race.primary_alive"


@pytest.mark.parametrize("sync", ["on", "quorum"])
def test_a_wiped_store_in_synchronous_mode_raises_nothing(sync: str) -> None:
    """The primary takes the lock while ``/sync`` is absent."""
    at = world(primary(), ClusterView(), synchronous_mode=sync, **WIPED)
    assert play(at).did(AcquireLease)


def test_a_lock_is_renewed_also_when_the_position_cannot_be_read() -> None:
    """(EC 9): the status is left as it is, the lock is proven."""
    played = play(world(silent(primary()), view("a"), lease=LeaseState.UNRENEWED, lease_until=Instant(NOW + 5)))
    assert played.did(RenewLease) and not played.did(WriteStatus)
    assert (played.beat.world.memory.lease_until or 0) > NOW + TTL - 1
