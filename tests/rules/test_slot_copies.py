"""Logical slots: created, copied, moved along, proven, and what is said about them. (HA rules 21.3.6, 21.4)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcore.decide import slot_copies
from pgcore.model.actions import (
    ApplySettings,
    ChangeSlots,
    ComplainAboutSlots,
    CopySlots,
    ForceFeedback,
    LeaderSlots,
    LeaveSync,
    Promote,
    ReturnToSync,
    RewindState,
    ServeSlots,
)
from pgcore.model.basics import Instant, Lsn, Tags
from pgcore.model.cluster import ClusterStatus, ClusterView, SyncView
from pgcore.model.failsafe import FailsafeRecord
from pgcore.model.node import Slot, SlotReport, TaskKind
from pgcore.model.settings import PermanentSlot
from pgcore.model.slots import SlotMemory
from pgcore.model.world import World
from pgcore.testing.builders import NOW, did, doing, member, primary, request, standby, upstream, view, world
from rules.cases import Case, case, silent
from rules.driver import after, play

B, C = Slot("b", True, True, Lsn(900)), Slot("c", True, True, Lsn(800))
CDC = PermanentSlot("cdc", "shop", "test_decoding")
MADE = Slot("cdc", False, False, Lsn(700), Lsn(750), "test_decoding", "shop", catalog_xmin=600)
LOST = replace(MADE, wal_status="lost")
PROVEN = SlotMemory(life="now b", proven=frozenset({"cdc"}))
ASKED = LeaderSlots(upstream("b"), ("a", "cdc"))


def told(at: int | None = 900, **changes: Any) -> ClusterView:
    """The leader ``b`` publishes where the slot is."""
    positions = {} if at is None else {"cdc": Lsn(at)}
    return view("b", status=ClusterStatus(Lsn(2000), positions), **changes)


SYNC = SyncView("1", "b", ("a",))


def follow(*existing: Slot, cluster: ClusterView | None = None, replayed: int = 1000, **facts: Any) -> World:
    """The standby ``a`` of ``b`` in a cluster with one logical slot, that slot proven."""
    facts = {"permanent_slots": (CDC,), "feedback_forced": True, "slots": PROVEN} | facts
    node = standby(replayed, slots=(B, C, *existing), hot_standby_feedback=True, postmaster_start="now")
    return world(node, cluster or told(), **facts)


def lead(*existing: Slot, **facts: Any) -> World:
    """The leader ``a``, with everything published."""
    facts = {"permanent_slots": (CDC,), "feedback_forced": True, "written_timeline": 1} | facts
    at = world(primary(slots=(B, C, *existing)), view("a"), **facts)
    written = play(at).beat.world.memory.written_status
    assert written is not None
    return replace(at, memory=replace(at.memory, written_status=written), cluster=replace(at.cluster, status=written))


def upkeep(situation: str, at: World, rule: str, *actions: Any) -> Case:
    """A case of the repairs."""
    return case(situation, at, f"upkeep.{rule}", *actions, stage="upkeep")


COPY = CopySlots(upstream("b"), (CDC,), upstream("b"))
BROKEN = replace(PROVEN, broken=frozenset({"cdc"}))
UNPROVEN = replace(PROVEN, proven=frozenset())
ASKING = ServeSlots(ask=ASKED)

CASES = (
    upkeep("the primary makes a logical slot in its database", lead(), "serve_slots", ServeSlots(create=(CDC,))),
    silent("it is there", lead(MADE), "upkeep"),
    silent(
        "a server that is a standby still makes none",
        world(standby(slots=(B, C)), view("a"), permanent_slots=(CDC,), feedback_forced=True),
        "upkeep",
    ),
    upkeep("a standby moves it along", follow(MADE), "serve_slots", ServeSlots(advance=((CDC, Lsn(900)),))),
    upkeep(
        "no further than it has replayed (EC 158)",
        follow(MADE, replayed=800),
        "serve_slots",
        ServeSlots(advance=((CDC, Lsn(800)),)),
    ),
    silent("not back", follow(MADE, cluster=told(700)), "upkeep"),
    silent("not while a client reads it", follow(replace(MADE, active=True)), "upkeep"),
    upkeep(
        "it asks the leader about one that is not proven", follow(MADE, cluster=told(700), slots=UNPROVEN), "serve_slots", ASKING
    ),
    upkeep("a standby that lacks the slot copies it", follow(), "copy_slots", COPY),
    silent("the leader has not got it yet", follow(cluster=told(None)), "upkeep"),
    silent(
        "the leader is not a primary yet",
        follow(cluster=replace(told(), members=(member("a"), member("b"), member("c")))),
        "upkeep",
    ),
    silent("a restart would disturb the maintenance", follow(paused=True), "upkeep"),
    silent("or a switchover", follow(cluster=told(failover=request("b", "a"))), "upkeep"),
    silent(
        "or the primary that leads without the store, by this node's word",
        follow(failsafe=FailsafeRecord("b", "", "", {}, Instant(NOW - 1), 30)),
        "upkeep",
    ),
    upkeep(
        "the primary waits for this standby to confirm commits: it asks to be released first",
        follow(cluster=told(sync=SYNC), synchronous_mode="on"),
        "copy_slots",
        LeaveSync(),
    ),
    upkeep("and waits for that", follow(cluster=told(sync=SYNC), synchronous_mode="on", leaving_sync=NOW), "copy_slots"),
    upkeep(
        "two loops at most",
        follow(cluster=told(sync=SYNC), synchronous_mode="on", leaving_sync=Instant(NOW - 20)),
        "copy_slots",
        COPY,
    ),
    silent("or a comparison with the leader", follow(rewind=RewindState.CHECK), "upkeep"),
    silent("a promotion runs", replace(follow(), node=doing(TaskKind.PROMOTE, standby())), "upkeep"),
    silent(
        "and the leader copies nothing from itself",
        world(standby(slots=(B, C)), view("a", status=told().status), permanent_slots=(CDC,), feedback_forced=True),
        "upkeep",
    ),
    silent(
        "the copy was begun a moment ago and brought nothing: no restart in a loop (EC 161)",
        follow(slots=replace(PROVEN, copied={"cdc": Instant(NOW - 59)})),
        "upkeep",
    ),
    upkeep(
        "a minute later it is tried again", follow(slots=replace(PROVEN, copied={"cdc": Instant(NOW - 60)})), "copy_slots", COPY
    ),
    upkeep("the slot was invalidated here: it is copied again (EC 160)", follow(MADE, slots=BROKEN), "copy_slots", COPY),
    silent(
        "once: a copy that breaks as well is left for ten minutes (EC 160)",
        follow(MADE, slots=replace(BROKEN, copied={"cdc": Instant(NOW - 599)})),
        "upkeep",
    ),
    upkeep("it lost its WAL: a copy replaces it (EC 157)", follow(LOST), "copy_slots", COPY),
    silent(
        "not again and again, if the copies lose it too (EC 160)",
        follow(LOST, slots=replace(PROVEN, copied={"cdc": Instant(NOW - 599)}), cluster=told(700)),
        "upkeep",
    ),
    upkeep(
        "on the primary it is dropped, to be made anew (EC 157)",
        lead(replace(MADE, wal_status="lost")),
        "change_slots",
        ChangeSlots(drop=("cdc",)),
    ),
    upkeep(
        "a logical slot is configured: feedback is forced",
        follow(MADE, feedback_forced=False),
        "slot_feedback",
        ForceFeedback(True),
    ),
    upkeep(
        "none is any more: feedback is as configured again",
        follow(permanent_slots=(), cluster=told(None)),
        "slot_feedback",
        ForceFeedback(False),
    ),
    case(
        "a standby with slots that are not proven is promoted: they are named, nothing is refused",
        world(standby(slots=(B, C, MADE)), view("a"), permanent_slots=(CDC,), slots=UNPROVEN),
        "leader.unproven_slots",
        ComplainAboutSlots,
    ),
    case(
        "one to which a slot was not copied yet: its consumer will miss something",
        world(standby(slots=(B, C)), view("a", status=told().status), permanent_slots=(CDC,), slots=PROVEN),
        "leader.unproven_slots",
        ComplainAboutSlots,
    ),
    case(
        "one with proven slots just is",
        world(standby(slots=(B, C, MADE)), view("a"), permanent_slots=(CDC,), slots=PROVEN),
        "leader.promote",
    ),
)


@pytest.mark.parametrize("each", CASES, ids=str)
def test_logical_slots(each: Case) -> None:
    each.check()


def test_an_unproven_slot_is_named_and_the_promotion_goes_on_in_the_same_beat() -> None:
    at = world(standby(slots=(B, C, MADE)), view("a"), permanent_slots=(CDC,), slots=UNPROVEN)
    played = play(at)
    assert [type(action) for action in played.did(ComplainAboutSlots, Promote)] == [ComplainAboutSlots, Promote]
    assert "cdc" in played.did(ComplainAboutSlots)[0].texts[0]  # type: ignore[attr-defined]


def test_feedback_reaches_the_server_in_the_beat_that_wants_it() -> None:
    played = play(follow(MADE, feedback_forced=False))
    assert [type(action) for action in played.did(ForceFeedback, ApplySettings)] == [ForceFeedback, ApplySettings]


def test_a_broken_slot_is_copied_once() -> None:
    """The thread reports that the slot cannot be moved; the copy is begun in the next beat and not again after it (EC 160)."""
    at = follow(MADE)
    played = play(at, ServeSlots=SlotReport(broken=frozenset({"cdc"})))
    copies = len(played.did(CopySlots))
    at = after(played)
    at = replace(at, node=replace(at.node, task=None, finished=did(TaskKind.COPY_SLOTS) if copies else None))
    for _ in range(5):
        played = play(at, ServeSlots=SlotReport(broken=frozenset({"cdc"})))
        copies += len(played.did(CopySlots))
        at = after(played, seconds=10)
        at = replace(at, node=replace(at.node, task=None, finished=did(TaskKind.COPY_SLOTS)))
    assert copies == 1


def proven_after(*answers: dict[str, int | None], slot: Slot = MADE, asked: str = "b", **facts: Any) -> bool:
    """Whether the slot counts as proven after these answers of the leader, one in each beat."""
    at = follow(slot, **{"slots": UNPROVEN, "cluster": told(700)} | facts)
    for answer in answers:
        at = after(play(at, ServeSlots=SlotReport(leader=answer, asked=asked)))
    return not slot_copies.unproven(at)


def test_a_copied_slot_is_proven_by_what_the_leader_keeps_for_this_node() -> None:
    """The leader's slot for a keeps what the logical slot kept there at that time, and no less than what it needs here."""
    assert proven_after({"a": 600, "cdc": 600})
    assert proven_after({"a": 590, "cdc": 580})
    assert not proven_after({"a": 599, "cdc": 600}), "the leader may have removed 599 already"
    assert not proven_after({"a": 601, "cdc": 601}), "the leader keeps less than the slot needs here"
    assert not proven_after({"a": None, "cdc": 600}), "the leader keeps nothing for this node"
    assert not proven_after({"cdc": 600})
    assert not proven_after({"a": 600, "cdc": 600}, asked="c"), "this is what a former leader answered"
    assert proven_after({"a": 590, "cdc": 590}, {"a": 600, "cdc": 900}), "the logical slot there may move on meanwhile"
    assert not proven_after({"a": 600, "cdc": 600}, replayed=740), "what the slot has confirmed was not replayed here"
    assert proven_after({"a": 2**32 - 5, "cdc": 2**32 - 9}, slot=replace(MADE, catalog_xmin=3)), (
        "transactions are numbered in a circle"
    )


