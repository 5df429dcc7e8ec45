"""A cluster with synchronous replication as a model: servers with logs, a store with versions, agents that go by the real rules.

What the agents do is decided by the real rules on a world made of the model, and remembered by the real ``advance``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pgcore.decide import MAIN, decide, sync_quorum, synchronous
from pgcore.decide.advance import advance
from pgcore.decide.advance.synchronous import looked
from pgcore.decide.election import Claim, is_ahead, verdict
from pgcore.decide.sync_candidates import Picture
from pgcore.decide.sync_names import parse
from pgcore.model import actions as a
from pgcore.model.actions import Action, Outcome, Phase
from pgcore.model.basics import Instant, Lsn, Role
from pgcore.model.cluster import SyncView
from pgcore.model.decision import Decision
from pgcore.model.node import ControlState, NodeView, WalSender
from pgcore.model.synchronous import OFF, Kind, Names, StandbyNames, SyncMemory, render
from pgcore.model.world import LeaseState, PeerView, World
from pgcore.testing.builders import NOW, control, demotion, down, member, peer, peers, primary, request, standby, view, world

NODES = "abcdef"


@dataclass
class Node:
    """A server: its log as a list of commits, what it waits for if it is the primary, and the timeline it knows of."""

    log: list[int] = field(default_factory=list)
    names: Names = OFF
    effective: Names = OFF
    """What commits really wait by: the processes of a server take new names over some time after they are shown."""
    connected: bool = False
    timeline: int = 1
    memory: SyncMemory = field(default_factory=SyncMemory)


@dataclass
class Cluster:
    """The model. ``confirmed`` is the number of commits of the primary's log a client was told of."""

    mode: str
    size: int
    wanted: int = 1
    strict: bool = False
    primary: str = "a"
    timeline: int = 1
    nodes: dict[str, Node] = field(default_factory=dict)
    sync: SyncView = field(default_factory=SyncView)
    version: int = 0
    confirmed: list[int] = field(default_factory=list)
    commits: int = 0
    nosync: set[str] = field(default_factory=set)
    seen: World | None = None
    late: list[tuple[str | None, SyncView]] = field(default_factory=list)
    down: bool = False
    """The primary lost the lock to a node that has not promoted itself, so nothing is confirmed and nobody decides."""
    stopped_in_order: bool = False
    """The primary is ``down`` after a hand-over: no commit can follow, so the names protect nothing any more."""
    moved: bool = True
    """``/sync`` moved to the primary before its promotion; else it is assumed that the leader it names does not come back."""

    def __post_init__(self) -> None:
        self.nodes = {n: Node() for n in NODES[: self.size]}

    @property
    def me(self) -> Node:
        return self.nodes[self.primary]

    @property
    def number(self) -> int:
        """Synchronous standbys wanted, at least one when strict."""
        return max(self.wanted, int(self.strict))

    # -- PostgreSQL --------------------------------------------------------------------------------------

    def commit(self) -> None:
        if self.down:
            return
        self.commits += 1
        self.me.log.append(self.commits)
        self.confirm()

    def replicate(self, name: str, number: int) -> None:
        node = self.nodes[name]
        if name != self.primary and node.connected and not self.down:
            node.log.extend(self.me.log[len(node.log) : len(node.log) + number])
            self.confirm()

    def toggle(self, name: str) -> None:
        """Disconnect; or connect, after what is not in the primary's history was rewound."""
        node = self.nodes[name]
        if name == self.primary:
            return
        node.connected = not node.connected
        if node.connected:
            same = 0
            while same < min(len(node.log), len(self.me.log)) and node.log[same] == self.me.log[same]:
                same += 1
            node.log, node.timeline = node.log[:same], self.timeline

    def confirm(self) -> None:
        """Clients are told of every commit that enough standbys have."""
        names = self.me.effective
        if names.placeholder or self.down:
            return
        count = 0 if names.kind is Kind.OFF else names.count
        has = sorted((len(n.log) for name, n in self.nodes.items() if n.connected and name in names.names), reverse=True)
        reached = len(self.me.log) if count == 0 else (has[count - 1] if len(has) >= count else 0)
        if reached > len(self.confirmed):
            self.confirmed = self.me.log[:reached]

    # -- the agent of the primary ------------------------------------------------------------------------

    def in_force(self) -> None:
        """Every process has taken the names over."""
        self.me.effective = self.me.names
        self.confirm()

    def world(self, name: str, node: NodeView, **facts: object) -> World:
        """What the agent of this node sees, holding the lock, in the settings of now."""
        cards = tuple(member(n, tags={"nosync": n in self.nosync}) for n in self.nodes)
        known = {"name": name, "lease": LeaseState.HELD, "lease_until": Instant(NOW + 30), "sync": self.nodes[name].memory}
        mode = {"synchronous_mode": self.mode, "synchronous_mode_strict": self.strict, "synchronous_node_count": self.wanted}
        failover = facts.pop("failover", None)
        return world(node, view(name, *cards, sync=self.sync, failover=failover), **known | mode | facts)

    def look(self, fresh: bool = False) -> Picture:
        """A new beat of the primary's agent begins: what decides the next step, as it is now."""
        me = self.me
        names = StandbyNames(render(me.names), in_force=me.effective == me.names, ours=True)
        senders = tuple(self.sender(n) for n, node in self.nodes.items() if node.connected)
        node = primary(len(me.log), timeline=self.timeline, postmaster_start="s", senders=senders, names=names)
        memory = looked(me.memory, node, NOW)
        assert memory.serving is not None
        me.memory = replace(memory, serving=(memory.serving[0], NOW if fresh else Instant(NOW - 100)))
        self.seen = self.world(self.primary, node)
        picture = synchronous.picture(self.seen)
        assert picture is not None
        return picture

    def sender(self, name: str) -> WalSender:
        names = self.me.names
        state = "async"
        if name in names.names:
            connected = [n for n in names.names if n in self.nodes and self.nodes[n].connected]
            state = "quorum" if names.kind is Kind.ANY else "sync" if name in connected[: names.count] else "potential"
        return WalSender(name, "streaming", sync_state=state, flush=Lsn(len(self.nodes[name].log)))

    def step(self, fate: str = "done") -> Decision | None:
        """One step, decided by the last look however old it is. ``late``: unanswered, it may arrive; ``lost``: it will not."""
        seen, self.seen = self.seen, None
        if seen is None or self.down:
            return None
        decision = synchronous.synchronous_step(seen)
        for action in decision.actions if decision else ():
            outcome = self.perform(self.me, action, fate)
            if seen.me == self.primary:
                now = replace(seen, memory=replace(seen.memory, sync=self.me.memory))
                self.me.memory = advance(now, action, outcome).memory.sync
        return decision

    def perform(self, node: Node, action: Action, fate: str = "done") -> Outcome:
        """What becomes of a step, and how it is answered."""
        if isinstance(action, a.SetStandbyNames):
            if fate != "lost":
                node.names = parse(action.text)
            return Outcome(NOW, ok=fate == "done", value=False)
        assert isinstance(action, a.WriteSync), action
        value = SyncView(None, action.leader, action.standbys, action.quorum)
        if fate == "done":
            return Outcome(NOW, value=self.sync.version if self.write(action.version, value) else None)
        self.late += [(action.version, value)] * (fate == "late")
        return Outcome(NOW, ok=False)

    def write(self, version: str | None, value: SyncView) -> bool:
        """Conditional on the version, as every write to ``/sync``."""
        if version != self.sync.version:
            return False
        self.version, self.moved = self.version + 1, True
        self.sync = replace(value, version=str(self.version))
        return True

    def arrive(self) -> None:
        if self.late:
            self.write(*self.late.pop(0))

    # -- promotion ---------------------------------------------------------------------------------------

    def may_lead(self, name: str) -> bool:
        """The race of HA rules 15.3 with the most helpful set of reachable peers; nobody on an old timeline takes part."""
        node, sync = self.nodes[name], self.sync
        if not sync.active or node.timeline < self.timeline:
            return False
        if name == sync.leader and not self.moved and name != self.primary:
            return False
        claim = Claim(name, Lsn(len(node.log)), node.timeline)
        others = [peer(n, len(each.log), timeline=each.timeline) for n, each in self.nodes.items() if n != name]
        return verdict(claim, sync, self.mode, [each for each in others if not is_ahead(claim, each)]).may_lead

    def forget(self) -> None:
        """The agent is started anew."""
        self.me.memory, self.seen = SyncMemory(), None

    def promote(
        self, name: str, crash_after: int, elected: bool = True, disturbed: bool = False, *zombie: tuple[object, ...]
    ) -> None:
        """By the votes, or by an operator's order; the agent may crash between its writes, others may arrive between them.

        ``zombie``: what the old primary and its agent still do after the race was won, as if nothing guarded its lease.
        """
        if (name == self.primary and not self.down) or not self.may_lead(name):
            return
        elected = elected or self.mode == "on"
        order = None if elected else request(None, name)
        node, won = self.nodes[name], self.sync.version if elected else None
        for event in zombie:
            happen(self, event)
        self.down, self.seen = True, None
        for _ in range(crash_after):
            if disturbed:
                self.arrive()
            names = StandbyNames(render(node.names), ours=True)
            seen = self.world(name, standby(len(node.log), names=names), elected=won, failover=order, fresh=True)
            decision = decide(MAIN, seen)
            while decision is not None and isinstance(decision.actions[-1], a.PollPeers | a.NoteProof):
                seen = advance(seen, decision.actions[-1], Outcome(NOW, value=self.answers(node)))
                decision = decide(MAIN, seen)
            assert decision is not None
            *_, action = decision.actions
            if isinstance(action, a.ReleaseLease):
                assert elected and won != self.sync.version, decision
                return
            if isinstance(action, a.Promote):
                break
            after = advance(seen, action, self.perform(node, action))
            won, node.memory = after.memory.elected, after.memory.sync
        else:
            return
        for each in self.nodes.values():
            each.connected = False
        # What it sent when it led before may still arrive.
        node.memory = replace(node.memory, undecided=node.memory.undecided or name == self.primary, anchor=None, serving=None)
        self.primary, self.timeline, self.down, self.stopped_in_order = name, self.timeline + 1, False, False
        self.me.timeline, self.me.effective, self.moved = self.timeline, node.names, elected
        if not elected:
            self.late.clear()

    def answers(self, node: Node) -> dict[str, PeerView]:
        """The most helpful ones: whoever has more does not answer."""
        others = {n: each for n, each in self.nodes.items() if each is not node and len(each.log) <= len(node.log)}
        return {n: peer(n, len(each.log)) for n, each in others.items()}

    # -- hand-over ---------------------------------------------------------------------------------------

    def hand_over(self, resume: bool, fates: list[str]) -> None:
        """The primary stops in order and vouches for who has everything; then it is gone, or serves again as nobody came."""
        end = len(self.me.log)
        if self.down or not end or self.sync.leader != self.primary:
            return
        self.down, self.stopped_in_order, self.seen = True, True, None
        for phase in (Phase.HANDOVER, Phase.RESUME) if resume else (Phase.HANDOVER,):
            for fate in fates:
                action = self.stopped(phase, end)
                if not isinstance(action, a.WriteSync):
                    break
                seen = self.world(self.primary, down(Role.PRIMARY))
                self.me.memory = advance(seen, action, self.perform(self.me, action, fate)).memory.sync
        if resume and isinstance(self.stopped(Phase.RESUME, end), a.StartServer):
            self.down, self.stopped_in_order, self.me.effective = False, False, self.me.names
            for each in self.nodes.values():
                each.connected = False

    def stopped(self, phase: Phase, end: int) -> Action | None:
        """What the agent of the stopped primary does next; every standby answers."""
        others = {n: node for n, node in self.nodes.items() if n != self.primary}
        answers = peers(*(peer(n, len(node.log), timeline=node.timeline) for n, node in others.items()))
        under_way = demotion(a.DemoteMode.GRACEFUL, phase, *others, end=Lsn(end))
        server = down(Role.PRIMARY, found=control(ControlState.SHUT_DOWN, end, timeline=self.timeline))
        decision = decide(MAIN, self.world(self.primary, server, procedure=under_way, peers=answers))
        return next(iter(decision.actions), None) if decision is not None else None

    # -- what must hold ----------------------------------------------------------------------------------

    def check(self) -> None:
        """Whoever may lead has every confirmed commit; the state is safe by HA rules 19.1 and 20.2."""
        for name, node in self.nodes.items():
            if self.may_lead(name):
                assert node.log[: len(self.confirmed)] == self.confirmed, f"{name} may lead without a confirmed commit: {self}"
        mine = self.sync.leader == self.primary and not self.stopped_in_order
        if mine:
            assert sync_quorum.is_safe(self.primary, self.sync, self.me.names), self
        if mine and self.sync.quorum == 0 and not self.me.names.placeholder:
            assert set(self.sync.standbys) <= set(self.me.names.names), self


