"""Replica method ``replica_command``: whatever ``postgresql.<name>`` says, run as a program (config 10.2)."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterable

from pgcore.plugin import IdleLimit, Json, ReplicaMethod, ReplicaRequest, ServerError, hookimpl

logger = logging.getLogger(__name__)

STALL_TIMEOUT = "stall-timeout"
STALL_S = 86400.0
"""A day: long, as what is ended in vain is a copy of terabytes."""
_SWITCHES = ("keep_data", "no_leader", "no_params")


@hookimpl
def pgcore_replica_methods() -> Iterable[ReplicaMethod]:
    """The built-in method; the daemon uses it for every name that no other plugin brings."""
    return [
        ReplicaMethod(
            "replica_command",
            run,
            works_without_source=lambda options: switched_on(options, "no_leader"),
            keeps_data=lambda options: switched_on(options, "keep_data"),
        )
    ]


def run(request: ReplicaRequest) -> None:
    """Run the command; exit code 0 is a copy. Raises ServerError, CancelledError."""
    request.task.run(arguments(request), env=request.env, idle=idle_limit(request.options, request.server.data_dir))


def arguments(request: ReplicaRequest) -> list[str]:
    """The command line: the own keys in their order, then what every command is told, unless ``no_params``."""
    options = request.options if isinstance(request.options, dict) else {}
    argv = command_words(options, "postgresql.create_replica_methods")
    bare = switched_on(options, "no_params")
    argv += [f"--{key}={value}" for key, value in options.items()
             if key not in ("command", STALL_TIMEOUT) and not (bare and key in _SWITCHES)]
    if bare:
        return argv
    server = request.server
    return [
        *argv,
        f"--scope={server.scope}",
        "--role=replica",
        f"--datadir={server.data_dir}",
        f"--connstring={request.connstring}",
    ]


def command_words(options: dict[str, Json], where: str) -> list[str]:
    """The configured command split as a shell would. Raises ServerError when there is none."""
    try:
        words = shlex.split(str(options.get("command") or ""))
    except ValueError as error:
        raise ServerError(f"{where}: the command {options['command']!r} cannot be split into words: {error}") from error
    if not words:
        raise ServerError(f"{where}: the section has no command")
    return words


def idle_limit(options: Json, data_dir: str) -> IdleLimit | None:
    """What ``stall-timeout`` of a command's section says, in seconds; None for 0. What makes no sense is logged."""
    wanted = options.get(STALL_TIMEOUT, STALL_S) if isinstance(options, dict) else STALL_S
    try:
        seconds = float(str(wanted))
        if not 0 <= seconds < float("inf"):
            raise ValueError
    except ValueError:
        logger.error("%s of the command %s is %r, it must be a number of seconds, 0 for no limit: %g holds", STALL_TIMEOUT,
                     options.get("command") if isinstance(options, dict) else "", wanted, STALL_S)
        seconds = STALL_S
    return IdleLimit(seconds, (data_dir,)) if seconds else None


def switched_on(options: Json, key: str) -> bool:
    """A switch of a command's section: set, and not one of the words for no."""
    value = options.get(key) if isinstance(options, dict) else None
    return bool(value) and str(value).strip().lower() not in ("off", "false", "no", "0")
