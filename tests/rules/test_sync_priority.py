"""Synchronous mode ``on``: which write comes next, by edge case. (HA rules 19; the numbers are those of the edge cases)

A situation is written ``b / 1 bc``: the standbys of ``/sync``, then how many of which names PostgreSQL waits for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from pgcore.decide.sync_candidates import Picture
from pgcore.decide.sync_names import PLACEHOLDER, DropSync, RestoreNames, SetNames, Step, Wait, WriteSync, any_of, parse
from pgcore.decide.sync_priority import before_promotion, next_step, switch_off
from pgcore.model.cluster import SyncView
from pgcore.model.synchronous import OFF, PLACEHOLDER_NAME, Kind, Names, render


def situation(
    text: str, chosen: str = "", *, strict: bool = False, leader: str = "a", proven: str = "", quorum: int = 0
) -> Picture:
    """``b / 1 bc`` with ``-`` for nobody; without a number the names are read as PostgreSQL would."""
    standbys, _, names = text.partition(" / ")
    count, _, listed = names.partition(" ")
    setting = Names(Kind.FIRST, int(count), tuple(listed)) if listed else parse(names.strip("-"))
    sync = SyncView("1", leader, tuple(standbys.strip("-")), quorum)
    return Picture("a", sync, setting, tuple(chosen), frozenset(proven), len(chosen), strict)


def told(step: Step | None) -> str:
    """The step in short."""
    match step:
        case SetNames(names):
            return f"names {render(names) or 'off'}"
        case WriteSync(_, standbys):
            return f"sync {''.join(standbys) or '-'}"
        case DropSync():
            return "sync deleted"
        case RestoreNames(text):
            return f"own {text}".strip()
        case Wait():
            return "wait"
        case _:
            return "stable"


def performed(picture: Picture, step: Step) -> Picture:
    """The picture after the write."""
    if isinstance(step, SetNames):
        return replace(picture, names=step.names)
    assert isinstance(step, WriteSync), step
    return replace(picture, sync=SyncView("2", step.leader, step.standbys, step.quorum))


def story(picture: Picture) -> str:
    """All writes until nothing or a wait follows; who is proven stays so while it is named."""
    writes: list[str] = []
    for _ in range(10):
        step = next_step(replace(picture, proven=picture.proven & set(picture.names.names)))
        writes.append(told(step))
        if step is None or isinstance(step, Wait):
            return "; ".join(writes)
        assert step.because
        picture = performed(picture, step)
        assert picture.names.placeholder or set(picture.sync.standbys) <= set(picture.names.names), writes
    raise AssertionError(f"no end: {writes}")


@dataclass(frozen=True)
class Row:
    """One situation and what is written."""

    name: str
    picture: Picture
    writes: str

    def __str__(self) -> str:
        return self.name


ROWS = (
    Row("a standby is added, the names first (EC 118)", situation("- / -", "b"), "names b; wait"),
    Row("it caught up (EC 118)", situation("- / b", "b", proven="b"), "sync b; stable"),
    Row("a second one is added (EC 118)", situation("b / b", "bc", proven="b"), "names 2 (b,c); wait"),
    Row("one of two caught up and is listed at once (EC 118)", situation("- / 2 bc", "bc", proven="c"), "sync c; wait"),
    Row("a standby leaves, /sync first (EC 119)", situation("bc / 2 bc", "b", proven="b"), "sync b; names b; stable"),
    Row("another takes its place (EC 119)", situation("b / b", "c"), "sync -; names c; wait"),
    Row("crashed after the names were set (EC 120)", situation("b / 2 bc", "bc", proven="bc"), "sync bc; stable"),
    Row("crashed after /sync was reduced (EC 120)", situation("b / 2 bc", "b", proven="b"), "names b; stable"),
    Row("other names set by hand (EC 121)", situation("b / x", "b"), "sync -; names b; wait"),
    Row("names emptied by hand (EC 121)", situation("bc / -", "bc"), "sync -; names 2 (b,c); wait"),
    Row("a name removed by hand (EC 121)", situation("bc / b", "bc", proven="b"), "sync b; names 2 (b,c); wait"),
    Row("fewer acknowledgements set by hand (EC 121)", situation("bc / 1 bc", "bc"), "sync -; names 2 (b,c); wait"),
    Row("names added by hand (EC 121)", situation("b / 2 bx", "b", proven="b"), "names b; stable"),
    Row("switched on without a standby (EC 122)", replace(situation("- / -"), sync=SyncView()), "sync -; stable"),
    Row("switched on, the user's own names (EC 122)", replace(situation("- / x", "b"), sync=SyncView()), "sync -; names b; wait"),
    Row("the last standby disconnects (EC 123)", situation("b / b"), "sync -; names off; stable"),
    Row("strict, the last standby disconnects (EC 124)", situation("b / b", strict=True), "wait"),
    Row("strict, the last of two disconnect (EC 124)", situation("bc / 2 bc", strict=True), "wait"),
    Row("strict, one was being removed (EC 124)", situation("b / 2 bc", strict=True), "names b; wait"),
    Row("strict, nobody known (EC 124)", situation("- / -", strict=True), f"names {PLACEHOLDER_NAME}; wait"),
    Row("strict, nobody known and waiting (EC 124)", situation(f"- / {PLACEHOLDER_NAME}", strict=True), "wait"),
    Row("strict, 4.1 left a star (EC 124)", situation("- / *", strict=True), f"names {PLACEHOLDER_NAME}; wait"),
    Row(
        "strict, a star and a listed standby (EC 124)", situation("b / *", strict=True), f"sync -; names {PLACEHOLDER_NAME}; wait"
    ),
    Row("strict, a standby appears (EC 124)", situation(f"- / {PLACEHOLDER_NAME}", "b", strict=True), "names b; wait"),
    Row("strictness is switched off (EC 124)", situation(f"- / {PLACEHOLDER_NAME}"), "names off; stable"),
    Row("a star without strictness", situation("- / *"), "names off; stable"),
    Row("nothing changes (EC 131)", situation("b / b", "b", proven="b"), "stable"),
    Row("another is chosen (EC 132)", situation("b / b", "c", proven="b"), "sync -; names c; wait"),
    Row("a standby asked to be released (EC 133)", situation("bc / 2 bc", "c", proven="bc"), "sync c; names c; stable"),
    Row("the leader was renamed (EC 136)", situation("b / b", "b", leader="old", proven="b"), "sync -; sync b; stable"),
    Row("fewer stream than are named (EC 140)", situation("b / 2 bc", "b", proven="b"), "names b; stable"),
    Row("a listed standby is not synchronous at the moment", situation("bc / 2 bc", "bc", proven="b"), "sync b; wait"),
    Row("from quorum: only me", situation("bcd / 1 bcd", "b", quorum=2, proven="b"), "sync -; names b; sync b; stable"),
    Row("from quorum: all were waited for", situation("bc / 2 bc", "bc", quorum=1, proven="b"), "sync b; wait"),
)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_primary_writes(row: Row) -> None:
    assert story(row.picture) == row.writes


def test_quorum_form_is_replaced_by_priority_form() -> None:
    picture = replace(situation("bc / -", "bc", proven="bc"), names=any_of(2, "bc"))
    assert told(next_step(picture)) == "names 2 (b,c)"


def test_names_compare_as_postgresql_compares_them() -> None:
    """(EC 127)"""
    picture = Picture("A", SyncView("1", "a", ("NODE-B",)), parse('"Node-b"'), ("node-b",), frozenset({"node-b"}))
    assert next_step(picture) is None
    step = next_step(replace(picture, chosen=("node-b", "First")))
    assert isinstance(step, SetNames)
    assert render(step.names) == '2 ("First","node-b")'


def test_more_acknowledgements_than_names_are_corrected() -> None:
    assert story(situation("b / 2 b", "b", proven="b")) == "names b; stable"


def test_a_name_of_the_primary_itself_is_removed() -> None:
    """Nothing could ever confirm it. (EC 128)"""
    assert story(situation("b / 2 ab", "b", proven="b")) == "names b; stable"


def test_a_wait_says_for_whom_and_how_long() -> None:
    step = next_step(situation("- / b", "b"))
    assert isinstance(step, Wait)
    assert (step.seconds, "b" in step.because) == (2.0, True)
    blocked = next_step(situation("b / b", strict=True))
    assert isinstance(blocked, Wait)
    assert blocked.seconds is None


def test_a_write_of_unknown_fate_is_outrun_before_the_names_change() -> None:
    picture = replace(situation("b / b", "bc", proven="b"), undecided=True)
    assert told(next_step(picture)) == "sync b"
    assert told(next_step(replace(picture, undecided=False))) == "names 2 (b,c)"


BEFORE_PROMOTION = (
    # me, strict, situation (led by a), quorum -> writes
    ("b", False, "bc / -", 0, "sync -"),
    ("b", False, "bc / b", 0, "sync -; names off"),
    ("b", True, "bc / -", 0, "names 2 (a,c); sync ac"),
    ("b", True, "b / -", 0, "names a; sync a"),
    ("a", True, "b / b", 0, ""),
    ("a", True, "- / -", 0, f"names {PLACEHOLDER_NAME}"),
    ("a", False, "- / -", 0, ""),
    ("a", False, "b / -", 0, "sync -"),
    ("c", True, "bcd / -", 2, "names ANY 1 (a,b,d); sync -"),
)


@pytest.mark.parametrize(("me", "strict", "text", "quorum", "writes"), BEFORE_PROMOTION)
def test_before_a_promotion(me: str, strict: bool, text: str, quorum: int, writes: str) -> None:
    """One write at a time; the caller postpones the promotion when one is refused. (EC 125, 141)"""
    picture, done = situation(text, quorum=quorum), []
    while (step := before_promotion(me, picture.sync, picture.names, strict)) is not None:
        done.append(told(step))
        picture = performed(picture, step)
    assert "; ".join(done) == writes


def test_before_a_promotion_without_sync() -> None:
    assert told(before_promotion("b", SyncView(), OFF, False)) == "sync -"
    step = before_promotion("b", SyncView(), OFF, True)
    assert isinstance(step, SetNames)
    assert step.names == PLACEHOLDER


@pytest.mark.parametrize(
    ("sync", "ours", "own", "step"),
    [
        (SyncView("1", "a", ("b",)), True, "x", "sync deleted"),
        (SyncView(), True, "ANY 1 (x, y)", "own ANY 1 (x, y)"),
        (SyncView("1"), True, "", "own"),
        (SyncView(), False, "x", "stable"),
    ],
)
def test_switched_off_the_names_are_the_users_again_after_sync(sync: SyncView, ours: bool, own: str, step: str) -> None:
    """(EC 138)"""
    assert told(switch_off(sync, ours, own)) == step


def test_right_after_a_start_nobody_is_removed_before_it_could_connect() -> None:
    picture = situation("b / 1 b")
    assert told(next_step(replace(picture, fresh=True))) == "wait"
    assert told(next_step(picture)) == "sync -"
