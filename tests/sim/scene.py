"""What scenarios share: who plays which part, what was decided, what an observer sees over REST."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pgcore.daemon.heartbeat import Beat
from pgcore.daemon.peers import PeerAccess
from pgcore.dcs.store import MEMBERS, Key
from pgcore.model import actions as a
from pgcore.rest.answer import Answer, json_answer
from pgcore.testing.simulation.agent import LOGIN
from pgcore.testing.simulation.machine import Machine
from pgcore.testing.simulation.network import STORE, Traffic
from pgcore.testing.simulation.scheduler import Process
from pgcore.testing.simulation.world import World


def cast(world: World) -> tuple[Machine, ...]:
    """The machine of the leader, then the others by name."""
    leader = world[world.leader or ""]
    return leader, *others(world)


def others(world: World) -> tuple[Machine, ...]:
    """Everybody but whom the lock names."""
    return tuple(machine for machine in world if machine.name != world.leader)


def led_by(world: World, name: str) -> World:
    """The same world after a switchover to this node, if another one leads."""
    if world.leader != name:
        world.ask_switchover(world.leader, name)
        assert world.run_until(lambda: world.writable() == [name], 30)
        world.settle()
    return world


class Diary:
    """Every decision of every agent since it was begun, and the actions that came of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.lines: list[tuple[float, str, str, str, tuple[a.Action, ...]]] = []
        world.on_beat.append(self._note)

    def _note(self, name: str, beat: Beat) -> None:
        self.lines += [(self._world.now, name, each.rule, each.because, each.actions) for each in beat.decisions]

    def rules(self, name: str | None = None, since: float = 0.0) -> list[str]:
        """Names of the rules that decided, of one agent or of all."""
        return [rule for at, who, rule, _, _ in self.lines if name in (None, who) and at >= since]

    def count(self, name: str, rule: str) -> int:
        """How often it decided so."""
        return self.rules(name).count(rule)

    def because(self, name: str, rule: str) -> str:
        """What it said when it first decided so; empty if it never did."""
        return next((because for _, who, what, because, _ in self.lines if (who, what) == (name, rule)), "")

    def said(self, rule: str, text: str) -> bool:
        """Somebody decided so with this in the reason."""
        return any(what == rule and text in because for _, _, what, because, _ in self.lines)

    def first(self, name: str, rule: str) -> float:
        """When it first decided so. Raises AssertionError if it never did."""
        found = [at for at, who, what, _, _ in self.lines if (who, what) == (name, rule)]
        assert found, f"{name} never decided {rule}"
        return found[0]

    def actions(self, name: str, kind: type[a.Action]) -> list[a.Action]:
        """What it did of this kind."""
        return [action for _, who, _, _, actions in self.lines if who == name for action in actions if isinstance(action, kind)]


def code(machine: Machine, path: str) -> int:
    """What its REST API answers to this health check now; 0: nobody listens."""
    doors = machine.doors
    return doors.answer("GET", path, None, "127.0.0.1", PeerAccess()).code if doors is not None and doors.process.alive else 0


class OddDoors:
    """A REST API that answers everything with one document, whatever the agent beside it does."""

    def __init__(self, world: World, document: dict[str, Any]) -> None:
        self.process, self._answer = Process(world.scheduler, "odd"), json_answer(200, document)

    def answer(self, method: str, target: str, body: bytes | None, host: str, access: PeerAccess) -> Answer:
        """As ``Doors``."""
        return self._answer


def post_failsafe(machine: Machine, sender: Machine) -> int:
    """The code of its answer to being asked to keep that node as the leader."""
    assert machine.doors is not None
    body = {"name": sender.name, "conn_url": f"postgres://{sender.host}:5432/postgres", "api_url": f"http://{sender.host}:8008/patroni"}
    return machine.doors.answer("POST", "/failsafe", json.dumps(body).encode(), sender.host, PeerAccess(**LOGIN)).code


def card(world: World, name: str) -> dict[str, Any]:
    """A member's card; empty if there is none."""
    text = world.key(MEMBERS + name)
    return dict(json.loads(text)) if text else {}


def expect_trouble(world: World, *machines: Machine) -> None:
    """What happens to these machines from now on, or to the cluster if none is named, is a good reason for another primary."""
    for name in [machine.name for machine in machines] or [""]:
        world.checker.trouble(name, begins=True)


def remove(world: World, key: Key) -> None:
    """Somebody deletes a key."""
    with world.store.session() as server:
        server.remove(key)


def cut_store(world: World, *machines: Machine) -> Callable[[], None]:
    """These machines lose the store and nothing else; the result mends it."""
    lines = [line for machine in machines for line in world.network.cut(machine.name, [STORE], [Traffic.STORE])]
    return lambda: world.network.mend(lines)


def always(world: World, holds: Callable[[], bool], seconds: float, every_s: float = 0.1) -> bool:
    """Let that much time pass; whether it held at every look."""
    end = world.now + seconds
    while world.now < end:
        if not holds():
            return False
        world.run(every_s)
    return holds()


@contextmanager
def despite(world: World, invariant: str) -> Iterator[None]:
    """What happens inside breaks this invariant by somebody's own hand, which must be noticed and is then forgiven."""
    before = len(world.checker.violations)
    yield
    found = world.checker.violations[before:]
    assert any(each.invariant == invariant for each in found), f"nobody broke {invariant!r}"
    world.checker.violations[before:] = [each for each in found if each.invariant != invariant]
