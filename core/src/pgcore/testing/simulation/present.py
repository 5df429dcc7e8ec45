"""A live cluster as it is at this moment, and a simulated world that begins just there. Nothing real is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pgcore.dcs.store import MEMBERS, Key
from pgcore.model.basics import Json
from pgcore.model.cluster import ClusterView, Member
from pgcore.testing.simulation.machine import Machine
from pgcore.testing.simulation.server_files import DataFiles, Followed, new_control
from pgcore.testing.simulation.wal import FIRST, Branch, Commit, Wal
from pgcore.testing.simulation.world import Setup, World

ADOPT_S = 1.0
"""Before the agents begin their servers run for a moment, so that streams stand."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A member as its REST API, or else its card in the store, describes it."""

    member: Member
    status: Mapping[str, Json] = field(default_factory=dict)
    """The answer to ``GET /patroni``; empty when there was none."""
    problem: str = ""
    """Why there was none."""

    @property
    def name(self) -> str:
        """The member's."""
        return self.member.name

    @property
    def answers(self) -> bool:
        """Its REST API did."""
        return bool(self.status)

    @property
    def primary(self) -> bool:
        """Its server accepts writes, as far as it says."""
        role = self.status.get("role", self.member.data.get("role"))
        return role in ("primary", "master") and self.runs

    @property
    def runs(self) -> bool:
        """Its server runs."""
        return self.status.get("state", self.member.data.get("state")) == "running"

    @property
    def timeline(self) -> int | None:
        """Its server's."""
        found = self.status.get("timeline", self.member.data.get("timeline"))
        return found if isinstance(found, int) else None

    @property
    def position(self) -> int:
        """How far it has WAL; 0 when that is not known."""
        wal = self.status.get("xlog")
        known = wal if isinstance(wal, Mapping) else {}
        found = [known.get(name) for name in ("location", "received_location", "replayed_location")]
        found.append(self.member.data.get("xlog_location"))
        return max((each for each in found if isinstance(each, int)), default=0)

    @property
    def streams(self) -> bool:
        """It follows its upstream at this moment."""
        return self.status.get("replication_state", self.member.data.get("replication_state")) == "streaming"


@dataclass(frozen=True)
class Present:
    """What was read: every key of the scope and every member."""

    scope: str
    view: ClusterView
    values: Mapping[str, str]
    members: tuple[Seen, ...]

    @property
    def leader(self) -> Seen | None:
        """Whom the lock names."""
        return next((each for each in self.members if each.name == self.view.leader), None)

    @property
    def dynamic(self) -> Mapping[str, Json]:
        """The dynamic configuration."""
        config = self.view.config
        return config.document if config is not None and config.document is not None else {}

    def sentence(self, seen: Seen) -> str:
        """One member in words."""
        if not seen.answers and not seen.runs:
            state = seen.member.data.get("state", "nothing")
            return f"{seen.name} is taken as switched off: its REST API does not answer ({seen.problem}), its card says {state}"
        what = "leads" if seen.name == self.view.leader else "is a primary without the lock" if seen.primary else (
            "streams" if seen.streams else "runs and does not stream")
        behind = self.leader.position - seen.position if self.leader is not None and not seen.primary and seen.position else 0
        lag = f", {behind} bytes behind" if behind > 0 else ""
        unheard = "" if seen.answers else f" (by its card; its REST API does not answer: {seen.problem})"
        return f"{seen.name} {what}, timeline {seen.timeline or 'unknown'}{lag}{unheard}"


def address(seen: Seen) -> str:
    """Where its server is reached in reality."""
    found = seen.member.address
    return f"{found[0]}:{found[1]}" if found is not None else "an unknown address"


def world_of(present: Present, seed: int, **options: Any) -> World:
    """A world whose agents find what those of the live cluster have at this moment; they have not begun yet.

    Every machine gets an address of its own, as the real ones may share theirs.
    """
    names = tuple(seen.name for seen in present.members)
    own = {seen.name: {"tags": {tag: value for tag, value in seen.member.tags.raw.items()}}
           for seen in present.members}
    world = World(Setup(nodes=names, dynamic=present.dynamic, own=own, scope=present.scope, write_s=0.2), seed,
                  started=False, **options)
    chain = _Chain(world.fleet.wal, present)
    leader = present.leader
    for seen in present.members:
        machine = world[seen.name]
        machine.disk["dynamic"] = dict(present.dynamic)
        if seen.runs or seen.answers:
            _prepare(world, machine, seen, chain.of(seen), world[leader.name] if leader is not None else None)
        else:
            machine.power_off()
            machine.server.files = _files(chain.of(seen))
    _fill_store(world, present)
    world.run(ADOPT_S)
    for machine in world:
        machine.start_agent()
    return world


class _Chain:
    """The WAL that the members have in common, and what each has of it."""

    def __init__(self, wal: Wal, present: Present) -> None:
        self._wal = wal
        self._branches: dict[int, Branch] = {}
        switches = [(entry.timeline, int(entry.lsn)) for entry in present.view.history or ()]
        newest = max((seen.timeline or 1 for seen in present.members), default=1)
        at = wal.existing(present.view.initialize or "", switches[0][0] if switches else newest, FIRST)
        self._branches[at.branch.timeline] = at.branch
        following = [*(timeline for timeline, _ in switches[1:]), newest]
        for (_, end), timeline in zip(switches, following, strict=False):
            if timeline > at.branch.timeline:
                at.branch.end = max(at.branch.end, end)
                at = wal.promoted(Commit(at.branch, end), timeline, 0.0)
                self._branches[timeline] = at.branch
        self._newest = at
        leader = present.leader
        if leader is not None:
            at.branch.end = max(at.branch.end, leader.position)

    def of(self, seen: Seen) -> Commit:
        """Where its WAL ends."""
        branch = self._branches.get(seen.timeline or 0, self._newest.branch)
        position = max(seen.position, branch.start)
        if position <= branch.end:
            return Commit(branch, position)
        return self._wal.append(Commit(branch, branch.end), position - branch.end, 0.0)


def _files(at: Commit) -> DataFiles:
    return DataFiles(at, new_control(at, rewindable=True), at.position)


def _prepare(world: World, machine: Machine, seen: Seen, at: Commit, leader: Machine | None) -> None:
    """Its server runs as it does in reality."""
    server = machine.server
    server.files = _files(at)
    if not seen.runs:
        return
    if not seen.primary:
        server.files.standby_signal = True
        if leader is not None and leader is not machine:
            server.files.followed = Followed(leader.host, 5432, None, read_write=False)
    before, server.pace.start_s = server.pace.start_s, 0.0
    server.launch()
    server.pace.start_s = before


def _fill_store(world: World, present: Present) -> None:
    """The keys as they are; the lock and the cards live as long as if they had just been renewed."""
    ttl = present.dynamic.get("ttl")
    with world.store.session() as store:
        lease = store.grant(ttl if isinstance(ttl, int) else 30)
        for path, value in sorted(present.values.items()):
            bound = path == Key.LEADER or path.startswith(MEMBERS)
            store.write(path, value, lease if bound else None)
