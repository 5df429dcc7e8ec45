"""Replica and bootstrap method ``barman``: ``barman recover``, run where Barman is, here or behind ``ssh_command``."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from pgcore.builtin.backup import recovery, sections
from pgcore.builtin.replica_command import switched_on
from pgcore.plugin import (
    BootstrapMethod,
    BootstrapRequest,
    Json,
    ReplicaMethod,
    ReplicaRequest,
    ServerError,
    ServerSettings,
    TaskContext,
    hookimpl,
)

NAME = "barman"
_TOOL = frozenset({"timeout", "server", "program", "config", "ssh_command", "remote_ssh_command", "backup_id", "options"})
_REPLICA = _TOOL | {"no_leader"}
_BOOTSTRAP = _TOOL | recovery.KEYS | {"recovery_conf"}


@hookimpl
def pgcore_replica_methods() -> Iterable[ReplicaMethod]:
    """A standby from a backup; it catches up from the archive (``recovery_conf.restore_command``) and by streaming."""
    return [ReplicaMethod(NAME, make_replica, works_without_source=lambda options: switched_on(options, "no_leader"))]


@hookimpl
def pgcore_bootstrap_methods() -> Iterable[BootstrapMethod]:
    """A new cluster from a backup, to the end of the archive or to a target."""
    return [BootstrapMethod(NAME, make_cluster, recovery=recovery_settings)]


def make_replica(request: ReplicaRequest) -> None:
    """Restore. Raises ServerError with Barman's exit code and last lines, CancelledError."""
    where = f"postgresql.{NAME}"
    options = sections.section(where, request.options, _REPLICA)
    _recover(request.task, where, options, request.server, [])


def make_cluster(request: BootstrapRequest) -> None:
    """Restore; Barman refuses a backup that ended after the target. Raises ServerError, CancelledError."""
    where = f"bootstrap.{NAME}"
    options = sections.section(where, request.options, _BOOTSTRAP)
    _recover(request.task, where, options, request.server, target_arguments(recovery.target(where, options)))


def recovery_settings(options: Json, server: ServerSettings) -> Mapping[str, Json]:
    """What the new server replays. Raises ServerError before anything is restored."""
    where = f"bootstrap.{NAME}"
    checked = sections.section(where, options, _BOOTSTRAP)
    words = [*_words(where, checked, "ssh_command"), *_barman(where, checked), "get-wal", _server(where, checked)]
    return {"restore_command": recovery.command(words, '%f > "%p"')} | recovery.target(where, checked).settings()


def target_arguments(target: recovery.Target) -> list[str]:
    """So that Barman can tell whether the backup is from before the target."""
    if not target.kind:
        return []
    if target.kind == "immediate":
        return ["--target-immediate"]
    return [f"--target-{target.kind}", target.value, *([] if target.inclusive or target.kind == "name" else ["--exclusive"])]


def _recover(task: TaskContext, where: str, options: Mapping[str, Json], server: ServerSettings, target: list[str]) -> None:
    hop = _words(where, options, "ssh_command")
    back = options.get("remote_ssh_command")
    if hop and not back:
        raise ServerError(f"{where}.remote_ssh_command is missing: ssh_command runs Barman on another machine, say how that one "
                          "reaches this node, such as ssh postgres@this-node")
    remote = ["--remote-ssh-command", str(back)] if back else []
    # With --get-wal no WAL is copied beforehand: the server fetches what it needs by its restore_command.
    argv = [*_barman(where, options), "recover", "--get-wal", *remote, *target, *sections.further(where, options),
            _server(where, options), str(options.get("backup_id", "latest")), server.data_dir]
    task.report(phase="barman recover")
    sections.run(task, [*hop, shlex.join(argv)] if hop else argv, sections.number(where, options, "timeout", 0),
                 data_dir=server.data_dir)


def _barman(where: str, options: Mapping[str, Json]) -> list[str]:
    program, config = options.get("program", "barman"), options.get("config")
    for key, value in (("program", program), ("config", config)):
        if value is not None and not isinstance(value, str):
            raise ServerError(f"{where}.{key} is {value!r}: it must be the path of a file")
    return [str(program), *(["-c", str(config)] if config else [])]


def _server(where: str, options: Mapping[str, Json]) -> str:
    return sections.required(where, options, "server", "name the server of Barman that holds this cluster's backups")


def _words(where: str, options: Mapping[str, Json], key: str) -> list[str]:
    try:
        return shlex.split(str(options.get(key) or ""))
    except ValueError as error:
        raise ServerError(f"{where}.{key} cannot be split into words: {error}") from error
