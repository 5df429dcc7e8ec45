"""What the PostgreSQL port must know about the local server: addresses, programs, users, parameters. Values only.

The daemon composes a ``ServerSettings`` from the effective configuration; nothing in ``pgcore.postgres`` reads a configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pgcore.model.basics import Json, Role


@dataclass(frozen=True, slots=True)
class Credentials:
    """One database user with its TLS options (config 6.2); ``options`` holds sslmode, sslcert and the like."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    options: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server to stream or copy from: one member, or the remote side of a standby cluster.

    ``name`` is the member's name, None for a remote. ``host`` may be several, separated by commas.
    ``slot`` is the slot to use there, None for none.
    """

    host: str
    port: int
    name: str | None = None
    slot: str | None = None
    dbname: str = "postgres"
    read_write: bool = False
    """Several hosts are named: of these only one that accepts writes will do."""

    @property
    def label(self) -> str:
        """The member's name, or where the remote is."""
        return self.name or f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The local server as configured (config 6). Paths are absolute. Lists and maps are as effective, already merged."""

    name: str
    scope: str
    listen: str
    data_dir: str
    connect_address: str | None = None
    proxy_address: str | None = None
    config_dir: str | None = None
    bin_dir: str | None = None
    bin_name: Mapping[str, str] = field(default_factory=dict)
    pgpass: str | None = None
    database: str = "postgres"
    config_base_name: str = "postgresql"
    use_unix_socket: bool = False
    use_unix_socket_repl: bool = False
    krbsrvname: str | None = None
    superuser: Credentials = field(default_factory=Credentials)
    replication: Credentials = field(default_factory=Credentials)
    rewind: Credentials = field(default_factory=Credentials)
    parameters: Mapping[str, Json] = field(default_factory=dict)
    """Merged and checked by config 7.1: includes the controlled ones (``listen_addresses``, ``port``, ``wal_level``, …)."""
    pg_hba: tuple[str, ...] = ()
    pg_ident: tuple[str, ...] = ()
    recovery_conf: Mapping[str, Json] = field(default_factory=dict)
    custom_conf: str | None = None
    use_slots: bool = True
    use_pg_rewind: bool = False
    rewind_options: Json = ()
    """More options of pg_rewind, as configured (config 10.6)."""
    pg_ctl_timeout: float = 60.0
    retry_timeout: float = 10.0
    os_user: str | None = None
    """OS account for every PostgreSQL program when the agent runs as root; default: the data directory's owner."""
    bootstrap_pg_hba: tuple[str, ...] = ()
    before_stop: str | None = None
    pre_promote: str | None = None
    leader_apply_delay: str | None = None
    """``recovery_min_apply_delay`` of the ``standby_cluster`` section: for the standby leader alone (HA rules 22.3)."""
    by_role: Mapping[Role, ServerSettings] = field(default_factory=dict)
    """The same with the overrides of a role, for every role if there are any (config 6.6)."""

    def for_role(self, role: Role) -> ServerSettings:
        """These settings as they are in this role."""
        return self.by_role.get(role, self)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundServer:
    """A running server as an administrator set it up, before any agent: what a node file for it is made of."""

    major: int
    cluster_name: str
    listen: str
    """``listen_addresses`` and port, as ``postgresql.listen`` is written."""
    data_dir: str
    config_file: str
    bin_dir: str
    parameters: Mapping[str, str]
    """Set to something else than PostgreSQL's default, or asked for by name; as ``SHOW`` prints them."""
    hba_file: str
    ident_file: str
    hba: tuple[str, ...] = ()
    ident: tuple[str, ...] = ()
    """Lines of the two files without comments."""
    superuser: Credentials = field(default_factory=Credentials)
    socket: bool = False
    """It was reached through its socket on this machine."""
    replication_role: str | None = None
    """The one role besides superusers that may replicate; None if there is none, or several."""
