"""Looking at a world at every moment: what servers do, when something is just so, what an operator asks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from pgcore.daemon.mailbox import CarryOut
from pgcore.model.basics import Json
from pgcore.model.orders import Order
from pgcore.testing.simulation.machine import Machine
from pgcore.testing.simulation.network import Traffic
from pgcore.testing.simulation.server import Server
from pgcore.testing.simulation.world import World
from sim.scene import cast

UNFIT = {"tags": {"nofailover": True}}


def look(world: World, seconds: float, at_each: Callable[[], object], step: float = 0.01) -> None:
    """Let time pass and look after every small step."""
    for _ in range(round(seconds / step)):
        world.run(step)
        at_each()


def at_once(world: World, condition: Callable[[], object], limit_s: float, step: float = 0.001) -> None:
    """Let time pass until just after the condition holds. Raises AssertionError if it never does."""
    end = world.now + limit_s
    while not condition():
        assert world.now < end, f"it did not come to that within {limit_s:g} s"
        world.run(step)


def order(machine: Machine, asked: Order) -> Future[Json]:
    """An operator asks the machine's agent for a restart or a new copy."""
    assert machine.life is not None
    machine.world.checker.operator_acted()
    return machine.life.mailbox.ask(CarryOut(asked))


def lose_power(machine: Machine) -> None:
    """Its power is gone, and the checker knows that this is a fault."""
    machine.world.checker.trouble(machine.name, begins=True)
    machine.power_off()


def writes_alone(world: World, leader: Machine, *without: Machine) -> None:
    """What the primary writes does not reach these standbys."""
    lines = world.network.cut(leader.name, [machine.name for machine in without], [Traffic.SQL])
    for _ in range(3):
        assert leader.server.write() is not None
        world.run(1)
    world.network.mend(lines)
    for machine in world:
        assert machine.server.at.contains(leader.server.at) is (machine not in without)


def roles(world: World) -> tuple[Machine, Machine, Machine]:
    """Who leads, who may lead next, and c, which may not."""
    old, *rest = cast(world)
    new = next(machine for machine in rest if machine.name != "c")
    return old, new, world["c"]


@dataclass
class Events:
    """What all servers do from now on: when, what, which server, and what the checker is told of it."""

    world: World
    seen: list[tuple[float, str, Server, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        before = self.world.fleet.observer

        def observe(kind: str, server: Server, facts: Any) -> None:
            self.seen.append((self.world.now, kind, server, dict(facts)))
            before(kind, server, facts)

        self.world.fleet.observer = observe

    def of(self, kind: str) -> list[str]:
        """To which servers this happened, in order."""
        return [server.name for _, what, server, _ in self.seen if what == kind]

    def when(self, kind: str, name: str) -> float:
        """When this happened first to that server. Raises AssertionError if it never did."""
        found = [at for at, what, server, _ in self.seen if (what, server.name) == (kind, name)]
        assert found, f"{name} was never {kind}"
        return found[0]
