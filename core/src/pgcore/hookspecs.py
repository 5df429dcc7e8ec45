"""Every hook a plugin can implement, one family after another. Plugin authors import the names from ``pgcore.plugin``.

Rules that hold for all of them: describing oneself is cheap, and nothing heavy is imported before ``open`` or ``run`` is called.
New arguments may be added at any time; a plugin names only those it uses. Pluggy calls implementations in reverse order of
registration; pgcore registers built-ins first, then plugins by name, so that a plugin is asked before a built-in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

import pluggy

from pgcore.model.basics import Json, Role, Timing
from pgcore.model.server import ServerSettings, Upstream

if TYPE_CHECKING:
    from pgcore.daemon.board import Status
    from pgcore.dcs.store import Store
    from pgcore.model.cluster import ClusterView
    from pgcore.mpp import MppHandler

PROJECT = "pgcore"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

_PRINTABLE = re.compile(r"[!-~][ -~]*")
_SERIES_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


# -- stores --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """All a store needs to open one scope.

    ``section`` is the parsed object of the backend's section type. ``path`` is ``/<namespace>/<scope>`` with slashes
    normalised, without a trailing one. ``observer`` is true for the command line: no lease, no card, linearizable reads.
    """

    section: object
    path: str
    member: str
    timing: Timing
    observer: bool = False


@dataclass(frozen=True, slots=True)
class StoreBackend:
    """A kind of store. ``name`` is the section in the configuration, ``section`` the dataclass that describes its keys.

    ``open`` imports the client library and may raise ConfigError or StoreRejectedError; an unreachable store is not an error
    there, the verbs report it. ``ttl_floor(section)`` is the smallest ttl in seconds the backend can honour, with the reason
    as text for the error message. ``check(section)`` raises ConfigError for a section that ``open`` would refuse, without side
    effects: `pgcore validate` asks it.
    """

    name: str
    section: type
    open: Callable[[StoreRequest], Store]
    ttl_floor: Callable[[object], tuple[int, str]] = lambda section: (5, "")
    check: Callable[[object], None] = lambda section: None


# -- replica creation and bootstrap --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IdleLimit:
    """For how many ``seconds`` a program may do nothing: print, use the CPU, read or write, fill one of the ``directories``."""

    seconds: float
    directories: tuple[str, ...] = ()


class TaskContext(Protocol):
    """What a long action gets to run programs safely: cancellable, as the right OS user, without secrets in view."""

    def run(
        self,
        argv: list[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        on_output: Callable[[str], None] | None = None,
        stall_timeout: float | None = None,
        idle: IdleLimit | None = None,
    ) -> str:
        """Run a program to its end and return its output. ``on_output`` sees each line (or carriage-return chunk) as it comes.

        A program that prints nothing for ``stall_timeout`` seconds, or does nothing for as long as ``idle`` says, is ended and
        has failed; without these nothing limits its time.
        Raises CommandFailedError (not found, exit code not 0, stalled) or CancelledError (terminated, killed after 10 s).
        """

    def report(self, **progress: Json) -> None:
        """Publish progress: on the member card, in REST, ``pgcore list`` and the metrics.

        Known keys: ``phase``, ``bytes_done``, ``bytes_total``; share, rate and remaining time are worked out from these. A new
        phase begins at nothing.
        """

    def check(self) -> None:
        """Raise CancelledError if the action was cancelled."""


@dataclass(frozen=True, slots=True)
class ReplicaRequest:
    """Make the data directory of a standby. ``source`` is None for a copy without a leader.

    ``connstring`` is a libpq string of the replication user without password; ``env`` carries ``PGPASSFILE`` when there is
    one. ``options`` is the method's own section of the configuration (config 10).
    """

    server: ServerSettings
    source: Upstream | None
    connstring: str
    env: Mapping[str, str]
    options: Json
    binary: Callable[[str], str]
    """Path of a PostgreSQL program by its name, respecting bin_dir and bin_name."""
    task: TaskContext
    server_major: int
    places: Sequence[str] = ()
    """Those of the directories that the method ``fills``, and of the source's tablespaces, which were empty when it began."""


@dataclass(frozen=True, slots=True)
class ReplicaMethod:
    """A way to make a replica, named in ``create_replica_methods`` (HA rules 6.3).

    ``run`` fills ``server.data_dir`` or raises a ServerError; the caller empties it before and after, unless ``keeps_data``.
    ``works_without_source`` methods may run while there is no leader. ``fills`` names the directories outside the data directory
    that its options make it fill: those that were empty before are emptied after a failure.
    """

    name: str
    run: Callable[[ReplicaRequest], None]
    works_without_source: Callable[[Json], bool] = lambda options: False
    keeps_data: Callable[[Json], bool] = lambda options: False
    fills: Callable[[Json], Sequence[str]] = lambda options: ()


@dataclass(frozen=True, slots=True)
class BootstrapRequest:
    """Make the data directory of a new cluster. ``superuser_password_file`` is an open-mode 0600 file or None."""

    server: ServerSettings
    options: Json
    superuser_password_file: str | None
    binary: Callable[[str], str]
    task: TaskContext


