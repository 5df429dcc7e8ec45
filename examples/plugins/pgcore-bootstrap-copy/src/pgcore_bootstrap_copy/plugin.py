"""Begins a cluster as an independent copy of a running one: a staging cluster with yesterday's production in it."""

from pgcore.plugin import BootstrapMethod, BootstrapRequest, ServerError, hookimpl

PGCORE_API_LEVEL = 1
STANDBY_SIGNALS = ("standby.signal", "recovery.signal")


def run(request: BootstrapRequest) -> None:
    """Fill ``server.data_dir``. Raises ServerError: then no cluster is made, and the next agent may try."""
    conninfo = request.options.get("conninfo") if isinstance(request.options, dict) else None
    if not isinstance(conninfo, str) or not conninfo:
        raise ServerError("bootstrap.copy.conninfo is missing: say how to connect to the cluster to copy, "
                          "as a user with REPLICATION; a password belongs into a passfile")
    data_dir = request.server.data_dir
    request.task.report(phase="pg_basebackup")
    # With the WAL in the copy it becomes consistent by itself and then writes on a timeline of its own making.
    request.task.run([request.binary("pg_basebackup"), f"--pgdata={data_dir}", f"--dbname={conninfo}", "--wal-method=stream",
                      "--checkpoint=fast", "--no-password"])
    request.task.run(["rm", "-f", *(f"{data_dir}/{name}" for name in STANDBY_SIGNALS)])


@hookimpl
def pgcore_bootstrap_methods() -> list[BootstrapMethod]:
    """The way this plugin brings."""
    return [BootstrapMethod("copy", run)]
