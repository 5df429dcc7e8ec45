"""What must hold between the store and the servers at every moment: leases, ``/sync``, maintenance mode, tags.

The checker beside it waits for harm done, two primaries or a lost commit, which takes a second fault at the right moment. These
look at what the argument rests on, so that a rule that breaks it is found at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pgcore.dcs.store import Key
from pgcore.decide.election import same_name
from pgcore.model.cluster import SyncView
from pgcore.model.node import TaskKind
from pgcore.testing.simulation.network import Traffic
from pgcore.testing.simulation.wal import Commit

if TYPE_CHECKING:
    from pgcore.model.world import World as View
    from pgcore.testing.simulation.checker import Checker
    from pgcore.testing.simulation.machine import Machine
    from pgcore.testing.simulation.server import Server
    from pgcore.testing.simulation.world import World

STEADY_BEGAN = 1000.0
"""What every machine's clock showed when the world began."""
LEASE_SLACK = 0.05
"""Clocks run at different rates: a lease may end later than the store's by this share of it."""
QUIET_S = 8.0
"""Who was not disturbed for so long has told where it is, and has been told."""
ASKED_S = 60.0
PAUSE_SEEN_S = 30.0
"""Every agent knows of a maintenance mode after so long."""


class Guarantees:
    """Listens to the store, to heartbeats and, through the checker, to servers and clients."""

    def __init__(self, world: World, checker: Checker) -> None:
        self._world, self._checker = world, checker
        self._sync, self._sync_text = SyncView(), ""
        self._former = SyncView()
        """``/sync`` as it was under the leader before."""
        self._paused_since: float | None = None
        self._status_at = 0.0
        self._seen: dict[str, Commit] = {}
        """Where the standbys were that could be asked when the lock was last taken: what came later nobody could know."""
        world.store.listeners.append(self._stored)
        world.on_beat.append(lambda name, beat: self.within_the_lease(name, beat.world))

    # -- the store -----------------------------------------------------------------------------------------------------------

    def _stored(self, path: str) -> None:
        """A key was written or removed."""
        world = self._world
        if path == Key.STATUS:
            self._status_at = world.now
        elif path == Key.LEADER and world.leader in world.machines:
            self._seen = {machine.name: machine.server.at for machine in world if _has_looked(machine)}
            self._elected(world.leader)
        elif path == Key.SYNC:
            before = self._sync
            if before.active and not same_name(self.sync.leader, before.leader):
                self._former = before if self.sync.active else SyncView()
            promise = self._checker.promise
            if promise is not None and self.sync.active:
                self._who_may_lead(promise, "", f"/sync becomes {world.key(Key.SYNC)}")
        elif path == Key.CONFIG:
            self._paused_since = None if not world.paused else world.now if self._paused_since is None else self._paused_since

    @property
    def sync(self) -> SyncView:
        """``/sync`` as it is in the store."""
        text = self._world.key(Key.SYNC)
        if text != self._sync_text:
            self._sync_text, self._sync = text, self._world.view().sync
        return self._sync

    # -- synchronous replication ---------------------------------------------------------------------------------------------

    def acknowledged(self, server: Server, commit: Commit) -> None:
        """A client was told that its commit is durable."""
        if self.sync.active:
            self._who_may_lead(commit, server.name, f"{server.name} acknowledged")

    def _who_may_lead(self, commit: Commit, besides: str, when: str) -> None:
        """A leader must find ``quorum`` others of ``/sync`` that are not ahead: one of them all must have this commit."""
        sync, machines = self.sync, self._world.machines
        lacking = []
        for name in dict.fromkeys((sync.leader or "", *sync.standbys)):
            files = machines[name].server.files if name in machines else None
            if name != besides and files is not None and not files.torn and not files.wal.contains(commit):
                lacking.append(name)
        if len(lacking) > sync.quorum and not self._checker.forced:
            self._checker.violated("/sync lists who has every commit",
                                   f"{when}: {', '.join(lacking)} of {self._world.key(Key.SYNC)} lack {commit}")

    # -- leases --------------------------------------------------------------------------------------------------------------

    def within_the_lease(self, name: str, view: View) -> None:
        """What an agent takes for its lease is over when the store's is; what the members prove is no lease of the store."""
        world, memory, ttl = self._world, view.memory, view.settings.timing.ttl
        if memory.failsafe_until is not None and not view.settings.failsafe_quorum:
            self._within_what_members_gave(name, (memory.failsafe_until - STEADY_BEGAN) / world[name].rate, ttl)
        if memory.lease_until is None or memory.failsafe_until is not None or world.store.wiped:
            return
        believed = (memory.lease_until - STEADY_BEGAN) / world[name].rate
        granted = world.store.lease_end(Key.LEADER) if world.leader == view.me else None
        over = granted if granted is not None else world.now if world.leader is None else -LEASE_SLACK * ttl
        if believed > world.now and believed > over + LEASE_SLACK * ttl:
            held = f"the store's ends at {granted:.2f} s" if granted is not None else f"the lock names {world.leader}"
            self._checker.violated("no lease beyond the store's", f"{name} counts on its lease until {believed:.2f} s; {held}")

    def _within_what_members_gave(self, name: str, believed: float, ttl: float) -> None:
        """Whoever is named in ``/failsafe`` keeps this primary as long; an agent that has just begun has forgotten that."""
        world = self._world
        named = world.view().failsafe or {}
        for machine in world:
            process = machine.process
            young = process is None or world.now - process.born < 2 * ttl
            others = machine.name != name and machine.name in named
            if not others or young or believed <= world.now or machine.agent is None:
                continue
            record = machine.agent.performer.ports.failsafe.accepted
            ends = (record.at + record.ttl - STEADY_BEGAN) / machine.rate if record is not None and record.name == name else None
            if ends is None or believed > ends + LEASE_SLACK * ttl:
                gave = f"gave it {ends:.2f} s" if ends is not None else "gave it nothing"
                self._checker.violated("no lease beyond what members gave",
                                       f"{name} counts on the members until {believed:.2f} s; {machine.name} {gave}")

    # -- promotions ----------------------------------------------------------------------------------------------------------

    def promoted(self, server: Server, before: Commit, asked_at: float) -> None:
        """A standby begins to accept writes; somebody last asked for something at that moment."""
        if self._paused(asked_at):
            self._checker.violated("a paused cluster is left alone", f"{server.name} is promoted in maintenance mode")
        if self._checker.forced:
            return
        if self._tagged(server.name):
            self._checker.violated("tags are respected", f"{server.name} is promoted although it is tagged nofailover")
        former = self._former if same_name(self.sync.leader, server.name) else self.sync
        if former.active and former.quorum == 0 and not former.covers(server.name) and not self._by_votes(server.name):
            listed = ", ".join((former.leader or "", *former.standbys))
            self._checker.violated("/sync covers what is promoted", f"{server.name} is promoted, /sync listed {listed} only")
        if self._world.now - asked_at > ASKED_S:
            self._most_advanced(server, before, former)
            self._near_enough(server, before)

    def _by_votes(self, name: str) -> bool:
        """Votes of those in ``/sync`` let a node lead that is not in it."""
        agent = self._world[name].agent
        return agent is None or agent.settings.synchronous_mode == "quorum"

    def _elected(self, name: str) -> None:
        """A standby takes the lock: where votes decide, so many members of ``/sync`` as it needs could have given theirs."""
        world, sync, checker = self._world, self.sync, self._checker
        calm = checker.quiet_s("") > QUIET_S and checker.quiet_s(name) > QUIET_S and checker.asked_s > ASKED_S
        if not calm or checker.forced or not world[name].server.in_recovery or same_name(sync.leader, name):
            return
        voters = [each for each in dict.fromkeys((sync.leader or "", *sync.standbys)) if each != name]
        silent = [each for each in voters if not self._votes(each, name)]
        if sync.quorum and len(voters) - len(silent) < sync.quorum + (0 if sync.covers(name) else 1):
            listing = f"{', '.join(silent)} of {world.key(Key.SYNC)}"
            checker.violated("a leader has its votes", f"{name} takes the lock without those of {listing}")

    def _votes(self, voter: str, name: str) -> bool:
        """It may have told this candidate that it has no more."""
        world = self._world
        machine = world.machines.get(voter)
        if machine is None or self._checker.quiet_s(voter) <= QUIET_S:
            return machine is not None
        awake = machine.agent is not None and not machine.agent_frozen and not machine.frozen
        lines = (world.network.line(Traffic.HTTP, *ends) for ends in ((voter, name), (name, voter)))
        server, candidate = machine.server, world[name].server
        ahead = server.files is not None and server.at != candidate.at and server.at.contains(candidate.at)
        return awake and all(line.open for line in lines) and not (ahead and server.receiver is None)

    def _most_advanced(self, server: Server, before: Commit, sync: SyncView) -> None:
        """Of those that may lead and could tell each other where they are nobody has more."""
        for machine in self._world:
            other, name = machine.server, machine.name
            if sync.active and (not sync.covers(name) or same_name(sync.leader, name)):
                continue  # what it has more was never confirmed
            if machine.watchdogs.broken:
                continue  # it said that it may not lead
            at = self._seen.get(name)
            if other is server or at is None or not self._could_tell(server.name) or not self._could_tell(name):
                continue
            streams = other.receiver is not None and other.receiver.upstream is not server
            more = other.answers and other.in_recovery and at != before and at.contains(before)
            if more and not streams and not self._tagged(machine.name) and self._connected(server.name, machine.name):
                self._checker.violated("nobody who is behind is promoted", f"{server.name} at {before}, {name} at {at}")

    def _could_tell(self, name: str) -> bool:
        """Its agent is there and can be asked, since long enough."""
        machine, checker = self._world[name], self._checker
        awake = machine.agent is not None and not machine.agent_frozen and not machine.frozen and not machine.server.pace.query_s
        return awake and checker.quiet_s(name) > QUIET_S and checker.quiet_s("") > QUIET_S

    def _connected(self, one: str, other: str) -> bool:
        lines = (self._world.network.line(Traffic.HTTP, *ends) for ends in ((one, other), (other, one)))
        return all(line.open and not line.loss and not line.late and line.delay_s < 0.1 for line in lines)

    def _near_enough(self, server: Server, before: Commit) -> None:
        """It is not farther behind what the leader noted last than is allowed."""
        agent, noted = self._world[server.name].agent, self._world.view().status.optime
        if agent is None or noted is None or self._world.now - self._status_at < QUIET_S:
            return
        behind, allowed = noted - before.position, agent.settings.maximum_lag_on_failover
        if behind > allowed and self._world.leader == server.name:
            self._checker.violated("nobody too far behind is promoted",
                                   f"{server.name} is {behind} bytes behind, {allowed} are allowed")

    def _tagged(self, name: str) -> bool:
        tags: Any = self._world.setup.own.get(name, {}).get("tags", {})
        return isinstance(tags, dict) and bool(tags.get("nofailover"))

    # -- maintenance mode ----------------------------------------------------------------------------------------------------

    def _paused(self, asked_at: float) -> bool:
        """Maintenance mode is on for so long that everybody knows, and nobody asked for anything lately."""
        since, now = self._paused_since, self._world.now
        return since is not None and now - since > PAUSE_SEEN_S and now - asked_at > PAUSE_SEEN_S

    def stopped(self, server: Server, asked_at: float, facts: Mapping[str, Any]) -> None:
        """A server was stopped in order. A standby that has diverged is rewound in maintenance mode too. (HA rules 11.2.1)"""
        agent = self._world[server.name].agent
        rewound = agent is not None and agent.performer.ports.tasks.kind is TaskKind.REWIND and not facts["primary"]
        if self._paused(asked_at) and not rewound:
            self._checker.violated("a paused cluster is left alone", f"{server.name} is stopped in maintenance mode")


def _has_looked(machine: Machine) -> bool:
    """Its agent has seen its standby answer, and says so to whoever asks."""
    status = machine.life.board.status if machine.life is not None else None
    awake = not machine.agent_frozen and not machine.frozen and machine.server.in_recovery
    return awake and status is not None and status.node.answering
