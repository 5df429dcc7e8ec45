"""Actions on the local server: *quick* ones end within their deadline, *slow* ones start the one task and return at once."""

from __future__ import annotations

from dataclasses import dataclass

from pgcore.model.actions.words import StopMode
from pgcore.model.basics import Role
from pgcore.model.server import Upstream

# -- quick ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FollowByReload:
    """Point the running standby at another upstream without a restart."""

    upstream: Upstream | None
    role: Role


@dataclass(frozen=True, slots=True)
class ApplySettings:
    """Give the running server the configuration in force and reload it."""


@dataclass(frozen=True, slots=True)
class ResumeReplay:
    """Let a standby go on whose replay is paused because the primary raised a setting beyond this server's; else nothing.

    It then ends by itself and is started with the larger value.
    """


@dataclass(frozen=True, slots=True)
class RunCheckpoint:
    """Start the checkpoint after a promotion, beside the heartbeat and beside the task; the value is True once it is written.

    One that was begun on an earlier timeline does not count. (EC 106)
    """

    timeline: int | None


@dataclass(frozen=True, slots=True)
class SetRole:
    """Remember what this node is from now on; a change is told to the callbacks."""

    role: Role


# -- slow -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartServer:
    """Start PostgreSQL as a primary or as a standby of ``upstream``."""

    role: Role
    upstream: Upstream | None = None
    timeout_s: float = 300.0
    after_crash: bool = False


@dataclass(frozen=True, slots=True)
class StopServer:
    """Stop PostgreSQL. ``timeout_s`` None waits as long as it takes; the guard's bound holds all the same."""

    mode: StopMode
    timeout_s: float | None = None
    sessions_s: float | None = None
    """Without a bound for the whole stop: how long users' sessions may take, and archiver and standbys after the checkpoint."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Write a checkpoint while still serving, so that the shutdown checkpoint will be short."""


@dataclass(frozen=True, slots=True)
class Promote:
    """Promote the standby; the gates are asked first and the lease is checked right before the command."""

    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class FollowByRestart:
    """Restart the standby to follow another upstream (settings that a reload cannot change)."""

    upstream: Upstream | None
    role: Role


@dataclass(frozen=True, slots=True)
class CrashRecover:
    """Single-user crash recovery: the WAL is replayed to its end without opening the server to anybody."""


@dataclass(frozen=True, slots=True)
class Rewind:
    """Stop if necessary and run pg_rewind against the leader."""

    source: Upstream


@dataclass(frozen=True, slots=True)
class SetHistoriesAside:
    """Rename the local history files of these timelines, so that PostgreSQL does not find them."""

    timelines: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ArchiveShutdownWal:
    """Archive the WAL file with the shutdown checkpoint of a stopped primary, if its WAL is archived by a command."""


@dataclass(frozen=True, slots=True)
class Clone:
    """Make a replica with the configured methods; ``source`` None uses those that need no leader."""

    source: Upstream | None


@dataclass(frozen=True, slots=True)
class Restart:
    """Stop PostgreSQL with a checkpoint and start it again in the same role, within ``timeout_s`` for the start."""

    role: Role
    upstream: Upstream | None = None
    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Reinitialize:
    """Stop, remove the data directory, copy it from ``source`` and start as a standby of ``upstream``, all in one long action."""

    source: Upstream
    upstream: Upstream | None
    basebackup_only: bool = False


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Create the data directory of a new cluster and start it."""


@dataclass(frozen=True, slots=True)
class PostBootstrap:
    """Create the users of a new cluster and run its script."""
