"""The reference store: one scope in this process's memory, shared by several members, with a clock of the caller's choice.

The second thing to read when writing a store (the first is ``pgcore.dcs.store``). It passes ``StoreContract``, so tests that use
it in place of a server are told the truth. Leases expire when somebody looks, or waits, past their end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pgcore import threads
from pgcore.clock import Deadline, now
from pgcore.dcs.store import MEMBERS, Expect, Key, Record, Refused, Renewal, Snapshot, Stored
from pgcore.errors import StoreUnavailableError
from pgcore.model.basics import Instant, Timing

WATCHED = frozenset({Key.LEADER, Key.CONFIG, Key.FAILOVER, Key.SYNC, Key.INITIALIZE})


@dataclass(frozen=True, slots=True)
class Entry:
    """One key on the server: its value, the revision of its last write and the lease it lives under."""

    value: str
    revision: int
    lease: int | None = None


class MemoryServer:
    """The state all members share. Every method expects ``changed`` (a condition and the lock) to be held."""

    def __init__(self, clock: Callable[[], Instant] = now) -> None:
        self.clock = clock
        self.changed = threads.condition()
        self.entries: dict[str, Entry] = {}
        self.revision = 0
        self.watched_revision = 0
        self._lease_ends: dict[int, Instant] = {}
        self._leases_granted = 0
        self._reachable = True

    @contextmanager
    def session(self) -> Iterator[MemoryServer]:
        """The server with its lock held and expired leases removed. Raises StoreUnavailableError during an outage."""
        with self.changed:
            if not self._reachable:
                raise StoreUnavailableError("the memory store is switched off")
            self.expire()
            yield self

    @contextmanager
    def outage(self) -> Iterator[None]:
        """While entered, every verb is undecided; leases run on."""
        self._switch(reachable=False)
        try:
            yield
        finally:
            self._switch(reachable=True)

    def _switch(self, *, reachable: bool) -> None:
        with self.changed:
            self._reachable = reachable
            self.changed.notify_all()

    @property
    def reachable(self) -> bool:
        """Whether members get answers."""
        return self._reachable

    def tick(self) -> None:
        """Tell waiting members that an injected clock has moved."""
        with self.changed:
            self.changed.notify_all()

    def grant(self, ttl: float) -> int:
        """A new lease that ends in ``ttl`` seconds."""
        self._leases_granted += 1
        self._lease_ends[self._leases_granted] = Instant(self.clock() + ttl)
        return self._leases_granted

    def extend(self, lease: int, ttl: float) -> bool:
        """Let a lease end ``ttl`` seconds from now; false if it has ended already."""
        if lease not in self._lease_ends:
            return False
        self._lease_ends[lease] = Instant(self.clock() + ttl)
        return True

    def expire(self) -> None:
        """Remove the leases that have ended and what lived under them."""
        now = self.clock()
        ended = {lease for lease, end in self._lease_ends.items() if end <= now}
        if not ended:
            return
        for lease in ended:
            del self._lease_ends[lease]
        for path in [path for path, entry in self.entries.items() if entry.lease in ended]:
            self.remove(path)

    def next_expiry_s(self) -> float:
        """Seconds until the first lease ends; infinite without one."""
        return min((end - self.clock() for end in self._lease_ends.values()), default=float("inf"))

    def write(self, path: str, value: str, lease: int | None = None) -> str:
        """Write a key and return its version."""
        self._count(path)
        self.entries[path] = Entry(value, self.revision, lease)
        return str(self.revision)

    def remove(self, path: str) -> None:
        """Delete a key that exists."""
        self._count(path)
        del self.entries[path]

    def _count(self, path: str) -> None:
        self.revision += 1
        if path in WATCHED:
            self.watched_revision = self.revision
        self.changed.notify_all()


class MemoryStore:
    """One member's view of a ``MemoryServer``."""

    carries: frozenset[Key] = frozenset()

    def __init__(self, server: MemoryServer, member: str, timing: Timing) -> None:
        self._server, self._member, self._ttl = server, member, timing.ttl
        self._lease: int | None = None
        self._closed = False

    def read(self, *, fresh: bool, deadline: Deadline) -> Snapshot:
        """All records; every read of a memory store is fresh."""
        with self._server.session() as server:
            records = {path: Record(entry.value, str(entry.revision)) for path, entry in server.entries.items()}
            return Snapshot(records, str(server.revision))

    def put(self, key: Key, value: str, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """Write a permanent key if it is as expected."""
        with self._server.session() as server:
            if not _matches(server.entries.get(key), expect):
                return Refused()
            return Stored(server.write(key, value))

    def delete(self, key: Key, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """Delete a permanent key if it is as expected."""
        with self._server.session() as server:
            if not _matches(server.entries.get(key), expect):
                return Refused()
            if key in server.entries:
                server.remove(key)
            return Stored()

    def announce(self, card: str, *, deadline: Deadline) -> None:
        """Write the card under the present lease unless it is there already."""
        with self._server.session() as server:
            lease, path = self._keep_lease(server), MEMBERS + self._member
            found = server.entries.get(path)
            if found is None or (found.value, found.lease) != (card, lease):
                server.write(path, card, lease)

    def withdraw(self, *, deadline: Deadline) -> None:
        """Remove the own card."""
        with self._server.session() as server:
            if MEMBERS + self._member in server.entries:
                server.remove(MEMBERS + self._member)

    def acquire(self, *, force: bool, deadline: Deadline) -> bool:
        """Create the lock under the present lease."""
        with self._server.session() as server:
            lease = self._keep_lease(server)
            found = server.entries.get(Key.LEADER)
            if found is None or force:
                server.write(Key.LEADER, self._member, lease)
                return True
            return found == replace(found, value=self._member, lease=lease)

    def renew(self, riders: Mapping[Key, str], *, deadline: Deadline) -> Renewal:
        """Extend the lease if the lock names us, taking over the lock of a predecessor."""
        with self._server.session() as server:
            found = server.entries.get(Key.LEADER)
            if found is None:
                return Renewal.GONE
            if found.value != self._member:
                return Renewal.TAKEN
            lease = self._keep_lease(server)
            if found.lease != lease:
                server.write(Key.LEADER, self._member, lease)
            return Renewal.HELD

    def release(self, riders: Mapping[Key, str], *, deadline: Deadline) -> bool:
        """Remove the lock if it names us."""
        with self._server.session() as server:
            found = server.entries.get(Key.LEADER)
            if found is None or found.value != self._member:
                return False
            server.remove(Key.LEADER)
            return True

    def clear(self, *, deadline: Deadline) -> None:
        """Remove every key."""
        with self._server.session() as server:
            for path in list(server.entries):
                server.remove(path)

    def watch(self, seen: str, *, timeout: float) -> bool:
        """Sleep until a watched key is newer than ``seen``, waking for the ends of leases as the server would."""
        waiting = Deadline.after(timeout)
        with self._server.changed:
            while not self._closed:
                if self._server.reachable:
                    self._server.expire()
                    if self._server.watched_revision > int(seen or 0):
                        return True
                if waiting.expired:
                    break
                self._server.changed.wait(min(waiting.left(), max(self._server.next_expiry_s(), 0.001)))
        return False

    def retime(self, timing: Timing) -> None:
        """The lease gets the new ttl at its next extension."""
        self._ttl = timing.ttl

    def close(self) -> None:
        """End a watch; the lease runs on to its end."""
        with self._server.changed:
            self._closed = True
            self._server.changed.notify_all()

    def _keep_lease(self, server: MemoryServer) -> int:
        if self._lease is None or not server.extend(self._lease, self._ttl):
            self._lease = server.grant(self._ttl)
        return self._lease


def _matches(found: Entry | None, expect: Expect) -> bool:
    if expect.absent:
        return found is None
    return expect.version is None or (found is not None and str(found.revision) == expect.version)
