"""The promise of synchronous replication, checked in whole histories: no node that may be promoted lacks a confirmed commit.

A model of a cluster in which everything may happen at any moment: commits, standbys that lag, come and go, other settings,
another mode, an agent that forgets, writes that arrive late, promotions by the votes of HA rules 15.3. After every event each
node that ``/sync`` would let lead, with whatever peers it reaches, is asked whether it has every confirmed commit.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgcore.decide import sync_priority, sync_quorum
from pgcore.decide.sync_candidates import (
    Anchor,
    Candidate,
    Picture,
    anchored,
    choose_any,
    choose_first,
    preferred,
    proven_any,
    proven_first,
)
from pgcore.decide.sync_names import OFF, Kind, Names, SetNames, Step, Wait, WriteSync, any_of, first_of
from pgcore.model.basics import Lsn
from pgcore.model.cluster import SyncView

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
    anchor: Anchor | None = None


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
    picture: Picture | None = None
    undecided: bool = False
    late: list[tuple[str | None, SyncView]] = field(default_factory=list)
    down: bool = False
    """The primary lost the lock to a node that has not promoted itself, so nothing is confirmed and nobody decides."""
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

    def look(self, fresh: bool = False) -> Picture:
        """Everything the step functions need, as it is now."""
        me = self.me
        me.anchor = anchored(me.anchor, me.names, str(me.timeline), Lsn(len(me.log)), me.effective == me.names)
        standbys = [self.candidate(n) for n in self.nodes if n not in self.nosync and self.nodes[n].connected]
        best = preferred(standbys, me.names, -1, Lsn(len(me.log)))
        wanted = self.number
        if self.mode == "on":
            chosen, proven = choose_first(best, wanted), proven_first(standbys, me.anchor, self.sync, self.primary)
        else:
            chosen, proven = choose_any(best, wanted), proven_any(standbys, me.anchor)
        self.picture = Picture(self.primary, self.sync, me.names, chosen, proven, wanted, self.strict, fresh, self.undecided)
        return self.picture

    def candidate(self, name: str) -> Candidate:
        names = self.me.names
        state = "async"
        if name in names.names:
            connected = [n for n in names.names if n in self.nodes and self.nodes[n].connected]
            state = "quorum" if names.kind is Kind.ANY else "sync" if name in connected[: names.count] else "potential"
        return Candidate(name, Lsn(len(self.nodes[name].log)), state)

    def step(self, fate: str = "done") -> Step | None:
        """One write, decided by the last look however old it is. ``late``: unanswered, it may arrive; ``lost``: it will not."""
        picture, self.picture = self.picture, None
        if picture is None or self.down:
            return None
        step = sync_priority.next_step(picture) if self.mode == "on" else sync_quorum.next_step(picture)
        if isinstance(step, SetNames) and fate != "lost":
            self.me.names = step.names
        elif isinstance(step, WriteSync):
            value = SyncView(None, step.leader, step.standbys, step.quorum)
            if fate == "done":
                self.undecided = not self.write(picture.sync.version, value) and self.undecided
            else:
                self.undecided = True
                self.late += [(picture.sync.version, value)] * (fate == "late")
        return step

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
        inside = {sync.leader, *sync.standbys}
        if not sync.active or node.timeline < self.timeline:
            return False
        if self.mode == "on" and sync.quorum == 0:
            return name in inside
        votes = sum(1 for n in inside if n and n in self.nodes and n != name and 0 < len(self.nodes[n].log) <= len(node.log))
        alone = name == sync.leader and (self.moved or name == self.primary)
        return alone or votes >= sync.quorum + (name not in inside)

    def forget(self) -> None:
        """The agent is started anew."""
        self.me.anchor = self.picture = None
        self.undecided = True

    def promote(self, name: str, crash_after: int, elected: bool = True) -> None:
        """By the votes; the agent may crash between the writes before the promotion."""
        if (name == self.primary and not self.down) or not self.may_lead(name):
            return
        self.down, self.picture = True, None
        elected = elected or self.mode == "on"
        names = self.nodes[name].names
        for _ in range(crash_after):
            step = (
                sync_priority.before_promotion(name, self.sync, names, self.strict)
                if self.mode == "on"
                else sync_quorum.before_promotion(name, self.sync, names, self.strict, elected)
            )
            if step is None:
                break
            if isinstance(step, SetNames):
                names = self.nodes[name].names = step.names
            elif isinstance(step, WriteSync):
                self.write(self.sync.version, SyncView(None, step.leader, step.standbys, step.quorum))
        else:
            return
        for node in self.nodes.values():
            node.connected = False
        self.undecided = name == self.primary  # what it sent before may still arrive
        self.primary, self.timeline, self.down = name, self.timeline + 1, False
        self.me.timeline, self.me.effective, self.moved = self.timeline, names, elected
        if not elected:
            self.late.clear()

    # -- what must hold ----------------------------------------------------------------------------------

    def check(self) -> None:
        """Whoever may lead has every confirmed commit; the state is safe by HA rules 19.1 and 20.2."""
        for name, node in self.nodes.items():
            if self.may_lead(name):
                assert node.log[: len(self.confirmed)] == self.confirmed, f"{name} may lead without a confirmed commit: {self}"
        mine = self.sync.leader == self.primary
        if mine:
            assert sync_quorum.is_safe(self.primary, self.sync, self.me.names), self
        if mine and self.sync.quorum == 0 and not self.me.names.placeholder:
            assert set(self.sync.standbys) <= set(self.me.names.names), self


NUMBER = st.integers(0, 5)
EVENTS = st.one_of(
    st.tuples(st.just("commit")),
    st.tuples(st.just("replicate"), NUMBER, st.integers(1, 3)),
    st.tuples(st.just("replicate"), NUMBER, st.just(1000)),
    st.tuples(st.just("toggle"), NUMBER),
    st.tuples(st.just("connect"), st.frozensets(NUMBER)),
    st.tuples(st.just("look"), st.booleans()),
    st.tuples(st.just("write"), st.sampled_from(["done", "done", "done", "late", "lost"])),
    st.tuples(st.just("beat")),
    st.tuples(st.just("beat")),
    st.tuples(st.just("beat")),
    st.tuples(st.just("in_force")),
    st.tuples(st.just("settle")),
    st.tuples(st.just("arrive")),
    st.tuples(st.just("wanted"), st.integers(0, 4)),
    st.tuples(st.just("strict")),
    st.tuples(st.just("mode")),
    st.tuples(st.just("nosync"), NUMBER),
    st.tuples(st.just("forget")),
    st.tuples(st.just("promote"), NUMBER, st.integers(1, 4), st.booleans()),
)


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
            cluster.mode, cluster.picture = "quorum" if cluster.mode == "on" else "on", None
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
        quiet = quiet + 1 if step is None or isinstance(step, Wait) else 0
        writes += quiet == 0
        if writes >= limit:
            break
    return writes


HISTORY = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@HISTORY
@given(st.sampled_from(["on", "quorum"]), st.integers(2, 6), st.integers(1, 3), st.lists(EVENTS, min_size=30, max_size=100))
def test_whoever_may_lead_has_every_confirmed_commit(
    mode: str,
    size: int,
    wanted: int,
    events: list[tuple],
) -> None:
    """EC 118-120, 142, 143, 145"""
    cluster = Cluster(mode, size, wanted)
    for name in list(cluster.nodes)[1:]:
        cluster.toggle(name)
    settle(cluster, 30)
    for event in events:
        happen(cluster, event)
        cluster.check()


@HISTORY
@given(st.sampled_from(["on", "quorum"]), st.integers(2, 6), st.integers(1, 3), st.lists(EVENTS, min_size=5, max_size=40))
def test_a_history_settles_once_nothing_changes(
    mode: str,
    size: int,
    wanted: int,
    events: list[tuple],
) -> None:
    """Also that the goal is reached: all named ones vote, with the quorum of HA rules 20.1."""
    cluster = Cluster(mode, size, wanted)
    for event in events:
        happen(cluster, event)
    cluster.late.clear()
    for name in cluster.nodes:
        if cluster.down:
            cluster.promote(name, 4)
    assert settle(cluster, 40) < 40
    picture = cluster.look()
    sync, names = cluster.sync, cluster.me.names
    chosen, count = set(picture.chosen), min(cluster.number, len(picture.chosen))
    if not chosen and cluster.strict:
        assert names.placeholder or set(names.names) == set(sync.standbys)
        return
    assert set(sync.standbys) == set(names.names) == (chosen if count else set())
    assert (sync.leader, names.count) == (cluster.primary, count)
    assert sync.quorum == (len(chosen) - count if cluster.mode == "quorum" and count else 0)


HANDS = st.tuples(st.integers(1, 3), st.lists(st.sampled_from("abcdefx"), max_size=4), st.booleans())


@HISTORY
@given(
    st.sampled_from(["on", "quorum"]),
    st.integers(2, 5),
    HANDS,
    st.lists(st.sampled_from("abcdef"), max_size=5),
    st.integers(-1, 5),
    st.booleans(),
)
def test_whatever_hands_made_of_it_the_first_writes_make_it_safe(
    mode: str, size: int, hands: tuple[int, list[str], bool], voters: list[str], quorum: int, strict: bool
) -> None:
    """EC 121"""
    count, listed, quorum_form = hands
    cluster = Cluster(mode, size, strict=strict)
    for name in list(cluster.nodes)[1:]:
        cluster.toggle(name)
    cluster.sync = SyncView("0", "a", tuple(sorted(set(voters) - {"a"})), quorum)
    cluster.me.names = any_of(count, listed) if quorum_form else first_of(listed)
    cluster.in_force()
    cluster.look()
    safe = sync_quorum.is_safe("a", cluster.sync, cluster.me.names)
    step = cluster.step()
    assert safe or isinstance(step, WriteSync)
    assert sync_quorum.is_safe("a", cluster.sync, cluster.me.names)
    for name in cluster.nodes:
        cluster.commit()
        cluster.replicate(name, 1)
        cluster.check()
    settle(cluster, 30)


def four(wanted: int = 1) -> Cluster:
    """a leads b, c and d in quorum mode, all have everything, one acknowledgement is enough unless said otherwise."""
    cluster = Cluster("quorum", 4, wanted)
    for event in (("connect", frozenset({1, 2, 3})), ("commit",), ("settle",)):
        happen(cluster, event)
    assert cluster.sync.standbys == ("b", "c", "d")
    return cluster


def test_the_old_leader_comes_back_alone_before_the_new_one_has_decided_anything() -> None:
    """HA rules 20.5 would leave ``/sync`` to a, which needs no vote and has never seen what c and d confirmed."""
    cluster = four()
    cluster.promote("c", 4)
    assert (cluster.primary, cluster.sync.leader, cluster.sync.quorum) == ("c", "c", 2)
    happen(cluster, ("connect", frozenset({3})))
    happen(cluster, ("commit",))
    happen(cluster, ("replicate", 3, 1))
    assert len(cluster.confirmed) == 2
    cluster.check()
    assert not cluster.may_lead("a")


def test_a_write_arrives_after_the_names_would_have_changed() -> None:
    cluster = four()
    cluster.wanted = 2
    for event in (("beat",), ("in_force",), ("look", False), ("look", False), ("write", "late")):
        happen(cluster, event)
    assert (cluster.sync.quorum, cluster.me.names.count, len(cluster.late)) == (2, 2, 1)
    cluster.wanted = 1
    for event in (("beat",), ("arrive",), ("beat",), ("arrive",)):
        happen(cluster, event)
        cluster.check()
    assert (cluster.sync.quorum, cluster.me.names.count) == (2, 1)


def test_new_names_are_shown_but_commits_do_not_wait_by_them_yet() -> None:
    """PostgreSQL's checkpointer tells the others whether to wait at all, and reads new names only between two checkpoints."""
    cluster = Cluster("on", 2)
    happen(cluster, ("connect", frozenset({1})))
    for event in (("beat",), ("beat",), ("beat",), ("commit",), ("beat",), ("beat",)):
        happen(cluster, event)
        cluster.check()
    assert (cluster.me.names, len(cluster.confirmed)) == (first_of("b"), 1)
    assert cluster.sync.standbys == ()
    happen(cluster, ("settle",))
    assert cluster.sync.standbys == ("b",)
