"""A tiny deterministic cluster in one process: real heartbeats, rules, codec and store; servers that are a few numbers.

A server has a timeline, a position and a history. A standby streams from a running primary of which its history is a part.
After every action it is checked that at most one server is writable under an unexpired lease.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from pgcore.clock import Deadline
from pgcore.daemon.heartbeat import Beat, heartbeat
from pgcore.dcs import codec
from pgcore.dcs.store import ABSENT, ANYTHING, Key, Stored, version
from pgcore.decide.advance import ClusterReading, fresh_world
from pgcore.errors import StoreUnavailableError
from pgcore.model import actions as a
from pgcore.model.basics import Instant, Lsn, Role, State, Timing
from pgcore.model.cluster import HistoryEntry
from pgcore.model.node import ControlState, NodeView, TaskKind, TaskResult
from pgcore.model.settings import Settings
from pgcore.model.world import LeaderTimeline, Memory, PeerView, World
from pgcore.testing import builders
from pgcore.testing.memory_store import MemoryServer, MemoryStore

TICK_S = 0.25
TAKES = {TaskKind.CHECKPOINT: 1, TaskKind.STOP: 3, TaskKind.REWIND: 3}
"""Ticks a long action takes; others take two."""
SHUTDOWN_RECORD = 100
WRITE = 10


@dataclass(slots=True)
class Server:
    """PostgreSQL as far as the rules can tell: where its history branched, how far it has WAL, what it is doing."""

    running: bool = True
    primary: bool = False
    timeline: int = 1
    position: int = 1000
    switches: tuple[tuple[int, int], ...] = ()
    upstream: str | None = None
    control: ControlState = ControlState.IN_PRODUCTION
    stopping: bool = False

    @property
    def writable(self) -> bool:
        """It accepts writes."""
        return self.running and self.primary and not self.stopping

    def contains(self, other: Server) -> bool:
        """The other's history is a part of this one's."""
        if other.timeline == self.timeline:
            return other.position <= self.position
        return any(ended == other.timeline and other.position <= at for ended, at in self.switches)


@dataclass(slots=True)
class Node:
    """A machine: its server, its agent's memory, its long action."""

    name: str
    store: MemoryStore
    server: Server = field(default_factory=Server)
    role: Role = Role.REPLICA
    state: State = State.RUNNING
    memory: Memory = field(default_factory=Memory)
    settings: Settings = field(default_factory=lambda: Settings("", ""))
    task: tuple[TaskKind, float, Callable[[], None]] | None = None
    finished: TaskResult | None = None
    due: float = 0.0
    alive: bool = True
    cut: bool = False
    """Nothing streams to this node any more."""
    reaches_store: bool = True
    trail: list[str] = field(default_factory=list)
    exit: a.Exit | None = None


