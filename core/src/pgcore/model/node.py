"""What a node sees of itself: the one value a heartbeat's ``ObserveNode`` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from pgcore.model.basics import Instant, Json, Lsn, Role, State
from pgcore.model.failsafe import FailsafeRecord
from pgcore.model.synchronous import StandbyNames


class DataDir(StrEnum):
    """The data directory at a glance (HA rules 4, "data directory empty")."""

    EMPTY = "empty"
    PRESENT = "present"
    UNREADABLE = "unreadable"


class ControlState(StrEnum):
    """``Database cluster state`` of pg_controldata."""

    STARTING_UP = "starting up"
    SHUT_DOWN = "shut down"
    SHUT_DOWN_IN_RECOVERY = "shut down in recovery"
    SHUTTING_DOWN = "shutting down"
    IN_CRASH_RECOVERY = "in crash recovery"
    IN_ARCHIVE_RECOVERY = "in archive recovery"
    IN_PRODUCTION = "in production"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ControlData:
    """The parts of pg_controldata that decisions use."""

    state: ControlState
    system_id: str
    checkpoint: Lsn
    checkpoint_timeline: int
    checkpoint_end: Lsn | None = None
    """End of the shutdown-checkpoint record; only looked up (pg_waldump) when a primary wrote it last."""
    minimum_recovery: Lsn = Lsn(0)
    minimum_recovery_timeline: int = 0
    data_checksums: bool = False
    wal_log_hints: bool = False
    parameters: Mapping[str, int] = field(default_factory=dict)
    """max_connections and the other shared-memory settings recorded there (HA rules 11.4)."""

    @property
    def shut_down_primary(self) -> bool:
        """A primary's shutdown checkpoint is the last thing in it, also when a start as a standby got no further. (EC 110)"""
        recovered = self.minimum_recovery and self.minimum_recovery_timeline
        in_recovery = self.state in (ControlState.SHUT_DOWN_IN_RECOVERY, ControlState.IN_ARCHIVE_RECOVERY)
        return self.state is ControlState.SHUT_DOWN or (in_recovery and not recovered)

    @property
    def rewindable(self) -> bool:
        """pg_rewind works on this cluster: checksums or hint logging are on."""
        return self.data_checksums or self.wal_log_hints


@dataclass(frozen=True, slots=True)
class WalReceiver:
    """The row of pg_stat_wal_receiver."""

    status: str
    host: str | None = None
    port: int | None = None
    slot: str | None = None
    timeline: int | None = None
    latest_end: Lsn = Lsn(0)


@dataclass(frozen=True, slots=True)
class WalSender:
    """A row of pg_stat_replication."""

    application_name: str
    state: str
    usename: str = ""
    client_addr: str | None = None
    sync_state: str = "async"
    sync_priority: int = 0
    write: Lsn | None = None
    flush: Lsn | None = None
    replay: Lsn | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot as it exists on this server; temporary slots are left out."""

    name: str
    physical: bool
    active: bool
    restart_lsn: Lsn | None = None
    confirmed_flush: Lsn | None = None
    plugin: str | None = None
    database: str | None = None
    xmin: int | None = None
    catalog_xmin: int | None = None
    wal_status: str | None = None
    failover: bool = False
    synced: bool = False
    handled: bool = False
    """The handler of the cluster's extension says that the slot is its own."""


@dataclass(frozen=True, slots=True)
class SlotReport:
    """What the thread that serves logical slots has found out since it was last asked."""

    broken: frozenset[str] = frozenset()
    """Slots that can never be advanced again: the WAL they need is gone, or the server invalidated them."""
    leader: Mapping[str, int | None] | None = None
    """Oldest transaction that each slot asked about keeps on the leader; None: nothing new was learned."""
    asked: str | None = None
    """Which leader said so."""


class TaskKind(StrEnum):
    """The long actions; one at a time (HA rules 14.2)."""

    BOOTSTRAP = "bootstrap"
    POST_BOOTSTRAP = "post_bootstrap"
    CLONE = "clone"
    START = "start"
    START_PRIMARY = "start primary after failure"
    STOP = "stop"
    PROMOTE = "promote"
    RESTART = "restart"
    FOLLOW = "change primary_conninfo with restart"
    REWIND = "pg_rewind"
    CRASH_RECOVERY = "crash recovery"
    CHECKPOINT = "checkpoint"
    REMOVE = "removing the data directory"
    REINITIALIZE = "reinitialize"
    COPY_SLOTS = "copy logical slots"
    ARCHIVE = "archiving the shutdown checkpoint"


