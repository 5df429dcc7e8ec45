"""What an agent counts about itself since it began, as one immutable value; ``GET /metrics`` shows it. (docs/metrics.md)"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper ends of a histogram's buckets: a heartbeat takes milliseconds, and a third of the shortest lease when it goes wrong."""

Tallied = Mapping[str, int]


class Gained(StrEnum):
    """How a node came to lead."""

    FAILOVER = "failover"
    """The lock was free and this node won the race for it."""
    SWITCHOVER = "switchover"
    """The former leader named this node: an operator's switchover, or its agent was asked to end."""
    MANUAL_FAILOVER = "manual_failover"
    BOOTSTRAP = "bootstrap"
    """It created the cluster."""
    RETAKEN = "retaken"
    """The lock was free, but this server was the primary all the time."""
    FOUND = "found"
    """The lock named this node already, as when an agent is restarted."""


class Lost(StrEnum):
    """How a node ceased to lead."""

    SWITCHOVER = "switchover"
    """An operator asked for a switchover or a failover."""
    SHUTDOWN = "shutdown"
    """Its agent was asked to end."""
    STORE_LOST = "store_lost"
    """The store did not answer, so the lease could not be proven any longer."""
    LOCK_LOST = "lock_lost"
    """The store said that the lock is somebody else's, or nobody's."""
    GIVEN_UP = "given_up"
    """It could not serve: the server crashed, did not start, was not promoted, or must not lead."""
    DEMOTE_CLUSTER = "demote_cluster"
    """The cluster became a standby cluster and another node leads it."""


class Renewed(StrEnum):
    """What came of an attempt to renew the lock."""

    HELD = "held"
    GONE = "gone"
    TAKEN = "taken"
    UNDECIDED = "undecided"
    """The store did not answer in time."""


class CallbackResult(StrEnum):
    """How a callback ended."""

    OK = "ok"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    DROPPED = "dropped"
    """Newer events waited behind a slow one, so it was never told."""


class TaskEnd(StrEnum):
    """How a long action ended."""

    OK = "ok"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Histogram:
    """Durations by size. ``counts`` has one number for each of ``BOUNDS_S`` and one for what is longer than all of them."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS_S) + 1)
    total_s: float = 0.0

    def plus(self, seconds: float) -> Histogram:
        """With one more duration."""
        place = bisect_left(BOUNDS_S, seconds)
        counts = (*self.counts[:place], self.counts[place] + 1, *self.counts[place + 1 :])
        return Histogram(counts, self.total_s + seconds)


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers since the agent began; none of them ever falls."""

    began: float = 0.0
    """Epoch seconds."""
    heartbeats: Histogram = field(default_factory=Histogram)
    bugs: int = 0
    """Heartbeats that a bug ended early."""
    requests: Mapping[str, Histogram] = field(default_factory=dict)
    """Requests to the store by verb, answered or not."""
    unanswered: Tallied = field(default_factory=dict)
    """Requests to the store that failed, by verb."""
    renewals: Tallied = field(default_factory=dict)
    """By ``Renewed``."""
    members_agreed: int = 0
    """Rounds in failsafe mode after which this primary served on."""
    members_refused: int = 0
    gained: Tallied = field(default_factory=dict)
    """By ``Gained``."""
    lost: Tallied = field(default_factory=dict)
    """By ``Lost``."""
    decisions: Tallied = field(default_factory=dict)
    """Decisions to do something that people want to know of, by the name of their rule."""
    writable_s: float = 0.0
    """Time in which PostgreSQL accepted writes (``NodeView.writes``) and answered when it was looked at."""
    not_writable_s: float = 0.0
    """All other time since the first look."""
    callbacks: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By event and ``CallbackResult``."""
    tasks: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Long actions that have ended, by kind and ``TaskEnd``."""
