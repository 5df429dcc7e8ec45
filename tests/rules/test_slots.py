"""Which replication slots a node keeps, creates, moves and drops, and what its leader publishes. (HA rules 21.1 to 21.3)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcore.decide import slots, slots_wanted
from pgcore.model.actions import ChangeSlots, ComplainAboutSlots, DemoteMode, Phase
from pgcore.model.basics import Instant, Lsn, Tags
from pgcore.model.cluster import ClusterStatus, ClusterView
from pgcore.model.node import Slot
from pgcore.model.settings import PermanentSlot, RemoteCluster
from pgcore.model.slots import SlotMemory
from pgcore.model.world import LeaseState, World
from pgcore.testing.builders import NOW, demotion, member, primary, standby, view, world
from rules.cases import Case, case, silent
from rules.driver import after, play

B, C = Slot("b", True, True, Lsn(900)), Slot("c", True, True, Lsn(800))
LOGICAL = PermanentSlot("cdc", "shop", "test_decoding")
CDC = Slot("cdc", False, False, Lsn(700), Lsn(750), "test_decoding", "shop", catalog_xmin=600)


def physical(name: str, at: int | None = 800, **changes: Any) -> Slot:
    """A physical slot that nobody uses."""
    return Slot(name, True, False, None if at is None else Lsn(at), **changes)


def permanent(*names: str, **changes: Any) -> tuple[PermanentSlot, ...]:
    """Physical slots of the configuration."""
    return tuple(PermanentSlot(name, **changes) for name in names)


def lead(*existing: Slot, cluster: ClusterView | None = None, **facts: Any) -> World:
    """The leader ``a`` of ``a``, ``b``, ``c``, with these slots and nothing else left to repair."""
    at = cluster or view("a")
    here = world(primary(slots=existing), at, written_timeline=1, **facts)
    status = ClusterStatus(here.node.position, slots.published(here), slots_wanted.retained(here))
    at = replace(at, status=status)
    return replace(here, cluster=at, memory=replace(here.memory, written_status=status))


def follow(*existing: Slot, cluster: ClusterView | None = None, replayed: int = 1000, **facts: Any) -> World:
    """The standby ``a`` of the leader ``b``, with these slots."""
    return world(standby(replayed, slots=existing), cluster or view("b"), **facts)


def told(**positions: int) -> ClusterView:
    """The leader ``b`` publishes these positions."""
    return view("b", status=ClusterStatus(Lsn(2000), {name: Lsn(at) for name, at in positions.items()}))


def idle(name: str, seconds: float, *, found: bool = False) -> SlotMemory:
    """A slot nobody knows has not been used for so long; ``found`` when it was there before the agent."""
    return SlotMemory(idle={name: Instant(NOW - seconds)}, found=frozenset({name} if found else ()))


def changing(situation: str, at: World, **expected: Any) -> Case:
    """The slots are changed exactly like this."""
    return case(situation, at, "upkeep.change_slots", ChangeSlots(**expected), stage="upkeep")


def kept(situation: str, at: World) -> Case:
    """Nothing is changed."""
    return silent(situation, at, "upkeep")


NOSTREAM_C = view("a", member("a", role="primary"), member("b"), member("c", tags={"nostream": True}))
CASCADE = view("a", member("a", role="primary"), member("b"), member("c", tags={"replicatefrom": "b"}, xlog_location=Lsn(950)))
CASCADE_ON_ME = view("b", member("a"), member("b", role="primary"), member("c", tags={"replicatefrom": "a"}))
NO_MEMBERS = view("b", member("a"), member("b", role="primary"))
ANCIENT = view(
    "b", member("a"), member("b", role="master", version="3.3.2", data={"version": "3.3.2"}), member("c", xlog_location=Lsn(950))
)

WHICH = (
    changing("a new member needs a slot", lead(B), create=("c",)),
    changing("so does it on every standby, for it may lead next", follow(), create=("b", "c")),
    changing(
        "without retention a standby keeps none but those it serves",
        follow(cluster=CASCADE_ON_ME, member_slots_ttl=0),
        create=("c",),
    ),
    changing(
        "without retention the leader keeps none for a member that streams from another one",
        lead(cluster=CASCADE, member_slots_ttl=0),
        create=("b",),
    ),
    changing(
        "but if that other one is absent, the member comes to the leader",
        lead(B, cluster=view("a", member("a"), member("b"), member("c", tags={"replicatefrom": "gone"})), member_slots_ttl=0),
        create=("c",),
    ),
    kept("a node that will never lead keeps slots for those below it only", follow(tags=Tags({"nofailover": True}))),
    changing("which are these", follow(cluster=CASCADE_ON_ME, tags=Tags({"nofailover": True})), create=("c",)),
    changing("if it leads after all, it keeps every slot", lead(tags=Tags({"nofailover": True})), create=("b", "c")),
    kept("a member that does not stream gets no slot on the leader (EC 166)", lead(B, cluster=NOSTREAM_C)),
    changing("its old one is dropped", lead(B, physical("c"), cluster=NOSTREAM_C, slots=SlotMemory({"c": NOW})), drop=("c",)),
    kept(
        "a node called N-1 makes no slot for itself, whatever its name becomes (EC 154)",
        world(
            standby(slots=(B,)),
            view("b", member("N-1"), member("b", role="primary")),
            name="N-1",
            permanent_slots=permanent("n_1"),
        ),
    ),
    kept("slots are not used at all", lead(use_slots=False)),
    kept("and those somebody else made are his", lead(physical("x"), use_slots=False, slots=idle("x", 9999))),
    changing("a permanent slot is made on the leader", lead(B, C, permanent_slots=permanent("archive")), create=("archive",)),
    changing("and on standbys", follow(B, C, permanent_slots=permanent("archive")), create=("archive",)),
    kept("but not where nobody will lead", follow(tags=Tags({"nofailover": True}), permanent_slots=permanent("archive"))),
    kept("one for standby clusters only", lead(B, C, permanent_slots=permanent("archive", cluster_type="standby"))),
    changing(
        "one for primary clusters", lead(B, C, permanent_slots=permanent("archive", cluster_type="primary")), create=("archive",)
    ),
    changing(
        "in a standby cluster the other way round; logical ones are ignored (EC 165)",
        follow(
            B,
            C,
            permanent_slots=(*permanent("one", cluster_type="standby"), *permanent("two", cluster_type="primary"), LOGICAL),
            standby_cluster=RemoteCluster("elsewhere"),
        ),
        create=("one",),
    ),
    kept("a permanent slot with the name of a member is that member's", lead(B, C, permanent_slots=permanent("b"))),
    changing(
        "and stays when the member is gone",
        follow(cluster=NO_MEMBERS, permanent_slots=permanent("c"), member_slots_ttl=0),
        create=("c",),
    ),
    changing(
        "on a server of version 10 permanent slots are the primary's alone",
        replace(
            lead(permanent_slots=(*permanent("archive"), LOGICAL), member_slots_ttl=0),
            node=primary(slots=(B, C), server_version=100000),
        ),
        create=("archive",),
    ),
    kept(
        "and its standbys have none",
        replace(follow(permanent_slots=permanent("archive")), node=standby(server_version=100000)),
    ),
    kept("slots are left alone while the lock is free", world(standby(), view(None))),
    kept(
        "and while there is no leader, also below another standby (EC 169)",
        world(standby(slots=(C,)), replace(CASCADE_ON_ME, leader=None)),
    ),
    kept("and by a holder who has not proven the lock", world(primary(slots=()), view("a"), lease=LeaseState.GONE)),
    kept("and during a demotion", lead(procedure=demotion(DemoteMode.GRACEFUL, Phase.STOP))),
    kept("and by a second primary, which must stop", world(primary(slots=()), view("b"))),
)

RETENTION = (
    kept(
        "c's card expired within member_slots_ttl: its slot stays, also on a standby (EC 152)",
        follow(B, physical("c"), cluster=NO_MEMBERS, slots=SlotMemory({"c": Instant(NOW - 1800)})),
    ),
    changing(
        "a standby that has not seen c itself believes its leader (EC 152)",
        follow(B, cluster=replace(NO_MEMBERS, status=ClusterStatus(Lsn(1), {}, ("c",)))),
        create=("c",),
    ),
    changing(
        "and drops the slot when the time is over (EC 152)",
        follow(B, physical("c"), cluster=NO_MEMBERS, slots=SlotMemory({"c": Instant(NOW - 1801)})),
        drop=("c",),
    ),
    changing(
        "member_slots_ttl is 0: the slot of a member that left is dropped at once (EC 153)",
        lead(B, physical("c"), cluster=view("a", member("a"), member("b")), slots=SlotMemory({"c": NOW}), member_slots_ttl=0),
        drop=("c",),
    ),
    kept(
        "but not while the cluster is paused",
        lead(
            B,
            physical("c"),
            cluster=view("a", member("a"), member("b")),
            slots=SlotMemory({"c": NOW}),
            member_slots_ttl=0,
            paused=True,
        ),
    ),
)

DROPS = (
    changing("an unknown slot nobody has used for loop_wait", lead(B, C, physical("x"), slots=idle("x", 10)), drop=("x",)),
    changing("also on a standby", follow(B, C, physical("x"), slots=idle("x", 10)), drop=("x",)),
    kept("its user may just be reconnecting", lead(B, C, physical("x"), slots=idle("x", 9))),
    kept("the cluster is paused: unknown slots stay", lead(B, C, physical("x"), slots=idle("x", 99), paused=True)),
    kept(
        "the configuration could not be read: nobody knows what is unknown",
        lead(B, C, physical("x"), slots=idle("x", 99), cluster=view("a", config=None)),
    ),
    changing(
        "an unknown slot that lost its WAL keeps nothing for anybody",
        lead(B, C, physical("x", wal_status="lost"), slots=SlotMemory(found=frozenset())),
        drop=("x",),
    ),
    kept(
        "ignore_slots with a name only protects (EC 163)", lead(B, C, CDC, slots=idle("cdc", 99), ignore_slots=({"name": "cdc"},))
    ),
    kept("with a database only as well (EC 163)", lead(B, C, CDC, slots=idle("cdc", 99), ignore_slots=({"database": "shop"},))),
    kept(
        "also on a standby, as after a failover (EC 163)",
        follow(B, C, CDC, slots=idle("cdc", 99), ignore_slots=({"database": "shop"},)),
    ),
    kept("an empty entry protects everything", lead(B, C, CDC, slots=idle("cdc", 99), ignore_slots=({},))),
    changing(
        "every key of an entry must match",
        lead(B, C, CDC, slots=idle("cdc", 99), ignore_slots=({"name": "cdc", "plugin": "pgoutput"}, {"type": "physical"})),
        drop=("cdc",),
    ),
    kept(
        "slots an extension uses to move data are its own while it leads",
        lead(B, C, replace(CDC, handled=True), slots=idle("cdc", 99)),
    ),
    changing(
        "on a standby they are leftovers",
        follow(B, C, replace(CDC, handled=True), slots=idle("cdc", 99)),
        drop=("cdc",),
    ),
    kept(
        "v17: a failover slot is never dropped as unknown (EC 164)",
        lead(B, C, replace(CDC, failover=True), slots=idle("cdc", 9999)),
    ),
    changing(
        "v17: the copy of a former primary is in the way of the server's own synchronisation (EC 164)",
        follow(B, C, replace(CDC, failover=True)),
        drop=("cdc",),
    ),
    kept(
        "v17: what the server synchronises itself is not touched (EC 164)", follow(B, C, replace(CDC, failover=True, synced=True))
    ),
    changing(
        "a logical slot stands where a member's slot must be",
        lead(B, Slot("c", False, False, Lsn(1), Lsn(1), "pgoutput", "postgres")),
        drop=("c",),
    ),
    changing(
        "a permanent slot has another plugin than configured; in pause too",
        lead(B, C, replace(CDC, plugin="pgoutput"), permanent_slots=(LOGICAL,), feedback_forced=True, paused=True),
        drop=("cdc",),
    ),
    changing(
        "or is in another database",
        follow(B, C, replace(CDC, database="other"), permanent_slots=(LOGICAL,), feedback_forced=True),
        drop=("cdc",),
    ),
    kept(
        "a slot in use cannot be replaced: it is left until its user is gone",
        lead(
            B,
            C,
            replace(CDC, plugin="pgoutput", active=True),
            permanent_slots=(LOGICAL,),
            feedback_forced=True,
            slots=SlotMemory(complaints=frozenset({"other cdc"})),
        ),
    ),
)

ANEW = (
    changing("wal_status is lost: made anew (EC 157)", lead(B, physical("c", wal_status="lost")), drop=("c",), create=("c",)),
    kept("but not in pause (EC 157)", lead(B, physical("c", wal_status="lost"), paused=True)),
    changing("somebody made it without reserving WAL (EC 156)", follow(B, physical("c", None)), drop=("c",), create=("c",)),
    kept("unless ignore_slots says that it is his", follow(B, physical("c", None), ignore_slots=({"name": "c"},))),
    changing(
        "a standby's unused slot holds xmin from its time as primary (EC 155)",
        follow(B, physical("c", xmin=700)),
        drop=("c",),
        create=("c",),
    ),
    changing("or the catalog's", follow(B, physical("c", catalog_xmin=700)), drop=("c",), create=("c",)),
    kept("not while nobody leads (EC 155)", world(standby(slots=(B, physical("c", xmin=700))), view(None))),
    kept("nor where its member is expected", lead(B, physical("c", xmin=700))),
    changing(
        "on the new primary the slot of a member that streams from another one (EC 155)",
        lead(B, physical("c", 950, xmin=700), cluster=CASCADE),
        drop=("c",),
        create=("c",),
    ),
    kept(
        "but only after it is really primary (EC 155)",
        world(standby(slots=(B, physical("c", 950, xmin=700))), CASCADE),
    ),
    kept(
        "the primary keeps the slot of a member that left as it is: its WAL is what the member needs",
        lead(B, physical("c", xmin=700), cluster=view("a", member("a"), member("b")), slots=SlotMemory({"c": NOW})),
    ),
)

MOVES = (
    changing(
        "an unused slot on a standby follows what the leader publishes",
        follow(B, physical("c"), cluster=told(c=900), replayed=1000),
        advance={"c": Lsn(900)},
    ),
    changing(
        "never beyond what was replayed here (EC 158)",
        follow(B, physical("c"), cluster=told(c=1500), replayed=1000),
        advance={"c": Lsn(1000)},
    ),
    kept("never back", follow(B, physical("c"), cluster=told(c=700))),
    kept("not one that is in use", follow(B, C, cluster=told(c=900))),
    kept(
        "not one whose member streams from here",
        follow(B, physical("c"), cluster=replace(CASCADE_ON_ME, status=told(c=900).status)),
    ),
    changing(
        "a permanent one too",
        follow(B, C, physical("archive"), cluster=told(archive=900), permanent_slots=permanent("archive")),
        advance={"archive": Lsn(900)},
    ),
    changing(
        "the leader moves the slot of a member that streams from another one by its own word",
        lead(B, physical("c"), cluster=CASCADE),
        advance={"c": Lsn(950)},
    ),
    changing(
        "a leader that runs Patroni 3 publishes no member slots: the member's own word counts (EC 168)",
        follow(B, physical("c"), cluster=ANCIENT),
        advance={"c": Lsn(950)},
    ),
    kept(
        "one that runs Patroni 4 does: what it does not publish stays (EC 168)",
        follow(
            B,
            physical("c"),
            cluster=replace(ANCIENT, members=(*ANCIENT.members[::2], replace(ANCIENT.members[1], version="4.0.3"))),
        ),
    ),
)

ACTIVE_X = lead(B, C, Slot("x", True, True, Lsn(1)), slots=SlotMemory(found=frozenset()))
FOUND_X = lead(B, C, physical("x"), slots=idle("x", 1799, found=True))
WITH_CDC: dict[str, Any] = {"permanent_slots": (LOGICAL,), "feedback_forced": True}
OTHER_CDC = lead(B, C, replace(CDC, plugin="wal2json", active=True), **WITH_CDC)
TWINS = view("a", member("a"), member("n-1"), member("n.1"))
N_1 = Slot("n_1", True, True, Lsn(900))

COMPLAINTS = (
    case(
        "an unknown slot is in use: it cannot be dropped, which is said (EC 170)",
        ACTIVE_X,
        "upkeep.slot_complaints",
        ComplainAboutSlots,
        stage="upkeep",
    ),
    kept(
        "once (EC 170)",
        replace(
            ACTIVE_X, memory=replace(ACTIVE_X.memory, slots=SlotMemory(found=frozenset(), complaints=frozenset({"active x"})))
        ),
    ),
    case(
        "an unknown slot was here before the agent: it stays for member_slots_ttl, and the operator is told",
        FOUND_X,
        "upkeep.slot_complaints",
        ComplainAboutSlots,
        stage="upkeep",
    ),
    changing("then it goes", lead(B, C, physical("x"), slots=idle("x", 1800, found=True)), drop=("x",)),
    case(
        "two members map to one slot name", lead(N_1, cluster=TWINS), "upkeep.slot_complaints", ComplainAboutSlots, stage="upkeep"
    ),
    case(
        "a logical slot has the name of a member's: it is not made",
        lead(B, C, permanent_slots=(replace(LOGICAL, name="b"),), feedback_forced=True),
        "upkeep.slot_complaints",
        ComplainAboutSlots,
        stage="upkeep",
    ),
    case(
        "a configured logical slot is in use with another plugin: nobody can copy it, which is said (EC 161)",
        OTHER_CDC,
        "upkeep.slot_complaints",
        ComplainAboutSlots,
        stage="upkeep",
    ),
    case(
        "it is not in use, but protected (EC 161)",
        lead(B, C, replace(CDC, plugin="wal2json"), ignore_slots=({"name": "cdc"},), **WITH_CDC),
        "upkeep.slot_complaints",
        ComplainAboutSlots,
        stage="upkeep",
    ),
    case(
        "what was complained about is settled",
        lead(B, C, slots=SlotMemory(complaints=frozenset({"active x"}))),
        "upkeep.slot_complaints",
        ComplainAboutSlots((), frozenset()),
        stage="upkeep",
    ),
)

CASES = WHICH + RETENTION + DROPS + ANEW + MOVES + COMPLAINTS


@pytest.mark.parametrize("each", CASES, ids=str)
def test_slots(each: Case) -> None:
    each.check()


def said(at: World) -> str:
    """What an operator is told."""
    decision = case("", at, "", stage="upkeep").decision()
    assert decision is not None
    action = decision.actions[0]
    assert isinstance(action, ComplainAboutSlots)
    return " ".join(action.texts)


def test_complaints_name_the_slot_and_the_remedy() -> None:
    assert "slot x is in use" in said(ACTIVE_X) and "ignore_slots" in said(ACTIVE_X)
    assert "cdc is of wal2json in database shop, configured is one that is of test_decoding in database shop" in said(OTHER_CDC)
    assert "unused for 1800 s" in said(FOUND_X)
    assert "n-1 and n.1 share the slot name n_1" in said(lead(N_1, cluster=TWINS))


def test_an_active_unknown_slot_is_complained_about_in_one_beat_only() -> None:
    """A standby's user connects to a slot nobody configured: one warning, no error in every beat (EC 170)."""
    at, told = ACTIVE_X, 0
    for _ in range(3):
        played = play(at)
        told += sum(len(action.texts) for action in played.did(ComplainAboutSlots))  # type: ignore[attr-defined]
        assert not played.did(ChangeSlots)
        at = after(played)
    assert told == 1