@dataclass(frozen=True, slots=True)
class TaskView:
    """The long action that is running beside the heartbeat, with its progress in its own words."""

    kind: TaskKind
    since: Instant
    progress: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Writes:
    """When the server last began and last ceased to accept writes, as far as this agent knows: None if it never did.

    It ceases with the signal that stops it, or when its end is noticed; it begins when a promotion or a start of a primary is
    confirmed. Commits that wait for a standby, and read-only transactions by configuration, are not seen here.
    """

    began: Instant | None = None
    ceased: Instant | None = None

    @property
    def accepted(self) -> bool:
        """It accepts them now."""
        return self.began is not None and (self.ceased is None or self.began > self.ceased)

    def seen(self, accepted: bool, at: Instant) -> Writes:
        """After it was found to accept them, or not, at this moment."""
        if accepted == self.accepted:
            return self
        return replace(self, began=at) if accepted else replace(self, ceased=at)


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How the last long action ended. ``error`` is empty on success."""

    kind: TaskKind
    error: str = ""
    cancelled: bool = False
    retriable: bool = False
    """It failed because another server was not there; the same may work later. (HA rules 12.4.6)"""

    @property
    def ok(self) -> bool:
        """It did what it was asked to do."""
        return not self.error and not self.cancelled


class WatchdogState(StrEnum):
    """What the watchdog device does (HA rules 10)."""

    CLOSED = "closed"
    ACTIVE = "active"
    """It runs: without keepalives the machine is reset."""
    GIVEN_UP = "given up"
    """Mode ``automatic``: it could not be used, and is not tried again until its configuration changes."""


@dataclass(frozen=True)
class NodeView:
    """One look at this node. A failed query is a value in it (``answering`` false), never an exception."""

    at: Instant
    data_dir: DataDir
    role: Role
    state: State
    claim_left: str = ""
    """Version of an empty ``/initialize`` that stands for the work of an agent of this node that was killed."""
    running: bool = False
    """A postmaster process serves the data directory."""
    answering: bool = False
    """The monitoring query was answered in time during this look."""
    accepting: bool = False
    """The postmaster accepts connections (up, as opposed to starting or shutting down)."""
    system_id: str | None = None
    server_version: int | None = None
    postmaster_pid: int | None = None
    postmaster_start: str | None = None
    """Start time as PostgreSQL prints it; changes with every start."""
    is_primary: bool = False
    """The one predicate of HA rules 1: not in recovery, or unanswered with a live postmaster and a cached role primary."""
    writes: Writes = Writes()
    """No rule decides by it."""
    timeline: int | None = None
    position: Lsn | None = None
    """Flushed WAL on a primary; max(received, replayed) on a standby."""
    received: Lsn | None = None
    replayed: Lsn | None = None
    replayed_at: str | None = None
    replay_paused: bool = False
    receiver: WalReceiver | None = None
    senders: tuple[WalSender, ...] = ()
    slots: tuple[Slot, ...] = ()
    names: StandbyNames = field(default_factory=StandbyNames)
    hot_standby_feedback: bool = False
    """The setting in force: this standby tells its upstream which rows it still needs."""
    has_restore_command: bool = False
    archiving: bool = False
    """WAL is archived by an ``archive_command``."""
    pending_restart: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    control: ControlData | None = None
    """Read only while the server is down (or has just been stopped), or still starting."""
    recovery_files: bool = False
    """standby.signal, recovery.signal or recovery.conf exists."""
    restored_backup: bool = False
    """A backup_label of version 15 or later exists: a restored backup, which a normal start recovers."""
    rewind_possible: bool = False
    """use_pg_rewind is on, the program works, and the cluster is rewindable (HA rules 12.1)."""
    task: TaskView | None = None
    finished: TaskResult | None = None
    """The task that ended since the previous look."""
    watchdog: WatchdogState = WatchdogState.CLOSED
    watchdog_failed: bool = False
    """Mode ``required`` and the device cannot be used: this node must not lead, and tells the others so."""
    watchdog_problem: str = ""
    """Why the watchdog does not run, in words."""
    silent: frozenset[str] = frozenset()
    """Members that did not answer when they were last asked, a moment ago."""
    failsafe: FailsafeRecord | None = None
    """The leader without a store that this node has accepted over REST, while that is valid."""

    @property
    def starting(self) -> bool:
        """ "Is starting" of HA rules 1."""
        return self.state in (State.STARTING, State.BOOTSTRAP_STARTING)

    @property
    def replication_state(self) -> str | None:
        """``streaming``, ``in archive recovery`` or None, as published (rest-api 5.1)."""
        if not self.answering or self.is_primary:
            return None
        if self.receiver is not None and self.receiver.status == "streaming":
            return "streaming"
        return "in archive recovery" if self.has_restore_command else None
