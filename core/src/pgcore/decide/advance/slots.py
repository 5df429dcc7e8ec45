"""What a world becomes by an action on replication slots. (HA rules 21)"""

from __future__ import annotations

from pgcore.decide import slot_copies, slots
from pgcore.decide.advance.memory import Handlers, remember
from pgcore.model.actions import ChangeSlots, ComplainAboutSlots, CopySlots, ForceFeedback, Outcome, ServeSlots
from pgcore.model.changes import replace
from pgcore.model.node import SlotReport, TaskKind, TaskView
from pgcore.model.world import World


def _changed(world: World, action: ChangeSlots, outcome: Outcome) -> World:
    world = replace(world, slots_done=True)
    return remember(world, slots=slots.after_changes(world, action)) if outcome.ok else world


def _served(world: World, action: ServeSlots, outcome: Outcome) -> World:
    report = outcome.value
    world = replace(world, slots_done=True)
    return remember(world, slots=slot_copies.reported(world, report)) if isinstance(report, SlotReport) else world


def _copying(world: World, action: CopySlots, outcome: Outcome) -> World:
    if not outcome.ok:
        return remember(world, failed_at=outcome.at)
    node = replace(world.node, task=TaskView(TaskKind.COPY_SLOTS, outcome.at), finished=None)
    return remember(replace(world, node=node), last_result=None, slots=slot_copies.began(world, action, outcome))


def _forced(world: World, action: ForceFeedback, outcome: Outcome) -> World:
    """The server is told in this beat, with the rest of its settings."""
    settings = replace(world.settings, feedback_forced=action.on, server_stale=True)
    return replace(world, settings=settings) if outcome.ok else world


def _complained(world: World, action: ComplainAboutSlots, outcome: Outcome) -> World:
    return remember(world, slots=replace(world.memory.slots, complaints=action.holding))


HANDLERS: Handlers = {
    ChangeSlots: _changed,
    ServeSlots: _served,
    CopySlots: _copying,
    ForceFeedback: _forced,
    ComplainAboutSlots: _complained,
}