@dataclass(frozen=True, slots=True)
class BootstrapMethod:
    """A way to bootstrap a cluster, named by ``bootstrap.method`` (HA rules 6.2). ``run`` raises a ServerError on failure.

    ``recovery`` is asked before ``run``, with the method's options: the recovery settings (``restore_command``, a target) with
    which the new server starts for the first time; empty for a cluster that is complete. ``bootstrap.<name>.recovery_conf``
    wins over it.
    """

    name: str
    run: Callable[[BootstrapRequest], None]
    recovery: Callable[[Json, ServerSettings], Mapping[str, Json]] = lambda options, server: {}


class StoreSpecs:
    """Stores, replica creation, bootstrap. Called once at start (``pgcore_stores`` also by the command line)."""

    @hookspec
    def pgcore_stores(self) -> Iterable[StoreBackend]:
        """The stores this plugin brings. A failure names the plugin and ends the start."""

    @hookspec
    def pgcore_replica_methods(self) -> Iterable[ReplicaMethod]:
        """The replica methods this plugin brings."""

    @hookspec
    def pgcore_bootstrap_methods(self) -> Iterable[BootstrapMethod]:
        """The bootstrap methods this plugin brings."""


# -- callbacks and gates -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CallbackEvent:
    """Something happened to the local server. ``action``: on_start, on_stop, on_restart, on_reload, on_role_change."""

    action: str
    role: Role
    scope: str
    member: str
    command: str | None = None
    """The command configured under ``postgresql.callbacks`` for this action."""
    timeout: float = 60.0
    """Seconds it may take (``postgresql.callback_timeout``)."""
    kills_running: bool = False
    """An event that is still being told makes way for this one (``postgresql.callback_kill_running``)."""
    cancelled: Callable[[], bool] = lambda: False
    """Whether a newer event wants this one to end."""
    report: Callable[[str], None] = lambda result: None
    """Say how it ended, for the metrics: ``ok``, ``failed``, ``timeout`` or ``cancelled``. Who did nothing says nothing."""
    sections: Mapping[str, Json] = field(default_factory=dict, repr=False)
    """The sections of the node file that belong to plugins, parsed, by name, as they are in force now."""


@dataclass(frozen=True, slots=True)
class Veto:
    """A gate says no, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class GateRequest:
    """What a gate is asked about: this member of this scope, and the seconds it has for its answer.

    ``cancelled`` tells whether the question has become pointless (the lock is lost, the agent ends); one that waits looks at it.
    """

    scope: str
    member: str
    timeout: float
    command: str | None = None
    cancelled: Callable[[], bool] = lambda: False


class CallbackSpecs:
    """Callbacks are told on their own lane, in order, with a deadline; gates are asked inside the long action they guard."""

    @hookspec
    def pgcore_callback(self, event: CallbackEvent) -> None:
        """Told after the fact. Failures are logged, never acted upon; may run for ``callback_timeout`` seconds (default 60)."""

    @hookspec
    def pgcore_before_promote(self, request: GateRequest) -> Veto | None:
        """Asked while the lock is held, before promotion. A veto, a failure or a timeout means no promotion."""

    @hookspec
    def pgcore_before_stop(self, request: GateRequest) -> None:
        """Told before the stop signal; waited for, the result is ignored."""


# -- contributions and life ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConfigSection:
    """A section of the configuration that belongs to a plugin: its name and the dataclass that describes it."""

    name: str
    section: type


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one series of a plugin, for ``/metrics`` (metrics 1).

    ``name`` comes without the prefix ``pgcore_plugin_``. Samples of one name share kind and help and differ in ``labels``; the
    labels ``scope``, ``name`` and ``plugin`` are pgcore's. Raises ValueError for what Prometheus would not take.
    """

    name: str
    value: float
    kind: str = "gauge"
    """``gauge`` or ``counter``."""
    help: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (self.name, *self.labels):
            if not _SERIES_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name for a series or a label: letters, digits and _ only, no digit first")
        if self.kind not in ("gauge", "counter"):
            raise ValueError(f"{self.name} is of the kind {self.kind!r}: gauge or counter")
        if taken := {"scope", "name", "plugin"} & set(self.labels):
            raise ValueError(f"{self.name} has the label {min(taken)}, which is pgcore's own")
        object.__setattr__(self, "value", float(self.value))
        object.__setattr__(self, "help", str(self.help))
        object.__setattr__(self, "labels", {name: str(value) for name, value in self.labels.items()})


