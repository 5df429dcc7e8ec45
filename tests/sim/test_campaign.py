"""The campaign of random faults of edge-cases.md, section N: two at a time, against a cluster that promises the most."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

import pytest

from pgcore.testing.simulation.machine import Machine
from pgcore.testing.simulation.network import STORE
from pgcore.testing.simulation.server import Server
from pgcore.testing.simulation.wal import Commit
from sim.conftest import Simulate
from sim.told import Told, files, primary

STRIKE_S, HEAL_S, WRITE_S = 60.0, 60.0, 0.5
ROUNDS = 2
ARCHIVING = {"archive_mode": "on", "archive_command": "true"}
Undo = Callable[[], None]


class Numbers:
    """Clients add numbers at every primary they find, and remember which were acknowledged."""

    def __init__(self, world: Told) -> None:
        self._world = world
        self.acknowledged: list[Commit] = []
        self._add()

    def _add(self) -> None:
        for machine in self._world:
            if machine.server.writable:
                machine.server.write(partial(self._told, machine.server))
        self._world.scheduler.after(WRITE_S, self._add)

    def _told(self, server: Server, commit: Commit) -> None:
        self.acknowledged.append(commit)
        self._world.checker.acknowledged(server, commit)


def halves(world: Told, dice: Random) -> Undo:
    """Two parts of the cluster do not hear each other; the store is on one side."""
    names = [*world.machines, STORE]
    dice.shuffle(names)
    one, other = names[: len(names) // 2], names[len(names) // 2 :]
    lines = [line for name in one for line in world.network.cut(name, other)]
    return lambda: world.network.mend(lines)


def ring(world: Told, dice: Random) -> Undo:
    """Each node hears a majority, and no two the same one."""
    names = list(world.machines)
    dice.shuffle(names)
    lines = [line for at, name in enumerate(names) for line in world.network.cut(name, [names[(at + 2) % len(names)]])]
    return lambda: world.network.mend(lines)


def one_alone(world: Told, dice: Random) -> Undo:
    """A node hears nobody; it may be the store."""
    name = dice.choice([*world.machines, STORE])
    lines = world.network.cut(name, [*world.machines, STORE])
    return lambda: world.network.mend(lines)


def kill_server(world: Told, dice: Random) -> Undo:
    """SIGKILL to PostgreSQL, of the leader more often than not, several times."""
    return _again(world, lambda: _someone(world, dice).server.kill())


def kill_agent(world: Told, dice: Random) -> Undo:
    """SIGKILL to an agent, which is started again soon."""

    def kill() -> None:
        machine = _someone(world, dice)
        machine.kill_agent()
        world.scheduler.after(1.0, machine.start_agent)

    return _again(world, kill)


def switch_over(world: Told, dice: Random) -> Undo:
    """An operator insists on another leader, again and again."""
    return _again(world, lambda: world.ask_switchover(world.leader, _someone(world, dice).name) if world.leader else None)


def _someone(world: Told, dice: Random) -> Machine:
    names = list(world.machines)
    return world[world.leader if world.leader is not None and dice.random() < 0.6 else dice.choice(names)]


def _again(world: Told, act: Callable[[], object]) -> Undo:
    on = [True]

    def go() -> None:
        if on:
            act()
            world.scheduler.after(20.0, go)

    go()
    return on.clear


FAULTS = (halves, ring, one_alone, kill_server, kill_agent, switch_over)


@pytest.mark.parametrize("seed", range(4))
def test_no_acknowledged_number_is_lost(simulate: Simulate, seed: int) -> None:
    """Failsafe mode, strict quorum commit, timelines checked, rewind, an archive: two faults for a minute, then time to heal.

    At the end the cluster is whole, and has every number that was acknowledged and no mixed history.
    """
    dynamic = {"failsafe_mode": True, "synchronous_mode": "quorum", "synchronous_mode_strict": True, "synchronous_node_count": 2,
               "check_timeline": True, "postgresql": {"use_pg_rewind": True, "parameters": ARCHIVING}}
    world = simulate(nodes=tuple("abcde"), seed=seed, dynamic=dynamic, write_s=0.0)
    world.fleet.archiving = True
    numbers, dice = Numbers(world), Random(seed)
    world.checker.trouble("", begins=True)
    for _ in range(ROUNDS):
        undo = [fault(world, dice) for fault in dice.sample(FAULTS, 2)]
        world.run(STRIKE_S)
        for each in undo:
            each()
        world.run(HEAL_S)
    world.settle()
    world.checker.read_back()
    assert len(numbers.acknowledged) > 50
    leader = primary(world).server
    lost = [commit for commit in numbers.acknowledged if not leader.at.contains(commit)]
    assert not lost and not any(files(machine).spoiled for machine in world)
