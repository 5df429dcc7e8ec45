"""Synchronous mode ``on``: which write comes next, by edge case. (HA rules 19; the numbers are those of the edge cases)

A situation is written ``b / 1 bc``: the standbys of ``/sync``, then how many of which names PostgreSQL waits for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from pgcore.decide.sync_candidates import Picture
from pgcore.decide.sync_names import (
    OFF,
    PLACEHOLDER,
    PLACEHOLDER_NAME,
    DropSync,
    Kind,
    Names,
    RestoreNames,
    SetNames,
    Step,
    Wait,
    WriteSync,
    any_of,
    parse,
    render,
)
from pgcore.decide.sync_priority import before_promotion, next_step, switch_off
from pgcore.model.cluster import SyncView


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
    Row("EC 118: a standby is added, the names first", situation("- / -", "b"), "names b; wait"),
    Row("EC 118: it caught up", situation("- / b", "b", proven="b"), "sync b; stable"),
    Row("EC 118: a second one is added", situation("b / b", "bc", proven="b"), "names 2 (b,c); wait"),
    Row("EC 118: one of two caught up and is listed at once", situation("- / 2 bc", "bc", proven="c"), "sync c; wait"),
    Row("EC 119: a standby leaves, /sync first", situation("bc / 2 bc", "b", proven="b"), "sync b; names b; stable"),
    Row("EC 119: another takes its place", situation("b / b", "c"), "sync -; names c; wait"),
    Row("EC 120: crashed after the names were set", situation("b / 2 bc", "bc", proven="bc"), "sync bc; stable"),
    Row("EC 120: crashed after /sync was reduced", situation("b / 2 bc", "b", proven="b"), "names b; stable"),
    Row("EC 121: other names set by hand", situation("b / x", "b"), "sync -; names b; wait"),
    Row("EC 121: names emptied by hand", situation("bc / -", "bc"), "sync -; names 2 (b,c); wait"),
    Row("EC 121: a name removed by hand", situation("bc / b", "bc", proven="b"), "sync b; names 2 (b,c); wait"),
    Row("EC 121: fewer acknowledgements set by hand", situation("bc / 1 bc", "bc"), "sync -; names 2 (b,c); wait"),
    Row("EC 121: names added by hand", situation("b / 2 bx", "b", proven="b"), "names b; stable"),
    Row("EC 122: switched on without a standby", replace(situation("- / -"), sync=SyncView()), "sync -; stable"),
    Row("EC 122: switched on, the user's own names", replace(situation("- / x", "b"), sync=SyncView()), "sync -; names b; wait"),
    Row("EC 123: the last standby disconnects", situation("b / b"), "sync -; names off; stable"),
    Row("EC 124: strict, the last standby disconnects", situation("b / b", strict=True), "wait"),
    Row("EC 124: strict, the last of two disconnect", situation("bc / 2 bc", strict=True), "wait"),
    Row("EC 124: strict, one was being removed", situation("b / 2 bc", strict=True), "names b; wait"),
    Row("EC 124: strict, nobody known", situation("- / -", strict=True), f"names {PLACEHOLDER_NAME}; wait"),
    Row("EC 124: strict, nobody known and waiting", situation(f"- / {PLACEHOLDER_NAME}", strict=True), "wait"),
    Row("EC 124: strict, 4.1 left a star", situation("- / *", strict=True), f"names {PLACEHOLDER_NAME}; wait"),
    Row(
        "EC 124: strict, a star and a listed standby", situation("b / *", strict=True), f"sync -; names {PLACEHOLDER_NAME}; wait"
    ),
    Row("EC 124: strict, a standby appears", situation(f"- / {PLACEHOLDER_NAME}", "b", strict=True), "names b; wait"),
    Row("EC 124: strictness is switched off", situation(f"- / {PLACEHOLDER_NAME}"), "names off; stable"),
    Row("a star without strictness", situation("- / *"), "names off; stable"),
    Row("EC 131: nothing changes", situation("b / b", "b", proven="b"), "stable"),
    Row("EC 132: another is chosen", situation("b / b", "c", proven="b"), "sync -; names c; wait"),
    Row("EC 133: a standby asked to be released", situation("bc / 2 bc", "c", proven="bc"), "sync c; names c; stable"),
    Row("EC 136: the leader was renamed", situation("b / b", "b", leader="old", proven="b"), "sync -; sync b; stable"),
    Row("EC 140: fewer stream than are named", situation("b / 2 bc", "b", proven="b"), "names b; stable"),
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
    """EC 127"""
    picture = Picture("A", SyncView("1", "a", ("NODE-B",)), parse('"Node-b"'), ("node-b",), frozenset({"node-b"}))
    assert next_step(picture) is None
    step = next_step(replace(picture, chosen=("node-b", "First")))
    assert isinstance(step, SetNames)
    assert render(step.names) == '2 ("First","node-b")'


def test_more_acknowledgements_than_names_are_corrected() -> None:
    assert story(situation("b / 2 b", "b", proven="b")) == "names b; stable"


def test_a_name_of_the_primary_itself_is_removed() -> None:
    """EC 128: nothing could ever confirm it."""
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
    """EC 125, 141: one write at a time; the caller postpones the promotion when one is refused."""
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
    ("sync", "current", "own", "step"),
    [
        (SyncView("1", "a", ("b",)), "b", "x", "sync deleted"),
        (SyncView(), "b", "ANY 1 (x, y)", "own ANY 1 (x, y)"),
        (SyncView("1"), "b", "", "own"),
        (SyncView(), "x", " x ", "stable"),
    ],
)
def test_switched_off_the_names_are_the_users_again_after_sync(sync: SyncView, current: str, own: str, step: str) -> None:
    """EC 138"""
    assert told(switch_off(sync, current, own)) == step
