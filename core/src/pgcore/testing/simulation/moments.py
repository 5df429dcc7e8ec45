"""Moments at which a fault does most harm: somebody stands in the middle of something."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pgcore.dcs.store import Key
from pgcore.model.actions import Phase
from pgcore.model.node import TaskKind
from pgcore.model.world import Demotion

if TYPE_CHECKING:
    from pgcore.daemon.agent import Agent
    from pgcore.testing.simulation.world import World

Moment = Callable[["World"], bool]


def _agents(world: World) -> list[Agent]:
    return [machine.agent for machine in world if machine.agent is not None]


def _demoting(phase: Phase) -> Moment:
    def now(world: World) -> bool:
        procedures = [agent.memory.procedure for agent in _agents(world)]
        return any(isinstance(each, Demotion) and each.phase is phase for each in procedures)

    return now


def _doing(*kinds: TaskKind) -> Moment:
    def now(world: World) -> bool:
        return any(agent.performer.ports.tasks.kind in kinds for agent in _agents(world))

    return now


def _unlocked(world: World) -> bool:
    return world.leader is None


def _new_leader(world: World) -> bool:
    """The lock names somebody whose server is not writable yet."""
    leader = world.leader
    return leader in world.machines and not world[leader].server.writable


def _asked(world: World) -> bool:
    return world.key(Key.FAILOVER) not in ("", "{}")


def _sync_change(world: World) -> bool:
    """``/sync`` and the names that the primary's server waits for differ."""
    leader = world.leader
    if leader not in world.machines:
        return False
    names = world[leader].server.waiting.in_force
    return any(name not in names for name in world.view().sync.standbys)


MOMENTS: dict[str, Moment] = {
    "checkpoint": _demoting(Phase.CHECKPOINT),
    "verify": _demoting(Phase.VERIFY),
    "stopping": _demoting(Phase.STOP),
    "handover": _demoting(Phase.HANDOVER),
    "resume": _demoting(Phase.RESUME),
    "await-leader": _demoting(Phase.AWAIT_LEADER),
    "promoting": _doing(TaskKind.PROMOTE),
    "starting": _doing(TaskKind.START, TaskKind.START_PRIMARY, TaskKind.RESTART),
    "rewinding": _doing(TaskKind.REWIND),
    "copying": _doing(TaskKind.CLONE, TaskKind.REINITIALIZE),
    "unlocked": _unlocked,
    "new-leader": _new_leader,
    "asked": _asked,
    "sync-change": _sync_change,
}
"""What a fault can wait for, by name."""
