"""How a standby is told whom to follow: recovery settings, and whether a running server needs a reload or a restart for them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pgcore.clock import Deadline
from pgcore.model.basics import Role
from pgcore.model.server import Credentials, ServerSettings, Upstream
from pgcore.postgres import parameters
from pgcore.postgres.connection import Session, libpq_version, parse_conninfo

Change = Literal["none", "reload", "restart"]

_ORDER = ("dbname", "user", "passfile", "password", "host", "port", "sslmode", "sslcompression", "sslcert", "sslkey",
          "sslpassword", "sslrootcert", "sslcrl", "sslcrldir", "application_name", "krbsrvname", "gssencmode", "channel_binding",
          "target_session_attrs", "sslnegotiation")
_SINCE = {"gssencmode": 12, "channel_binding": 13, "sslpassword": 13, "sslcrldir": 14, "sslnegotiation": 17}
"""The first major version whose client library knows the option (config 6.2)."""

_EMPTY_TARGETS = ("recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid")
_NEVER_CONFIGURED = re.compile(r"recovery_target|primary_conninfo$|primary_slot_name$|standby_mode$")
_LEFT_ALONE = frozenset({"archive_cleanup_command", "promote_trigger_file", "recovery_end_command", "recovery_min_apply_delay",
                         "restore_command"})


def conninfo(values: Mapping[str, Any]) -> str:
    """A libpq connection string, in the order of config 6.2; values that are None are left out."""
    def escaped(value: object) -> str:
        return re.sub(r"(['\\\s])", r"\\\1", str(value)) or "''"

    return " ".join(f"{name}={escaped(values[name])}" for name in _ORDER if values.get(name) is not None)


def login(credentials: Credentials, major: int | None = None, *, password: bool = False) -> dict[str, Any]:
    """User and TLS options for a client of this major version; None means this process' own client library."""
    client = libpq_version() // 10000 if major is None else major
    options = {name: value for name, value in credentials.options.items() if _SINCE.get(name, 0) <= client}
    values: dict[str, Any] = {"user": credentials.username} | options
    if password and credentials.password:
        values["password"] = credentials.password
    return {name: value for name, value in values.items() if value not in (None, "")}


def ordinary_login(settings: ServerSettings) -> dict[str, Any]:
    """For ordinary connections to other nodes: the rewind user if there is one, else the superuser; with the password."""
    return login(settings.rewind if settings.rewind.username else settings.superuser, password=True)


def primary_conninfo(settings: ServerSettings, upstream: Upstream, major: int, passfile: str | None) -> dict[str, Any]:
    """The options of ``primary_conninfo`` (HA rules 11.3); the password travels in the passfile."""
    values = {"dbname": upstream.dbname, "host": upstream.host, "port": str(upstream.port), "application_name": settings.name,
              "passfile": passfile, "krbsrvname": settings.krbsrvname} | login(settings.replication, major)
    for name, default in (("sslmode", "prefer"), ("gssencmode", "prefer"), ("channel_binding", "prefer"),
                          ("sslnegotiation", "postgres")):
        if _SINCE.get(name, 0) <= major:
            values.setdefault(name, default)
    if upstream.read_write and upstream.slot:
        values["target_session_attrs"] = "read-write"
    return {name: value for name, value in values.items() if value is not None}


def wanted(settings: ServerSettings, upstream: Upstream | None, major: int, passfile: str | None, role: Role) -> dict[str, str]:
    """Every recovery setting of a standby (config 8.4)."""
    configured = {_renamed(name.lower()): value for name, value in settings.recovery_conf.items()}
    values = {name: parameters.text(value) for name, value in configured.items()
              if value is not None and not _NEVER_CONFIGURED.match(name) and name in parameters.RECOVERY
              and parameters.known_to(name, major)}
    values |= dict.fromkeys(_EMPTY_TARGETS, "") | {"recovery_target_timeline": "latest"}
    if role is Role.STANDBY_LEADER and settings.leader_apply_delay:
        values["recovery_min_apply_delay"] = settings.leader_apply_delay
    if upstream is not None:
        values["primary_conninfo"] = conninfo(primary_conninfo(settings, upstream, major, passfile))
        if upstream.slot:
            values["primary_slot_name"] = upstream.slot
    return values