def test_an_unknown_slot_must_be_unused_in_every_beat_for_loop_wait() -> None:
    at = lead(B, C, physical("x"), slots=SlotMemory(found=frozenset()))
    in_use = replace(at.node, slots=(B, C, replace(physical("x"), active=True)))
    dropped = []
    for seconds, node in ((6, at.node), (6, in_use), (6, at.node), (6, at.node), (6, at.node)):
        played = play(replace(at, node=replace(node, at=at.now)))
        dropped += [action.drop for action in played.did(ChangeSlots)]  # type: ignore[attr-defined]
        at = after(played, seconds=seconds)
    assert dropped == [("x",)]


def test_a_permanent_slot_that_is_taken_out_of_the_configuration_is_dropped_soon() -> None:
    at = lead(B, C, physical("archive"), permanent_slots=permanent("archive"))
    at = after(play(at))
    at = replace(at, settings=replace(at.settings, permanent_slots=()))
    at = after(play(at), seconds=11)
    assert [action.drop for action in play(at).did(ChangeSlots)] == [("archive",)]  # type: ignore[attr-defined]


def test_a_slot_that_was_there_before_the_agent_outlives_its_first_beats() -> None:
    """A server is adopted with somebody's slot on it: it is not destroyed before the operator can say whose it is."""
    at, dropped = lead(B, C, CDC), []
    for _ in range(5):
        played = play(at)
        dropped += played.did(ChangeSlots)
        at = after(played, seconds=60)
    assert not dropped


def test_a_pause_does_not_use_up_the_patience_with_an_unknown_slot() -> None:
    at = lead(B, C, physical("x"), slots=SlotMemory(found=frozenset()), paused=True)
    for _ in range(3):
        at = after(play(at), seconds=100)
    at = after(play(replace(at, settings=replace(at.settings, paused=False))), seconds=5)
    assert not play(at).did(ChangeSlots)
    assert play(after(play(at), seconds=6)).did(ChangeSlots)
