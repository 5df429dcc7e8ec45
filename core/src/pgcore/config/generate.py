"""Node files made by the program: a sample for a new node, and one for a server that runs already. (CLI 7)"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pgcore.config.document import FILL_IN, patch, unfilled
from pgcore.config.environment import take_environment
from pgcore.config.parameters import CONTROLLED, for_version
from pgcore.config.sections import DISTRIBUTION_OF, LogSection
from pgcore.config.values import split_address, split_list
from pgcore.model.basics import Json, Timing
from pgcore.model.server import FoundServer

ORDER = ("scope", "namespace", "name", "log", "restapi", "ctl", "citus", *DISTRIBUTION_OF, "bootstrap", "postgresql", "watchdog",
         "tags")
LOCAL_COMMANDS = ("archive_command", "restore_command", "archive_cleanup_command", "recovery_end_command",
                  "ssl_passphrase_command")
"""Parameters that name programs and files of one machine: they stay in the node's own file."""
NEWEST = 18
"""Whose words are used while no PostgreSQL was found."""
_EVERYWHERE = ("*", "0.0.0.0", "::")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Machine:
    """What is known of the machine: ``address`` at which others reach it, PostgreSQL's programs; None or empty if unknown."""

    name: str
    address: str | None = None
    bin_dir: str | None = None
    major: int | None = None


@dataclass(slots=True)
class NodeFile:
    """A node file in the making: the tree, and what is said above the key of a path."""

    tree: dict[str, Any]
    comments: dict[str, str] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """The paths that somebody has to fill in."""
        return unfilled(self.tree)

    def text(self) -> str:
        """The file."""
        return HEADING + "".join(("" if isinstance(value, str) else "\n") + _rendered(name, value, name, self.comments)
                                 for name, value in self.tree.items())


HEADING = f"""# A node file for pgcore, see docs/configuration.md. Replace every {FILL_IN}, then: pgcore validate FILE
"""


def sample(machine: Machine, environ: Mapping[str, str], timing: Timing) -> NodeFile:
    """A file for a new node: defaults, what the machine tells, and over it what the environment says."""
    major = machine.major or NEWEST
    host = machine.address or FILL_IN
    method = "scram-sha-256" if major >= 10 else "md5"
    users: dict[str, Json] = {"superuser": _login("postgres"), "replication": _login("replicator")}
    if major >= 11:
        users["rewind"] = _login("rewind_user")
    postgresql: dict[str, Json] = {
        "listen": f"{host}:5432", "connect_address": f"{host}:5432", "data_dir": FILL_IN, "bin_dir": machine.bin_dir or FILL_IN,
        "authentication": users, "parameters": {"password_encryption": method},
        "pg_hba": [f"host all all all {method}", f"host replication replicator all {method}"],
    }
    tree = _frame(machine, timing, _controlled(major), postgresql)
    return _finished(NodeFile(tree, dict(_COMMENTS)), environ, timing)


def of_server(found: FoundServer, machine: Machine, environ: Mapping[str, str], timing: Timing) -> NodeFile:
    """A file with which an agent takes this server over as it is: its settings, its users, who may connect."""
    comments = dict(_COMMENTS)
    config_dir = os.path.dirname(found.config_file)
    trusted = found.socket and not found.superuser.password
    password = {} if trusted else {"password": found.superuser.password or FILL_IN}
    superuser = {"username": found.superuser.username, **password, **found.superuser.options}
    host = _reachable(found.listen, machine.address, comments)
    own = {name: found.parameters[name] for name in LOCAL_COMMANDS if found.parameters.get(name)}
    own |= {name: path for name, path in (("hba_file", found.hba_file), ("ident_file", found.ident_file)) if path}
    postgresql: dict[str, Json] = {
        "listen": found.listen, "connect_address": f"{host}:{split_address(found.listen, 5432)[1]}", "data_dir": found.data_dir,
        "bin_dir": found.bin_dir,
        "authentication": {"superuser": superuser, "replication": _login(found.replication_role or FILL_IN)},
        "parameters": own,
    }
    if trusted:
        postgresql["use_unix_socket"] = True
        comments["postgresql.use_unix_socket"] = "The superuser needs no password there, if the agent runs as the same account."
    if config_dir != found.data_dir:
        postgresql["config_dir"] = config_dir
    for key, file, name, lines in (("pg_hba", found.hba_file, "pg_hba.conf", found.hba),
                                   ("pg_ident", found.ident_file, "pg_ident.conf", found.ident)):
        if lines and file == os.path.join(config_dir, name):
            postgresql[key] = list(lines)
    tree = _frame(machine, timing, _shared(found, comments), postgresql)
    tree["scope"] = found.cluster_name or FILL_IN
    return _finished(NodeFile(tree, comments), environ, timing)


