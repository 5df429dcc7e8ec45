"""A few simulated servers with their agent-side ports, and a way to run code as one of their agents."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from pgcore.clock import Deadline
from pgcore.hookspecs import BootstrapMethod, ReplicaMethod
from pgcore.model.basics import Role
from pgcore.model.node import NodeView
from pgcore.model.server import ServerSettings, Upstream
from pgcore.postgres.programs import ProgramRunner
from pgcore.testing.simulation.postgres import SimulatedPostgres
from pgcore.testing.simulation.replication import Fleet
from pgcore.testing.simulation.scheduler import Process, Scheduler, inside
from pgcore.testing.simulation.server import Server
from pgcore.testing.simulation.wal import Commit

T = TypeVar("T")
INITDB = BootstrapMethod("initdb", lambda request: None)
METHODS = [(ReplicaMethod("basebackup", lambda request: None), ())]


class Room:
    """Servers ``a``, ``b``, … on machines of their own; ``events`` is what the observer was told."""

    def __init__(self, scheduler: Scheduler, names: str) -> None:
        self.scheduler = scheduler
        self.cut: set[frozenset[str]] = set()
        self.events: list[tuple[str, str, Mapping[str, Any]]] = []
        self.fleet = Fleet(scheduler, random.Random(1), lambda one, other: frozenset((one, other)) not in self.cut,
                           lambda kind, server, facts: self.events.append((kind, server.name, facts)))
        self.servers: dict[str, Server] = {}
        self.ports: dict[str, SimulatedPostgres] = {}
        self.agents: dict[str, Process] = {}
        for number, name in enumerate(names, 1):
            self.servers[name] = Server(self.fleet, name, f"10.0.0.{number}")
            settings = ServerSettings(name, "batman", "0.0.0.0:5432", f"/data/{name}", use_pg_rewind=True)
            self.ports[name] = SimulatedPostgres(settings, self.servers[name])
            self.agents[name] = Process(scheduler, f"agent {name}")

    def __getitem__(self, name: str) -> Server:
        return self.servers[name]

    def ask(self, name: str, what: Callable[[SimulatedPostgres], T], limit_s: float = 1000.0) -> T:
        """Run it as a thread of this node's agent until it has ended; its value, or what it raised."""
        found: list[T] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                found.append(what(self.ports[name]))
            except Exception as error:
                failed.append(error)

        self.agents[name].start(run)
        self.scheduler.run(self.scheduler.now + limit_s, lambda: bool(found or failed))
        if failed:
            raise failed[0]
        assert found, f"{name} is still at it after {limit_s} s"
        return found[0]

    def passes(self, seconds: float) -> None:
        """Time goes by."""
        self.scheduler.run(self.scheduler.now + seconds)

    def upstream(self, name: str, slot: str | None = None) -> Upstream:
        """How to reach this server."""
        return Upstream(self[name].host, 5432, name, slot)

    def look(self, name: str) -> NodeView:
        """What its agent sees."""
        return self.ask(name, lambda port: port.observe(Deadline.after(1.0)))

    def bootstrap(self, name: str = "a") -> None:
        """The first primary."""
        self.ask(name, lambda port: port.bootstrap(ProgramRunner(), INITDB, {}))

    def join(self, name: str, source: str = "a") -> None:
        """A standby, copied from there and streaming from there."""
        self.ask(name, lambda port: port.clone(ProgramRunner(), METHODS, self.upstream(source)))
        self.start(name, source)

    def start(self, name: str, upstream: str | None) -> bool:
        """As a standby of that server, or as a primary."""
        above = self.upstream(upstream) if upstream else None
        role = Role.REPLICA if upstream else Role.PRIMARY
        up = self.ask(name, lambda port: port.start(ProgramRunner(), role=role, upstream=above, timeout_s=60.0))
        self.passes(3.0)
        return up

    def promote(self, name: str) -> None:
        """It becomes a primary."""
        self.ask(name, lambda port: port.promote(ProgramRunner(), timeout_s=60.0))

    def follow(self, name: str, upstream: str) -> None:
        """Told by a reload."""
        self.ask(name, lambda port: port.follow_by_reload(self.upstream(upstream)))
        self.passes(5.0)

    def kill(self, name: str) -> None:
        """SIGKILL for its server."""
        self[name].kill()

    def write(self, name: str) -> tuple[Commit, list[Commit]]:
        """A commit, and a list that holds it once the client was told."""
        told: list[Commit] = []
        commit = self[name].write(told.append)
        assert commit is not None
        return commit, told

    def happened(self, kind: str) -> list[tuple[str, Mapping[str, Any]]]:
        """Everything of this kind, with its server."""
        return [(name, facts) for each, name, facts in self.events if each == kind]


@contextmanager
def room(names: str = "abc") -> Iterator[Room]:
    """``a`` is the primary, the others stream from it."""
    with inside(Scheduler()) as scheduler:
        found = Room(scheduler, names)
        found.bootstrap(names[0])
        for name in names[1:]:
            found.join(name, names[0])
        yield found