def test_a_restart_or_another_leader_unproves_every_slot() -> None:
    at = after(play(follow(MADE)))
    assert not slot_copies.unproven(at)
    restarted = after(play(replace(at, node=replace(at.node, postmaster_start="later"))))
    assert slot_copies.unproven(restarted) == ("cdc",)
    cards = (member("a"), member("b"), member("c", role="primary"))
    elsewhere = after(play(replace(at, cluster=replace(view("c", *cards), status=told(700).status))))
    assert slot_copies.unproven(elsewhere) == ("cdc",)
    free = after(play(replace(at, cluster=replace(at.cluster, leader=None)), PollPeers={}, AcquireLease=False))
    assert not slot_copies.unproven(free), "while nobody leads, what was proven stays proven"


def test_below_another_standby_the_head_of_the_chain_is_what_the_leader_knows() -> None:
    cards = (member("a"), member("b", role="primary"), member("c"))
    at = follow(MADE, cluster=view("b", *cards), tags=Tags({"replicatefrom": "c"}))
    assert slot_copies.slot_on_leader(at) == "c"
    assert slot_copies.slot_on_leader(follow(MADE)) == "a"


def test_feedback_that_something_else_keeps_off_is_complained_about_once() -> None:
    at = follow(MADE, cluster=told(700), slots=UNPROVEN)
    at = replace(at, node=replace(at.node, hot_standby_feedback=False))
    first = play(at)
    texts = [text for action in first.did(ComplainAboutSlots) for text in action.texts]  # type: ignore[attr-defined]
    assert len(texts) == 1 and "hot_standby_feedback is off" in texts[0]
    assert not play(after(first)).did(ComplainAboutSlots)


