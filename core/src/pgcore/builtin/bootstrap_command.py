"""Bootstrap method ``bootstrap_command``: a section ``bootstrap.<name>`` with a command that leaves a cluster (config 10.4)."""

from __future__ import annotations

from collections.abc import Iterable

from pgcore.builtin.replica_command import STALL_TIMEOUT, command_words, idle_limit, switched_on
from pgcore.plugin import BootstrapMethod, BootstrapRequest, hookimpl

_NOT_PASSED = frozenset({"command", "no_params", "keep_existing_recovery_conf", "recovery_conf", "scope", "datadir",
                         STALL_TIMEOUT})


@hookimpl
def pgcore_bootstrap_methods() -> Iterable[BootstrapMethod]:
    """The built-in method; the daemon uses it for a ``bootstrap.method`` that no other plugin brings."""
    return [BootstrapMethod("bootstrap_command", run)]


def run(request: BootstrapRequest) -> None:
    """Run the command; exit code 0 is a cluster. Recovery settings are the caller's. Raises ServerError, CancelledError."""
    request.task.report(phase="bootstrap command")
    request.task.run(arguments(request), idle=idle_limit(request.options, request.server.data_dir))


def arguments(request: BootstrapRequest) -> list[str]:
    """The command line: scope and data directory unless ``no_params``, then the section's own keys."""
    options = request.options if isinstance(request.options, dict) else {}
    argv = command_words(options, "bootstrap.method")
    if not switched_on(options, "no_params"):
        argv += [f"--scope={request.server.scope}", f"--datadir={request.server.data_dir}"]
    return argv + [f"--{key}={value}" for key, value in options.items() if key not in _NOT_PASSED]
