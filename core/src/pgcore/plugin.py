"""The only module a plugin imports: hook markers, the types of the hooks, stores' words, errors, time, configuration options."""

from pgcore.clock import Deadline, now
from pgcore.config.schema import option
from pgcore.daemon.board import Status
from pgcore.daemon.systemd import Notifier, take_notify_address
from pgcore.dcs.store import (
    ABSENT,
    ANYTHING,
    MEMBERS,
    Expect,
    Key,
    Record,
    Refused,
    Renewal,
    Snapshot,
    Store,
    Stored,
    version,
)
from pgcore.errors import (
    CancelledError,
    CommandFailedError,
    ConfigError,
    PgcoreError,
    ServerError,
    StoreRejectedError,
    StoreUnavailableError,
)
from pgcore.hookspecs import (
    BootstrapMethod,
    BootstrapRequest,
    CallbackEvent,
    CliCluster,
    CliSession,
    ConfigSection,
    Facts,
    GateRequest,
    IdleLimit,
    ReplicaMethod,
    ReplicaRequest,
    RestRequest,
    RestResponse,
    Route,
    Sample,
    StoreBackend,
    StoreRequest,
    TaskContext,
    Veto,
    hookimpl,
)
from pgcore.model.basics import Instant, Json, Role, Timing
from pgcore.model.options import option_pairs
from pgcore.model.server import ServerSettings, Upstream
from pgcore.mpp import COORDINATOR_GROUP, Group, GroupMember, MppHandler, NodeTools, SqlSession

__all__ = [
    "ABSENT", "ANYTHING", "COORDINATOR_GROUP", "MEMBERS", "hookimpl", "now", "option", "option_pairs", "take_notify_address",
    "version",
    "BootstrapMethod", "BootstrapRequest", "CallbackEvent", "CancelledError", "CliCluster", "CliSession", "CommandFailedError",
    "ConfigError", "ConfigSection", "Deadline", "Expect", "Facts", "GateRequest", "Group", "GroupMember", "IdleLimit", "Instant",
    "Json", "Key", "MppHandler", "NodeTools", "Notifier", "PgcoreError", "Record", "Refused", "Renewal", "ReplicaMethod",
    "ReplicaRequest", "RestRequest", "RestResponse", "Role", "Route", "Sample", "ServerError", "ServerSettings", "Snapshot",
    "SqlSession", "Status", "Store", "StoreBackend", "StoreRejectedError", "StoreRequest", "StoreUnavailableError", "Stored",
    "TaskContext", "Timing", "Upstream", "Veto",
]