@dataclass(frozen=True, slots=True)
class Facts:
    """What a plugin may know about the node: the last published observation, as plain values."""

    scope: str
    member: str
    role: Role
    state: str
    is_leader: bool
    timeline: int | None
    extra: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RestRequest:
    """A request to an endpoint of a plugin, let in already: access is checked before an unsafe one gets here."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    """The first value of each parameter, decoded; parameters without a value are left out."""
    body: Json = None
    """The JSON that was sent, None without a body."""
    client: str = ""
    """Address of who asks."""


@dataclass(frozen=True, slots=True)
class RestResponse:
    """What a plugin answers. ``body`` becomes JSON, unless ``content_type`` names something else: then it is the text itself.

    Raises ValueError for what cannot be sent. ``text`` is what goes out, in UTF-8; types of text are told so.
    """

    body: Json = None
    code: int = 200
    content_type: str = "application/json"
    text: str = field(init=False, default="")

    def __post_init__(self) -> None:
        if self.code < 200 or not _PRINTABLE.fullmatch(self.content_type):
            raise ValueError(f"an answer cannot have the code {self.code} and the content type {self.content_type!r}")
        HTTPStatus(self.code)
        if self.content_type == "application/json":
            object.__setattr__(self, "text", json.dumps(self.body, default=str, allow_nan=False))
        elif isinstance(self.body, str):
            object.__setattr__(self, "text", self.body)
        else:
            raise ValueError(f"the body of an answer of type {self.content_type} must be text, it is {self.body!r}")


@dataclass(frozen=True, slots=True)
class Route:
    """A REST endpoint of a plugin: one method of one path, e.g. ``/backups/last``, which no built-in endpoint or check answers.

    ``handler`` runs on a REST thread beside the heartbeat, with what the agent published last; pgcore cannot end it, so it limits
    its own time. At most half of the workers for such work are ever given to plugins. Whatever it raises is
    an answer 500 and a line in the log.
    """

    method: str
    """``GET``, ``POST``, ``PUT``, ``PATCH`` or ``DELETE``."""
    path: str
    handler: Callable[[RestRequest, Status], RestResponse]
    unsafe: bool = True
    """Only for whom the allowlist, a client certificate or the password lets in (rest-api 11). Only a GET may be open."""
    summary: str = ""
    """One line for ``/openapi.json``."""
    description: Mapping[str, Json] = field(default_factory=dict)
    """More of the OpenAPI Operation Object: ``parameters``, ``requestBody``, ``responses``. Laid over what pgcore says itself.

    Raises ValueError for what is no JSON.
    """

    def __post_init__(self) -> None:
        try:
            told = json.loads(json.dumps({"summary": self.summary, **self.description}, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"the description of {self.method} {self.path} is no JSON: {error}") from error
        if not isinstance(told["summary"], str) or not isinstance(told.get("responses", {}), dict):
            raise ValueError(f"the description of {self.method} {self.path}: responses are no object, or the summary is no text")


class CliCluster(Protocol):
    """A cluster as a command of a plugin sees it."""

    scope: str
    store: Store

    def read(self) -> ClusterView:
        """The cluster as it is now. Raises StoreUnavailableError."""


class CliSession(Protocol):
    """What ``click.get_current_context().obj`` offers a command of a plugin. Nothing is read or opened before it is asked for."""

    def scope(self, name: str | None) -> str:
        """The cluster meant: the one named, else the one of the configuration. Raises ConfigError."""

    def cluster(self, name: str | None) -> AbstractContextManager[CliCluster]:
        """Its store, open for reading. Raises ConfigError, PluginError."""

    def section(self, name: str, file: str | None = None) -> object:
        """A section that a plugin brings, of the configuration or of the file named instead. Raises ConfigError, PluginError."""


class ContributionSpecs:
    """Additions to configuration, metrics, REST and the member card. Start-up failures are fatal, later ones are counted."""

    @hookspec
    def pgcore_config_sections(self) -> Iterable[ConfigSection]:
        """Sections of a plugin that is neither a store nor a method."""

    @hookspec
    def pgcore_metrics(self, status: Status) -> Iterable[Sample]:
        """More series for ``/metrics``; called per scrape beside the heartbeat. What takes longer than 1 s is a failure."""

    @hookspec
    def pgcore_rest_routes(self) -> Iterable[Route]:
        """More REST endpoints; called once at start."""

    @hookspec
    def pgcore_cli_commands(self) -> Iterable[object]:
        """More commands of ``pgcore``, as click commands; called by the command line when one of them is named.

        Their names are the names of the module's entry points in the group ``pgcore.cli``.
        """

    @hookspec
    def pgcore_member_fields(self, facts: Facts) -> Mapping[str, Json]:
        """More fields for the member card; called in the heartbeat: no I/O, 10 ms."""

    @hookspec
    def pgcore_server_parameters(self, facts: Facts) -> Mapping[str, str]:
        """Server parameters this plugin enforces; called when the configuration is composed: no I/O, 10 ms."""


class MppSpecs:
    """Clusters of clusters: see ``pgcore.mpp``."""

    @hookspec
    def pgcore_mpp_handlers(self, sections: Mapping[str, Json]) -> Iterable[MppHandler]:
        """What this node does in a cluster of clusters: one handler if a section asks for it, else none. Called at start."""


class LifeSpecs:
    """Start and end of the agent, told on the callback lane."""

    @hookspec
    def pgcore_started(self, facts: Facts) -> None:
        """The first heartbeat is done."""

    @hookspec
    def pgcore_stopping(self, facts: Facts) -> None:
        """The agent is about to end."""


SPECS = (StoreSpecs, CallbackSpecs, ContributionSpecs, MppSpecs, LifeSpecs)
