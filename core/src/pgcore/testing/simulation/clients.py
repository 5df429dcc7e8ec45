"""Clients: they write to every server that lets them, remember what was acknowledged, and measure how long nobody could."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgcore.testing.simulation.wal import Commit

if TYPE_CHECKING:
    from pgcore.testing.simulation.server import Server
    from pgcore.testing.simulation.world import World


class Clients:
    """One for each server; a client whose server is gone waits until it accepts writes again."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._every_s = world.setup.write_s
        self._busy: dict[str, int] = {}
        """For each server the number of its present life as a primary; a client of an earlier one has ended."""
        self.acknowledged = 0
        self.last_at: float | None = None
        self.gaps: list[float] = []
        """Seconds between two acknowledged commits, those that were longer than two writes."""

    def accepting(self, server: Server) -> None:
        """It begins to accept writes: its client connects."""
        if self._every_s:
            self._busy[server.name] = life = self._busy.get(server.name, 0) + 1
            self._world.scheduler.after(0.0, lambda: self._write(server, life))

    def _write(self, server: Server, life: int) -> None:
        if self._busy[server.name] != life or not server.writable:
            return
        server.write(lambda commit: self._told(server, commit))
        wait = self._every_s * self._world.dice.uniform(0.5, 1.5)
        self._world.scheduler.after(wait, lambda: self._write(server, life))

    def _told(self, server: Server, commit: Commit) -> None:
        now = self._world.now
        self.acknowledged += 1
        if self.last_at is not None and now - self.last_at > 2.5 * self._every_s:
            self.gaps.append(now - self.last_at)
        self.last_at = now
        for listener in self._world.on_acknowledged:
            listener(server, commit)
