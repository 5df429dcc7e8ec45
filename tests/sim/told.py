"""Words that scripted scenarios share: who is where, what was decided, what was told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pgcore.daemon.agent import Agent
from pgcore.daemon.board import Status
from pgcore.model.world import Memory
from pgcore.testing.simulation.machine import Machine
from pgcore.testing.simulation.server import Server
from pgcore.testing.simulation.server_files import DataFiles, SlotState
from pgcore.testing.simulation.world import World


class Told(World):
    """A world that remembers what it was told: decisions, warnings, events of servers, violations."""

    def __init__(self, *setup: Any) -> None:
        self.lines: list[tuple[float, str, str]] = []
        super().__init__(*setup, lambda at, who, what: self.lines.append((at, who, what)))

    def said(self, who: str, text: str, since: float = 0.0) -> int:
        """How many lines of an agent or server of this name contain a text."""
        return sum(at >= since and name == who and text in line for at, name, line in self.lines)


def primary(world: World) -> Machine:
    """The machine that the lock names."""
    assert world.leader is not None
    return world[world.leader]


def others(world: World) -> list[Machine]:
    """The machines that the lock does not name."""
    return [machine for machine in world if machine.name != world.leader]


def agent(machine: Machine) -> Agent:
    """The agent that runs there."""
    assert machine.agent is not None, f"no agent runs on {machine.name}"
    return machine.agent


def memory(machine: Machine) -> Memory:
    """What the agent there remembers."""
    return agent(machine).memory


def status(machine: Machine) -> Status:
    """What REST would answer."""
    assert machine.life is not None and machine.life.board.status is not None
    return machine.life.board.status


def rules_of(machine: Machine) -> list[str]:
    """The rules that answered there, those with effects and those of rest, oldest first."""
    return [rule for _, rule, _ in agent(machine).trail]


def decided(machine: Machine, rule: str, because: str = "") -> bool:
    """This rule answered there, for a reason with this text."""
    return any(each == rule and because in why for _, each, why in agent(machine).trail)


def forget(world: World) -> None:
    """What was decided so far counts no more."""
    for machine in world:
        if machine.agent is not None:
            machine.agent.trail.clear()


def files(machine: Machine | Server) -> DataFiles:
    """Its data directory."""
    server = machine.server if isinstance(machine, Machine) else machine
    assert server.files is not None, f"{server.name} has no data"
    return server.files


def slots(machine: Machine | Server) -> Mapping[str, SlotState]:
    """The replication slots of its server."""
    return files(machine).slots


def streams_from(machine: Machine) -> str | None:
    """Where its server receives WAL from."""
    receiver = machine.server.receiver
    return receiver.upstream.name if receiver is not None else None


def up_to_date(world: World) -> bool:
    """Every server has everything that its cluster's newest has."""
    return len({machine.server.at.position for machine in world if machine.server.files is not None}) == 1


def founded_by(world: World, name: str) -> Machine:
    """Let this node make the cluster of a world that has just begun; the others' agents start a moment later."""
    thaw = [machine.freeze_agent() for machine in world if machine.name != name]
    assert world.run_until(lambda: world.leader == name and world.writable() == [name], 30)
    for each in thaw:
        each()
    return world[name]


def starts(world: Told, machine: Machine) -> int:
    """How often its server came up."""
    return world.said(machine.name, "server: started")


def at_once(world: World, condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    """Let time pass in small steps until it is so. Raises AssertionError."""
    end = world.now + limit_s
    while not condition():
        assert world.now < end, f"it did not come to that within {limit_s:g} s"
        world.run(0.005)
