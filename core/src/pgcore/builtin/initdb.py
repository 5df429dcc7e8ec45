"""Bootstrap method ``initdb``: a new, empty cluster (config 4, 10.6)."""

from __future__ import annotations

from collections.abc import Iterable

from pgcore.builtin.replica_command import STALL_S
from pgcore.plugin import BootstrapMethod, BootstrapRequest, IdleLimit, Json, ServerError, hookimpl

_FORBIDDEN = frozenset({"pgdata", "nosync", "pwfile", "sync-only", "version"})


@hookimpl
def pgcore_bootstrap_methods() -> Iterable[BootstrapMethod]:
    """The built-in method."""
    return [BootstrapMethod(name="initdb", run=run)]


def run(request: BootstrapRequest) -> None:
    """Run initdb. Raises ServerError for a forbidden or malformed option and when initdb fails, CancelledError."""
    argv = [request.binary("initdb"), *command_options(request.options)]
    if request.server.superuser.username:
        argv.append(f"--username={request.server.superuser.username}")
    if request.superuser_password_file:
        argv.append(f"--pwfile={request.superuser_password_file}")
    request.task.report(phase="initdb")
    request.task.run([*argv, request.server.data_dir], idle=IdleLimit(STALL_S, (request.server.data_dir,)))


def command_options(configured: Json) -> list[str]:
    """The configured options as arguments: a list of words and one-key maps, or a map. Raises ServerError, naming the option."""
    if isinstance(configured, dict):
        return [_option(name, value) for name, value in configured.items() if value not in (None, "")]
    if configured is not None and not isinstance(configured, (list, tuple)):
        raise ServerError(f"bootstrap.initdb is {configured!r}: it must be a list of options or a map")
    options = []
    for entry in configured or ():
        if isinstance(entry, str):
            name, equals, value = entry.partition("=")
            options.append(_option(name, value if equals else None))
        elif isinstance(entry, dict) and len(entry) == 1:
            options += [_option(name, value) for name, value in entry.items()]
        else:
            raise ServerError(f"bootstrap.initdb: {entry!r} must be a word or a map with one key")
    return options


def _option(name: Json, value: Json) -> str:
    if not isinstance(name, str) or name.startswith("-"):
        raise ServerError(f"bootstrap.initdb: option {name!r} must be a name without leading dashes")
    if name in _FORBIDDEN:
        raise ServerError(f"bootstrap.initdb: option {name} is not allowed, pgcore decides about it: remove it")
    if value is None:
        return f"--{name}"
    if not isinstance(value, str):
        raise ServerError(f"bootstrap.initdb: the value of {name} is {value!r}, it must be a string: put it into quotes")
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return f"--{name}={value}"
