"""From the effective configuration to what the PostgreSQL port and the long actions need (config 6, 7, 10)."""

from __future__ import annotations

import os
import pwd
from collections.abc import Collection, Mapping

from pgcore.config.dynamic import Effective
from pgcore.config.load import LocalConfig
from pgcore.config.parameters import RECOVERY, for_version, is_agents_own, role_parameters
from pgcore.config.sections import CALLBACKS, ROLE_WORDS, DatabaseUserSection
from pgcore.config.values import parse_int, split_address, split_list
from pgcore.model.basics import Json, Role
from pgcore.model.server import Credentials, ServerSettings

_SINCE = {"gssencmode": 12, "channel_binding": 13, "sslpassword": 13, "sslcrldir": 14, "sslnegotiation": 17}
"""Minimum server major of connection options (config 6.2)."""

_ROLE_WORDS = {Role.PRIMARY: "primary", Role.PROMOTED: "primary", Role.REPLICA: "replica", Role.DEMOTED: "replica",
               Role.STANDBY_LEADER: "standby_leader"}


def server_settings(effective: Effective, local: LocalConfig, *, server_major: int | None,
                    role: Role | None = None) -> ServerSettings:
    """The local server as configured (config 6, 7). ``role`` adds the overrides of config 6.6; None gives the base values.

    ``server_major`` None means not known yet: nothing is filtered by version, and a current server is assumed.
    """
    mine, shared = local.postgresql, effective.postgresql
    word = _ROLE_WORDS.get(role, "") if role is not None else ""
    data_dir = _absolute(mine.data_dir)
    users = mine.authentication
    superuser = credentials(users.superuser, server_major)
    rewind = users.rewind is not None and users.rewind.username and (server_major is None or server_major >= 11)
    parameters, recovery = _parameters(effective, local, server_major, word)
    remote = effective.standby_cluster
    return ServerSettings(
        name=local.node.name, scope=local.node.scope, listen=mine.listen, data_dir=data_dir,
        connect_address=mine.connect_address or "{}:{}".format(*_bracketed(local_address(mine.listen))),
        proxy_address=mine.proxy_address, config_dir=_absolute(mine.config_dir or data_dir),
        bin_dir=_absolute(shared.bin_dir) if shared.bin_dir else None, bin_name=shared.bin_name,
        pgpass=_absolute(mine.pgpass) if mine.pgpass else os.path.join(home_of(mine.os_user, data_dir), "pgpass"),
        database=shared.database, config_base_name=shared.config_base_name,
        use_unix_socket=shared.use_unix_socket, use_unix_socket_repl=shared.use_unix_socket_repl, krbsrvname=shared.krbsrvname,
        superuser=superuser, replication=credentials(users.replication, server_major),
        rewind=credentials(users.rewind, server_major) if rewind and users.rewind else superuser,
        parameters=parameters, pg_hba=_lines(shared, "pg_hba", word), pg_ident=_lines(shared, "pg_ident", word),
        recovery_conf=recovery, custom_conf=shared.custom_conf, use_slots=shared.use_slots, use_pg_rewind=shared.use_pg_rewind,
        rewind_options=shared.rewind, pg_ctl_timeout=shared.pg_ctl_timeout, retry_timeout=float(effective.timing.retry_timeout),
        os_user=mine.os_user,
        bootstrap_pg_hba=local.bootstrap.pg_hba if local.bootstrap else (), before_stop=shared.before_stop,
        pre_promote=shared.pre_promote, leader_apply_delay=remote.recovery_min_apply_delay if remote else None)


def settings_by_role(effective: Effective, local: LocalConfig, *, server_major: int | None) -> dict[Role, ServerSettings]:
    """The settings of every role, empty if no role has its own (config 6.6)."""
    shared = effective.postgresql
    if not any(getattr(shared, f"{name}_{word}") for word in ROLE_WORDS for name in ("parameters", "pg_hba", "pg_ident")):
        return {}
    return {role: server_settings(effective, local, server_major=server_major, role=role) for role in _ROLE_WORDS}


def credentials(user: DatabaseUserSection, server_major: int | None) -> Credentials:
    """A database user with the connection options that this server version knows (config 6.2)."""
    names = ("sslmode", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl", "sslcrldir", "gssencmode", "channel_binding",
             "sslnegotiation")
    options = {name: getattr(user, name) for name in names
               if getattr(user, name) and (server_major is None or server_major >= _SINCE.get(name, 0))}
    return Credentials(user.username, user.password, options)


