"""A walk with synchronous replication: streams that lag, commits that wait, and the promise that none that was told is lost.

A commit is acknowledged when as many of the named standbys have it as the names in force ask for. From then on every server
that begins to accept writes must have it, unless an operator has forced a failover. Agents stall in the middle of a beat, and a
write to ``/sync`` without an answer may arrive much later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pgcore.dcs import codec
from pgcore.dcs.store import ABSENT, Key, Refused, Stored, version
from pgcore.decide.sync_names import parse
from pgcore.errors import StoreUnavailableError
from pgcore.model import actions as a
from pgcore.model.basics import Lsn, Role, Timing
from pgcore.model.node import NodeView, WalSender
from pgcore.model.settings import Settings
from pgcore.model.synchronous import Kind, StandbyNames
from pgcore.model.world import World
from rules.machines import Node, Server
from rules.walk import NEVER, WRITE, Cluster
from rules.walk_servers import TICK_S

NAMES = "abcd"


@dataclass(slots=True)
class Waiting:
    """``synchronous_standby_names`` of one server: in its files and as shown, and as its processes go by them."""

    shown: str = ""
    in_force: str = ""
    due: float = 0.0

    @property
    def settled(self) -> bool:
        """Every process goes by what is shown."""
        return self.shown == self.in_force


@dataclass(slots=True)
class Promise:
    """The newest commit that a client was told of, and who told it."""

    server: Server
    by: str
    at: float


class SyncCluster(Cluster):
    """Four nodes in ``mode``.

    ``stalling``: how often an agent stands still between two actions. ``late``: how often an unanswered write to ``/sync``
    arrives later instead of at once.
    """

    stalling = 0.0
    late = 0.0

    def __init__(self, mode: str, *, count: int = 1, strict: bool = False, seed: int = 0) -> None:
        self.waiting = {name: Waiting() for name in NAMES}
        self.lag = 0.0
        """How often a standby receives nothing in a tick."""
        self.lags: dict[str, float] = {}
        """The same for single standbys."""
        self.promise: Promise | None = None
        self.forced = False
        self.acknowledging = 0
        self._delayed: list[tuple[float, Callable[[], None]]] = []
        self._mode = {"synchronous_mode": mode, "synchronous_node_count": count, "synchronous_mode_strict": strict}
        super().__init__(Timing(), seed, names=NAMES)

    def set_mode(self, **changes: Any) -> None:
        """Change the settings of synchronous replication on every node."""
        for node in self.nodes.values():
            node.settings = replace(node.settings, **changes)

    def lists(self, name: str) -> bool:
        """The name stands in ``/sync``."""
        return Key.SYNC in self.kv.entries and name in self.kv.entries[Key.SYNC].value.partition("sync_standby\":")[2]

    def settings_of(self, name: str, timing: Timing) -> Settings:
        """With synchronous replication as wanted."""
        return replace(super().settings_of(name, timing), **self._mode)

    # -- what streams, what is acknowledged --------------------------------------------------------------------------------

    def _stream(self) -> None:
        self._arrive()
        for name, waiting in self.waiting.items():
            if not waiting.settled and self.now >= waiting.due and self[name].server.running:
                waiting.in_force = waiting.shown
        for node in self.nodes.values():
            if node.alive and node.server.writable:
                node.server.position += WRITE
        for node in self.nodes.values():
            above = self.streams_from(node)
            if above is not None and self.dice.random() >= self.lags.get(node.name, self.lag):
                node.server.position, node.server.timeline = above.position, above.timeline
                node.server.switches = above.switches
        for node in self.nodes.values():
            if node.alive and node.server.writable:
                self._acknowledge(node)

    def _acknowledge(self, node: Node) -> None:
        """Clients of this server are told of all that enough standbys have."""
        confirmed = self._confirmed(node)
        if confirmed is None or not self._promised():
            return
        told = until(node.server, confirmed)
        if self.promise is not None and not self.forced:
            before = self.promise
            assert told.contains(before.server) or before.server.contains(told), (
                f"{node.name} acknowledges {told}, but {before.by} had acknowledged {before.server} at {before.at}")
        if self.promise is None or told.contains(self.promise.server):
            self.acknowledging += self.promise is None or told.position > self.promise.server.position
            self.promise = Promise(told, node.name, self.now)

    def _promised(self) -> bool:
        """Synchronous replication is in force: from then on commits are promised."""
        return Key.SYNC in self.kv.entries

    def _confirmed(self, node: Node) -> int | None:
        """Up to where commits are acknowledged; None: none is."""
        names = parse(self.waiting[node.name].in_force)
        if names.kind is Kind.OFF:
            return node.server.position
        positions = sorted((self[name].server.position for name in names.names
                            if name in self.nodes and self.streams_from(self[name]) is node.server), reverse=True)
        return positions[names.count - 1] if 0 < names.count <= len(positions) else None

    def _judge_writable(self, node: Node) -> None:
        """It begins to accept writes: whatever clients were told of must be there."""
        promise = self.promise
        if promise is None or self.forced:
            return
        assert node.server.contains(promise.server), (
            f"{node.name} begins to accept writes with {node.server}, "
            f"but {promise.by} acknowledged {promise.server} at {promise.at}")

    def _judge_promotion(self, node: Node) -> None:
        super()._judge_promotion(node)
        self._judge_writable(node)

    def ask(self, leader: str | None, candidate: str | None) -> None:
        self.forced = self.forced or leader is None
        super().ask(leader, candidate)

    # -- what a node sees and does -----------------------------------------------------------------------------------------

    def _view(self, node: Node) -> NodeView:
        view = super()._view(node)
        waiting = self.waiting[node.name]
        names = StandbyNames(waiting.shown, in_force=waiting.settled, ours=bool(waiting.shown))
        if not node.server.running:
            return view
        senders = self._senders(node) if node.server.primary else ()
        return replace(view, names=names, senders=senders, postmaster_start=f"{node.name} {self.lives[node.name]}")

    def _senders(self, node: Node) -> tuple[WalSender, ...]:
        names = parse(self.waiting[node.name].in_force)
        rows, left = [], names.count
        for other in self.nodes.values():
            if self.streams_from(other) is not node.server:
                continue
            state = "async"
            if other.name in names.names:
                state = "quorum" if names.kind is Kind.ANY else "sync" if left > 0 else "potential"
                left -= 1
            at = Lsn(other.server.position)
            rows.append(WalSender(other.name, "streaming", sync_state=state, write=at, flush=at, replay=at))
        return tuple(rows)

    def _SetStandbyNames(self, node: Node, action: a.SetStandbyNames, at: World) -> bool:
        return self._show(node, action.text)

    def _RestoreStandbyNames(self, node: Node, action: a.RestoreStandbyNames, at: World) -> bool:
        return self._show(node, action.own)

    def _show(self, node: Node, text: str) -> bool:
        waiting = self.waiting[node.name]
        waiting.shown, waiting.due = text, self.now + self.dice.choice((0, 1, 2)) * TICK_S
        if self.now >= waiting.due:
            waiting.in_force = text
        return waiting.settled

    def _StartServer(self, node: Node, action: a.StartServer, at: World) -> None:
        super()._StartServer(node, action, at)
        if action.role is not Role.PRIMARY:
            self.waiting[node.name] = Waiting()

    def started(self, node: Node) -> None:
        """A server that is started anew goes by what its files say."""
        super().started(node)
        waiting = self.waiting[node.name]
        waiting.in_force = waiting.shown
        if node.server.primary:
            self._judge_writable(node)

    # -- the store ---------------------------------------------------------------------------------------------------------

    def _WriteSync(self, node: Node, action: a.WriteSync, at: World) -> str | None:
        expect = version(action.version) if action.version else ABSENT
        text = codec.encode_sync(action.leader, action.standbys, action.quorum)
        store = node.store

        def put() -> Stored | Refused:
            return store.put(Key.SYNC, text, expect=expect, deadline=NEVER)

        if self.dice.random() < node.flaky * self.late:
            self._delayed.append((self.now + self.dice.choice((0.5, 2.0, 8.0, 40.0)), put))
            raise StoreUnavailableError("no answer")
        stored = put()
        return stored.version if isinstance(stored, Stored) else None

    def _DropSync(self, node: Node, action: a.DropSync, at: World) -> bool:
        return not isinstance(node.store.delete(Key.SYNC, expect=version(action.version), deadline=NEVER), Refused)

    def _arrive(self) -> None:
        if not self.kv.reachable:
            return
        ready = [put for at, put in self._delayed if at <= self.now]
        self._delayed = [each for each in self._delayed if each[0] > self.now]
        for put in ready:
            put()

    # -- agents that stall -------------------------------------------------------------------------------------------------

    def stalls(self, node: Node) -> bool:
        """Sometimes."""
        return self.dice.random() < self.stalling

    def unsettled(self) -> str:
        why, leader = super().unsettled(), self.leader
        if why or leader is None:
            return why
        sync = codec.decode(self[leader].store.read(fresh=True, deadline=NEVER)).sync
        settings = self[leader].settings
        wanted = min(settings.synchronous_node_count, len(NAMES) - 1)
        if settings.synchronous_mode != "off" and (sync.leader != leader or len(sync.standbys) < wanted):
            return f"/sync is {sync}, names {self.waiting[leader]}"
        return ""


def until(server: Server, position: int) -> Server:
    """What this server had when it was there: before a switch the timeline was an older one."""
    passed = tuple(switch for switch in server.switches if switch[1] < position)
    newest = server.switches[len(passed)][0] if len(passed) < len(server.switches) else server.timeline
    return replace(server, position=position, timeline=newest, switches=passed)
