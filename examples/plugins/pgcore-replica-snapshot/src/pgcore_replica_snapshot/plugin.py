"""Makes the data directory of a standby from a directory that holds a base backup or an atomic snapshot of one.

For file systems that share blocks between copies (XFS, Btrfs, ZFS 2.2) terabytes take seconds.
"""

from pathlib import Path

from pgcore.plugin import ReplicaMethod, ReplicaRequest, ServerError, hookimpl

PGCORE_API_LEVEL = 1
NOT_THE_STANDBYS = ("postmaster.pid", "postmaster.opts", "pg_replslot")
"""They belong to the server the snapshot was taken of. PostgreSQL wants ``pg_replslot`` as an empty directory."""


def run(request: ReplicaRequest) -> None:
    """Fill ``server.data_dir``. Raises ServerError: then the directory is emptied and the next method has its turn."""
    snapshot = checked(request.options, request.server_major)
    target = Path(request.server.data_dir)
    request.task.report(phase="copy of the snapshot")
    request.task.run(["cp", "--archive", "--reflink=auto", f"{snapshot}/.", str(target)])
    request.task.run(["chmod", "700", str(target)])  # cp gave it the mode of the snapshot, and PostgreSQL is strict about it
    request.task.run(["rm", "-rf", *(str(target / name) for name in NOT_THE_STANDBYS)])
    request.task.run(["mkdir", "-m", "700", str(target / "pg_replslot")])


def checked(options: object, server_major: int) -> Path:
    """The directory to copy. Raises ServerError before anything is touched if it cannot become this standby."""
    wanted = options.get("path") if isinstance(options, dict) else None
    if not isinstance(wanted, str) or not wanted.startswith("/"):
        raise ServerError(f"postgresql.snapshot.path is {wanted!r}: name the directory of the snapshot, beginning with /")
    try:
        version = (Path(wanted) / "PG_VERSION").read_text().strip()
    except OSError as error:
        raise ServerError(f"postgresql.snapshot.path: {wanted} is no data directory: {error.strerror}") from error
    if version != str(server_major):
        raise ServerError(f"{wanted} is of PostgreSQL {version}, this node runs {server_major}: take a new snapshot")
    return Path(wanted)


@hookimpl
def pgcore_replica_methods() -> list[ReplicaMethod]:
    """The way this plugin brings; without a leader, too: a standby can wait for its upstream."""
    return [ReplicaMethod("snapshot", run, works_without_source=lambda options: True)]
