"""What must never happen, whatever the faults: checked at every event that could break it. (docs/simulation.md lists them)

A violation does not end the run: it is noted with its moment, and the run's report has them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgcore.dcs.store import Key
from pgcore.testing.simulation.guarantees import Guarantees
from pgcore.testing.simulation.network import STORE, Traffic
from pgcore.testing.simulation.wal import Commit

if TYPE_CHECKING:
    from pgcore.daemon.heartbeat import Beat
    from pgcore.model.basics import Json
    from pgcore.model.world import World as View
    from pgcore.testing.simulation.server import Server
    from pgcore.testing.simulation.world import World

MIXED_S = 15.0
"""An agent that was away is back in charge of its server after so long."""
ROBBED_S = 30.0
"""A lease that somebody else ended would not have lasted longer."""
THAW_S = 0.5
"""A machine that goes on after a standstill may serve writes for this long, until its guard has stopped its server."""
QUIET_S = 60.0
"""After an operator's request things may happen in maintenance mode for this long."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not happen, and when it did."""

    at: float
    invariant: str
    text: str

    def __str__(self) -> str:
        return f"{self.at:.2f} s: {self.invariant}: {self.text}"


@dataclass(slots=True)
class _HandedOver:
    """An orderly end of a primary: what its clients had been told of."""

    at: float
    name: str
    told: Commit | None


