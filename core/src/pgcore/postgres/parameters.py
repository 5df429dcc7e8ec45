"""Server parameters: what each major version knows, how values are written, which ones the server itself would refuse.

There is no catalogue of parameters here. The PostgreSQL binary is asked to read the file before the server is made to; what it
refuses is mended or left out with a warning, because a typing error must not keep a database down (config 7.3).
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pgcore.errors import CommandFailedError, ServerError
from pgcore.model.basics import Json
from pgcore.model.server import ServerSettings

logger = logging.getLogger(__name__)

OLDEST, NEWEST = 12, 18

RECOVERY = frozenset({
    "archive_cleanup_command", "primary_conninfo", "primary_slot_name", "promote_trigger_file", "recovery_end_command",
    "recovery_min_apply_delay", "recovery_target", "recovery_target_action", "recovery_target_inclusive", "recovery_target_lsn",
    "recovery_target_name", "recovery_target_time", "recovery_target_timeline", "recovery_target_xid", "restore_command"})
"""Settings that lived in recovery.conf before version 12; they are written apart from the others (config 8.4)."""

_FIRST_MAJOR = {"wal_keep_size": 13}
_LAST_MAJOR = {"wal_keep_segments": 12, "promote_trigger_file": 15, "stats_temp_directory": 14}

COMMAND_LINE = ("listen_addresses", "port", "cluster_name", "wal_level", "hot_standby", "max_connections", "max_wal_senders",
                "max_prepared_transactions", "max_locks_per_transaction", "track_commit_timestamp", "max_replication_slots",
                "max_worker_processes", "wal_log_hints")
"""Passed on the command line in this order, so that ALTER SYSTEM can't override them (config 7.1)."""

RAISED_ON_STANDBY = ("max_connections", "max_prepared_transactions", "max_locks_per_transaction", "max_worker_processes",
                     "max_wal_senders")

_SEGMENT_MB = 16


def known_to(name: str, major: int) -> bool:
    """Whether a parameter with a bounded life exists in this major version; True for all others."""
    return _FIRST_MAJOR.get(name, 0) <= major <= _LAST_MAJOR.get(name, NEWEST + 100)


def split_listen(listen: str) -> tuple[str, int]:
    """``listen`` as ``listen_addresses`` and ``port``; brackets of IPv6 addresses are stripped (config 6.1, 18)."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit():
        host, port = listen, "5432"
    return ",".join(part.strip().strip("[]") for part in host.split(",")), int(port)


def text(value: Json) -> str:
    """A configured value as PostgreSQL reads it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def quoted(value: str) -> str:
    """A value as it stands in a configuration file."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n") + "'"


def effective(settings: ServerSettings, major: int) -> dict[str, str]:
    """Every parameter but recovery settings, in the words of this major version (config 7.1).

    Names are lower-cased; those of another version are left out or translated. None values count as not set.
    """
    values = {name.lower(): text(value) for name, value in settings.parameters.items() if value is not None}
    addresses, port = split_listen(settings.listen)
    values |= {"listen_addresses": addresses, "port": str(port), "cluster_name": settings.scope}
    if values.get("wal_level", "").lower() == "hot_standby":
        values["wal_level"] = "replica"
    _translate_wal_keep(values, major)
    return {name: value for name, value in sorted(values.items()) if name not in RECOVERY and known_to(name, major)}


def _translate_wal_keep(values: dict[str, str], major: int) -> None:
    """``wal_keep_segments`` became ``wal_keep_size`` in version 13; either is understood and turned into the other."""
    if major >= 13:
        segments = values.pop("wal_keep_segments", None)
        if segments is not None and segments.isdigit():
            values.setdefault("wal_keep_size", f"{int(segments) * _SEGMENT_MB}MB")
    else:
        size = values.pop("wal_keep_size", None)
        if size is not None and "wal_keep_segments" not in values:
            values["wal_keep_segments"] = str((_megabytes(size) + 8) // _SEGMENT_MB)


def _megabytes(size: str) -> int:
    match = re.fullmatch(r"\s*(\d+)\s*(B|kB|MB|GB|TB)?\s*", size)
    if match is None:
        return 8 * _SEGMENT_MB
    factor = {"B": 2**-20, "kB": 2**-10, None: 1, "MB": 1, "GB": 2**10, "TB": 2**20}[match.group(2)]
    return int(int(match.group(1)) * factor)


_MEMORY = (("TB", 2**30), ("GB", 2**20), ("MB", 2**10), ("kB", 1))
_TIME = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1))


def human(value: str, unit: str | None) -> str:
    """A bare number in the parameter's base unit (``8kB``, ``ms``, …) the way SHOW prints it: ``16384`` of 8kB is ``128MB``."""
    match = re.fullmatch(r"(\d*)(kB|MB|B|ms|s|min)", unit or "")
    if match is None or not value.isdigit() or value == "0":
        return value
    scale = _MEMORY if match.group(2) in ("B", "kB", "MB") else _TIME
    base = dict(scale).get(match.group(2))
    if base is None:
        return value + match.group(2)
    total = int(value) * int(match.group(1) or 1) * base
    name, size = next((name, size) for name, size in scale if total % size == 0)
    return f"{total // size}{name}"


