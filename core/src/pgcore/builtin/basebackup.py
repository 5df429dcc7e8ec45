"""Replica method ``basebackup``: a copy of a running server by pg_basebackup (config 10.5)."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Iterable

from pgcore.plugin import CommandFailedError, Json, ReplicaMethod, ReplicaRequest, ServerError, hookimpl, option_pairs

logger = logging.getLogger(__name__)

ATTEMPTS = 2
PAUSE_S = 5.0

_FORBIDDEN = frozenset({"pgdata", "format", "wal-method", "xlog-method", "gzip", "version", "dbname", "host", "port", "username",
                        "password"})
_PROGRESS = re.compile(r"(\d+)/(\d+) kB \(\d+%\)")


@hookimpl
def pgcore_replica_methods() -> Iterable[ReplicaMethod]:
    """The built-in method."""
    return [ReplicaMethod(name="basebackup", run=run)]


def run(request: ReplicaRequest) -> None:
    """Copy the source, at most twice. Raises ServerError with the last attempt's reason, CancelledError."""
    if request.source is None:
        raise ServerError("pg_basebackup needs a running server to copy from")
    argv = arguments(request)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            request.task.report(phase="basebackup", bytes_done=0)
            request.task.run(argv, env=request.env, on_output=lambda line: _report(request, line))
            return
        except CommandFailedError as error:
            empty(request.server.data_dir)
            if attempt == ATTEMPTS:
                raise
            logger.warning("pg_basebackup failed, it is tried once more in %.0f s: %s", PAUSE_S, error)
            _pause(request)


def _pause(request: ReplicaRequest) -> None:
    end = time.monotonic() + PAUSE_S
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
        if not isinstance(name, str) or (value is not None and not isinstance(value, str)):
            logger.error("basebackup: option %r is skipped, names and values must be strings (quote numbers)", name)
        elif name in _FORBIDDEN or (name == "compress" and not _compress_allowed(value, major)):
            logger.error("basebackup: option %s is skipped, pgcore sets it itself or can't restore what it produces", name)
        else:
            options.append(f"--{name}" if value is None else f"--{name}={value}")
    return options


def _compress_allowed(value: str | None, major: int) -> bool:
    return major >= 15 and (value or "").startswith("server")


def _report(request: ReplicaRequest, line: str) -> None:
    match = _PROGRESS.search(line)
    if match:
        request.task.report(phase="basebackup", bytes_done=int(match.group(1)) * 1024, bytes_total=int(match.group(2)) * 1024)


def empty(directory: str) -> None:
    """Remove what an attempt left in the directory, the directory stays."""
    try:
        for entry in list(os.scandir(directory)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
    except OSError as error:
        raise ServerError(f"{directory} can't be emptied after a failed copy: {error}") from error
