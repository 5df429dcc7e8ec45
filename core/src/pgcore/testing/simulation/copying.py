"""Programs that make or mend a simulated data directory: initdb, pg_basebackup, pg_rewind, a server in single-user mode.

They run as children of the agent and end with it, at any point: what they have half done stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pgcore import threads
from pgcore.clock import now
from pgcore.errors import CancelledError, PgcoreError, ServerError
from pgcore.model.basics import Lsn
from pgcore.model.node import ControlState
from pgcore.model.server import Upstream
from pgcore.testing.simulation.server import Server
from pgcore.testing.simulation.server_files import CHECKPOINT_RECORD, DataFiles
from pgcore.testing.simulation.wal import Commit, history, passed, timeline_root

if TYPE_CHECKING:
    from pgcore.hookspecs import ReplicaMethod, TaskContext
    from pgcore.model.basics import Json

_STEP_S = 0.5
_CLEAN = (ControlState.SHUT_DOWN, ControlState.SHUT_DOWN_IN_RECOVERY)


def _work(server: Server, ctx: TaskContext, seconds: float, source: Server | None = None) -> None:
    """Let it take its time. Raises ServerError when the source is lost, CancelledError."""
    end = now() + server.takes(seconds)
    pid = source.pid if source is not None else 0
    while True:
        ctx.check()
        if source is not None and not (source.answers and source.pid == pid and server.fleet.linked(server, source)):
            raise ServerError("could not receive data: server closed the connection unexpectedly")
        if server.pace.disk_full:
            raise ServerError("could not write: No space left on device")
        left = end - now()
        if left <= 0:
            return
        threads.sleep(min(_STEP_S, left))


def make_cluster(server: Server, ctx: TaskContext) -> None:
    """initdb. Raises ServerError or CancelledError."""
    if server.files is not None:
        raise ServerError("the data directory is not empty")
    server.begin_copy("initdb")
    try:
        _work(server, ctx, server.pace.initdb_s)
        if server.pace.bootstrap_fails:
            raise ServerError("initdb exited with 1")
    except PgcoreError:
        server.remove()
        raise
    server.make_cluster()


def clone(server: Server, ctx: TaskContext, methods: Sequence[tuple[ReplicaMethod, Json]], upstream: Upstream | None) -> None:
    """The first method that works. Raises ServerError or CancelledError; then nothing is left behind."""
    failures = []
    for method, options in methods:
        try:
            if upstream is not None and method.name == "basebackup":
                return _base_backup(server, ctx, upstream)
            if method.name == "restore" and (upstream is not None or method.works_without_source(options)):
                return restore(server, ctx)
        except CancelledError:
            raise
        except ServerError as error:
            failures.append(f"{method.name}: {error}")
    why = "; ".join(failures) or "none of the configured methods works without a source"
    raise ServerError(f"no replica could be made: {why}")


def restore(server: Server, ctx: TaskContext) -> None:
    """A backup comes from the archive. Raises ServerError or CancelledError; then nothing is left behind."""
    ctx.check()
    server.remove()
    backup = server.backup
    if backup is None:
        raise ServerError("there is no backup")
    server.begin_copy("restore")
    ctx.report(phase="restore")
    try:
        _work(server, ctx, server.pace.clone_s)
    except PgcoreError:
        server.remove()
        raise
    _take_over(server, backup, ControlState.IN_PRODUCTION)


def _base_backup(server: Server, ctx: TaskContext, upstream: Upstream) -> None:
    ctx.check()
    server.remove()
    server.begin_copy("pg_basebackup")
    ctx.report(phase="basebackup")
    try:
        source = server.fleet.reached(server, upstream.host, upstream.port, read_write=upstream.read_write)
        if source is None:
            raise ServerError(f"pg_basebackup: could not connect to {upstream.label}")
        standby = source.in_recovery
        source.checkpoint_now()
        _work(server, ctx, server.pace.clone_s, source)
        if server.pace.clone_fails or source.files is None or source.in_recovery != standby:
            raise ServerError(f"pg_basebackup from {upstream.label} exited with 1")
    except PgcoreError:
        server.remove()
        raise
    state = ControlState.IN_ARCHIVE_RECOVERY if standby else ControlState.IN_PRODUCTION
    assert source.files is not None
    _take_over(server, source.files, state)
    server.tell("cloned", source=source, commit=server.at)


def _take_over(server: Server, theirs: DataFiles, state: ControlState) -> None:
    """The data directory is a copy of this one from now on."""
    assert theirs.control is not None
    end = theirs.wal.cut(theirs.replayed)
    recovered = state is ControlState.IN_ARCHIVE_RECOVERY
    control = replace(
        theirs.control,
        state=state,
        checkpoint_end=None,
        minimum_recovery=Lsn(end.position if recovered else 0),
        minimum_recovery_timeline=end.branch.timeline if recovered else 0,
    )
    server.files = DataFiles(end, control, end.position, backup_label=True, known=dict(theirs.known), spoiled=theirs.spoiled)


def recover_alone(server: Server, ctx: TaskContext) -> None:
    """Crash recovery in single-user mode: afterwards it is a primary that was shut down.

    Raises ServerError or CancelledError.
    """
    files = server.files
    assert files is not None
    if files.backup_label:
        return
    ctx.report(phase="crash recovery")
    _work(server, ctx, server.pace.single_user_s)
    if files.torn or files.control is None or server.pace.broken:
        raise ServerError("postgres --single exited with 1")
    files.standby_signal = False
    begin = files.wal.position
    files.wal = server.fleet.wal.append(files.wal, CHECKPOINT_RECORD, server.scheduler.EPOCH + server.scheduler.now)
    files.replayed = files.wal.position
    files.checkpoint(Commit(files.wal.branch, begin))
    files.note(state=ControlState.SHUT_DOWN, checkpoint_end=Lsn(files.wal.position), minimum_recovery=Lsn(0),
               minimum_recovery_timeline=0)


def rewind(server: Server, ctx: TaskContext, upstream: Upstream) -> None:
    """pg_rewind. Raises ServerError or CancelledError."""
    files = server.files
    assert files is not None
    ctx.report(phase="rewind")
    source = server.fleet.reached(server, upstream.host, upstream.port, read_write=True)
    if source is None or source.files is None or source.files.control is None:
        raise ServerError(f"pg_rewind: could not connect to {upstream.label}")
    if files.control is None or files.torn not in ("", "pg_rewind"):
        raise ServerError("pg_rewind: could not read the target's data directory")
    if files.control.system_id != source.files.control.system_id:
        raise ServerError("pg_rewind: source and target clusters are from different systems")
    if files.control.state not in _CLEAN and not files.torn:
        recover_alone(server, ctx)
    had, fork = files.wal, _divergence(files, source.files)
    if fork is None:
        return
    _work(server, ctx, server.pace.rewind_s / 2, source)
    if server.pace.rewind_fails:
        raise ServerError("pg_rewind: could not find previous WAL record")
    files.torn = "pg_rewind"
    if server.pace.rewind_tears:
        files.torn = "a pg_rewind that died"
        raise ServerError("pg_rewind: could not write file")
    _work(server, ctx, server.pace.rewind_s / 2, source)
    mistaken = had.shared(source.at) < min(fork, had.position)
    _take_over(server, source.files, ControlState.IN_ARCHIVE_RECOVERY)
    server.tell("rewound", source=source, had=had, commit=server.at)
    if mistaken and server.files is not None:
        server.files.spoiled = True
        server.tell("mixed", had=had, got=server.at)


def _divergence(target: DataFiles, source: DataFiles) -> int | None:
    """Where the histories part by their numbers, as pg_rewind sees it; None if it finds nothing to do."""
    assert target.control is not None and source.control is not None
    own, its = target.control.checkpoint_timeline, source.control.checkpoint_timeline
    if own == its:
        return None
    mine, theirs = _timelines(target.wal, own), _timelines(source.wal, its)
    fork = 0
    for (number, start, end), (other, began, ended) in zip(mine, theirs, strict=False):
        if (number, start) != (other, began):
            break
        fork = min(end, ended)
    end_of_target = max(int(target.control.minimum_recovery), int(target.control.checkpoint) + CHECKPOINT_RECORD)
    return fork if fork < end_of_target else None


def _timelines(wal: Commit, newest: int) -> list[tuple[int, int, int]]:
    """Number, begin and end of each timeline up to the one pg_control names."""
    branch = passed(wal.branch, newest) or wal.branch
    entries, start = [], 0
    for number, end, _ in history(branch):
        entries.append((number, start, int(end)))
        start = int(end)
    return [*entries, (timeline_root(branch).timeline, start, 1 << 62)]
