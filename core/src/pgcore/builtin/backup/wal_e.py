"""Replica and bootstrap method ``wal_e``: WAL-E's newest backup, if fetching it and replaying the archive pays (config 10.3)."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from pgcore.builtin.backup import recovery, sections
from pgcore.builtin.backup.wal_e_choice import LATEST, Position, Thresholds, newest, position, reason_against
from pgcore.builtin.replica_command import switched_on
from pgcore.plugin import (
    BootstrapMethod,
    BootstrapRequest,
    CommandFailedError,
    Json,
    ReplicaMethod,
    ReplicaRequest,
    ServerError,
    ServerSettings,
    TaskContext,
    hookimpl,
)

NAME = "wal_e"
QUESTION_S = 30
"""How long the source may take to say where it is."""
THRESHOLDS = ("threshold_megabytes", "threshold_backup_size_percentage")
_TOOL = frozenset({"timeout", "envdir", "envdir_program", "program", "use_iam"})
_REPLICA = _TOOL | {*THRESHOLDS, "retries", "no_leader"}
_BOOTSTRAP = _TOOL | recovery.KEYS | {"recovery_conf", "backup"}


@hookimpl
def pgcore_replica_methods() -> Iterable[ReplicaMethod]:
    """A standby from the newest backup; it catches up from the archive (``recovery_conf.restore_command``) and by streaming."""
    return [ReplicaMethod(NAME, make_replica, works_without_source=lambda options: switched_on(options, "no_leader"))]


@hookimpl
def pgcore_bootstrap_methods() -> Iterable[BootstrapMethod]:
    """A new cluster from a backup, to the end of the archive or to a target."""
    return [BootstrapMethod(NAME, make_cluster, recovery=recovery_settings)]


def make_replica(request: ReplicaRequest) -> None:
    """Fetch the newest backup unless a fresh copy is cheaper. Raises ServerError, also for that, and CancelledError."""
    where = f"postgresql.{NAME}"
    options = sections.section(where, request.options, _REPLICA)
    thresholds = Thresholds(*(sections.number(where, options, key, default)
                              for key, default in zip(THRESHOLDS, Thresholds.DEFAULTS, strict=True)))
    tool, retries = command(where, options), sections.number(where, options, "retries", 1)
    limit_s = sections.number(where, options, "timeout", 0)
    request.task.report(phase="choosing a backup of WAL-E")
    backup = newest(sections.run(request.task, [*tool, "backup-list", "--detail", LATEST], limit_s))
    if against := reason_against(backup, _asked(request) if request.source else None, thresholds):
        raise ServerError(f"WAL-E is not used: {against}")
    assert backup is not None
    _fetch(request.task, tool, request.server, backup.name, retries, limit_s)


def make_cluster(request: BootstrapRequest) -> None:
    """Fetch the backup. Raises ServerError with WAL-E's exit code and last lines, CancelledError."""
    where = f"bootstrap.{NAME}"
    options = sections.section(where, request.options, _BOOTSTRAP)
    _fetch(request.task, command(where, options), request.server, str(options.get("backup", LATEST)), 0,
           sections.number(where, options, "timeout", 0))


def recovery_settings(options: Json, server: ServerSettings) -> Mapping[str, Json]:
    """What the new server replays. Raises ServerError before anything is fetched."""
    where = f"bootstrap.{NAME}"
    checked = sections.section(where, options, _BOOTSTRAP)
    fetch = recovery.command([*command(where, checked), "wal-fetch"], '%f "%p"')
    return {"restore_command": fetch} | recovery.target(where, checked).settings()


def command(where: str, options: Mapping[str, Json]) -> list[str]:
    """WAL-E with its environment, which ``envdir`` reads from a directory. Raises ServerError."""
    words = [str(options.get("envdir_program", "envdir")), sections.required(
        where, options, "envdir", "name the directory with WAL-E's variables, one file for each")]
    try:
        words += shlex.split(str(options.get("program", "wal-e")))
    except ValueError as error:
        raise ServerError(f"{where}.program cannot be split into words: {error}") from error
    return [*words, "--aws-instance-profile"] if switched_on(options, "use_iam") else words


def _asked(request: ReplicaRequest) -> Position:
    """Where the source's WAL is now, by the replication protocol, which its users of replication may always speak."""
    psql = [request.binary("psql"), "-XAtw", "-F", " ", "-d", f"{request.connstring} replication=true"]
    system, size = (sections.run(request.task, [*psql, "-c", question], QUESTION_S, env=request.env)
                    for question in ("IDENTIFY_SYSTEM", "SHOW wal_segment_size"))
    return position(system, size)


def _fetch(task: TaskContext, tool: list[str], server: ServerSettings, backup: str, retries: int, limit_s: int) -> None:
    for attempt in range(retries + 1):
        task.report(phase="WAL-E backup-fetch")
        try:
            sections.run(task, [*tool, "backup-fetch", server.data_dir, backup], limit_s, data_dir=server.data_dir)
            return
        except CommandFailedError:
            if attempt == retries:
                raise