def local_address(listen: str) -> tuple[str, int]:
    """Host and port for the agent's own connections over TCP (config 6.1): ``localhost`` if the server listens there."""
    hosts, port = split_address(listen, 5432)
    words = split_list(hosts) or ["*"]
    for host in words:
        if host in ("*", "localhost", "0.0.0.0", "127.0.0.1"):
            return "localhost", port
    return words[0].strip("[]"), port


def _bracketed(address: tuple[str, int]) -> tuple[str, int]:
    host, port = address
    return (f"[{host}]" if ":" in host else host), port


def _parameters(effective: Effective, local: LocalConfig, server_major: int | None,
                word: str) -> tuple[dict[str, Json], dict[str, Json]]:
    """Server parameters as they are written, and recovery settings, which are moved out of them (config 7.1, 8.4)."""
    parameters = dict(effective.postgresql.parameters)
    if word:
        override = getattr(effective.postgresql, f"parameters_{word}")
        parameters |= role_parameters(override, f"postgresql.parameters_{word}", lambda path, problem, hint: None)
    recovery = {name.lower(): value for name, value in effective.postgresql.recovery_conf.items() if value is not None}
    recovery |= {name: parameters.pop(name) for name in list(parameters) if name in RECOVERY}
    recovery = {name: value for name, value in recovery.items() if not is_agents_own(name)}
    parameters = {name: value for name, value in parameters.items() if not is_agents_own(name)}
    if (remote := effective.standby_cluster) is not None:
        ours = {"restore_command": remote.restore_command, "archive_cleanup_command": remote.archive_cleanup_command}
        recovery |= {name: value for name, value in ours.items() if value}
    if effective.synchronous:
        parameters.pop("synchronous_standby_names", None)
    hosts, port = split_address(local.postgresql.listen, 5432)
    parameters |= {"listen_addresses": hosts or "*", "port": port, "cluster_name": local.node.scope}
    if local.citus is not None:
        _adjust_for_citus(parameters, local_address(local.postgresql.listen)[0])
    return for_version(parameters, server_major), recovery


def _adjust_for_citus(parameters: dict[str, Json], host: str) -> None:
    """What a node with the citus extension needs (config 16)."""
    libraries = [library for library in split_list(str(parameters.get("shared_preload_libraries") or "")) if library != "citus"]
    parameters["shared_preload_libraries"] = ",".join(["citus", *libraries])
    if not parameters.get("max_prepared_transactions"):
        parameters["max_prepared_transactions"] = 2 * (parse_int(parameters.get("max_connections")) or 100)
    parameters["wal_level"] = "logical"
    parameters["citus.local_hostname"] = host


def _lines(shared: object, name: str, word: str) -> tuple[str, ...]:
    own: tuple[str, ...] = getattr(shared, f"{name}_{word}") if word else ()
    base: tuple[str, ...] = getattr(shared, name)
    return own or base


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def home_of(os_user: str | None, data_dir: str) -> str:
    """Home of the account that runs PostgreSQL: ``os_user``, under root the owner of the data directory, else our own."""
    try:
        if os_user:
            return pwd.getpwnam(os_user).pw_dir
        if os.geteuid() == 0:
            return pwd.getpwuid(os.stat(data_dir).st_uid).pw_dir
    except (KeyError, OSError):
        pass  # no such account or directory yet: our own home is as good a guess as any
    return os.path.expanduser("~")


def replica_methods(effective: Effective, *, basebackup_only: bool = False) -> list[tuple[str, Json]]:
    """The ways to make a replica in the order to try, each with its options (config 10.1); a standby cluster has its own list."""
    source = effective.standby_cluster or effective.postgresql
    names = () if basebackup_only else source.create_replica_methods
    return [(name, _options(effective, name)) for name in names or ("basebackup",)]


def _options(effective: Effective, name: str) -> Json:
    value = effective.postgresql_tree.get(name)
    return {} if value is None else value


def bootstrap_method(local: LocalConfig, known: Collection[str] = ()) -> tuple[str, Json]:
    """How a new cluster is made and the options of that (config 4): ``bootstrap.method`` if ``bootstrap.<method>`` has a command.

    ``known`` names methods of plugins, which need no command. Anything else falls back to initdb, as the predecessor does.
    """
    section = local.bootstrap
    if section is None:
        return "initdb", ()
    options = (local.tree.get("bootstrap") or {}).get(section.method)
    if section.method != "initdb":
        if isinstance(options, Mapping) and (options.get("command") or section.method in known):
            return section.method, options
        if section.method in known:
            return section.method, {} if options is None else options
    return "initdb", section.initdb


def callbacks(effective: Effective) -> dict[str, str]:
    """The configured command for each event (config 9.2)."""
    return {event: command for event in CALLBACKS if (command := effective.postgresql.callbacks.get(event))}
