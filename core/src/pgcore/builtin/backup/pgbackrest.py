"""Replica and bootstrap method ``pgbackrest``: a restore of pgBackRest's newest backup, or to a point in time."""

from __future__ import annotations

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

NAME = "pgbackrest"
_TOOL = frozenset({"timeout", "stanza", "program", "config", "options", "keep_data"})
_REPLICA = _TOOL | {"no_leader"}
_BOOTSTRAP = _TOOL | recovery.KEYS | {"recovery_conf"}


@hookimpl
def pgcore_replica_methods() -> Iterable[ReplicaMethod]:
    """A standby from the newest backup; it catches up from the archive (``recovery_conf.restore_command``) and by streaming."""
    return [ReplicaMethod(NAME, make_replica, works_without_source=lambda options: switched_on(options, "no_leader"),
                          keeps_data=lambda options: switched_on(options, "keep_data"))]


@hookimpl
def pgcore_bootstrap_methods() -> Iterable[BootstrapMethod]:
    """A new cluster from a backup, to the end of the archive or to a target."""
    return [BootstrapMethod(NAME, make_cluster, recovery=recovery_settings)]


def make_replica(request: ReplicaRequest) -> None:
    """Restore. Raises ServerError with pgBackRest's exit code and last lines, CancelledError."""
    where = f"postgresql.{NAME}"
    options = sections.section(where, request.options, _REPLICA)
    _restore(request.task, where, options, request.server, ["--type=none"])


def make_cluster(request: BootstrapRequest) -> None:
    """Restore the backup that fits the target. Raises ServerError, CancelledError."""
    where = f"bootstrap.{NAME}"
    options = sections.section(where, request.options, _BOOTSTRAP)
    _restore(request.task, where, options, request.server, target_arguments(recovery.target(where, options)))


def recovery_settings(options: Json, server: ServerSettings) -> Mapping[str, Json]:
    """What the new server replays. Raises ServerError before anything is restored."""
    where = f"bootstrap.{NAME}"
    checked = sections.section(where, options, _BOOTSTRAP)
    fetch = _tool(where, checked, server)
    return {"restore_command": recovery.command([*fetch, "archive-get"], '%f "%p"')} | recovery.target(where, checked).settings()


def target_arguments(target: recovery.Target) -> list[str]:
    """So that pgBackRest takes a backup from before the target. How far the server replays is said by its settings alone."""
    if not target.kind:
        return ["--type=none"]
    if target.kind == "immediate":
        return ["--type=immediate"]
    exclusive = [] if target.inclusive or target.kind == "name" else ["--target-exclusive"]
    return [f"--type={target.kind}", f"--target={target.value}", *exclusive]


def _restore(task: TaskContext, where: str, options: Mapping[str, Json], server: ServerSettings, kind: list[str]) -> None:
    delta = ["--delta"] if switched_on(options, "keep_data") else []
    task.report(phase="pgbackrest restore")
    sections.run(task, [*_tool(where, options, server), *kind, *delta, *sections.further(where, options), "restore"],
                 sections.number(where, options, "timeout", 0), data_dir=server.data_dir)


def _tool(where: str, options: Mapping[str, Json], server: ServerSettings) -> list[str]:
    """The program with what every call of it needs."""
    stanza = sections.required(where, options, "stanza", "name the stanza of pgBackRest that holds this cluster's backups")
    program, config = options.get("program", "pgbackrest"), options.get("config")
    for key, value in (("program", program), ("config", config)):
        if value is not None and not isinstance(value, str):
            raise ServerError(f"{where}.{key} is {value!r}: it must be the path of a file")
    return [str(program), f"--stanza={stanza}", *([f"--config={config}"] if config else []), f"--pg1-path={server.data_dir}"]

