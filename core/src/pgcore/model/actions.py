"""Every effect as data. The set is closed: ``daemon.perform`` has one function for each, and nothing else has effects.

*Looks* read, *store* actions write keys, *quick* server actions end within their deadline, *slow* ones start the one task and
return at once, *memory* actions have no effect: ``decide.advance`` remembers them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pgcore.model.basics import Instant, Json, Lsn, Role
from pgcore.model.cluster import ClusterStatus, HistoryEntry, Member
from pgcore.model.server import Upstream


class DemoteMode(StrEnum):
    """How a node gives up being primary (HA rules 17); SHUTDOWN is the end of the agent (HA rules 27)."""

    GRACEFUL = "graceful"
    SHUTDOWN = "shutdown"
    IMMEDIATE = "immediate"
    IMMEDIATE_NOLOCK = "immediate-nolock"
    OFFLINE = "offline"


class Phase(StrEnum):
    """Where a demotion stands."""

    CHECKPOINT = "checkpoint while still serving"
    VERIFY = "making sure that a candidate receives what is written"
    STOP = "stopping the server"
    HANDOVER = "waiting for a candidate to have everything"
    RESUME = "resuming as primary"
    AWAIT_LEADER = "waiting for the new leader"


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


# -- looks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ObserveNode:
    """Look at the local server; the value is a NodeView."""


@dataclass(frozen=True, slots=True)
class ReadCluster:
    """Read the whole scope; the value is a ClusterReading. Not ok: the store did not answer in time."""

    fresh: bool = False


@dataclass(frozen=True, slots=True)
class PollPeers:
    """Ask these members for their status over REST, in parallel; the value maps names to PeerView."""

    members: tuple[Member, ...]
    timeout_s: float = 2.0
    brief: frozenset[str] = frozenset()
    """Members that have been silent of late: they get BRIEF_S only, so that nobody waits for a dead node."""


@dataclass(frozen=True, slots=True)
class ProbePeers:
    """Ask these members in the background; who stays silent is seen in the next looks as ``NodeView.silent``."""

    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class CompareTimelines:
    """Ask the leader for its timeline and history; the value is a LeaderTimeline. Not ok: undecided."""

    source: Upstream


@dataclass(frozen=True, slots=True)
class CompareRecovery:
    """Compare the recovery settings in force with those wanted; the value is ``none``, ``reload`` or ``restart``."""

    upstream: Upstream | None
    role: Role


@dataclass(frozen=True, slots=True)
class ReadHistory:
    """Read the local history file of a timeline; the value is a tuple of HistoryEntry, oldest first."""

    timeline: int


# -- store ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AcquireLease:
    """Create the leader lock if it is free. ``force`` takes it unconditionally, at the end of a bootstrap only."""

    force: bool = False


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


# -- server, quick ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FollowByReload:
    """Point the running standby at another upstream without a restart."""

    upstream: Upstream | None
    role: Role


@dataclass(frozen=True, slots=True)
class ApplySettings:
    """Give the running server the configuration in force and reload it."""


@dataclass(frozen=True, slots=True)
class ChangeSlots:
    """Create, advance and drop physical slots. Failures are reported and retried in the next beat."""

    create: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    advance: Mapping[str, Lsn] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunCheckpoint:
    """Start the checkpoint after a promotion, beside the heartbeat and beside the task; the value is True once it is written."""


@dataclass(frozen=True, slots=True)
class SetRole:
    """Remember what this node is from now on; a change is told to the callbacks."""

    role: Role


# -- server, slow -----------------------------------------------------------------------------------------------------


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
class Rewind:
    """Stop if necessary, recover if necessary, and run pg_rewind against the leader."""

    source: Upstream


@dataclass(frozen=True, slots=True)
class Clone:
    """Make a replica with the configured methods; ``source`` None uses those that need no leader."""

    source: Upstream | None


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Create the data directory of a new cluster and start it."""


@dataclass(frozen=True, slots=True)
class PostBootstrap:
    """Create the users of a new cluster and run its script."""


# -- node -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CancelTask:
    """Cancel the running task; it ends as cancelled soon."""


@dataclass(frozen=True, slots=True)
class RemoveDataDir:
    """Remove the data directory so that it is cloned anew. Only for a copy that exists elsewhere."""

    because: str


@dataclass(frozen=True, slots=True)
class SetAsideDataDir:
    """Rename the data directory of a failed bootstrap to ``<dir>.failed``."""


@dataclass(frozen=True, slots=True)
class Exit:
    """End the agent. ``leave_running`` keeps PostgreSQL as it is."""

    code: int
    message: str
    leave_running: bool = False


# -- memory -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BeginDemotion:
    """Start giving up the primary role; the rules of ``decide.demotion`` carry it through."""

    mode: DemoteMode
    phase: Phase
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EnterPhase:
    """The demotion goes on with this phase.

    ``mark`` is the own position that shows a candidate alive, ``end`` the end of the shutdown checkpoint, each once known.
    """

    phase: Phase
    end: Lsn | None = None
    mark: Lsn | None = None


@dataclass(frozen=True, slots=True)
class EndProcedure:
    """The procedure is over; ``refused`` is the reason when a request was not carried out."""

    refused: str = ""


@dataclass(frozen=True, slots=True)
class EnterBootstrap:
    """The creation of a new cluster goes on with this phase."""

    phase: BootstrapPhase


@dataclass(frozen=True, slots=True)
class SetRewind:
    """Remember what is known about divergence."""

    state: RewindState


@dataclass(frozen=True, slots=True)
class Adopt:
    """Take charge of the running server: the callbacks are told ``on_start`` once. (HA rules 4.14)"""


@dataclass(frozen=True, slots=True)
class MarkUndecided:
    """The comparison with the leader stays open; remembered since when."""


@dataclass(frozen=True, slots=True)
class NoteRequest:
    """A switchover request was seen; remembered since when, by its version."""

    version: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Remember why a request was not carried out, for the one who asked."""

    reason: str


Action = (
    ObserveNode
    | ReadCluster
    | PollPeers
    | ProbePeers
    | CompareTimelines
    | CompareRecovery
    | ReadHistory
    | AcquireLease
    | RenewLease
    | ReleaseLease
    | ClaimInitialize
    | WriteInitialize
    | DropInitialize
    | WriteConfig
    | WriteStatus
    | WriteHistory
    | WriteFailover
    | Announce
    | FollowByReload
    | ApplySettings
    | ChangeSlots
    | RunCheckpoint
    | SetRole
    | StartServer
    | StopServer
    | Checkpoint
    | Promote
    | FollowByRestart
    | Rewind
    | Clone
    | Bootstrap
    | PostBootstrap
    | CancelTask
    | RemoveDataDir
    | SetAsideDataDir
    | Exit
    | BeginDemotion
    | EnterPhase
    | EndProcedure
    | EnterBootstrap
    | SetRewind
    | Adopt
    | MarkUndecided
    | NoteRequest
    | Refuse
)