def custom(values: Mapping[str, Any], major: int) -> dict[str, str]:
    """Recovery settings of a custom bootstrap, targets included (config 10.4)."""
    translated = {_renamed(name.lower()): parameters.text(value) for name, value in values.items() if value is not None}
    return {name: value for name, value in translated.items()
            if name in parameters.RECOVERY and parameters.known_to(name, major)}


def _renamed(name: str) -> str:
    return "promote_trigger_file" if name == "trigger_file" else name


@dataclass(frozen=True, slots=True)
class Current:
    """What the running server uses. ``settings``: name to (value, context, source file)."""

    settings: Mapping[str, tuple[str, str, str | None]]


def ask(session: Session, deadline: Deadline) -> Current:
    """Read the settings in force. Raises ServerUnavailableError or QueryFailedError."""
    rows = session.query("SELECT name, setting, context, sourcefile FROM pg_catalog.pg_settings WHERE name = ANY(%s)",
                         (sorted(parameters.RECOVERY),), deadline=deadline)
    return Current({name: (value, context, source) for name, value, context, source in rows})


def change(want: Mapping[str, str], current: Current, *, major: int, config_file: str,
           receiver: tuple[Mapping[str, str], str | None] | None) -> Change:
    """What it takes to bring a running standby to these settings (HA rules 11.3).

    ``receiver`` is the live WAL receiver's connection options and slot: while there is one, it is the truth, so that a server
    somebody else started with an equivalent connection string is left in peace.
    """
    result: Change = "none"
    for name in sorted(parameters.RECOVERY):
        if name not in current.settings:
            continue
        value, context, source = current.settings[name]
        if _equal(name, want.get(name), value, source, major=major, config_file=config_file, receiver=receiver):
            continue
        if context == "postmaster":
            return "restart"
        result = "reload"
    return result


def _equal(name: str, want: str | None, value: str, source: str | None, *, major: int, config_file: str,
           receiver: tuple[Mapping[str, str], str | None] | None) -> bool:
    if name == "primary_conninfo":
        return _same_conninfo(want, value, receiver[0] if receiver else None, major)
    if name == "primary_slot_name":
        return (want or "") == ((receiver[1] or "") if receiver else value)
    if want is None and name in _LEFT_ALONE:
        return source is None or os.path.realpath(source) != os.path.realpath(config_file)
    if name == "recovery_min_apply_delay":
        return milliseconds(want or "0") == milliseconds(value)
    if want is None:
        return True  # recovery_target_action and _inclusive mean nothing without a target
    return want == value or (name == "recovery_target_timeline" and value == "latest")


def _same_conninfo(want: str | None, configured: str, live: Mapping[str, str] | None, major: int) -> bool:
    wish, known = parse_conninfo(want or ""), parse_conninfo(configured)
    if not wish:
        return not known and live is None
    for name, value in wish.items():
        if name == "dbname":
            if major >= 17 and value != known.get(name):
                return False
        elif live is not None and name != "passfile":
            if value != live.get(name, known.get(name)):
                return False
        elif value != known.get(name, _default(name)):
            return False
    # An option that is not wanted any more counts too, unless it only repeats the default.
    return all(name in wish or name in ("dbname", "password") or value == _default(name) for name, value in known.items())


def _default(name: str) -> str | None:
    return {"sslmode": "prefer", "gssencmode": "prefer", "channel_binding": "prefer", "sslnegotiation": "postgres",
            "target_session_attrs": "any", "port": "5432", "sslcompression": "0", "krbsrvname": "postgres"}.get(name)


def needing_restart(major: int) -> frozenset[str]:
    """Recovery settings that act only after a restart in this version (config 8.4)."""
    targets = {name for name in parameters.RECOVERY if name.startswith("recovery_target")}
    if major <= 13:
        targets.add("restore_command")
    if major <= 12:
        targets |= {"primary_conninfo", "primary_slot_name"}
    return frozenset(targets)


def milliseconds(value: str) -> int:
    """A time setting without or with a unit."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s|min|h|d)?\s*", value)
    if match is None:
        return 0
    factor = {"us": 0.001, "ms": 1, None: 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}[match.group(2)]
    return round(float(match.group(1)) * factor)
