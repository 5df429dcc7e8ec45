"""Synchronous replication as the heartbeat does it: one safe step in each beat, proof before a promotion. (HA rules 19, 20)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcore.decide.sync_names import parse
from pgcore.decide.synchronous import synchronous_step
from pgcore.model.actions import (
    Action,
    DropSync,
    MarkBlocked,
    RestoreStandbyNames,
    SetStandbyNames,
    WriteSync,
)
from pgcore.model.basics import Instant, Lsn
from pgcore.model.cluster import Member, SyncView
from pgcore.model.decision import Then
from pgcore.model.node import TaskKind, WalSender
from pgcore.model.synchronous import PLACEHOLDER_NAME, Anchor, StandbyNames, SyncMemory
from pgcore.model.world import LeaseState, World
from pgcore.testing.builders import END, NOW, doing, member, primary, view, world
from rules.cases import Case, case, nothing, silent
from rules.driver import Script, after, play
from rules.test_stages import SETTLED, SLOTS, TOLD

ERA = "None, timeline 1"
LONG = Instant(NOW - 100)
B, BC, ALONE = SyncView("5", "a", ("b",)), SyncView("5", "a", ("b", "c")), SyncView("5", "a")
QUORUM = SyncView("5", "a", ("b", "c"), 1)


def sender(name: str, sync_state: str = "async", at: int | None = END, **positions: int) -> WalSender:
    lsn = None if at is None else Lsn(at)
    return WalSender(
        name,
        "streaming",
        sync_state=sync_state,
        **{"write": lsn, "flush": lsn, "replay": lsn} | {name: Lsn(value) for name, value in positions.items()},
    )


def set_to(text: str, **changes: Any) -> StandbyNames:
    return StandbyNames(text, **{"ours": bool(text)} | changes)


def remembered(text: str, **changes: Any) -> SyncMemory:
    """Under these names for long, everything behind the anchor, no write without an answer."""
    anchor = Anchor(parse(text), ERA, END, True) if text else None
    return replace(SyncMemory(anchor, undecided=False, serving=(ERA, LONG)), **changes)


def leading(
    key: SyncView, names: str | StandbyNames, *senders: WalSender, members: tuple[Member, ...] = (), **facts: Any
) -> World:
    """The primary with nothing else to repair; ``on`` unless said otherwise."""
    setting = names if isinstance(names, StandbyNames) else set_to(names)
    node = facts.pop("node", None) or primary(slots=SLOTS)
    node = replace(node, senders=senders, names=setting)
    given = {"synchronous_mode": "on", "sync": remembered(setting.text)}
    return world(node, view("a", *members, status=TOLD, sync=key), **SETTLED | given | facts)


def step(situation: str, w: World, *actions: Action | type) -> Case:
    """The step of this beat; without one there is nothing to do but to look again."""
    if actions:
        return case(situation, w, "upkeep.synchronous_step", *actions, stage="upkeep")
    return nothing(situation, w, "upkeep.synchronous_step", then=Then.AGAIN, stage="upkeep")


SYNC_B, SYNC_C = sender("b", "sync"), sender("c", "sync")
QUORUM_B, QUORUM_C = sender("b", "quorum"), sender("c", "quorum")
STEPS = (
    step("switched on without a standby: /sync gets the leader (EC 122)", leading(SyncView(), ""), WriteSync("a", (), 0, None)),
    step("/sync was wiped to nothing (EC 18)", leading(SyncView("9"), "b", SYNC_B), WriteSync("a", (), 0, "9")),
    step("a standby is added: the names first (EC 118)", leading(ALONE, "", sender("b")), SetStandbyNames("b")),
    step(
        "it is named, but has not everything yet (EC 118)",
        leading(ALONE, "b", sender("b", "sync", END - 1)),
    ),
    step(
        "the names are shown but were not in force when the position was read (EC 118)",
        leading(ALONE, "b", SYNC_B, sync=remembered("", anchor=Anchor(parse("b"), ERA, END, False))),
    ),
    step("it caught up (EC 118)", leading(ALONE, "b", SYNC_B), WriteSync("a", ("b",), 0, "5")),
    step("a standby leaves: /sync first (EC 119)", leading(BC, "2 (b,c)", SYNC_B, synchronous_node_count=2), WriteSync),
    step("then the names (EC 119, 120)", leading(B, "2 (b,c)", SYNC_B, synchronous_node_count=2), SetStandbyNames("b")),
    step("someone edited the names: /sync is reduced first (EC 121)", leading(B, "x", sender("b")), WriteSync("a", (), 0, "5")),
    step("then the names are corrected (EC 121)", leading(ALONE, "x", sender("b")), SetStandbyNames("b")),
    step("the last standby is gone, not strict (EC 123)", leading(B, "b"), WriteSync("a", (), 0, "5")),
    step("then commits wait for nobody (EC 123)", leading(ALONE, "b"), SetStandbyNames("")),
    step(
        "strict, 4.1 left a star (EC 124)",
        leading(ALONE, "*", synchronous_mode_strict=True, sync=remembered("*", blocked=True)),
        SetStandbyNames(PLACEHOLDER_NAME),
    ),
    step(
        "strict, nobody left: the names stay and /sync as well (EC 124)",
        leading(B, "b", synchronous_mode_strict=True, sync=remembered("b", blocked=True)),
    ),
    silent("a client with the primary's own name is never chosen (EC 128)", leading(ALONE, "", sender("A")), "upkeep"),
    silent("a stream without a position is skipped (EC 129)", leading(ALONE, "", sender("b", at=None)), "upkeep"),
    step(
        "the one that can fail over is preferred (EC 130)",
        leading(ALONE, "", sender("b"), sender("c"), members=(member("a"), member("b", tags={"nofailover": True}), member("c"))),
        SetStandbyNames("c"),
    ),
    silent(
        "the present one stays though another is ahead (EC 131)", leading(B, "b", sender("b", "sync", 990), sender("c")), "upkeep"
    ),
    step(
        "its replay is paused beyond the limit: another is chosen, also in maintenance (EC 132)",
        leading(
            B,
            set_to("b", commit="remote_apply"),
            sender("b", "sync", replay=100),
            sender("c"),
            maximum_lag_on_syncnode=500,
            paused=True,
        ),
        WriteSync("a", (), 0, "5"),
    ),
    step("the leader was renamed (EC 136)", leading(SyncView("5", "old", ("b",)), "b", SYNC_B), WriteSync("a", (), 0, "5")),
    step("switched off: /sync goes first (EC 138)", leading(B, "b", SYNC_B, synchronous_mode="off"), DropSync("5")),
    step(
        "then the names are the user's own (EC 138)",
        leading(SyncView(), "b", synchronous_mode="off", own_standby_names="x"),
        RestoreStandbyNames("x"),
    ),
    silent(
        "the user's own names are left alone (EC 138)",
        leading(SyncView(), set_to("x", ours=False), synchronous_mode="off"),
        "upkeep",
    ),
    silent(
        "the agent was restarted in maintenance: what commits wait for stays (EC 139)",
        leading(B, "b", SYNC_B, paused=True, sync=SyncMemory(Anchor(parse("b"), ERA, END))),
        "upkeep",
    ),
    step(
        "fewer stream than are named: the names are compared with what the server has (EC 140)",
        leading(B, "2 (b,c)", SYNC_B),
        SetStandbyNames("b"),
    ),
    step(
        "a reload could change the names: nothing but the names is written",
        leading(ALONE, set_to("b", settled=False), SYNC_B),
        SetStandbyNames("b"),
    ),
    step(
        "quorum: named, and listed once somebody has everything (EC 142)",
        leading(ALONE, "ANY 1 (b,c)", QUORUM_B, sender("c", "quorum", 9), synchronous_mode="quorum"),
        WriteSync("a", ("b", "c"), 1, "5"),
    ),
    step(
        "quorum: one that joined and left before it had everything (EC 143)",
        leading(B, "ANY 2 (b,c)", QUORUM_B, synchronous_mode="quorum", synchronous_node_count=2),
        SetStandbyNames("ANY 1 (b)"),
    ),
    step(
        "quorum: just promoted, nobody could connect yet (EC 144)",
        leading(
            SyncView("5", "a", ("b", "c", "d"), 2),
            "ANY 1 (b,c,d)",
            synchronous_mode="quorum",
            sync=remembered("ANY 1 (b,c,d)", serving=(ERA, NOW)),
        ),
    ),
    step(
        "quorum: the same, long ago (EC 144)",
        leading(SyncView("5", "a", ("b", "c", "d"), 2), "ANY 1 (b,c,d)", synchronous_mode="quorum"),
        WriteSync("a", (), 0, "5"),
    ),
    step(
        "from quorum to on with a node down: first nobody is listed who may lack a commit (EC 150)",
        leading(QUORUM, "ANY 1 (b,c)", sender("b", "quorum", 9)),
        WriteSync("a", (), 0, "5"),
    ),
    step(
        "then the names take the form of the mode (EC 150)",
        leading(ALONE, "ANY 1 (b,c)", QUORUM_B),
        SetStandbyNames("b"),
    ),
    step(
        "from on to quorum with a node down (EC 150)",
        leading(B, "b", SYNC_B, synchronous_mode="quorum"),
        SetStandbyNames("ANY 1 (b)"),
    ),
    step(
        "more are wanted than there are (EC 151)",
        leading(ALONE, "", sender("b"), sender("c"), synchronous_node_count=5),
        SetStandbyNames("2 (b,c)"),
    ),
    step(
        "more are wanted than there are, quorum (EC 151)",
        leading(ALONE, "", sender("b"), sender("c"), synchronous_node_count=5, synchronous_mode="quorum"),
        SetStandbyNames("ANY 2 (b,c)"),
    ),
    step(
        "a write to /sync may still arrive: it is outrun before the names change",
        leading(B, "2 (b,c)", SYNC_B, sync=remembered("2 (b,c)", undecided=True)),
        WriteSync("a", ("b",), 0, "5"),
    ),
    silent("all is as wanted", leading(B, "b", SYNC_B), "upkeep"),
    silent("the lock is not proven in this beat", leading(ALONE, "", sender("b"), lease=LeaseState.UNRENEWED), "upkeep"),
    silent(
        "the promotion still goes on",
        leading(ALONE, "", sender("b"), node=doing(TaskKind.PROMOTE, primary(slots=SLOTS))),
        "upkeep",
    ),
)

BLOCKED = (
    case(
        "strict, the last standby goes: said once (EC 124)",
        leading(B, "b", synchronous_mode_strict=True),
        "upkeep.writes_blocked",
        MarkBlocked(True),
        stage="upkeep",
    ),
    case(
        "one comes back",
        leading(B, "b", SYNC_B, synchronous_mode_strict=True, sync=remembered("b", blocked=True)),
        "upkeep.writes_blocked",
        MarkBlocked(False),
        stage="upkeep",
    ),
)


CASES = STEPS + BLOCKED


@pytest.mark.parametrize("each", CASES, ids=str)
def test_case(each: Case) -> None:
    each.check()


NODE = replace(primary(slots=SLOTS), senders=(sender("b", "sync"),), names=set_to("b"))


@pytest.mark.parametrize(("shown", "name", "text"), [("node-1", "Node-1", '"Node-1"'), ("any", "any", '"any"')])
def test_names_are_compared_without_case_and_quoted(shown: str, name: str, text: str) -> None:
    """(EC 127)"""
    w = leading(ALONE, "", sender(shown), members=(member("a"), member(name, conn=False)))
    decision = synchronous_step(w)
    assert decision is not None
    assert decision.actions == (SetStandbyNames(text),)


def proven_holder(w: World) -> World:
    return replace(w, lease=LeaseState.UNRENEWED, fresh=False)


def test_one_step_in_each_beat_and_the_next_beat_at_once() -> None:
    """(EC 118, 120)"""
    cluster = replace(view("a"), sync=ALONE, status=TOLD)
    beats: list[list[Action]] = []
    world = proven_holder(leading(ALONE, "", sender("b"), sync=remembered("")))
    for _ in range(4):
        played = play(world, SetStandbyNames=True, WriteSync="6", RunCheckpoint=True)
        beats.append(played.did(SetStandbyNames, WriteSync))
        if beats[-1]:
            assert played.beat.wake_after == 0.01
        cluster = replace(cluster, sync=played.beat.world.cluster.sync)
        world = proven_holder(after(played, seconds=0.02, node=NODE, cluster=cluster))
    # The first look at new names is never believed, so one beat passes without a write.
    assert beats == [[SetStandbyNames("b")], [], [WriteSync("a", ("b",), 0, "5")], []]


def test_after_a_write_without_an_answer_the_next_one_outruns_it_and_does_not_hurry() -> None:
    late = Script(fails=lambda number, action: isinstance(action, WriteSync))
    played = late.play(proven_holder(leading(ALONE, "b", SYNC_B)))
    assert played.beat.world.memory.sync.undecided
    assert played.beat.world.memory.sync.troubled
    again = play(proven_holder(after(played, node=NODE)), WriteSync="6")
    assert again.did(WriteSync) == [WriteSync("a", ("b",), 0, "5")]
    assert again.beat.wake_after == 1.0
    assert not again.beat.world.memory.sync.undecided


def test_standbys_that_are_swapped_again_and_again_do_not_keep_the_agent_busy() -> None:
    memory = remembered("b", steps=13, changed_at=Instant(NOW - 1))
    played = play(proven_holder(leading(B, "b", sender("c"), sync=memory)), WriteSync="6")
    assert played.did(WriteSync) == [WriteSync("a", (), 0, "5")]
    assert (played.beat.wake_after, played.beat.world.memory.sync.steps) == (None, 14)
    rested = play(proven_holder(leading(B, "b", sender("c"), sync=replace(memory, changed_at=Instant(NOW - 11)))), WriteSync="6")
    assert rested.beat.world.memory.sync.steps == 1


def test_a_zombie_that_lost_the_lock_changes_nothing() -> None:
    world = replace(leading(B, "b"), lease=LeaseState.UNRENEWED)
    assert play(world, RenewLease="taken").did(WriteSync, DropSync, SetStandbyNames) == []


def test_a_new_run_of_the_server_proves_everything_anew() -> None:
    played = play(proven_holder(leading(ALONE, "b", SYNC_B, node=primary(slots=SLOTS, postmaster_start="2"))))
    anchor = played.beat.world.memory.sync.anchor
    assert anchor is not None
    assert (anchor.era, anchor.in_force) == ("2, timeline 1", False)
    assert played.did(WriteSync) == []
