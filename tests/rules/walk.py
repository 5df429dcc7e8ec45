"""A tiny deterministic cluster in one process: real heartbeats, rules, codec and store; servers that are a few numbers.

A server has a timeline, a position and a history. A standby streams from a running server of which its
history is a part. What a server was told to do it does, whether its agent lives or not. After every action it is checked that at
most one server is writable under an unexpired lease, and, but in maintenance mode, that at most one is writable at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from pgcore.clock import Deadline
from pgcore.daemon.heartbeat import Beat, heartbeat
from pgcore.dcs import codec
from pgcore.dcs.store import ABSENT, ANYTHING, Key, Stored, version
from pgcore.decide.advance import ClusterReading, fresh_world
from pgcore.errors import PgcoreError, StoreUnavailableError
from pgcore.model import actions as a
from pgcore.model.basics import Instant, Lsn, Role, State, Timing
from pgcore.model.cluster import HistoryEntry
from pgcore.model.node import ControlState, NodeView, TaskKind
from pgcore.model.orders import RestartOrder
from pgcore.model.settings import Settings
from pgcore.model.world import LeaderTimeline, Memory, OwnTimeline, PeerView, World
from pgcore.testing import builders
from pgcore.testing.memory_store import MemoryServer, MemoryStore
from rules.machines import Node, Pending, Server
from rules.walk_servers import TICK_S, Servers

WRITE = 10


class Cluster(Servers):
    """Three nodes, a store, a clock that only ``run`` moves, and a client that writes to every writable server."""

    def __init__(self, timing: Timing = Timing(), seed: int = 0, names: str = "abc") -> None:
        self.now = 100.0
        self.dice = Random(seed)
        self.timelines = 1
        """How many there have been: with a common archive each promotion makes one of its own."""
        self.lenient = False
        """There was a maintenance mode: it leaves unguarded primaries alone, also when their agents are away at its end."""
        self.kv = MemoryServer(lambda: Instant(self.now))
        self.nodes = {name: Node(name, MemoryStore(self.kv, name, timing)) for name in names}
        self.lives = dict.fromkeys(names, 0)
        """How often each server was started."""
        for node in self.nodes.values():
            node.settings = self.settings_of(node.name, timing)
            node.server.upstream = None if node.name == "a" else "a"
        self["a"].server.primary, self["a"].role = True, Role.PRIMARY
        self.acknowledged: dict[str, Server] = {}
        self.handed: tuple[float, str, Server] | None = None
        """When and by whom the lock was last handed over, and what that server had."""
        self.run(1, only="a")
        self.run(12)

    def settings_of(self, name: str, timing: Timing) -> Settings:
        """The configuration of a node."""
        host = f"10.0.0.{ord(name) - 96}"
        urls = {"conn_url": f"postgres://{host}:5432/postgres", "api_url": f"http://{host}:8008/patroni"}
        return Settings(name, "batman", timing, use_slots=False, dynamic={"ttl": timing.ttl}, **urls)

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

    def run(self, seconds: float, only: str = "abcdefgh", until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass, tick by tick."""
        end = self.now + seconds
        while self.now < end and not until():
            self.now += TICK_S
            revision = self.kv.watched_revision
            self._guard()
            for node in self.nodes.values():
                if node.alive:
                    self._serve(node)
            for node in self.nodes.values():
                if node.alive and node.agent and node.name in only:
                    self._finish(node)
                    if node.stalled is not None:
                        self._go_on(node, node.stalled)
                    elif self.now >= node.due or self.kv.watched_revision != revision:
                        self._beat(node)
            self._stream()

    def ask(self, leader: str | None, candidate: str | None) -> None:
        """An operator's request."""
        with self.kv.session() as server:
            server.write(Key.FAILOVER, codec.encode_failover(leader, candidate))
        self[leader or "a"].due = self.now

    def asked(self) -> str:
        """What stands in /failover."""
        return self.kv.entries[Key.FAILOVER].value if Key.FAILOVER in self.kv.entries else ""

    def unsettled(self) -> str:
        """Why it is not as it should be: one leader, everybody follows, no request, nothing under way; empty if it is."""
        leader = self.leader
        if leader is None or self.writable() != [leader]:
            return f"the lock names {leader}, writable: {self.writable()}"
        if self.asked() not in ("", "{}"):
            return f"a request is left: {self.asked()}"
        for node in self.nodes.values():
            if node.name != leader and self.streams_from(node) is not self[leader].server:
                return f"{node.name} does not stream: {node.server}, role {node.role}, {node.memory.rewind}, {node.trail[-4:]}"
            if node.memory.procedure is not None:
                return f"{node.name} is still busy: {node.memory.procedure}"
        return ""

    # -- troubles ----------------------------------------------------------------------------------------------------------

    def crash(self, node: Node) -> None:
        """All processes of the server are killed."""
        if node.server.running:
            node.server.die()
            node.state = State.CRASHED

    def order_restart(self, node: Node, order: RestartOrder = RestartOrder()) -> None:
        """An operator asks for a restart of this server."""
        node.memory, node.due = replace(node.memory, order=replace(order, asked_at=Instant(self.now))), self.now

    def restart_agent(self, node: Node) -> None:
        """The agent was killed and begins anew; a task dies with it, what the server was told stays told."""
        node.memory, node.task, node.finished, node.due, node.exit = Memory(), None, None, self.now, None
        node.stalled = None
        node.store, node.agent = MemoryStore(self.kv, node.name, node.settings.timing), True
        on_disk = Role.PRIMARY if node.server.primary else Role.REPLICA
        if not node.server.running:
            on_disk, node.state = (Role.DEMOTED if node.server.primary else on_disk), State.STOPPED
        node.role = on_disk

    def ask_to_end(self, node: Node) -> None:
        """SIGTERM to the agent."""
        node.memory, node.due = replace(node.memory, stopping=True), self.now

    def reboot(self, node: Node) -> None:
        """The machine comes back: nothing runs, nothing is remembered."""
        node.server.die()
        node.guard_until, node.alive = None, True
        self.restart_agent(node)

    def pause(self, paused: bool) -> None:
        """Maintenance mode for all."""
        self.lenient = self.lenient or paused
        for node in self.nodes.values():
            node.settings = replace(node.settings, paused=paused)

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
        if above is None or not (node.alive and above.alive) or node.cut or above.cut:
            return None
        if not node.server.running or node.server.primary or node.server.stopping:
            return None
        return above.server if above.server.running and above.server.contains(node.server) else None

    def _guard(self) -> None:
        """The guard process: an unproven primary dies at the end of its lease."""
        for node in self.nodes.values():
            if node.alive and node.server.writable and node.guard_until is not None and node.guard_until <= self.now:
                self.crash(node)
                node.trail.append("guard")

    def _arm(self, node: Node, at: World) -> None:
        """As the agent does after every action: a lost lock leaves the old end."""
        if not at.guard_armed:
            node.guard_until = None
        elif at.memory.lease_until is not None:
            node.guard_until = at.memory.lease_until
        elif node.guard_until is None:
            node.guard_until = self.now + at.settings.timing.ttl

    def _check(self) -> None:
        writable = self.writable()
        proven = [name for name in writable if (self[name].memory.lease_until or 0.0) > self.now]
        assert len(proven) <= 1, f"{proven} are writable under a lease at {self.now}"
        guarded = [name for name in writable if (self[name].guard_until or 0.0) > self.now]
        assert self.lenient or len(guarded) <= 1, f"{writable} are writable at {self.now}"

    def _serve(self, node: Node) -> None:
        server = node.server
        ready = [effect for at, effect in server.due if at <= self.now]
        server.due = tuple(each for each in server.due if each[0] > self.now)
        for effect in ready:
            if server.running:
                effect()

    def _finish(self, node: Node) -> None:
        if node.task is not None:
            result = node.task[2]()
            if result is not None:
                node.task, node.finished, node.due = None, result, self.now

    # -- one beat ----------------------------------------------------------------------------------------------------------

    def _beat(self, node: Node) -> None:
        steps = heartbeat(fresh_world(node.memory, node.settings, self._view(node), Instant(self.now), self.now))
        self._go_on(node, Pending(steps, *next(steps)))

    def stalls(self, node: Node) -> bool:
        """Between two actions of a beat the agent is not scheduled for a while."""
        return False

    def noted(self, node: Node, at: World, *, over: bool = False) -> None:
        """What the heartbeat knows by now, before its next action or at its end."""

    def _go_on(self, node: Node, pending: Pending) -> None:
        node.stalled = None
        steps, action, at = pending.steps, pending.action, pending.at
        while True:
            node.memory = at.memory
            self._arm(node, at)
            self.noted(node, at)
            if self.stalls(node):
                node.stalled = Pending(steps, action, at)
                return
            outcome = self._perform(node, action, at)
            self._check()
            try:
                action, at = steps.send(outcome)
            except StopIteration as ended:
                beat: Beat = ended.value
                break
        node.memory, node.finished = beat.world.memory, None
        self._arm(node, beat.world)
        self.noted(node, beat.world, over=True)
        self._check()
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
            view = builders.primary(server.position, timeline=server.timeline, senders=rows, role=node.role)
        else:
            streaming = self.streams_from(node) is not None
            view = builders.standby(server.position, timeline=server.timeline, streaming=streaming, rewind_possible=True)
            view = replace(view, role=node.role)
        if server.stopping:
            view = builders.silent(view, state=State.STOPPING)
        view = replace(view, at=Instant(self.now), finished=node.finished)
        if node.task is None:
            return view
        progress = {} if server.ended is None or node.task[0] is not TaskKind.STOP else {"shut_down_end": server.ended}
        return replace(view, task=builders.TaskView(node.task[0], Instant(node.task[1]), progress))

    def _perform(self, node: Node, action: a.Action, at: World) -> a.Outcome:
        perform = getattr(self, f"_{type(action).__name__}", lambda node, action, at: None)
        began = Instant(self.now)
        try:
            if isinstance(action, STORE_ACTIONS) and not node.reaches_store:
                raise StoreUnavailableError("cut off")
            value = perform(node, action, at)
            if isinstance(action, STORE_ACTIONS) and self.dice.random() < node.flaky:
                raise StoreUnavailableError("no answer")
        except PgcoreError as error:
            return a.Outcome(began, ok=False, error=str(error), began=began)
        return a.Outcome(began, value=value, began=began)

    def _ObserveNode(self, node: Node, action: Any, at: World) -> NodeView:
        return self._view(node)

    def _ReadCluster(self, node: Node, action: Any, at: World) -> ClusterReading:
        return ClusterReading(codec.decode(node.store.read(fresh=True, deadline=NEVER)), node.settings)

    def _PollPeers(self, node: Node, action: a.PollPeers, at: World) -> dict[str, PeerView]:
        return {member.name: self._answer(node, self[member.name]) for member in action.members}

    def _answer(self, node: Node, other: Node) -> PeerView:
        server = other.server
        if not (other.alive and other.agent) or node.mute or other.mute:
            return PeerView(other.name, False)
        if not server.running or server.stopping:
            return PeerView(other.name, False, starting=not server.running and other.state in STARTING)
        position = Lsn(0 if server.primary else server.position)
        return PeerView(other.name, True, server.primary, position, server.timeline)

    def _CompareTimelines(self, node: Node, action: a.CompareTimelines, at: World) -> LeaderTimeline:
        other = self[action.source.name or ""]
        if not other.alive or not other.server.running or other.server.stopping or node.cut or other.cut:
            raise StoreUnavailableError("no answer")
        theirs, mine = (tuple((timeline, Lsn(end)) for timeline, end in each.server.switches) for each in (other, node))
        return LeaderTimeline(other.server.timeline, not other.server.primary, theirs, OwnTimeline(node.server.timeline, mine))

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
        released = node.store.release({}, deadline=NEVER)
        if released and action.status is not None and f'"leader":"{node.name}"' in self.asked():
            self.handed = (self.now, node.name, replace(node.server))
        return released

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


NEVER = Deadline.after(1e9)
STARTING = (State.STARTING, State.RESTARTING, State.CRASHED, State.STOPPED)
WRITES: dict[type, tuple[Key, Callable[[Any], str]]] = {
    a.WriteInitialize: (Key.INITIALIZE, lambda action: action.system_id),
    a.WriteConfig: (Key.CONFIG, lambda action: codec.compact(dict(action.document))),
    a.WriteStatus: (Key.STATUS, lambda action: codec.encode_status(action.status)),
    a.WriteHistory: (Key.HISTORY, lambda action: codec.encode_history(action.entries)),
    a.WriteFailover: (Key.FAILOVER, lambda action: codec.encode_failover(action.leader, action.candidate)),
}
STORE_ACTIONS = (a.ReadCluster, a.AcquireLease, a.RenewLease, a.ReleaseLease, a.Announce, a.WriteSync, a.DropSync,
                 a.WriteFailsafe, *WRITES)
