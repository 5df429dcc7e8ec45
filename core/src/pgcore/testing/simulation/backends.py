"""Models of what is peculiar to single stores: Consul's sessions, ZooKeeper's, and the lock of Kubernetes, which nobody ends.

``StoreServer`` itself behaves as etcd does. Each model is a server of its own; what its clients do differently comes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from random import Random

from pgcore.clock import Deadline, now
from pgcore.dcs.store import MEMBERS, Key, Record, Renewal, Snapshot
from pgcore.errors import StoreUnavailableError
from pgcore.model.basics import Timing
from pgcore.testing.memory_store import Entry, MemoryStore
from pgcore.testing.simulation.network import Network
from pgcore.testing.simulation.scheduler import Scheduler, Wakeup
from pgcore.testing.simulation.store import SimulatedStore, StoreServer

# -- Consul ------------------------------------------------------------------------------------------------------------------

SHORTEST_S = 20.0
"""No session is shorter than 10 s, and it is kept for twice that."""
LOCK_DELAYS = (0.001, 0.001, 15.0)
"""What pgcore asks for, and what Consul does if nobody asks."""


class ConsulServer(StoreServer):
    """A session ends after its time, at the latest after twice as long; then its lock rests for the lock delay."""

    def __init__(self, scheduler: Scheduler, dice: Random) -> None:
        super().__init__(scheduler)
        self._dice, self._lock_delay_s, self._rests_until = dice, dice.choice(LOCK_DELAYS), 0.0

    def grant(self, ttl: float) -> int:
        return super().grant(self._kept(ttl))

    def extend(self, lease: int, ttl: float) -> bool:
        return super().extend(lease, self._kept(ttl))

    def _kept(self, ttl: float) -> float:
        return max(ttl, SHORTEST_S) * self._dice.choice((1.0, 1.0, 1.3, 2.0))

    def expire(self) -> None:
        held = Key.LEADER in self.entries
        super().expire()
        if held and Key.LEADER not in self.entries:
            self._rests_until = self.clock() + self._lock_delay_s

    @property
    def rests(self) -> bool:
        """Nobody gets the lock at this moment, although it is free."""
        return Key.LEADER not in self.entries and self.clock() < self._rests_until

    def member(self, name: str, timing: Timing) -> MemoryStore:
        return _ConsulMember(self, name, timing)


class _ConsulMember(MemoryStore):
    _server: ConsulServer

    def acquire(self, *, force: bool, deadline: Deadline) -> bool:
        with self._server.session() as server:
            server.expire()
            if self._server.rests:
                raise StoreUnavailableError("Consul delays the lock")
        return super().acquire(force=force, deadline=deadline)


# -- ZooKeeper ---------------------------------------------------------------------------------------------------------------

TICK_S = 2.0


class ZooKeeperServer(StoreServer):
    """Sessions end at the tick after their time. Whoever gives the lock away closes the session, and its card is gone too."""

    def __init__(self, scheduler: Scheduler, dice: Random) -> None:
        super().__init__(scheduler)

    def grant(self, ttl: float) -> int:
        return super().grant(self._kept(ttl))

    def extend(self, lease: int, ttl: float) -> bool:
        return super().extend(lease, self._kept(ttl))

    def _kept(self, ttl: float) -> float:
        return ttl + TICK_S - (self.clock() + ttl) % TICK_S

    def member(self, name: str, timing: Timing) -> MemoryStore:
        return _ZooKeeperMember(self, name, timing)


class _ZooKeeperMember(MemoryStore):
    _server: ZooKeeperServer

    def release(self, riders: Mapping[Key, str], *, deadline: Deadline) -> bool:
        released = super().release(riders, deadline=deadline)
        if released:
            self._server.end(self._lease)
        return released


# -- Kubernetes --------------------------------------------------------------------------------------------------------------


class KubernetesServer(StoreServer):
    """Objects without leases: the lock says when it was renewed, and each observer judges by its own clock whether it is over."""

    def __init__(self, scheduler: Scheduler, dice: Random) -> None:
        super().__init__(scheduler)
        self.lock_ttl = self._renewed_at = 0.0

    def lease_end(self, path: str) -> float | None:
        """Nobody may take it for over before: whoever looks has seen the renewal later than it happened."""
        return self._renewed_at + self.lock_ttl if path in self.entries else None

    def write_lock(self, name: str, ttl: float) -> None:
        """Write who leads, and now; watches hear of a mere renewal, but it is not what they wait for."""
        found = self.entries.get(Key.LEADER)
        self.lock_ttl, self._renewed_at = ttl, self.clock()
        if found is None or found.value != name:
            self.write(Key.LEADER, name)
            return
        self._remember()
        self.revision += 1
        self.entries[Key.LEADER] = Entry(name, self.revision)
        for tell in self.watchers:
            tell()

    def member(self, name: str, timing: Timing) -> KubernetesMember:
        return KubernetesMember(self, name, timing)

    def client(self, network: Network, machine: str, member: str, timing: Timing) -> SimulatedStore:
        return KubernetesStore(self, network, machine, member, timing)


class KubernetesMember(MemoryStore):
    """Patches of a member; each is carried out on one state of the objects."""

    _server: KubernetesServer

    def announce(self, card: str, *, deadline: Deadline) -> None:
        with self._server.session() as server:
            found = server.entries.get(MEMBERS + self._member)
            if found is None or found.value != card:
                server.write(MEMBERS + self._member, card)

    def take(self, version: str | None) -> bool:
        """Write the lock if it is still as it was when it was judged to be free; None: whatever it is."""
        with self._server.session() as server:
            found = server.entries.get(Key.LEADER)
            if version is not None and version != (str(found.revision) if found is not None else ""):
                return False
            self._server.write_lock(self._member, self._ttl)
            return True

    def renew(self, riders: Mapping[Key, str], *, deadline: Deadline) -> Renewal:
        with self._server.session() as server:
            found = server.entries.get(Key.LEADER)
            if found is None or found.value != self._member:
                return Renewal.GONE if found is None else Renewal.TAKEN
            self._server.write_lock(self._member, self._ttl)
            self._carry(riders)
            return Renewal.HELD

    def release(self, riders: Mapping[Key, str], *, deadline: Deadline) -> bool:
        with self._server.session() as server:
            found = server.entries.get(Key.LEADER)
            if found is None or found.value != self._member:
                return False
            self._carry(riders)
            server.remove(Key.LEADER)
            return True

    def _carry(self, riders: Mapping[Key, str]) -> None:
        for key, value in riders.items():
            self._server.write(key, value)


class KubernetesStore(SimulatedStore):
    """Remembers when it last saw the lock change, by the clock of its machine."""

    carries = frozenset({Key.STATUS, Key.FAILSAFE})
    _server: KubernetesServer
    _inner: KubernetesMember

    def __init__(self, server: KubernetesServer, network: Network, machine: str, member: str, timing: Timing) -> None:
        super().__init__(server, network, machine, member, timing)
        self._member = member
        self._lock, self._lock_ttl, self._lock_seen_at = "", 0.0, now()
        self._shown_over = False

    def _note(self, lock: str, ttl: float) -> None:
        if lock != self._lock:
            self._lock, self._lock_ttl, self._lock_seen_at = lock, ttl, now()

    @property
    def _left_s(self) -> float:
        """Seconds until the lock is over as seen from here."""
        return self._lock_seen_at + self._lock_ttl - now() if self._lock else float("inf")

    def _look(self, *, fresh: bool, deadline: Deadline) -> tuple[Snapshot, Record | None]:
        snapshot = super().read(fresh=fresh, deadline=deadline)
        lock = snapshot.records.get(Key.LEADER)
        self._note(lock.version if lock is not None else "", self._server.lock_ttl)
        return snapshot, lock

    def read(self, *, fresh: bool, deadline: Deadline) -> Snapshot:
        """As in every store, without a lock that has not changed for its ttl."""
        snapshot, _ = self._look(fresh=fresh, deadline=deadline)
        self._shown_over = self._left_s <= 0
        if not self._shown_over:
            return snapshot
        return Snapshot({path: each for path, each in snapshot.records.items() if path != Key.LEADER}, snapshot.revision)

    def acquire(self, *, force: bool, deadline: Deadline) -> bool:
        """Judge, then write over just what was judged."""
        lock = self._look(fresh=True, deadline=deadline)[1]
        if lock is not None and self._left_s > 0 and not force:
            return lock.value == self._member and self.renew({}, deadline=deadline) is Renewal.HELD
        judged = None if force else lock.version if lock is not None else ""
        return self._call(deadline, lambda: self._inner.take(judged), writes=True)

    def _told(self) -> None:
        trip, found = self._network.trip(self._back), self._server.entries.get(Key.LEADER)
        if trip is not None and self._machine not in self._server.minority:
            heard = partial(self._hear, str(found.revision) if found is not None else "", self._server.lock_ttl,
                            self._server.revision)
            self._scheduler.put(self._scheduler.now + trip, Wakeup(self._process, heard))

    def _hear(self, lock: str, ttl: float, revision: int) -> None:
        if revision >= self._seen:
            self._seen = revision
            self._note(lock, ttl)
        self._changed.notify_all()

    def _news(self, seen: str) -> bool:
        return super()._news(seen) or (self._left_s <= 0 and not self._shown_over)

    def _patience(self) -> float:
        return min(super()._patience(), max(self._left_s, 0.01) if not self._shown_over else float("inf"))


BACKENDS: dict[str, Callable[[Scheduler, Random], StoreServer]] = {
    "": lambda scheduler, dice: StoreServer(scheduler), "consul": ConsulServer, "zookeeper": ZooKeeperServer,
    "kubernetes": KubernetesServer}
"""What a run's store may be; the first behaves as etcd does."""
