"""Actions that write keys of the store; each carries what it expects to find there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pgcore.model.basics import Json
from pgcore.model.cluster import ClusterStatus, HistoryEntry


@dataclass(frozen=True, slots=True)
class AcquireLease:
    """Create the leader lock if it is free. ``force`` takes it unconditionally, at the end of a bootstrap only."""

    force: bool = False
    proof: str | None = None
    """Version of the ``/sync`` under which the race was won: this node has every confirmed commit. None: nothing was proven."""


@dataclass(frozen=True, slots=True)
class RenewLease:
    """Extend the leader lock. Value: a Renewal name. A proven lease runs from before the request was sent."""


@dataclass(frozen=True, slots=True)
class ReleaseLease:
    """Give the lock away; ``status`` is written first when given."""

    status: ClusterStatus | None = None


@dataclass(frozen=True, slots=True)
class ClaimInitialize:
    """Win the right to bootstrap: create ``/initialize`` empty if it is absent."""


@dataclass(frozen=True, slots=True)
class WriteInitialize:
    """Store the system identifier; ``version`` None creates the key, else replaces what was read."""

    system_id: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class DropInitialize:
    """Let another node bootstrap after our attempt failed: delete ``/initialize`` if it is still at this version."""

    version: str


@dataclass(frozen=True, slots=True)
class WriteConfig:
    """Store the dynamic configuration; ``version`` None creates the key, else replaces what was read."""

    document: Mapping[str, Json]
    version: str | None = None


@dataclass(frozen=True, slots=True)
class WriteStatus:
    """Store the leader's position and slots."""

    status: ClusterStatus


@dataclass(frozen=True, slots=True)
class WriteHistory:
    """Store the timeline history."""

    entries: tuple[HistoryEntry, ...]


@dataclass(frozen=True, slots=True)
class WriteFailover:
    """Rewrite the ``/failover`` key; without names it is cleared. ``version`` None writes unconditionally."""

    leader: str | None = None
    candidate: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Announce:
    """Publish the member card and extend its lease."""

    card: Mapping[str, Json]
