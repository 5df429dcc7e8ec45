"""The words of actions: how a demotion, a bootstrap, a comparison and a stop can stand, and what comes of an action."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pgcore.model.basics import Instant


class DemoteMode(StrEnum):
    """How a node gives up being primary (HA rules 17); SHUTDOWN is the end of the agent (HA rules 27)."""

    GRACEFUL = "graceful"
    SHUTDOWN = "shutdown"
    IMMEDIATE = "immediate"
    IMMEDIATE_NOLOCK = "immediate-nolock"
    OFFLINE = "offline"
    CLUSTER = "demote-cluster"
    """The whole cluster becomes a standby cluster; the lock is kept unless a replica has everything."""


class Phase(StrEnum):
    """Where a demotion stands."""

    CHECKPOINT = "checkpoint while still serving"
    VERIFY = "making sure that a candidate receives what is written"
    STOP = "stopping the server"
    HANDOVER = "waiting for a candidate to have everything"
    RESUME = "resuming as primary"
    AWAIT_LEADER = "waiting for the new leader"
    ARCHIVE = "archiving the shutdown checkpoint"


class BootstrapPhase(StrEnum):
    """Where the creation of a new cluster stands (HA rules 6.2, 6.4)."""

    CREATE = "creating the data directory"
    POST = "creating users"
    FAILED = "failed"


class RewindState(StrEnum):
    """What is known about divergence from the leader (HA rules 1)."""

    INITIAL = "initial"
    CHECK = "check"
    NEED = "need"
    TWIN = "twin"
    """Diverged under the leader's timeline number: pg_rewind would see no difference, and neither would the WAL receiver."""
    NOT_NEED = "not needed"
    SUCCESS = "success"
    FAILED = "failed"


class StopMode(StrEnum):
    """The shutdown modes of PostgreSQL that pgcore uses."""

    FAST = "fast"
    IMMEDIATE = "immediate"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an action, stamped with the instants it was begun and ended. ``error`` says why when not ``ok``."""

    at: Instant
    ok: bool = True
    value: object = None
    error: str = ""
    began: Instant | None = None
