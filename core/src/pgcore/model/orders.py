"""What an operator can ask of one node: a restart, now or at a time, and a new copy. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pgcore.model.basics import Instant, Json


@dataclass(frozen=True, slots=True)
class RestartOrder:
    """Restart PostgreSQL, if these conditions still hold at the moment it is to happen (HA rules 24.1)."""

    role: str | None = None
    postgres_version: int | None = None
    """Only if the running server is older, as 150006."""
    restart_pending: bool = False
    """Only if a parameter waits for a restart."""
    timeout_s: float | None = None
    """Seconds the start may take before another node should lead; None: ``primary_start_timeout``."""
    asked_at: Instant | None = None
    """When the node was asked; what waits before it is begun is bounded from here."""


@dataclass(frozen=True, slots=True)
class ScheduledRestart:
    """A restart at a moment, kept in memory and shown in the member card (HA rules 24.3)."""

    order: RestartOrder
    due_at: float
    """Epoch seconds."""
    shown: Mapping[str, Json] = field(default_factory=dict)
    """What the member card says of it: the schedule and the conditions as they were given."""
    postmaster_start: str | None = None
    """When the postmaster had started at the time of the request; another one makes the restart pointless."""


@dataclass(frozen=True, slots=True)
class ReinitOrder:
    """Throw the data directory away and copy it anew (HA rules 24.5)."""

    force: bool = False
    """Cancel a running long action first."""
    from_leader: bool = False
    """Copy from the leader by pg_basebackup, whatever is configured."""
    asked_at: Instant | None = None


Order = RestartOrder | ReinitOrder
