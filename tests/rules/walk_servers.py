"""What the servers of a walk do when they are told: start, stop, promote, rewind, each in its time, with or without an agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pgcore.model import actions as a
from pgcore.model.basics import Role, State
from pgcore.model.node import ControlState, TaskKind, TaskResult
from pgcore.model.world import World
from rules.machines import Ended, Node, Server

TICK_S = 0.25
SHUTDOWN_RECORD = 100


class Servers:
    """The part of a ``Cluster`` that performs the actions on its servers."""

    now: float
    timelines: int
    lives: dict[str, int]
    handed: tuple[float, str, Server] | None

    def __getitem__(self, name: str) -> Node:
        raise NotImplementedError

    def _begin(self, node: Node, kind: TaskKind, ended: Ended) -> None:
        assert node.task is None, f"{node.name}: {kind} while {node.task}"
        node.task = (kind, self.now, ended)

    def _after(self, node: Node, ticks: int, kind: TaskKind, effect: Callable[[], str]) -> None:
        """A task that takes so long and then has this effect; a text is why it failed."""
        at = self.now + (ticks + node.slow) * TICK_S

        def ended() -> TaskResult | None:
            return TaskResult(kind, effect()) if self.now >= at else None

        self._begin(node, kind, ended)

    def _tell(self, node: Node, ticks: int, effect: Callable[[], None]) -> None:
        node.server.due += ((self.now + (ticks + node.slow) * TICK_S, effect),)

    def _SetRole(self, node: Node, action: a.SetRole, at: World) -> None:
        node.role = action.role

    def _CancelTask(self, node: Node, action: Any, at: World) -> None:
        if node.task is not None:
            kind = node.task[0]
            node.task = (kind, self.now, lambda: TaskResult(kind, cancelled=True))

    def _RunCheckpoint(self, node: Node, action: Any, at: World) -> bool:
        return True

    def _Checkpoint(self, node: Node, action: Any, at: World) -> None:
        self._after(node, 1, TaskKind.CHECKPOINT, lambda: "")

    def _stop_fast(self, node: Node) -> None:
        server = node.server
        server.stopping, server.due = True, ()

        def wal_ends() -> None:
            server.position += SHUTDOWN_RECORD if server.primary else 0
            server.control = ControlState.SHUT_DOWN if server.primary else ControlState.SHUT_DOWN_IN_RECOVERY
            server.ended = server.position if server.primary else None

        self._tell(node, 2, wal_ends)
        self._tell(node, 3, server.die)

    def _StopServer(self, node: Node, action: a.StopServer, at: World) -> None:
        server, since, limit = node.server, self.now, action.timeout_s or 300.0
        if action.mode is a.StopMode.FAST:
            self._stop_fast(node)
        else:
            server.stopping, server.due = True, ((self.now + TICK_S, server.die),)

        def ended() -> TaskResult | None:
            if server.running and self.now - since > limit:
                server.die()
            if server.running:
                return None
            node.state = State.STOPPED
            return TaskResult(TaskKind.STOP)

        self._begin(node, TaskKind.STOP, ended)

    def _come_up(self, node: Node, action: a.StartServer | a.Restart) -> str:
        server = node.server
        if node.broken:
            node.state = State.START_FAILED
            return "FATAL: a broken configuration"
        server.running, server.stopping, server.ended, server.due = True, False, None, ()
        server.primary, node.state, node.role = action.role is Role.PRIMARY, State.RUNNING, action.role
        server.control = ControlState.IN_PRODUCTION if server.primary else ControlState.IN_ARCHIVE_RECOVERY
        server.upstream = action.upstream.name if action.upstream else None
        self.lives[node.name] += 1
        self.started(node)
        return ""

    def started(self, node: Node) -> None:
        """Its server was started."""

    def _Restart(self, node: Node, action: a.Restart, at: World) -> None:
        """Stopped, the lease is looked at once more; whatever happens before the start only keeps it down."""
        server, launched, node.state = node.server, [0.0], State.RESTARTING
        self._stop_fast(node)

        def ended() -> TaskResult | None:
            if not launched[0] and not server.running:
                left = (node.memory.lease_until or 0.0) - self.now
                if action.role is Role.PRIMARY and not at.paused and left < 0.5:
                    return TaskResult(TaskKind.RESTART, "the lock is not proven")
                launched[0], node.state = self.now, State.STARTING
            up = launched[0] and self.now >= launched[0] + (2 + node.slow) * TICK_S
            return TaskResult(TaskKind.RESTART, self._come_up(node, action)) if up else None

        self._begin(node, TaskKind.RESTART, ended)

    def _StartServer(self, node: Node, action: a.StartServer, at: World) -> None:
        kind = TaskKind.START_PRIMARY if action.after_crash else TaskKind.START

        self._after(node, 2, kind, lambda: self._come_up(node, action))

    def _Promote(self, node: Node, action: Any, at: World) -> None:
        server, asked, gates = node.server, [False], self.now + TICK_S

        def promoted() -> None:
            if not server.stopping:
                server.switches = (*server.switches, (server.timeline, server.position))
                self.timelines += 1
                server.timeline, server.primary, server.upstream = self.timelines, True, None
                server.control = ControlState.IN_PRODUCTION
                self._judge_promotion(node)

        def ended() -> TaskResult | None:
            left = (node.memory.lease_until or 0.0) - self.now
            if not asked[0] and self.now >= gates:
                if node.vetoes or left < 0.5 or not server.running:
                    return TaskResult(TaskKind.PROMOTE, "no promotion")
                asked[0], node.role = True, Role.PROMOTED
                self._tell(node, 1, promoted)
            if asked[0] and server.primary:
                node.role = Role.PRIMARY
                return TaskResult(TaskKind.PROMOTE)
            return TaskResult(TaskKind.PROMOTE, "it died") if not server.running else None

        self._begin(node, TaskKind.PROMOTE, ended)

    def _judge_promotion(self, node: Node) -> None:
        """Whoever is promoted after an orderly hand-over has all of it, unless nobody who has it came within ttl."""
        if self.handed is None:
            return
        at, name, server = self.handed
        if self.now - at < node.settings.timing.ttl:
            assert node.server.contains(server), f"{node.name} at {node.server} lacks what {name} handed over: {server}"
        self.handed = None

    def _CrashRecover(self, node: Node, action: Any, at: World) -> None:
        def recovered() -> str:
            if node.broken:
                return "FATAL: a broken configuration"
            node.server.control = ControlState.SHUT_DOWN
            node.server.position += SHUTDOWN_RECORD
            return ""

        self._after(node, 2, TaskKind.CRASH_RECOVERY, recovered)

    def _Rewind(self, node: Node, action: a.Rewind, at: World) -> None:
        source = self[action.source.name or ""]

        def ended() -> TaskResult | None:
            if not (source.alive and source.server.writable) or node.cut or source.cut:
                return TaskResult(TaskKind.REWIND, "the source is gone", retriable=True)
            if self.now < until:
                return None
            taken = replace(source.server, running=False, primary=False, control=ControlState.IN_ARCHIVE_RECOVERY, upstream=None)
            node.server, node.state = replace(taken, due=(), stopping=False, ended=None), State.STOPPED
            return TaskResult(TaskKind.REWIND)

        until = self.now + (3 + node.slow) * TICK_S
        node.server.die()
        self._begin(node, TaskKind.REWIND, ended)

    def _Exit(self, node: Node, action: a.Exit, at: World) -> None:
        node.exit, node.agent, node.task = action, False, None
