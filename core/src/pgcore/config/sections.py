"""The core's sections of the configuration as dataclasses (config 2, 4, 5, 6, 14, 16); plugins describe their own.

Defaults are those of config.md; keys that only pgcore knows say so in their ``doc``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pgcore.config.schema import json_schema, key_names, option
from pgcore.config.tags import BOOLEAN_TAGS
from pgcore.model.basics import PATRONI_MIN_TTL, Json

DISTRIBUTION_OF: Mapping[str, str] = {
    "consul": "pgcore-dcs-consul",
    "etcd": "pgcore-dcs-etcd",
    "etcd3": "pgcore-dcs-etcd",
    "exhibitor": "pgcore-dcs-zookeeper",
    "kubernetes": "pgcore-dcs-kubernetes",
    "raft": "pgcore-dcs-raft",
    "zookeeper": "pgcore-dcs-zookeeper",
}
"""The known store sections in the order of config 3, and the distribution that brings each."""
PLUGIN_SECTIONS: Mapping[str, str] = {"aws": "pgcore-callbacks-aws"}
"""Sections of our plugins that are no stores, and the distribution that brings each."""

LEVELS = ("DEBUG", "INFO", "WARN", "WARNING", "ERROR", "FATAL", "CRITICAL")
PLACEHOLDER_NAME = "__patroni_strict_sync_replica_placeholder__"
ROLE_WORDS = ("primary", "replica", "standby_leader")
"""Roles with overrides of their own: ``parameters_<role>``, ``pg_hba_<role>``, ``pg_ident_<role>`` (config 6.6)."""
PROGRAMS = ("pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready", "pg_rewind")
CALLBACKS = ("on_start", "on_stop", "on_restart", "on_reload", "on_role_change")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSection:
    """The keys at the top level (config 2.1)."""

    scope: str = option(doc="cluster name, the same on every node of the cluster")
    namespace: str = option("service", doc="first part of every path in the store")
    name: str = option(doc="unique name of this node in the cluster")
    thread_pool_size: int = option(5, doc="threads for requests to peers; smaller values count as 5")
    thread_stack_size: int = option(512 << 10, unit="bytes", doc="stack of each thread; smaller values count as 64kB")

    @property
    def store_path(self) -> str:
        """``/<namespace>/<scope>`` with runs of slashes squeezed, without the last one (config 2.1)."""
        return "/" + "/".join(part for part in f"{self.namespace}/{self.scope}".split("/") if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSection:
    """``log`` (config 2.2)."""

    type: str = option("plain", choices=("plain", "json"), doc="format of the lines")
    level: str = option("INFO", choices=LEVELS, doc="least severe level that is logged")
    traceback_level: str = option("ERROR", choices=LEVELS, doc="DEBUG: stack traces only when level is DEBUG")
    format: Json = option("%(asctime)s %(levelname)s: %(message)s", doc="line format, or a list of fields for json")
    dateformat: str | None = option(None, doc="strftime format of asctime")
    static_fields: Mapping[str, Json] = option(factory=dict, doc="fields added to every json line")
    max_queue_size: int = option(1000, minimum=1, doc="no effect: pgcore writes each line at once and drops none")
    dir: str | None = option(None, doc="existing directory for rotating log files; standard error without it")
    file_num: int = option(4, minimum=0, doc="rotated files kept")
    file_size: int = option(25_000_000, minimum=1, unit="bytes", doc="size at which a file is rotated")
    mode: int | None = option(None, minimum=0, maximum=0o777, doc="permissions of log files, as 0644")
    loggers: Mapping[str, str] = option(factory=dict, doc="levels of single loggers")
    deduplicate_heartbeat_logs: bool = option(False, doc="no effect: pgcore never repeats an unchanged heartbeat")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderSection:
    """``recorder``: pgcore's record of observations and decisions (docs/flight-recorder.md)."""

    enabled: bool = option(True, doc="pgcore: keep a record of what this node saw and decided")
    dir: str | None = option(None, doc="pgcore: directory of the record; default: log.dir, else <data_dir>.flight")
    file_size: int = option(5_000_000, minimum=100_000, unit="bytes", doc="pgcore: size at which a file is rotated")
    file_num: int = option(4, minimum=0, maximum=1000, doc="pgcore: rotated files kept")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginSection:
    """``authentication`` of ``restapi`` and ``ctl``; both members are required (config 1.3)."""

    username: str = option(doc="user name for basic authentication")
    password: str = option(doc="its password", secret=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestapiSection:
    """``restapi`` (config 2.3)."""

    listen: str = option(unit="words", doc="host:port the REST API listens on, or a list of them")
    connect_address: str | None = option(None, doc="host:port at which peers reach it; default: the first of listen")
    authentication: LoginSection | None = option(None, doc="basic authentication of calls that change something")
    certfile: str | None = option(None, doc="certificate; turns HTTPS on")
    keyfile: str | None = option(None, doc="key of the certificate")
    keyfile_password: str | None = option(None, doc="password of the key", secret=True)
    cafile: str | None = option(None, doc="authorities that sign client certificates")
    ciphers: str | None = option(None, doc="OpenSSL cipher list")
    verify_client: str = option("none", choices=("none", "optional", "required"), doc="which calls need a client certificate")
    allowlist: tuple[str, ...] = option((), doc="hosts, addresses, networks that may call what changes something; empty: all")
    allowlist_include_members: bool = option(False, doc="members may always call")
    http_extra_headers: Mapping[str, str] = option(factory=dict, doc="headers added to every response")
    https_extra_headers: Mapping[str, str] = option(factory=dict, doc="headers added with TLS")
    request_queue_size: int = option(5, minimum=0, maximum=4096, doc="listen backlog")
    thread_pool_size: int = option(5, doc="threads of the REST API; smaller values count as 5")
    server_tokens: str = option("Original", choices=("Original", "Minimal", "ProductOnly"), doc="what the Server header tells")


@dataclass(frozen=True, slots=True, kw_only=True)
class CtlSection:
    """``ctl`` (config 2.4); the login and the authorities default to those of ``restapi``."""

    authentication: LoginSection | None = option(None, doc="login for REST calls; default: restapi.authentication")
    insecure: bool = option(False, doc="do not verify server certificates")
    cacert: str | None = option(None, doc="authorities that sign server certificates; default: restapi.cafile")
    certfile: str | None = option(None, doc="client certificate")
    keyfile: str | None = option(None, doc="its key")
    keyfile_password: str | None = option(None, doc="password of the key", secret=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseUserSection:
    """One user below ``postgresql.authentication`` (config 6.2)."""

    username: str | None = option(None, doc="name of the database role")
    password: str | None = option(None, doc="its password", secret=True)
    sslmode: str | None = option(None, doc="libpq sslmode",
                                 choices=("disable", "allow", "prefer", "require", "verify-ca", "verify-full"))
    sslcert: str | None = option(None, doc="client certificate")
    sslkey: str | None = option(None, doc="its key")
    sslpassword: str | None = option(None, doc="password of the key", secret=True)
    sslrootcert: str | None = option(None, doc="authorities that sign server certificates")
    sslcrl: str | None = option(None, doc="revoked certificates")
    sslcrldir: str | None = option(None, doc="directory of revoked certificates")
    gssencmode: str | None = option(None, doc="libpq gssencmode", choices=("disable", "prefer", "require"))
    channel_binding: str | None = option(None, doc="libpq channel_binding", choices=("disable", "prefer", "require"))
    sslnegotiation: str | None = option(None, doc="libpq sslnegotiation", choices=("postgres", "direct"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticationSection:
    """``postgresql.authentication`` (config 6.2)."""

    superuser: DatabaseUserSection = option(factory=DatabaseUserSection, doc="used for local connections and initdb")
    replication: DatabaseUserSection = option(factory=DatabaseUserSection, doc="used for streaming and base backups")
    rewind: DatabaseUserSection | None = option(None, doc="used by pg_rewind; default: the superuser")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPostgresql:
    """The keys of ``postgresql`` that may be local or dynamic, local winning (config 6)."""

    bin_dir: str | None = option(None, doc="directory of the PostgreSQL programs; default: PATH")
    bin_name: Mapping[str, str] = option(factory=dict, doc="other names of PostgreSQL programs")
    use_unix_socket: bool = option(False, doc="superuser connections through the socket")
    use_unix_socket_repl: bool = option(False, doc="local replication connections through the socket")
    krbsrvname: str | None = option(None, doc="Kerberos service name")
    database: str = option("postgres", doc="database of the agent's connections")
    config_base_name: str = option("postgresql", doc="stem of the configuration files")
    parameters: Mapping[str, Json] = option(factory=dict, doc="server parameters")
    parameters_primary: Mapping[str, Json] = option(factory=dict, doc="server parameters while primary")
    parameters_replica: Mapping[str, Json] = option(factory=dict, doc="server parameters while replica")
    parameters_standby_leader: Mapping[str, Json] = option(factory=dict, doc="server parameters while standby leader")
    pg_hba: tuple[str, ...] = option((), unit="lines", doc="lines of pg_hba.conf")
    pg_hba_primary: tuple[str, ...] = option((), unit="lines", doc="pg_hba.conf while primary")
    pg_hba_replica: tuple[str, ...] = option((), unit="lines", doc="pg_hba.conf while replica")
    pg_hba_standby_leader: tuple[str, ...] = option((), unit="lines", doc="pg_hba.conf while standby leader")
    pg_ident: tuple[str, ...] = option((), unit="lines", doc="lines of pg_ident.conf")
    pg_ident_primary: tuple[str, ...] = option((), unit="lines", doc="pg_ident.conf while primary")
    pg_ident_replica: tuple[str, ...] = option((), unit="lines", doc="pg_ident.conf while replica")
    pg_ident_standby_leader: tuple[str, ...] = option((), unit="lines", doc="pg_ident.conf while standby leader")
    recovery_conf: Mapping[str, Json] = option(factory=dict, doc="recovery settings of standbys")
    custom_conf: str | None = option(None, doc="file included by postgresql.conf instead of the base file")
    use_slots: bool = option(True, doc="replication slots for members; only the dynamic value counts")
    use_pg_rewind: bool = option(False, doc="bring a former primary back with pg_rewind")
    rewind: Json = option((), doc="more options of pg_rewind")
    remove_data_directory_on_rewind_failure: bool = option(False, doc="copy the node anew if pg_rewind fails")
    remove_data_directory_on_diverged_timelines: bool = option(False, doc="copy the node anew instead of rewinding")
    create_replica_methods: tuple[str, ...] = option((), alias=("create_replica_method",), doc="ways to make a replica, in order")
    basebackup: Json = option(factory=dict, doc="options of pg_basebackup; attempts, attempt-pause, stall-timeout")
    callbacks: Mapping[str, str | None] = option(factory=dict, doc="commands told about events")
    callback_timeout: float = option(60.0, unit="s", minimum=0, doc="pgcore: seconds a callback may run")
    callback_kill_running: bool = option(False, doc="pgcore: a new callback kills the one that still runs, as Patroni does")
    pre_promote: str | None = option(None, doc="command that may refuse a promotion")
    before_stop: str | None = option(None, doc="command run before the server is stopped")
    pg_ctl_timeout: float = option(60.0, unit="s", minimum=0, doc="seconds to wait for a start")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresqlSection(SharedPostgresql):
    """``postgresql`` of the local file: the local-only keys and the shared ones (config 6)."""

    listen: str = option(doc="hosts and port PostgreSQL listens on, as host1,host2:port")
    connect_address: str | None = option(None, doc="host:port at which others reach PostgreSQL")
    proxy_address: str | None = option(None, doc="host:port of a pooler; published only")
    data_dir: str = option(doc="data directory")
    config_dir: str | None = option(None, doc="directory of the configuration files; default: data_dir")
    pgpass: str | None = option(None, doc="password file the agent writes; default: pgpass in the home directory")
    authentication: AuthenticationSection = option(factory=AuthenticationSection, doc="database users")
    os_user: str | None = option(None, doc="pgcore: account that runs the PostgreSQL programs when the agent runs as root")


LOCAL_ONLY = ("connect_address", "proxy_address", "listen", "config_dir", "data_dir", "pgpass", "authentication", "os_user")
"""Keys of ``postgresql`` that the dynamic configuration cannot set (config 1.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapSection:
    """``bootstrap`` (config 4); other keys are the options of a custom method of that name."""

    dcs: Mapping[str, Json] = option(factory=dict, doc="first dynamic configuration of a new cluster")
    method: str = option("initdb", doc="how the cluster is made")
    initdb: Json = option((), doc="options of initdb")
    post_bootstrap: str | None = option(None, alias=("post_init",), doc="command run once on the new primary")
    post_bootstrap_stall_timeout: int = option(86400, unit="s", minimum=0, doc="post_bootstrap is ended after so long without "
                                               "output, CPU time and data moved; 0: never")
    pg_hba: tuple[str, ...] = option((), unit="lines", doc="lines appended to pg_hba.conf; prefer postgresql.pg_hba")


WATCHDOG_MODES = {"off": "off", "false": "off", "disable": "off", "disabled": "off", "automatic": "automatic",
                  "auto": "automatic", "required": "required", "require": "required"}
"""Every spelling of ``watchdog.mode`` and what it means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogSection:
    """``watchdog`` (config 14)."""

    mode: str | bool = option("automatic", doc="off, automatic: use it if it is there, required: never lead without it")
    device: str = option("/dev/watchdog", doc="watchdog device")
    safety_margin: int | None = option(None, minimum=-1, doc="seconds between the reset and the end of the ttl; -1: half of the "
                                       "ttl; default: 5, with a ttl below 20 a sixth of it")
    driver: str = option("default", choices=("default", "testing"), doc="kind of device")

    @property
    def effective_mode(self) -> str:
        """``off``, ``automatic`` or ``required``; a word that means none of them counts as ``off`` (HA rules 10)."""
        return WATCHDOG_MODES.get(str(self.mode).lower(), "off")

    def timeout_s(self, ttl: int) -> int:
        """Seconds after the last keepalive at which the machine is reset."""
        if self.safety_margin == -1:
            return ttl // 2
        usual = 5 if ttl >= PATRONI_MIN_TTL else max(1, ttl // 6)
        return ttl - (usual if self.safety_margin is None else self.safety_margin)


@dataclass(frozen=True, slots=True, kw_only=True)
class CitusSection:
    """``citus`` (config 16)."""

    group: int = option(minimum=0, doc="group of this node; 0 is the coordinator")
    database: str = option(doc="database with the citus extension")


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyClusterSection:
    """``standby_cluster`` of the dynamic configuration (config 11)."""

    host: str | None = option(None, doc="remote host or several, separated by commas")
    port: int | None = option(None, minimum=1, maximum=65535, doc="its port")
    primary_slot_name: str | None = option(None, doc="slot to use there; none without it")
    create_replica_methods: tuple[str, ...] = option((), alias=("create_replica_method",), doc="ways to make a replica here")
    restore_command: str | None = option(None, doc="overrides recovery_conf on every node")
    archive_cleanup_command: str | None = option(None, doc="overrides recovery_conf on every node")
    recovery_min_apply_delay: str | None = option(None, doc="delay on the standby leader")


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicSection:
    """The settings of the whole cluster besides timing, ``postgresql``, ``standby_cluster`` and the slots (config 5)."""

    maximum_lag_on_failover: int = option(1 << 20, minimum=0, doc="bytes behind the leader up to which a node may take over")
    maximum_lag_on_syncnode: int = option(-1, minimum=-1, doc="bytes behind the best replica at which a node is replaced")
    max_timelines_history: int = option(0, minimum=0, doc="entries kept in the history; 0: all")
    primary_start_timeout: int = option(300, minimum=0, alias=("master_start_timeout",),
                                        doc="seconds a crashed primary may take to recover")
    primary_stop_timeout: int = option(0, minimum=0, alias=("master_stop_timeout",),
                                       doc="seconds a synchronous primary may take to stop; 0: no limit")
    primary_race_backoff: int = option(0, minimum=0, doc="seconds to wait for WAL of the old primary before the race")
    synchronous_mode: str = option("off", choices=("off", "on", "quorum"), doc="synchronous replication")
    synchronous_mode_strict: bool = option(False, doc="block writes rather than lose the last synchronous standby")
    synchronous_node_count: int = option(1, minimum=0, doc="synchronous standbys wanted")
    failsafe_mode: bool = option(False, doc="keep the primary while the store is away and every member agrees")
    failsafe_quorum: bool = option(False, doc="failsafe mode, quorum commit: enough members for a commit suffice")
    check_timeline: bool = option(False, doc="only members of the newest timeline may take over")
    pause: bool = option(False, doc="maintenance mode")
    member_slots_ttl: int = option(1800, unit="s", minimum=0, doc="how long the slot of a vanished member is kept")


SECTIONS: Mapping[str, type] = {
    "log": LogSection, "recorder": RecorderSection, "restapi": RestapiSection, "ctl": CtlSection, "citus": CitusSection,
    "bootstrap": BootstrapSection, "postgresql": PostgresqlSection, "watchdog": WatchdogSection}
"""The sections of a node file that the core brings."""

DYNAMIC_ONLY = frozenset({
    "ttl", "loop_wait", "retry_timeout", "standby_cluster", "slots", "permanent_slots", "permanent_replication_slots",
    "ignore_slots", *key_names(DynamicSection)})
"""Keys that have no effect in a local file (config 1.3)."""


def configuration_schema(section_types: Mapping[str, type]) -> dict[str, Json]:
    """The JSON Schema of a node file with the sections of plugins; other keys are allowed (custom methods)."""
    schema = json_schema(NodeSection)
    schema["properties"] |= {name: json_schema(cls) for name, cls in {**SECTIONS, **section_types}.items()}
    words = {"type": ["array", "string"], "items": {"type": "string"}}
    schema["properties"]["tags"] = {
        "type": "object", "description": "tags of this node; other names are custom tags",
        "properties": {**{name: {"type": "boolean"} for name in BOOLEAN_TAGS},
                       "failover_priority": {"type": "integer"}, "sync_priority": {"type": "integer"},
                       "replicatefrom": {"type": "string", "description": "member to stream from"}}}
    schema["properties"]["plugins"] = {"type": "object", "properties": {
        "use": {**words, "description": "more plugins to activate"}, "block": {**words, "description": "plugins never to load"}}}
    schema["properties"]["bootstrap"]["properties"]["dcs"] = dynamic_schema()
    schema["required"] += ["restapi", "postgresql"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "pgcore node file", **schema}


def dynamic_schema() -> dict[str, Json]:
    """The JSON Schema of the dynamic configuration (config 5)."""
    dynamic = json_schema(DynamicSection)
    dynamic["properties"] |= {"standby_cluster": json_schema(StandbyClusterSection), "postgresql": json_schema(SharedPostgresql)}
    for key in ("ttl", "loop_wait", "retry_timeout"):
        dynamic["properties"][key] = {"type": "integer", "description": f"{key} in seconds"}
    slot = {"type": ["object", "null"], "properties": {
        "type": {"enum": ["physical", "logical"]}, "database": {"type": "string"}, "plugin": {"type": "string"},
        "cluster_type": {"enum": ["primary", "standby"]}}}
    dynamic["properties"]["slots"] = {"type": "object", "description": "permanent slots by name", "additionalProperties": slot}
    dynamic["properties"]["ignore_slots"] = {"type": "array", "description": "slots that are left alone", "items": {
        "type": "object", "properties": {name: {"type": "string"} for name in ("name", "type", "database", "plugin")}}}
    return dynamic
