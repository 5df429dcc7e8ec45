"""How a value becomes another: the same as ``dataclasses.replace`` says, and no answer outlives the value it is about."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pgcore.model.basics import Instant, Tags
from pgcore.model.changes import once, replace
from pgcore.model.cluster import ClusterView, Member
from pgcore.model.world import World
from pgcore.testing.builders import primary, view, world

BEFORE = world(primary(), view("a"))


@pytest.mark.parametrize("changes", [{}, {"now": Instant(2000.0)}, {"node": primary(5), "store_lost": True}])
def test_a_changed_world_is_the_one_that_dataclasses_make(changes: dict[str, Any]) -> None:
    after = replace(BEFORE, **changes)
    assert after == dataclasses.replace(BEFORE, **changes)
    assert repr(after) == repr(dataclasses.replace(BEFORE, **changes))
    assert world(primary(), view("a")) == BEFORE


@pytest.mark.parametrize("value", [BEFORE, Tags()], ids=["without slots", "with slots"])
def test_a_field_that_does_not_exist_cannot_be_changed(value: Any) -> None:
    with pytest.raises(TypeError, match="positon"):
        replace(value, positon=1)


def test_a_changed_value_is_as_frozen_as_the_first() -> None:
    after: Any = replace(BEFORE, now=Instant(2000.0))
    with pytest.raises(dataclasses.FrozenInstanceError):
        after.now = Instant(1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        after.anything = 1


def test_a_question_is_worked_out_once_for_each_value_and_its_arguments() -> None:
    asked: list[tuple[float, int]] = []

    @once
    def later(w: World, seconds: int) -> float:
        asked.append((w.now, seconds))
        return w.now + seconds

    start = replace(BEFORE, now=Instant(1000.0))
    assert [later(start, 1), later(start, 2), later(start, 1)] == [1001.0, 1002.0, 1001.0]
    after = replace(start, now=Instant(2000.0))
    assert [later(after, 1), later(start, 1)] == [2001.0, 1001.0]
    assert asked == [(1000.0, 1), (1000.0, 2), (2000.0, 1)]


def test_an_answer_makes_no_difference_between_equal_values() -> None:
    asked, other = view("a"), view("a")
    assert asked.leader_member is asked.member("a")
    assert asked == other and repr(asked) == repr(other)


def test_a_view_with_other_members_answers_anew() -> None:
    before = view("a")
    assert [m.name for m in before.besides("a")] == ["b", "c"]
    after = replace(before, members=(Member("a"), Member("d")), leader="d")
    assert [m.name for m in after.besides("a")] == ["d"] and after.leader_member == Member("d")
    assert isinstance(after, ClusterView)