def test_synchronous_duty_is_left_for_the_copy_and_taken_up_after_it() -> None:
    at = follow(cluster=told(sync=SYNC), synchronous_mode="on")
    asked = play(at)
    assert asked.did(LeaveSync) and not asked.did(CopySlots)
    released = replace(after(asked), cluster=told())
    begun = play(released)
    assert begun.did(CopySlots) and not begun.did(ReturnToSync)
    done = after(begun)
    done = replace(done, node=replace(done.node, task=None, slots=(B, C, MADE), finished=did(TaskKind.COPY_SLOTS)))
    assert play(done).did(ReturnToSync)


def test_standbys_restart_for_a_copy_one_after_the_other() -> None:
    """Of two standbys that lack the slot at the same time one restarts; nobody waits longer than a round of turns."""
    members = told()
    one = follow(cluster=members)
    other = replace(one, settings=replace(one.settings, name="c"))
    loop_wait = one.settings.timing.loop_wait
    begun = {"a": 0, "c": 0}
    for second in range(4 * loop_wait):
        copying = [at.me for at in (one, other) if slot_copies.copying(replace(at, wall=at.wall + second)) is not None]
        assert len(copying) <= 1
        for name in copying:
            begun[name] += 1
    assert begun == {"a": loop_wait + 1, "c": loop_wait + 1}


def test_who_has_left_synchronous_duty_for_the_copy_does_not_wait_for_another_turn() -> None:
    members = told(sync=SYNC)
    left = follow(cluster=members, leaving_sync=Instant(NOW - 1))
    assert all(slot_copies.copying(replace(left, wall=left.wall + second)) for second in range(60))