def _frame(machine: Machine, timing: Timing, parameters: Mapping[str, Json], postgresql: Mapping[str, Json]) -> dict[str, Any]:
    address = f"{machine.address or FILL_IN}:8008"
    log = LogSection()
    return {
        "scope": FILL_IN,
        "name": machine.name,
        "log": {name: getattr(log, name) for name in ("type", "level", "traceback_level", "format")},
        "restapi": {"listen": address, "connect_address": address},
        "bootstrap": {"dcs": {
            "ttl": timing.ttl, "loop_wait": timing.loop_wait, "retry_timeout": timing.retry_timeout,
            "postgresql": {"use_pg_rewind": True, "use_slots": True, "parameters": dict(parameters)},
        }},
        "postgresql": dict(postgresql),
        "tags": {"clonefrom": True, "failover_priority": 1, "sync_priority": 1, "noloadbalance": False, "nostream": False},
    }


def _finished(file: NodeFile, environ: Mapping[str, str], timing: Timing) -> NodeFile:
    """The environment over it, a store if it names none, all in order."""
    tree = patch(file.tree, take_environment(dict(environ)).tree)
    if not any(name in tree for name in DISTRIBUTION_OF):
        tree["etcd3"] = {"hosts": [FILL_IN]}
    file.tree = {name: tree[name] for name in (*ORDER, *sorted(set(tree) - set(ORDER))) if name in tree}
    if timing.ttl < Timing().ttl:
        file.comments["bootstrap.dcs.ttl"] = "With Patroni members in the cluster: 30, 10, 10."
    return file


def _login(name: str) -> dict[str, Json]:
    return {"username": name, "password": FILL_IN}


def _controlled(major: int) -> dict[str, Json]:
    """Defaults of the parameters that every node must share, in the words of this version."""
    values = for_version({name: rule.default for name, rule in CONTROLLED.items()}, major)
    return dict(sorted(values.items()))


def _shared(found: FoundServer, comments: dict[str, str]) -> dict[str, Json]:
    """What the server has, for the whole cluster; of the parameters that must be shared only values that pgcore takes."""
    values = {name: value for name, value in found.parameters.items() if name not in LOCAL_COMMANDS}
    for name, default in _controlled(found.major).items():
        value, rule = values.get(name), CONTROLLED[name]
        accepted = None if value is None else rule.accepted(value)
        if accepted is None and value is not None:
            comments[f"bootstrap.dcs.postgresql.parameters.{name}"] = f"The server has {value}; pgcore wants {rule.wish}."
        values[name] = default if accepted is None else accepted
    return dict(sorted(values.items(), key=lambda item: item[0].lower()))


def _reachable(listen: str, address: str | None, comments: dict[str, str]) -> str:
    """Where others reach the server, by what it listens on."""
    hosts = split_list(split_address(listen, 5432)[0])
    if not hosts or any(host in _EVERYWHERE for host in hosts) or address in hosts:
        return address or FILL_IN
    named = [host for host in hosts if host not in _LOOPBACK]
    if named:
        return f"[{named[0]}]" if ":" in named[0] else named[0]
    comments["postgresql.listen"] = ("Only programs on this machine can connect: for standbys, name an address that others reach "
                                     "(it acts with the next restart).")
    return address or FILL_IN


_COMMENTS = {
    "scope": "Name of the cluster, the same on all its nodes; below it the name of this node, which no other has.",
    "restapi": "Where agents, load balancers and pgcore's commands reach this agent.",
    **dict.fromkeys(DISTRIBUTION_OF, f"The store: exactly one of {', '.join(DISTRIBUTION_OF)}."),
    "bootstrap.dcs": "The first dynamic configuration. Once the cluster exists nobody reads it again:\n"
                     "change what is in force with pgcore edit-config or PATCH /config.",
    "postgresql.pg_hba": "All of pg_hba.conf: the file is written from these lines.",
    "postgresql.pg_ident": "All of pg_ident.conf.",
}


# -- text ----------------------------------------------------------------------------------------------------------------------

def _rendered(key: str, value: Any, path: str, comments: Mapping[str, str], depth: int = 0) -> str:
    import yaml

    indent = "  " * depth
    above = "".join(f"{indent}# {line}\n" for line in comments.get(path, "").splitlines())
    if isinstance(value, Mapping) and value:
        below = "".join(_rendered(str(name), item, f"{path}.{name}", comments, depth + 1) for name, item in value.items())
        return f"{above}{indent}{key}:\n{below}"
    text = yaml.safe_dump({key: value}, default_flow_style=False, allow_unicode=True, width=10000)
    return above + "".join(f"{indent}{line}\n" for line in text.splitlines())
