"""What a world becomes by carrying out, refusing or scheduling what an operator asked of this node."""

from __future__ import annotations

from pgcore.decide.advance.memory import Handlers, remember
from pgcore.model.actions import Action, DropSchedule, Outcome, RefuseOrder, Reinitialize, Restart, TakeSchedule
from pgcore.model.basics import Role
from pgcore.model.changes import replace
from pgcore.model.node import TaskKind, TaskView
from pgcore.model.orders import RestartOrder
from pgcore.model.world import World


def _begun(world: World, action: Action, outcome: Outcome, kind: TaskKind) -> World:
    if not outcome.ok:
        return remember(world, order=None, order_refused=outcome.error)
    node = replace(world.node, task=TaskView(kind, outcome.at), finished=None)
    return remember(replace(world, node=node), order=None, order_refused="", last_result=None)


def _restart(world: World, action: Restart, outcome: Outcome) -> World:
    """``recovering`` is set before the stop, so that a primary that does not come up again counts as crashed. (HA rules 24.2)"""
    order = world.memory.order
    limit = order.timeout_s if isinstance(order, RestartOrder) else None
    world = _begun(world, action, outcome, TaskKind.RESTART)
    if not outcome.ok:
        return world
    return remember(world, recovering=action.role is Role.PRIMARY, start_limit=limit, restart_result=None, starting_since=None)


def _taken(world: World, action: TakeSchedule, outcome: Outcome) -> World:
    scheduled = world.memory.scheduled_restart
    assert scheduled is not None
    return remember(world, order=replace(scheduled.order, asked_at=world.now), order_refused="", scheduled_restart=None)


HANDLERS: Handlers = {
    Restart: _restart,
    Reinitialize: lambda w, a, o: _begun(w, a, o, TaskKind.REINITIALIZE),
    RefuseOrder: lambda w, a, o: remember(w, order=None, order_refused=a.reason),
    TakeSchedule: _taken,
    DropSchedule: lambda w, a, o: remember(w, scheduled_restart=None),
}
