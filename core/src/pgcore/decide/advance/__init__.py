"""What a world becomes by an action and its outcome: the only place where ``Memory`` changes. (HA rules 3)"""

from __future__ import annotations

from pgcore.decide.advance import failsafe, looks, orders, procedures, server, slots, store, synchronous, watchdog
from pgcore.decide.advance.looks import ClusterReading
from pgcore.decide.advance.memory import Handlers
from pgcore.model.actions import Action, Outcome
from pgcore.model.basics import Instant, Role, State
from pgcore.model.changes import replace
from pgcore.model.node import DataDir, NodeView
from pgcore.model.settings import Settings
from pgcore.model.world import Memory, World

__all__ = ["ClusterReading", "advance", "fresh_world"]

_HANDLERS: Handlers = {
    **looks.HANDLERS,
    **store.HANDLERS,
    **server.HANDLERS,
    **procedures.HANDLERS,
    **orders.HANDLERS,
    **failsafe.HANDLERS,
    **synchronous.HANDLERS,
    **watchdog.HANDLERS,
    **slots.HANDLERS,
}


def advance(world: World, action: Action, outcome: Outcome) -> World:
    """The world after this action. An outcome that is not ``ok`` changes only what a failure changes."""
    world = replace(world, now=outcome.at, last=outcome)
    handler = _HANDLERS.get(type(action))
    return handler(world, action, outcome) if handler else world


_NOTHING = World(
    Settings("", ""), Memory(), Instant(0.0), 0.0, NodeView(Instant(0.0), DataDir.EMPTY, Role.UNINITIALIZED, State.STOPPED)
)
"""Copied, as setting every field anew takes five times as long."""


def fresh_world(memory: Memory, settings: Settings, node: NodeView, now: Instant, wall: float) -> World:
    """The world at the start of a beat: what was remembered, nothing observed yet."""
    return replace(_NOTHING, settings=settings, memory=memory, now=now, wall=wall, node=node)
