"""Replica and bootstrap method ``wal_g``: a backup fetched by WAL-G."""

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

NAME = "wal_g"
_TOOL = frozenset({"timeout", "program", "config", "backup", "options"})
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
    """Fetch the backup. Raises ServerError with WAL-G's exit code and last lines, CancelledError."""
    where = f"postgresql.{NAME}"
    _fetch(request.task, where, sections.section(where, request.options, _REPLICA), request.server)


def make_cluster(request: BootstrapRequest) -> None:
    """Fetch the backup. Raises ServerError, CancelledError."""
    where = f"bootstrap.{NAME}"
    _fetch(request.task, where, sections.section(where, request.options, _BOOTSTRAP), request.server)


def recovery_settings(options: Json, server: ServerSettings) -> Mapping[str, Json]:
    """What the new server replays. Raises ServerError before anything is fetched."""
    where = f"bootstrap.{NAME}"
    checked = sections.section(where, options, _BOOTSTRAP)
    fetch = recovery.command([*_tool(where, checked), "wal-fetch"], '%f "%p"')
    return {"restore_command": fetch} | recovery.target(where, checked).settings()


def _fetch(task: TaskContext, where: str, options: Mapping[str, Json], server: ServerSettings) -> None:
    task.report(phase="WAL-G backup-fetch")
    argv = [*_tool(where, options), "backup-fetch", server.data_dir, str(options.get("backup", "LATEST"))]
    sections.run(task, [*argv, *sections.further(where, options)], sections.number(where, options, "timeout", 0),
                 data_dir=server.data_dir)


def _tool(where: str, options: Mapping[str, Json]) -> list[str]:
    try:
        words = shlex.split(str(options.get("program", "wal-g")))
    except ValueError as error:
        raise ServerError(f"{where}.program cannot be split into words: {error}") from error
    return [*words, f"--config={options['config']}"] if options.get("config") else words
