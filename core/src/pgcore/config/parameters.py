"""Which server parameters the whole cluster must share, how they are checked, and what a node cannot set (config 7.1, 7.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pgcore.config.values import parse_bool, parse_int
from pgcore.model.basics import Json

Warn = Callable[[str, str, str], None]
"""Takes path, problem, hint."""


@dataclass(frozen=True, slots=True)
class Controlled:
    """A parameter that only the dynamic configuration sets.

    ``kind`` is integer, boolean, size (``minimum`` in MB), wal_level, or true for one that cannot be off.
    """

    default: Json
    kind: str
    minimum: int = 0
    implied: bool = True
    """Set even if nobody mentions it (config 1.4)."""

    def accepted(self, value: Json) -> Json | None:
        """The value to use, or None if it is refused."""
        if self.kind == "integer":
            number = parse_int(value)
            return number if number is not None and number >= self.minimum else None
        if self.kind == "size":
            megabytes = parse_int(value, "MB")
            return value if megabytes is not None and megabytes >= self.minimum else None
        if self.kind == "wal_level":
            word = str(value).lower()
            return word if word in ("hot_standby", "replica", "logical") else None
        truth = parse_bool(value)
        if truth is None or (self.kind == "true" and not truth):
            return None
        return "on" if truth else "off"

    @property
    def wish(self) -> str:
        """What is accepted, in words."""
        return {"integer": f"an integer of at least {self.minimum}", "size": f"a size of at least {self.minimum}MB", "true": "on",
                "boolean": "on or off", "wal_level": "replica or logical"}[self.kind]


CONTROLLED: Mapping[str, Controlled] = {
    "max_connections": Controlled(100, "integer", 25),
    "max_locks_per_transaction": Controlled(64, "integer", 32),
    "max_worker_processes": Controlled(8, "integer", 2),
    "max_prepared_transactions": Controlled(0, "integer", 0),
    "wal_level": Controlled("replica", "wal_level"),
    "track_commit_timestamp": Controlled("off", "boolean"),
    "max_wal_senders": Controlled(10, "integer", 3),
    "max_replication_slots": Controlled(10, "integer", 4),
    "wal_log_hints": Controlled("on", "boolean"),
    "wal_keep_segments": Controlled(8, "integer", 1, implied=False),
    "wal_keep_size": Controlled("128MB", "size", 16, implied=False),
    "hot_standby": Controlled("on", "true"),
}
"""The table of config 7.1 without the three names that nobody sets."""

NEVER = ("listen_addresses", "port", "cluster_name")
"""Parameters that follow from ``postgresql.listen`` and ``scope``."""

RECOVERY = frozenset({"restore_command", "archive_cleanup_command", "recovery_end_command", "recovery_min_apply_delay",
                      "standby_mode", "trigger_file", "promote_trigger_file", "pause_at_recovery_target"})
"""Recovery settings; placed among the parameters they are moved to ``recovery_conf`` (config 8.4)."""


def is_agents_own(name: str) -> bool:
    """Settings that are never taken from a configuration: the upstream, recovery targets (config 7.2), where the files are."""
    own = ("primary_conninfo", "primary_slot_name", "config_file", "data_directory")
    return name in own or name.startswith("recovery_target")


def merge_parameters(dynamic: Mapping[str, Json], local: Mapping[str, Json], warn: Warn) -> dict[str, Json]:
    """The parameters of this node: checked dynamic ones with the defaults of config 7.1, local ones over them.

    Names are lower case in the result. What is refused is reported with its path and the value used instead.
    """
    merged: dict[str, Json] = {name: rule.default for name, rule in CONTROLLED.items() if rule.implied}
    for given, value in dynamic.items():
        name, path = given.lower(), f"postgresql.parameters.{given}"
        if name in NEVER:
            warn(path, "has no effect", "it follows from postgresql.listen and scope")
        elif name in CONTROLLED:
            rule = CONTROLLED[name]
            accepted = rule.accepted(value)
            if accepted is None:
                warn(path, f"wants {rule.wish}, has {value!r}; {rule.default} is used", "correct it with PATCH /config")
            merged[name] = rule.default if accepted is None else accepted
        elif _is_value(value, path, warn):
            merged[name] = _plain(value)
    return merged | local_parameters(local, "postgresql.parameters", warn)


def local_parameters(given: Mapping[str, Json], path: str, warn: Warn) -> dict[str, Json]:
    """Parameters that are not controlled by the whole cluster, names in lower case; the others are reported."""
    kept = {}
    for name, value in given.items():
        lower = name.lower()
        if lower in NEVER:
            warn(f"{path}.{name}", "has no effect", "it follows from postgresql.listen and scope")
        elif lower in CONTROLLED:
            warn(f"{path}.{name}", "has no effect here: every node must have the same value",
                 f"set postgresql.parameters.{lower} with PATCH /config")
        elif _is_value(value, f"{path}.{name}", warn):
            kept[lower] = _plain(value)
    return kept


def role_parameters(given: Mapping[str, Json], path: str, warn: Warn) -> dict[str, Json]:
    """Parameters of one role: like a node's own, and none that a role cannot change (config 6.6)."""
    kept = local_parameters(given, path, warn)
    if kept.pop("unix_socket_directories", None) is not None:
        warn(f"{path}.unix_socket_directories", "has no effect in one role: the agent would not find the server after a change",
             "set it below postgresql.parameters")
    return kept


def _is_value(value: Any, path: str, warn: Warn) -> bool:
    if value is None:
        return False
    if isinstance(value, Mapping | list):
        seen = "mapping" if isinstance(value, Mapping) else "list"
        warn(path, f"wants a single value, has a {seen}; it is left out", "write one text")
        return False
    return True


def _plain(value: Json) -> Json:
    """YAML reads bare on and off as booleans; PostgreSQL wants the words, also where they are members of an enum."""
    return ("on" if value else "off") if isinstance(value, bool) else value


def for_version(parameters: Mapping[str, Json], server_major: int | None) -> dict[str, Json]:
    """``wal_level`` in today's spelling; of ``wal_keep_segments`` and ``wal_keep_size`` the one the server knows (config 7.1).

    Without a version a current server is assumed.
    """
    result = dict(parameters)
    if result.get("wal_level") == "hot_standby":
        result["wal_level"] = "replica"
    segments, size = result.pop("wal_keep_segments", None), result.pop("wal_keep_size", None)
    if server_major is None or server_major >= 13:
        if size is None and segments is not None:
            size = f"{16 * int(segments)}MB"
        return result if size is None else result | {"wal_keep_size": size}
    if segments is None and size is not None:
        segments = ((parse_int(size, "MB") or 0) + 8) // 16
    return result if segments is None else result | {"wal_keep_segments": segments}