class Cluster:
    """Three nodes, a store, a clock that only ``run`` moves, and a client that writes to every writable server."""

    def __init__(self, timing: Timing = Timing()) -> None:
        self.now = 100.0
        self.kv = MemoryServer(lambda: Instant(self.now))
        self.nodes = {name: Node(name, MemoryStore(self.kv, name, timing)) for name in "abc"}
        for node in self.nodes.values():
            host = f"10.0.0.{ord(node.name) - 96}"
            urls = {"conn_url": f"postgres://{host}:5432/postgres", "api_url": f"http://{host}:8008/patroni"}
            node.settings = Settings(node.name, "batman", timing, use_slots=False, dynamic={"ttl": timing.ttl}, **urls)
            node.server.upstream = None if node.name == "a" else "a"
        self["a"].server.primary, self["a"].role = True, Role.PRIMARY
        self.acknowledged: dict[str, Server] = {}
        self.run(1, only="a")
        self.run(12)

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    @property
    def leader(self) -> str | None:
        """Whom the lock names."""
        entry = self.kv.entries.get(Key.LEADER)
        return entry.value if entry else None

    def writable(self) -> list[str]:
        """Servers that accept writes."""
        return [node.name for node in self.nodes.values() if node.alive and node.server.writable]

    def run(self, seconds: float, only: str = "abc", until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass, tick by tick."""
        end = self.now + seconds
        while self.now < end and not until():
            self.now += TICK_S
            revision = self.kv.watched_revision
            for node in self.nodes.values():
                if node.alive and node.name in only:
                    self._finish(node)
                    if self.now >= node.due or self.kv.watched_revision != revision:
                        self._beat(node)
            self._guard()
            self._stream()

    def ask(self, leader: str | None, candidate: str | None) -> None:
        """An operator's request."""
        with self.kv.session() as server:
            server.write(Key.FAILOVER, codec.encode_failover(leader, candidate))
        self[leader or "a"].due = self.now

    def asked(self) -> str:
        """What stands in /failover."""
        return self.kv.entries[Key.FAILOVER].value if Key.FAILOVER in self.kv.entries else ""

    # -- the world outside the agents -------------------------------------------------------------------------------------

    def _stream(self) -> None:
        for node in self.nodes.values():
            if node.alive and node.server.writable:
                node.server.position += WRITE
        for node in self.nodes.values():
            above = self.streams_from(node)
            if above is not None:
                node.server.position, node.server.timeline = above.position, above.timeline
                node.server.switches = above.switches
        for node in self.nodes.values():  # a commit is acknowledged when some standby has it
            if any(self.streams_from(other) is node.server for other in self.nodes.values()):
                self.acknowledged[node.name] = replace(node.server)

    def streams_from(self, node: Node) -> Server | None:
        """The server this one streams from at this moment."""
        above = self.nodes.get(node.server.upstream or "")
        if above is None or not (node.alive and above.alive) or node.cut or not node.server.running or node.server.primary:
            return None
        return above.server if above.server.running and above.server.contains(node.server) else None

    def _guard(self) -> None:
        """The guard process: an unproven primary dies at the end of its lease."""
        for node in self.nodes.values():
            until = node.memory.lease_until
            if node.server.writable and not node.settings.paused and until is not None and until <= self.now:
                node.server.running, node.state = False, State.CRASHED

    def _check(self) -> None:
        proven = [name for name in self.writable() if (self[name].memory.lease_until or 0.0) > self.now]
        assert len(proven) <= 1, f"{proven} are writable under a lease at {self.now}"

    def _finish(self, node: Node) -> None:
        if node.task is not None and self.now >= node.task[1]:
            kind, _, effect = node.task
            node.task = None
            effect()
            node.finished, node.due = TaskResult(kind), self.now

    # -- one beat ----------------------------------------------------------------------------------------------------------

    def _beat(self, node: Node) -> None:
        steps = heartbeat(fresh_world(node.memory, node.settings, self._view(node), Instant(self.now), self.now))
        action, at = next(steps)
        while True:
            node.memory = at.memory
            outcome = self._perform(node, action, at)
            self._check()
            try:
                action, at = steps.send(outcome)
            except StopIteration as ended:
                beat: Beat = ended.value
                break
        node.memory, node.finished = beat.world.memory, None
        node.due = self.now + min(beat.wake_after or 99.0, beat.world.settings.timing.loop_wait)
        node.trail += [decision.rule for decision in beat.decisions if not decision.rule.startswith(("publish", "upkeep"))]

    def _view(self, node: Node) -> NodeView:
        server = node.server
        if not server.running:
            end = server.position if server.control is ControlState.SHUT_DOWN else None
            found = builders.control(server.control, end, timeline=server.timeline, minimum_recovery=Lsn(server.position))
            found = replace(found, minimum_recovery_timeline=server.timeline)
            view = builders.down(node.role, node.state, found, recovery_files=not server.primary)
        elif server.primary:
            senders = [other.name for other in self.nodes.values() if self.streams_from(other) is server]
            rows = tuple(builders.WalSender(name, "streaming") for name in senders)
            view = builders.primary(server.position, timeline=server.timeline, senders=rows, role=Role.PRIMARY)
        else:
            streaming = self.streams_from(node) is not None
            view = builders.standby(server.position, timeline=server.timeline, streaming=streaming, rewind_possible=True)
        if server.stopping:
            view = builders.silent(view, state=State.STOPPING)
        view = replace(view, at=Instant(self.now), finished=node.finished)
        if node.task is None:
            return view
        kind, ends, _ = node.task
        return replace(view, task=builders.TaskView(kind, Instant(ends - TAKES.get(kind, 2) * TICK_S)))

    def _perform(self, node: Node, action: a.Action, at: World) -> a.Outcome:
        perform = getattr(self, f"_{type(action).__name__}", lambda node, action, at: None)
        try:
            if not node.reaches_store and isinstance(action, STORE_ACTIONS):
                raise StoreUnavailableError("cut off")
            value = perform(node, action, at)
        except StoreUnavailableError as error:
            return a.Outcome(Instant(self.now), ok=False, error=str(error), began=Instant(self.now))
        return a.Outcome(Instant(self.now), value=value, began=Instant(self.now))

    def _ObserveNode(self, node: Node, action: Any, at: World) -> NodeView:
        return self._view(node)

    def _ReadCluster(self, node: Node, action: Any, at: World) -> ClusterReading:
        return ClusterReading(codec.decode(node.store.read(fresh=True, deadline=NEVER)), node.settings)

    def _PollPeers(self, node: Node, action: a.PollPeers, at: World) -> dict[str, PeerView]:
        return {member.name: self._answer(self[member.name]) for member in action.members}

    def _answer(self, other: Node) -> PeerView:
        server = other.server
        if not other.alive:
            return PeerView(other.name, False)
        position = Lsn(server.position if server.running and not server.primary else 0)
        return PeerView(other.name, True, server.writable, position, server.timeline)

    def _CompareTimelines(self, node: Node, action: a.CompareTimelines, at: World) -> LeaderTimeline:
        other = self[action.source.name or ""]
        if not other.alive or not other.server.running:
            raise StoreUnavailableError("no answer")
        switches = tuple((timeline, Lsn(end)) for timeline, end in other.server.switches)
        return LeaderTimeline(other.server.timeline, not other.server.primary, switches)

    def _CompareRecovery(self, node: Node, action: a.CompareRecovery, at: World) -> str:
        wanted = action.upstream.name if action.upstream else None
        return "none" if node.server.upstream == wanted else "reload"

    def _FollowByReload(self, node: Node, action: a.FollowByReload, at: World) -> None:
        node.server.upstream = action.upstream.name if action.upstream else None

    def _ReadHistory(self, node: Node, action: a.ReadHistory, at: World) -> tuple[HistoryEntry, ...]:
        return tuple(HistoryEntry(timeline, Lsn(end), "x") for timeline, end in node.server.switches)

    # -- the store ---------------------------------------------------------------------------------------------------------

    def _AcquireLease(self, node: Node, action: a.AcquireLease, at: World) -> bool:
        return node.store.acquire(force=action.force, deadline=NEVER)

    def _RenewLease(self, node: Node, action: Any, at: World) -> str:
        return node.store.renew({}, deadline=NEVER).value

    def _ReleaseLease(self, node: Node, action: a.ReleaseLease, at: World) -> bool:
        if action.status is not None:
            self._write(node, a.WriteStatus(action.status), at)
        return node.store.release({}, deadline=NEVER)

    def _write(self, node: Node, action: Any, at: World) -> bool:
        key, encode = WRITES[type(action)]
        if not hasattr(action, "version"):
            expect = ANYTHING
        else:
            expect = version(action.version) if action.version else ANYTHING if key is Key.FAILOVER else ABSENT
        return isinstance(node.store.put(key, encode(action), expect=expect, deadline=NEVER), Stored)

    _WriteInitialize = _WriteConfig = _WriteStatus = _WriteHistory = _WriteFailover = _write

    def _Announce(self, node: Node, action: a.Announce, at: World) -> None:
        node.store.announce(codec.compact(dict(action.card)), deadline=NEVER)

    # -- the server --------------------------------------------------------------------------------------------------------

    def _begin(self, node: Node, kind: TaskKind, effect: Callable[[], None]) -> None:
        assert node.task is None, f"{node.name}: {kind} while {node.task}"
        node.task = (kind, self.now + TAKES.get(kind, 2) * TICK_S, effect)

    def _SetRole(self, node: Node, action: a.SetRole, at: World) -> None:
        node.role = action.role

    def _CancelTask(self, node: Node, action: Any, at: World) -> None:
        if node.task is not None:
            node.finished, node.task, node.due = TaskResult(node.task[0], cancelled=True), None, self.now

    def _RunCheckpoint(self, node: Node, action: Any, at: World) -> bool:
        return True

    def _Checkpoint(self, node: Node, action: Any, at: World) -> None:
        self._begin(node, TaskKind.CHECKPOINT, lambda: None)

    def _StopServer(self, node: Node, action: a.StopServer, at: World) -> None:
        server = node.server
        server.stopping = True

        def stopped() -> None:
            if action.mode is a.StopMode.FAST:
                server.position += SHUTDOWN_RECORD if server.primary else 0
                server.control = ControlState.SHUT_DOWN if server.primary else ControlState.SHUT_DOWN_IN_RECOVERY
                self._stream()
            server.running, server.stopping, node.state = False, False, State.STOPPED

        self._begin(node, TaskKind.STOP, stopped)

    def _StartServer(self, node: Node, action: a.StartServer, at: World) -> None:
        def started() -> None:
            node.server.running, node.state, node.role = True, State.RUNNING, action.role
            node.server.primary = action.role is Role.PRIMARY
            node.server.control = ControlState.IN_PRODUCTION if node.server.primary else ControlState.IN_ARCHIVE_RECOVERY
            node.server.upstream = action.upstream.name if action.upstream else None

        self._begin(node, TaskKind.START_PRIMARY if action.after_crash else TaskKind.START, started)

    def _Promote(self, node: Node, action: Any, at: World) -> None:
        def promoted() -> None:
            server = node.server
            server.switches = (*server.switches, (server.timeline, server.position))
            server.timeline, server.primary, server.upstream, node.role = server.timeline + 1, True, None, Role.PRIMARY
            server.control = ControlState.IN_PRODUCTION

        self._begin(node, TaskKind.PROMOTE, promoted)

    def _Rewind(self, node: Node, action: a.Rewind, at: World) -> None:
        def rewound() -> None:
            source = self[action.source.name or ""].server
            node.server = replace(source, running=False, primary=False, control=ControlState.IN_ARCHIVE_RECOVERY, upstream=None)
            node.state = State.STOPPED

        self._begin(node, TaskKind.REWIND, rewound)

    def _Exit(self, node: Node, action: a.Exit, at: World) -> None:
        node.exit, node.alive = action, False


NEVER = Deadline.after(1e9)
WRITES: dict[type, tuple[Key, Callable[[Any], str]]] = {
    a.WriteInitialize: (Key.INITIALIZE, lambda action: action.system_id),
    a.WriteConfig: (Key.CONFIG, lambda action: codec.compact(dict(action.document))),
    a.WriteStatus: (Key.STATUS, lambda action: codec.encode_status(action.status)),
    a.WriteHistory: (Key.HISTORY, lambda action: codec.encode_history(action.entries)),
    a.WriteFailover: (Key.FAILOVER, lambda action: codec.encode_failover(action.leader, action.candidate)),
}
STORE_ACTIONS = (a.ReadCluster, a.AcquireLease, a.RenewLease, a.ReleaseLease, a.Announce, *WRITES)