class Checker:
    """Listens to servers, agents, operators and faults."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.violations: list[Violation] = []
        self.failovers = self.switchovers = self.unnecessary = 0
        self.promise: Commit | None = None
        """The newest commit a client was told of whose loss the configured durability forbids."""
        self._promised_by = ""
        self._told: dict[str, Commit] = {}
        """The newest commit that each server's clients were told of."""
        self._newest: Commit | None = None
        """What a client was told of last: what a failover without a promise has left behind is not the cluster's any more."""
        self.forced = False
        """An operator has named a new primary by hand: what it lacks is lost by order."""
        self._paused = False
        self._left_alone: set[str] = set()
        """Primaries of a maintenance mode, until they are stopped or their agents guard them again."""
        world.on_beat.append(self._guarded_again)
        self._formed = False
        """Somebody has led this cluster."""
        self._asked_at = -1e9
        self._handed: _HandedOver | None = None
        self._primary = ""
        """Who accepted writes last."""
        self._troubled: dict[str, float] = {}
        """When a fault last began or ended, by machine; the empty name for what concerns everybody."""
        self._trouble_now: dict[str, int] = {}
        self._guarantees = Guarantees(world, self)

    def violated(self, invariant: str, text: str) -> None:
        """Note that this happened."""
        self.violations.append(Violation(self._world.now, invariant, text))
        self._world.tell("checker", f"VIOLATION of {invariant}: {text}")

    # -- what the faults and operators say -----------------------------------------------------------------------------------

    def trouble(self, name: str, *, begins: bool) -> None:
        """A fault of this machine, or of everybody (an empty name), begins or ends."""
        self._troubled[name] = self._world.now
        self._trouble_now[name] = self._trouble_now.get(name, 0) + (1 if begins else -1)

    def quiet_s(self, name: str) -> float:
        """For how long no fault of this machine, or of everybody, has begun or ended."""
        return self._world.now - self._troubled.get(name, -1e9)

    @property
    def asked_s(self) -> float:
        """How long ago somebody asked for something."""
        return self._world.now - self._asked_at

    def operator_asked(self, leader: str | None, candidate: str | None) -> None:
        """A request for a switchover, or without ``leader`` for a failover by hand."""
        self._asked_at = self._world.now
        self.forced = self.forced or leader is None

    def operator_acted(self) -> None:
        """An operator did something else to a node: a restart, a reinitialisation, a signal."""
        self._asked_at = self._world.now

    def configured(self, document: dict[str, Json]) -> None:
        """The dynamic configuration is changed."""
        self._asked_at = self._world.now
        self._paused = document.get("pause") is True
        self._leave_alone()

    def _leave_alone(self) -> None:
        """What accepts writes in maintenance mode is not held against anybody until it is stopped."""
        if self._paused:
            self._left_alone |= {machine.name for machine in self._world if machine.server.writable}

    def _guarded_again(self, name: str, beat: Beat) -> None:
        if self._left_alone and not beat.world.paused and beat.world.memory.lease_until is not None:
            self._left_alone.discard(name)

    def _excused(self, *servers: Server) -> bool:
        return self._paused or any(server.name in self._left_alone or self._robbed(server.name) for server in servers)

    def _robbed(self, name: str) -> bool:
        """Somebody ended its lease, and its agent can neither take the lock again nor be asked. (docs/consul.md)"""
        machine, since = self._world.machines.get(name), self._world.store.robbed.get(name)
        if machine is None or since is None or self._world.now - since > ROBBED_S:
            return False
        asleep = machine.agent is None or machine.agent_frozen or machine.frozen
        return bool(asleep or not self._world.network.both_ways(Traffic.STORE, name, STORE))

    # -- what the servers say ------------------------------------------------------------------------------------------------

    def server_told(self, kind: str, server: Server, facts: Mapping[str, Any]) -> None:
        """An event of a server model."""
        if kind == "acknowledged":
            return  # the clients know
        self._world.tell(server.name, f"server: {kind}" + "".join(f", {name} {value}" for name, value in facts.items()))
        if kind == "writable":
            self._one_writable(server)
            if self._just_thawed(server.name):
                self._world.scheduler.after(THAW_S, lambda: self._accepting(server, facts))
            else:
                self._accepting(server, facts)
            for listener in self._world.on_writable:
                listener(server)
            self._leave_alone()
        if kind in ("stopped", "crashed"):
            self._left_alone.discard(server.name)
        if kind == "removed":
            self._removed(server, facts.get("commit"))
        elif kind == "stopped" and server.name in self._world.machines:
            self._guarantees.stopped(server, self._asked_at, facts)
        elif kind == "mixed":
            self._mixed(server, facts)

    def _accepting(self, server: Server, facts: Mapping[str, Any]) -> None:
        """A server of this cluster begins to accept writes; one that stood still does only if its guard lets it."""
        if not server.writable or server.name not in self._world.machines:
            return
        self._has_what_was_promised(server)
        self._handed_over_to(server)
        self._covered_by_sync(server)
        self._count(server)
        if facts.get("how") == "promotion":
            self._guarantees.promoted(server, facts["before"], self._asked_at)
        pending = facts.get("how") != "promotion" and self._world.view().failover is not None
        if self.forced and not pending:  # what it lacks is lost by order; what it acknowledges from now on is promised again
            self.forced, self.promise, self._newest = False, None, None
            self._told.clear()

    def _one_writable(self, server: Server) -> None:
        """Nobody else can acknowledge writes at the same time."""
        machines = self._world.machines
        for other in (machine.server for machine in machines.values()):
            if other is server or not other.writable or server.name not in machines or other.hung or self._excused(server, other):
                continue
            if self._just_thawed(other.name) or self._just_thawed(server.name):
                self.two_for_a_moment(server, other)
            else:
                self.violated("one writable primary", f"{server.name} begins to accept writes while {other.name} does")

    def thawed(self, server: Server) -> None:
        """A server that stood still goes on: if it is a primary that was replaced, not for long."""
        for machine in self._world:
            if server.writable and machine.server is not server and machine.server.writable and not machine.server.hung:
                self.two_for_a_moment(server, machine.server)

    def two_for_a_moment(self, one: Server, other: Server) -> None:
        """Both accept writes, and may do so until the guard of the one that stood still has stopped it."""
        self._world.scheduler.after(THAW_S, lambda: self._still_two(one, other))

    def _just_thawed(self, name: str) -> bool:
        machine = self._world.machines.get(name)
        return machine is not None and self._world.now - machine.thawed_at <= THAW_S

    def _still_two(self, one: Server, other: Server) -> None:
        if one.answers and one.writable and other.answers and other.writable and not self._excused(one, other):
            self.violated("one writable primary", f"{one.name} and {other.name} both accept writes for more than {THAW_S} s")

    @property
    def _synchronous(self) -> bool:
        """Commits are promised: synchronous replication is in force in the store."""
        return bool(self._world.key(Key.SYNC)) and self._world.view().sync.leader is not None

    def acknowledged(self, server: Server, commit: Commit) -> None:
        """A client was told that its commit is durable; what it writes while the cluster is being made is nobody's promise."""
        self._formed = self._formed or self._world.leader is not None
        if not self._formed:
            return
        self._told[server.name] = commit
        self._guarantees.acknowledged(server, commit)
        self._newest = commit
        if not self._synchronous:
            self.promise = None
            return
        promise = self.promise
        if promise is None or commit.contains(promise):
            self.promise, self._promised_by = commit, server.name
        elif not self.forced and not promise.contains(commit):
            self.violated("acknowledged commits are kept",
                          f"{server.name} acknowledged {commit}, which lacks {promise} that {self._promised_by} had acknowledged")

    def _has_what_was_promised(self, server: Server) -> None:
        if not self._synchronous:
            self.promise = None
        promise = self.promise
        if promise is not None and not self.forced and not server.at.contains(promise):
            self.violated("acknowledged commits are kept",
                          f"{server.name} accepts writes at {server.at} without {promise}, acknowledged by {self._promised_by}")

    def lease_proven(self, name: str, view: View) -> None:
        """An agent takes its lease for proven, or has just failed to prove it."""
        self._guarantees.within_the_lease(name, view)

    def handed_over(self, name: str) -> None:
        """An orderly switchover: this leader has shut down, and gives the lock away."""
        self._handed = _HandedOver(self._world.now, name, self._told.get(name))

    def _handed_over_to(self, server: Server) -> None:
        """Whoever follows an orderly hand-over has all that was acknowledged, unless nobody who has it came within ttl."""
        handed, self._handed = self._handed, None
        if handed is None or handed.told is None or server.name == handed.name or self.forced:
            return
        agent = self._world[server.name].agent if server.name in self._world.machines else None
        ttl = agent.settings.timing.ttl if agent is not None else 0
        if self._world.now - handed.at < ttl and not server.at.contains(handed.told):
            self.violated("an orderly switchover loses nothing",
                          f"{server.name} accepts writes at {server.at} without {handed.told}, acknowledged by {handed.name}")

    def _covered_by_sync(self, server: Server) -> None:
        """Who begins to accept writes in synchronous mode is named in ``/sync``."""
        if not self._synchronous or self.forced or self._excused(server):
            return
        sync = self._world.view().sync
        if server.name != sync.leader and server.name not in sync.standbys:
            self.violated("/sync covers what is promoted", f"{server.name} accepts writes; /sync is {self._world.key(Key.SYNC)}")

    def _count(self, server: Server) -> None:
        """A change of this cluster's primary, and whether there was a reason for it."""
        before, self._primary = self._primary, server.name
        if not before or before == server.name:
            return
        now = self._world.now
        if now - self._asked_at < QUIET_S:
            self.switchovers += 1
            return
        self.failovers += 1
        if not self._had_reason(before):
            self.unnecessary += 1
            self._world.tell("checker", f"an unnecessary failover from {before} to {server.name}")
            if not any(self._trouble_now.values()) and now - max(self._troubled.values(), default=-1e9) > 2 * QUIET_S:
                self.violated("no failover while all is well", f"{server.name} took over from {before} without any fault")

    def _had_reason(self, name: str) -> bool:
        now = self._world.now
        return any(self._trouble_now.get(who, 0) > 0 or now - self._troubled.get(who, -1e9) < QUIET_S for who in (name, ""))

    def _mixed(self, server: Server, facts: Mapping[str, Any]) -> None:
        """It takes WAL that does not belong to its own, which an agent that can look must not let it do."""
        machine = self._world.machines.get(server.name)
        agent = machine.agent if machine is not None else None
        awake = machine is not None and agent is not None and not machine.agent_frozen and not machine.frozen
        if awake and self.quiet_s(server.name) > MIXED_S:
            self.violated("histories are not mixed", f"{server.name} at {facts['had']} goes on with {facts['got']}")

    def _removed(self, server: Server, had: Commit | None) -> None:
        """A data directory is gone: it must not have been the only one with what was acknowledged."""
        newest = self._newest
        if newest is None or had is None or not had.contains(newest) or self.forced:
            return
        others = (other for other in self._world.fleet.servers.values() if other is not server and other.files is not None)
        if not any(other.at.contains(newest) for other in others):
            self.violated("the only copy is kept", f"{server.name} removed the only data with {newest}")

    # -- at the end ----------------------------------------------------------------------------------------------------------

    def read_back(self) -> None:
        """Everything is settled: the primary has all that was promised."""
        leader = self._world.leader
        if leader is None or self.promise is None or self.forced or not self._synchronous:
            return
        server = self._world[leader].server
        if not server.at.contains(self.promise):
            self.violated("acknowledged commits are kept", f"at the end {leader} at {server.at} lacks {self.promise}")