def happen(cluster: Cluster, event: tuple) -> None:
    """One event. Nodes are given by number."""
    kind, *values = event
    nodes = list(cluster.nodes)
    if kind in ("replicate", "toggle", "nosync", "promote"):
        values[0] = nodes[values[0] % len(nodes)]
    match kind:
        case "write":
            cluster.step(*values)
        case "beat":
            cluster.look()
            cluster.step()
        case "settle":
            settle(cluster, 20)
        case "connect":
            for number, name in enumerate(nodes):
                if cluster.nodes[name].connected != (number in values[0]):
                    cluster.toggle(name)
        case "wanted":
            cluster.wanted = values[0]
        case "strict":
            cluster.strict = not cluster.strict
        case "mode":
            cluster.mode, cluster.seen = "quorum" if cluster.mode == "on" else "on", None
        case "nosync":
            cluster.nosync ^= {values[0]}
        case _:
            getattr(cluster, kind)(*values)


def settle(cluster: Cluster, limit: int) -> int:
    """Beats until nothing is written twice in a row; standbys catch up meanwhile. The number of writes."""
    writes = quiet = 0
    while quiet < 3:
        for name in cluster.nodes:
            cluster.replicate(name, 1000)
        cluster.in_force()
        cluster.look()
        step = cluster.step()
        cluster.check()
        quiet = quiet + 1 if step is None or not step.actions else 0
        writes += quiet == 0
        if writes >= limit:
            break
    return writes
