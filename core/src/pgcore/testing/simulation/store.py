"""The simulated store: the reference store's keys and leases behind a network, with all that a store does to those who trust it.

A request may be lost, may arrive long after its sender gave up, may be carried out while its answer is lost. The store may be
away, may change its leader, may answer reads only, may answer reads from the past, may lose everything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from pgcore.clock import Deadline
from pgcore.dcs.store import MEMBERS, Expect, Key, Record, Refused, Renewal, Snapshot, Stored
from pgcore.errors import StoreUnavailableError
from pgcore.model.basics import Instant, Timing
from pgcore.testing.memory_store import MemoryServer, MemoryStore
from pgcore.testing.simulation.network import STORE, Network, Traffic
from pgcore.testing.simulation.scheduler import Condition, Scheduler, Wakeup

T = TypeVar("T")

ATTEMPT_S = 3.0
"""A client gives one attempt no longer than this, as the real ones do to try another member."""
STALE_S = 5.0
"""How old an answer to a read that need not be fresh can be."""


class StoreServer(MemoryServer):
    """All members of the store as one."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(lambda: Instant(scheduler.now))
        self.scheduler = scheduler
        self.serving = True
        """A majority of its members is there: it answers."""
        self.writable = True
        """It carries out writes; otherwise it answers reads only."""
        self.stale = 0.0
        """How often a read that need not be fresh is answered from the past."""
        self.minority: dict[str, Snapshot] = {}
        """What machines read whose member of the store has lost the majority; it carries out nothing of theirs."""
        self.watchers: list[Callable[[], None]] = []
        self.listeners: list[Callable[[str], None]] = []
        """Told of every key that was written or removed."""
        self.wiped = False
        self.robbed: dict[str, float] = {}
        """Everything was removed, locks included, once at least."""
        self._past: deque[tuple[float, Snapshot]] = deque()

    def write(self, path: str, value: str, lease: int | None = None) -> str:
        written = super().write(path, value, lease)
        for tell in self.listeners:
            tell(path)
        return written

    def remove(self, path: str) -> None:
        super().remove(path)
        for tell in self.listeners:
            tell(path)

    def lease_end(self, path: str) -> float | None:
        """When the lease ends under which this key lives; None without one."""
        entry = self.entries.get(path)
        return self._lease_ends.get(entry.lease) if entry is not None and entry.lease is not None else None

    def _count(self, path: str) -> None:
        self._remember()
        super()._count(path)
        if self.watched_revision == self.revision:
            for wake in self.watchers:
                wake()

    def _remember(self) -> None:
        """What was there until this moment, for reads from the past."""
        if not self.stale:
            return
        now = self.scheduler.now
        records = {path: Record(entry.value, str(entry.revision)) for path, entry in self.entries.items()}
        self._past.append((now, Snapshot(records, str(self.revision))))
        while self._past[0][0] < now - STALE_S:
            self._past.popleft()

    def grant(self, ttl: float) -> int:
        lease = super().grant(ttl)
        self.scheduler.after(ttl + 1e-6, self.lapse)
        return lease

    def extend(self, lease: int, ttl: float) -> bool:
        extended = super().extend(lease, ttl)
        if extended:
            self.scheduler.after(ttl + 1e-6, self.lapse)
        return extended

    @property
    def takes_writes(self) -> bool:
        """A majority is there, and has room."""
        return self.serving and self.writable

    def lapse(self) -> None:
        """Leases that have ended are removed, and who watches is told; not while no majority is there."""
        if self.takes_writes:
            self.expire()

    def forgive(self, ttl: float) -> None:
        """A new leader of the store lets every lease begin anew, as etcd's does."""
        for lease in list(self._lease_ends):
            self._lease_ends[lease] = max(self._lease_ends[lease], Instant(self.clock() + ttl))
        self.scheduler.after(ttl + 1e-6, self.lapse)

    def wipe(self) -> None:
        """Somebody removes everything."""
        self.wiped = True
        for path in list(self.entries):
            self.remove(path)

    def end(self, lease: int | None) -> None:
        """This lease is over before its time: its session was closed."""
        if lease in self._lease_ends:
            self._lease_ends[lease] = self.clock()
            self.expire()

    def lose_session(self, member: str) -> None:
        """Somebody ends the lease of this member without asking it."""
        entry = self.entries.get(MEMBERS + member)
        if entry is not None and entry.lease is not None:
            self.wiped = True  # no agent can know: its belief in its lease is not held against it
            self.robbed[member] = self.scheduler.now
            self.end(entry.lease)

    def member(self, name: str, timing: Timing) -> MemoryStore:
        """What the requests of this member do here."""
        return MemoryStore(self, name, timing)

    def client(self, network: Network, machine: str, member: str, timing: Timing) -> SimulatedStore:
        """A member's way to it, for the process that asks."""
        return SimulatedStore(self, network, machine, member, timing)

    def cut_off(self, machine: str) -> None:
        """The member of the store that this machine talks to goes on alone; ``minority.pop`` takes it back."""
        records = {path: Record(entry.value, str(entry.revision)) for path, entry in self.entries.items()}
        self.minority[machine] = Snapshot(records, str(self.revision))

    def past(self, at_least: int) -> Snapshot | None:
        """An older state that is not older than this revision."""
        return next((snapshot for _, snapshot in self._past if int(snapshot.revision) >= at_least), None)


