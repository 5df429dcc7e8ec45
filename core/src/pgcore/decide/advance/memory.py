"""How a world is changed: the helpers every handler of an outcome uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pgcore.model.actions import Outcome
from pgcore.model.changes import replace
from pgcore.model.world import World

Handler = Callable[[World, Any, Outcome], World]
Handlers = Mapping[type, Handler]


def value_of(outcome: Outcome, otherwise: Any) -> Any:
    """What came of the action, or the other value when it failed."""
    return outcome.value if outcome.ok else otherwise


def remember(world: World, **changes: Any) -> World:
    """The world with these fields of its Memory changed."""
    return replace(world, memory=replace(world.memory, **changes))


def become(world: World, remembered: Mapping[str, Any], **changes: Any) -> World:
    """The world with these fields changed, and those ``remembered`` of its Memory."""
    return replace(world, memory=replace(world.memory, **remembered), **changes)
