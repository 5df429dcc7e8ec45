"""The narrow door to every distributed store: the ``Store`` protocol and the words it uses.

A store moves text under key names. It knows nothing of JSON, roles or PostgreSQL. Every guarantee is stated once, here;
``pgcore.testing.dcs`` proves each of them against a real server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Protocol

from pgcore.clock import Deadline
from pgcore.model.basics import Timing


class Key(StrEnum):
    """The keys of a scope besides ``members/<name>``; the value is the path below the scope (dcs-layout 2)."""

    LEADER = "leader"
    CONFIG = "config"
    INITIALIZE = "initialize"
    STATUS = "status"
    OPTIME = "optime/leader"
    FAILOVER = "failover"
    SYNC = "sync"
    HISTORY = "history"
    FAILSAFE = "failsafe"


MEMBERS = "members/"
"""Prefix of the member cards: ``members/<name>``."""


@dataclass(frozen=True, slots=True)
class Expect:
    """What a conditional write expects to find. Use ``ABSENT``, ``ANYTHING`` or ``version(v)``."""

    version: str | None = None
    absent: bool = False


ABSENT = Expect(absent=True)
"""The key must not exist."""
ANYTHING = Expect()
"""Write unconditionally."""


def version(value: str) -> Expect:
    """The key must still be at the version read earlier."""
    return Expect(version=value)


@dataclass(frozen=True, slots=True)
class Stored:
    """The write happened; ``version`` is the key's new version (empty after a delete)."""

    version: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """The condition did not hold; nothing was written."""


@dataclass(frozen=True, slots=True)
class Record:
    """One key as read. ``version`` is opaque: compare it for equality only."""

    value: str
    version: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every live record of the scope, by path below the scope (``leader``, ``members/a``).

    ``revision`` is opaque and is handed back to ``watch``. Records whose lease has expired do not appear.
    """

    records: Mapping[str, Record] = field(default_factory=dict)
    revision: str = ""


class Renewal(Enum):
    """What became of an attempt to renew the leader lock."""

    HELD = "held"
    """The store confirmed during this call that the lock is ours for another ttl."""
    GONE = "gone"
    """Nobody holds the lock any more."""
    TAKEN = "taken"
    """Another name holds it."""


class Store(Protocol):
    """One scope of a distributed store as seen by one member, who owns at most one lease in it.

    * A returned value means *decided*. ``StoreUnavailableError`` means undecided within the deadline: it may or may not
      have happened. ``StoreRejectedError`` means it will never work as configured. Nothing else is raised.
    * One thread calls the verbs, one other may sit in ``watch``; ``close`` may come from anywhere and ends both.
    * No call outlasts its deadline by more than a scheduling delay.
    * The lease of the lock and the card lasts ``timing.ttl`` seconds from the moment the store handled the last
      confirmed ``renew``, ``acquire`` or ``announce``; never longer than that on behalf of a process that stopped calling: no
      background thread renews it.
    """

    carries: frozenset[Key]
    """Keys whose writes travel inside ``renew`` and ``release`` (Kubernetes: STATUS, FAILSAFE; others: none)."""

    def read(self, *, fresh: bool, deadline: Deadline) -> Snapshot:
        """Each key whole; keys may differ slightly in age. ``fresh`` is linearizable where the store can.

        Never older than what an earlier ``read``, ``watch`` or write of this object has shown.
        """

    def put(self, key: Key, value: str, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """Write a permanent key. A mismatch with ``expect`` is ``Refused``. Versions never repeat."""

    def delete(self, key: Key, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """Delete a permanent key. Deleting an absent key with ``ANYTHING`` is ``Stored``."""

    def announce(self, card: str, *, deadline: Deadline) -> None:
        """Write the member card, bound to the lease; also extends the lease.

        Replaces at once a card left by a previous process of the same name. Need not write an unchanged card again
        as long as the card's lease is extended.
        """

    def withdraw(self, *, deadline: Deadline) -> None:
        """Remove the member card if it is ours. Used when a node leaves for good; a stopped node keeps its card."""

    def acquire(self, *, force: bool, deadline: Deadline) -> bool:
        """Create the lock only if absent, bound to the lease; true again if it is already ours.

        So an undecided attempt can be repeated. ``force`` (only at bootstrap) overwrites.
        """

    def renew(self, riders: Mapping[Key, str], *, deadline: Deadline) -> Renewal:
        """Extend the lock, and write the riders, or neither. Never acquires.

        Takes over a lock that names us under an earlier process's lease. StoreRejectedError may mean that the store does not
        take the riders: ask again without them.
        """

    def release(self, riders: Mapping[Key, str], *, deadline: Deadline) -> bool:
        """Remove the lock only if ours, riders first; false if it was not ours. The card may vanish with it."""

    def clear(self, *, deadline: Deadline) -> None:
        """Delete every key of the scope whoever wrote it, lock and cards too. Only for a cluster that is to be forgotten."""

    def watch(self, seen: str, *, timeout: float) -> bool:
        """Wait until LEADER, CONFIG, FAILOVER, SYNC or INITIALIZE changed after revision ``seen``, or ``timeout`` seconds passed.

        True: something (perhaps) changed. Never returns later than such a change by more than a network delay while the
        store is reachable. Without a connection it waits out the timeout and returns false; it never raises.
        """

    def retime(self, timing: Timing) -> None:
        """New timing: takes effect with the next lease operation, without losing the lock."""

    def close(self) -> None:
        """Release connections and threads. Leaves the lock and the card to their lease."""
