"""How ``/sync`` and the names that commits wait for change, and that who is promoted by it has every commit."""

from __future__ import annotations

from dataclasses import dataclass, field

from pgcore.decide.sync_names import parse
from pgcore.model.cluster import SyncView
from pgcore.model.synchronous import Kind, Names
from pgcore.testing.simulation.machine import Machine
from pgcore.testing.simulation.server import Server
from pgcore.testing.simulation.world import World
from sim.moments import look


def protects(sync: SyncView, names: Names, me: str) -> bool:
    """Whoever may be promoted by ``/sync`` meets somebody of those who confirmed a commit under these names. (HA rules 20.2)"""
    if not sync.standbys:
        return True
    count = names.count if names.kind is not Kind.OFF else 0
    everybody = {name.lower() for name in (*sync.standbys, sync.leader or me, *names.names, me)}
    blocked = names.placeholder
    return blocked or len(everybody) <= sync.quorum + count + 1


@dataclass
class SyncStory:
    """Notes each change as ``sync q1 b,c`` or ``names ANY 1 (b,c)``, with the primary's position at that moment."""

    world: World
    lines: list[str] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    careful: bool = True
    """Whether protection must hold at every look."""
    _sync: str = ""
    _names: str = ""

    def __post_init__(self) -> None:
        self._look()
        self.lines.clear()
        self.positions.clear()

    def watch(self, seconds: float, step: float = 0.004) -> None:
        """Let time pass, looking all the while."""
        look(self.world, seconds, self._look, step)

    def until(self, line: str, limit_s: float = 40.0, step: float = 0.004) -> None:
        """Let time pass until the story has this line."""
        for _ in range(round(limit_s / step)):
            if line in self.lines:
                return
            self.watch(step, step)
        raise AssertionError(f"no {line!r} in {self.lines}")

    def _look(self) -> None:
        world = self.world
        servers = [machine.server for machine in world if machine.server.writable]
        for server in servers:
            self._note(server)

    def _note(self, server: Server) -> None:
        sync, shown, in_force = self.world.key("sync"), server.waiting.shown, server.waiting.in_force
        if (sync, in_force) == (self._sync, self._names) and shown == in_force:
            return
        view = self.world.view().sync
        if self.careful:
            for names in (shown, in_force):
                assert protects(view, parse(names), server.name), f"{self.lines}: {sync} under {names!r} on {server.name}"
        if sync != self._sync:
            quorum = f"q{view.quorum} " if view.quorum else ""
            self._add(f"sync {quorum}{','.join(view.standbys) or '-'}", server)
        if in_force != self._names:
            self._add(f"names {in_force or '-'}", server)
        self._sync, self._names = sync, in_force

    def _add(self, line: str, server: Server) -> None:
        self.lines.append(line)
        self.positions.append(server.at.position)

    def position(self, line: str) -> int:
        """Where the primary was at this change."""
        return self.positions[self.lines.index(line)]


def names_of(machine: Machine) -> str:
    """What commits there wait for."""
    return machine.server.waiting.in_force
