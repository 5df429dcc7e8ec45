"""Replica method ``basebackup``: a copy of a running server by pg_basebackup (config 10.5)."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pgcore.builtin.replica_command import STALL_S
from pgcore.plugin import CommandFailedError, IdleLimit, Json, ReplicaMethod, ReplicaRequest, ServerError, hookimpl, option_pairs

logger = logging.getLogger(__name__)

_FORBIDDEN = frozenset({"pgdata", "format", "wal-method", "xlog-method", "gzip", "version", "dbname", "host", "port", "username",
                        "password"})
_PROGRESS = re.compile(r"(\d+)/(\d+) kB \(\d+%\)")
_UNESCAPED_EQUALS = re.compile(r"(?<!\\)=")


@dataclass(frozen=True, slots=True)
class Policy:
    """What of the section is not pg_basebackup's: how often it is tried, and when it counts as hanging."""

    attempts: int = 2
    attempt_pause: float = 5.0
    """Seconds between two attempts."""
    stall_timeout: float = 0.0
    """Seconds without any progress after which an attempt is ended; 0: only when it did nothing at all for a day."""


_POLICY = {"attempts": int, "attempt-pause": float, "stall-timeout": float}
_LEAST = {"attempts": 1}


@hookimpl
def pgcore_replica_methods() -> Iterable[ReplicaMethod]:
    """The built-in method."""
    return [ReplicaMethod(name="basebackup", run=run, fills=fills)]


def run(request: ReplicaRequest) -> None:
    """Copy the source, several times if need be. Raises ServerError with the last attempt's reason, CancelledError."""
    if request.source is None:
        raise ServerError("pg_basebackup needs a running server to copy from")
    argv, wanted = arguments(request), policy(request.options)
    own = [request.server.data_dir, *request.places]
    for attempt in range(1, wanted.attempts + 1):
        try:
            request.task.report(phase="basebackup", bytes_done=0)
            request.task.run(argv, env=request.env, on_output=lambda line: _report(request, line),
                             stall_timeout=wanted.stall_timeout or None, idle=IdleLimit(STALL_S, (request.server.data_dir,)))
            return
        except CommandFailedError as error:
            for directory in own:
                empty(directory)
            if attempt == wanted.attempts:
                raise
            logger.warning("attempt %d of %d failed, the next begins in %g s: %s", attempt, wanted.attempts,
                           wanted.attempt_pause, error)
            _pause(request, wanted.attempt_pause)


def _pause(request: ReplicaRequest, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        request.task.check()
        time.sleep(0.1)


def arguments(request: ReplicaRequest) -> list[str]:
    """The command line. ``--checkpoint=fast`` and ``--progress`` are added: waiting for a spread checkpoint takes minutes in
    which the cluster lacks a replica. An own ``checkpoint`` option wins."""
    options = command_options(request.options, request.server_major)
    given = {option.partition("=")[0] for option in options}
    defaults = [option for option in ("--checkpoint=fast", "--progress") if option.partition("=")[0] not in given]
    return [request.binary("pg_basebackup"), f"--pgdata={request.server.data_dir}", "-X", "stream",
            f"--dbname={request.connstring}", *defaults, *options]


def command_options(configured: Json, major: int) -> list[str]:
    """The configured options as arguments (config 10.6); forbidden and malformed ones are logged and skipped."""
    options = []
    for name, value in option_pairs(configured):
        if isinstance(name, str) and name in _POLICY:
            continue
        if not isinstance(name, str) or (value is not None and not isinstance(value, str)):
            logger.error("basebackup: option %r is skipped, names and values must be strings (quote numbers)", name)
        elif name in _FORBIDDEN or (name == "compress" and not _compress_allowed(value, major)):
            logger.error("basebackup: option %s is skipped, pgcore sets it itself or can't restore what it produces", name)
        else:
            options.append(f"--{name}" if value is None else f"--{name}={value}")
    return options


def policy(configured: Json) -> Policy:
    """The options that are ours; one that is no number, or too small, is logged and its default holds."""
    found: dict[str, float] = {}
    for name, value in option_pairs(configured):
        if not isinstance(name, str) or name not in _POLICY:
            continue
        try:
            number = _POLICY[name](str(value))
            if not _LEAST.get(name, 0) <= number < float("inf"):
                raise ValueError
            found[name.replace("-", "_")] = number
        except ValueError:
            logger.error("basebackup: %s is %r, it must be %s of at least %d: the default holds", name, value,
                         "a whole number" if _POLICY[name] is int else "a number of seconds", _LEAST.get(name, 0))
    return Policy(**found)  # type: ignore[arg-type]


def fills(configured: Json) -> Sequence[str]:
    """The directories for WAL and for tablespaces that these options name."""
    places = []
    for name, value in option_pairs(configured):
        if isinstance(value, str) and name == "waldir":
            places.append(value)
        elif isinstance(value, str) and name == "tablespace-mapping":
            places.append(_UNESCAPED_EQUALS.split(value, maxsplit=1)[-1].replace("\\=", "="))
    return [path for path in places if os.path.isabs(path)]


def _compress_allowed(value: str | None, major: int) -> bool:
    return major >= 15 and (value or "").startswith("server")


def _report(request: ReplicaRequest, line: str) -> None:
    match = _PROGRESS.search(line)
    if match:
        request.task.report(phase="basebackup", bytes_done=int(match.group(1)) * 1024, bytes_total=int(match.group(2)) * 1024)


def empty(directory: str) -> None:
    """Remove what an attempt left in the directory, the directory stays."""
    try:
        for entry in list(os.scandir(directory)) if os.path.isdir(directory) else ():
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
    except OSError as error:
        raise ServerError(f"{directory} can't be emptied after a failed copy: {error}") from error