class SimulatedStore:
    """One agent's client of the store."""

    carries: frozenset[Key] = frozenset()

    def __init__(self, server: StoreServer, network: Network, machine: str, member: str, timing: Timing) -> None:
        self._server, self._network, self._scheduler, self._machine = server, network, server.scheduler, machine
        self._inner = server.member(member, timing)
        self._there = network.line(Traffic.STORE, machine, STORE)
        self._back = network.line(Traffic.STORE, STORE, machine)
        self._seen = 0
        self._changed = Condition(server.scheduler)
        self._process = server.scheduler.current
        server.watchers.append(self._told)

    # -- one request ---------------------------------------------------------------------------------------------------------

    def _call(self, deadline: Deadline, effect: Callable[[], T], *, writes: bool, majority: bool = True) -> T:
        """Send a request, let it happen there, wait for the answer. Raises StoreUnavailableError when that takes too long."""
        scheduler, server, trip = self._scheduler, self._server, self._network.trip
        waiting = scheduler.parked()
        answers: list[tuple[T | Exception, int]] = []
        there = trip(self._there)

        def arrive() -> None:
            if not self._there.open or not server.serving or (writes and not server.writable):
                return
            if majority and self._machine in server.minority:
                return
            server.expire()
            try:
                answer: T | Exception = effect()
            except StoreUnavailableError as error:
                answer = error
            back = trip(self._back)
            if back is not None:
                scheduler.put(scheduler.now + back, Wakeup(scheduler.world, partial(deliver, answer, server.revision)))

        def deliver(answer: T | Exception, revision: int) -> None:
            if not waiting.cancelled and self._back.open:
                waiting.cancelled = True
                answers.append((answer, revision))
                scheduler.put(scheduler.now, Wakeup(waiting.process, waiting.run))

        if there is not None:
            scheduler.put(scheduler.now + there, Wakeup(scheduler.world, arrive))
        limit = max(0.0, min(ATTEMPT_S, deadline.left()))
        scheduler.put(scheduler.now + limit / scheduler.current.rate, waiting)
        scheduler.switch()
        if not answers:
            waiting.cancelled = True
            raise StoreUnavailableError("the store gave no answer in time")
        answer, revision = answers[0]
        if isinstance(answer, Exception):
            raise answer
        if writes:
            self._seen = max(self._seen, revision)
        return answer

    # -- the verbs -----------------------------------------------------------------------------------------------------------

    def read(self, *, fresh: bool, deadline: Deadline) -> Snapshot:
        """All records; without ``fresh`` perhaps those of some seconds ago, but never older than what was seen before."""

        def effect() -> Snapshot:
            server = self._server
            if not fresh and self._machine in server.minority:
                return server.minority[self._machine]
            if not fresh and server.stale and self._network.dice.random() < server.stale:
                older = server.past(self._seen)
                if older is not None:
                    return older
            return self._inner.read(fresh=fresh, deadline=deadline)

        snapshot = self._call(deadline, effect, writes=False, majority=fresh)
        self._seen = max(self._seen, int(snapshot.revision))
        return snapshot

    def put(self, key: Key, value: str, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """Write a key if it is as expected."""
        return self._call(deadline, lambda: self._inner.put(key, value, expect=expect, deadline=deadline), writes=True)

    def delete(self, key: Key, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """Delete a key if it is as expected."""
        return self._call(deadline, lambda: self._inner.delete(key, expect=expect, deadline=deadline), writes=True)

    def announce(self, card: str, *, deadline: Deadline) -> None:
        """Write the card under the lease."""
        self._call(deadline, lambda: self._inner.announce(card, deadline=deadline), writes=True)

    def withdraw(self, *, deadline: Deadline) -> None:
        """Remove the own card."""
        self._call(deadline, lambda: self._inner.withdraw(deadline=deadline), writes=True)

    def acquire(self, *, force: bool, deadline: Deadline) -> bool:
        """Create the lock."""
        return self._call(deadline, lambda: self._inner.acquire(force=force, deadline=deadline), writes=True)

    def renew(self, riders: Mapping[Key, str], *, deadline: Deadline) -> Renewal:
        """Extend the lock."""
        return self._call(deadline, lambda: self._inner.renew(riders, deadline=deadline), writes=True)

    def release(self, riders: Mapping[Key, str], *, deadline: Deadline) -> bool:
        """Remove the lock."""
        return self._call(deadline, lambda: self._inner.release(riders, deadline=deadline), writes=True)

    def clear(self, *, deadline: Deadline) -> None:
        """Remove every key."""
        self._call(deadline, lambda: self._inner.clear(deadline=deadline), writes=True)

    def retime(self, timing: Timing) -> None:
        """The lease gets the new ttl at its next extension."""
        self._inner.retime(timing)

    # -- the watch -----------------------------------------------------------------------------------------------------------

    def _told(self) -> None:
        """Something has changed there: the news travels."""
        trip = self._network.trip(self._back)
        if trip is not None and self._machine not in self._server.minority:
            self._scheduler.put(self._scheduler.now + trip, Wakeup(self._process, self._changed.notify_all))

    def watch(self, seen: str, *, timeout: float) -> bool:
        """Sleep until a watched key is newer than ``seen``; without a connection it is looked for again each second."""
        end = Deadline.after(timeout)
        while not end.expired:
            if self._news(seen):
                return True
            self._changed.wait(min(self._patience(), end.left()))
        return False

    def _news(self, seen: str) -> bool:
        return self._connected and self._server.watched_revision > int(seen or 0)

    def _patience(self) -> float:
        return float("inf") if self._connected else 1.0

    @property
    def _connected(self) -> bool:
        server = self._server
        return self._there.open and self._back.open and server.serving and self._machine not in server.minority

    def close(self) -> None:
        """The client is gone; its lease runs on to its end."""
        if self._told in self._server.watchers:
            self._server.watchers.remove(self._told)