def raised(values: Mapping[str, str], recorded: Mapping[str, int]) -> dict[str, str]:
    """Those shared-memory settings a standby must start with because pg_control holds more (HA rules 11.4, config 7.5)."""
    found = {}
    for name in RAISED_ON_STANDBY:
        configured = values.get(name, "")
        if name in recorded and configured.isdigit() and recorded[name] > int(configured):
            found[name] = str(recorded[name])
    return found


def command_line(values: Mapping[str, str]) -> list[str]:
    """The parameters that are given to the server as arguments."""
    return [f"--{name}={values[name]}" for name in COMMAND_LINE if name in values]


@dataclass(frozen=True, slots=True)
class Complaint:
    """One parameter the server refuses. ``replacement`` is the nearest value it accepts, None if it must be left out."""

    name: str
    reason: str
    replacement: str | None = None


_UNKNOWN = re.compile(r'unrecognized configuration parameter "([^"]+)"')
_NUMBER = r"(-?[\d.eE+]+)"
_RANGE = re.compile(
    _NUMBER + r'[^"]*? is outside the valid range for parameter "([^"]+)" \(' + _NUMBER + r"[^.]* \.\. " + _NUMBER)
_BAD = re.compile(r'(?:invalid value for parameter|parameter) "([^"]+)"')
_MESSAGE = re.compile(r"(?:LOG|ERROR|FATAL):\s+(.*)$")


def complaints(output: str) -> list[Complaint]:
    """What the server says against a configuration file, from its output in English."""
    found: dict[str, Complaint] = {}
    for line in output.splitlines():
        message = _MESSAGE.search(line)
        if message is None:
            continue
        reason = message.group(1)
        out_of_range = _RANGE.search(reason)
        if out_of_range:
            given, name, low, high = out_of_range.groups()
            found[name] = Complaint(name, reason, low if float(given) < float(low) else high)
            continue
        named = _UNKNOWN.search(reason) or _BAD.search(reason)
        if named:
            found.setdefault(named.group(1), Complaint(named.group(1), reason))
    return list(found.values())


def accepted(values: Mapping[str, str], check: Callable[[Mapping[str, str]], str]) -> dict[str, str]:
    """The values the server takes: refused ones are clamped into their range or left out, each with a warning (config 7.3).

    ``check`` lets the binary read a file with these values and returns what it complained about. The binary reports unknown names
    first and wrong values only when all names are known, therefore it is asked again after each repair.
    """
    good = dict(values)
    for _ in range(6):
        about_ours = [complaint for complaint in complaints(check(good)) if complaint.name in good]
        if not about_ours:
            return good
        for complaint in about_ours:
            value = good.pop(complaint.name)
            if complaint.replacement is not None and complaint.replacement != value:
                good[complaint.name] = complaint.replacement
                logger.warning("parameter %s: %s; %s is used instead of %s", complaint.name, complaint.reason,
                               complaint.replacement, value)
            else:
                logger.warning("parameter %s is left out: %s (mend or remove it under postgresql.parameters)", complaint.name,
                               complaint.reason)
    return good


class Binary:
    """Facts about the ``postgres`` binary, looked up once for each version of the file."""

    def __init__(self, run: Callable[[list[str]], str]) -> None:
        self._run = run
        self._versions: dict[tuple[str, float], int] = {}
        self._accepted: dict[tuple[object, ...], dict[str, str]] = {}

    def version(self, postgres: str) -> int:
        """Such as 150006. Raises ServerError if it can't be run or does not say."""
        key = (postgres, self._stamp(postgres))
        if key not in self._versions:
            self._versions[key] = parse_version(self._run([postgres, "--version"]))
        return self._versions[key]

    def accepted(self, postgres: str, data_dir: str, values: Mapping[str, str],
                 write_candidate: Callable[[Mapping[str, str]], str]) -> dict[str, str]:
        """``values`` without what this binary refuses; remembered, so that an unchanged configuration costs nothing."""
        key = (postgres, self._stamp(postgres), tuple(sorted(values.items())))
        if key not in self._accepted:
            self._accepted = {key: accepted(values, lambda some: self._check(postgres, data_dir, write_candidate(some)))}
        return dict(self._accepted[key])

    def _check(self, postgres: str, data_dir: str, candidate: str) -> str:
        try:
            self._run([postgres, "-D", data_dir, f"--config-file={candidate}", "-C", "port"])
            return ""
        except CommandFailedError as error:
            return error.output
        finally:
            os.unlink(candidate)

    def value_at_next_start(self, postgres: str, data_dir: str, config_file: str, name: str) -> str:
        """What the file would give a parameter; ``?`` if it can't be said (config 7.4)."""
        try:
            lines = self._run([postgres, "-D", data_dir, f"--config-file={config_file}", "-C", name]).strip().splitlines()
        except CommandFailedError:
            return "?"
        return lines[-1] if lines else ""

    @staticmethod
    def _stamp(path: str) -> float:
        try:
            return os.stat(path).st_mtime
        except OSError:
            return 0.0


def parse_version(line: str) -> int:
    """The number in ``postgres (PostgreSQL) 15.6 (Debian …)``; betas and development versions count as minor 0."""
    match = re.search(r"\) (\d+)(?:\.(\d+))?", line)
    if match is None:
        raise ServerError(f"the version of PostgreSQL can't be read from {line.strip()!r}")
    return int(match.group(1)) * 10000 + int(match.group(2) or 0)
