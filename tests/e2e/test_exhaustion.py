"""The machine runs out of something under the primary: connections, descriptors, memory, disk. The stated rule happens, once."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import psycopg2
import pytest

from harness import UNDISTURBED_S, Cluster, Gap, Node, wait_for
from harness.cluster import lost_commits
from harness.configuration import dsn
from harness.processes import alive, is_postgres

CGROUP = Path("/sys/fs/cgroup/memory") if Path("/sys/fs/cgroup/memory").is_dir() else Path("/sys/fs/cgroup")
LIMIT = "memory.limit_in_bytes" if CGROUP.name == "memory" else "memory.max"


@contextlib.contextmanager
def _every_connection_taken(node: Node) -> Iterator[list[psycopg2.extensions.connection]]:
    """Superuser connections until the server has none left, the superuser's reserve included."""
    held: list[psycopg2.extensions.connection] = []
    try:
        yield held
    finally:
        for link in held:
            link.close()


def _take_all(node: Node, held: list[psycopg2.extensions.connection]) -> None:
    while True:
        try:
            held.append(psycopg2.connect(dsn([(node.host, node.pg_port)])))
        except psycopg2.OperationalError as error:
            assert "too many clients" in str(error), error
            return


def test_every_connection_taken_changes_nothing(etcd_cluster: Cluster) -> None:
    """Even after the agent's own connection is broken and its place taken, the primary stays the primary."""
    cluster = etcd_cluster
    primary = cluster.primary()
    before = (primary.timeline(), primary.postmaster_pid())
    pids = [row[0] for row in primary.query("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pgcore%%'")]
    with cluster.writer() as writer, _every_connection_taken(primary) as held:
        _take_all(primary, held)
        began = time.monotonic()
        time.sleep(cluster.ttl / 2)
        assert primary.status().get("xlog"), "the agent goes on with the connections it holds"
        with held[0].cursor() as cursor:
            for pid in pids:
                cursor.execute("SELECT pg_terminate_backend(%s)", (pid,))
        held[0].commit()
        while time.monotonic() < began + 1.5 * cluster.ttl:
            _take_all(primary, held)
            assert primary.status_of("/primary") == 200
            time.sleep(0.1)
    gap = writer.report().longest_gap(after_s=began)
    assert cluster.primary() is primary
    assert (primary.timeline(), primary.postmaster_pid()) == before
    assert gap.seconds < UNDISTURBED_S
    cluster.wait_healthy()


def _open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@contextlib.contextmanager
def _limited(pids: list[int], what: Literal["nofile", "as"], amount: int) -> Iterator[None]:
    """These processes may not have more of it. PostgreSQL's own account sets it: root in a sandbox may not."""
    as_owner = ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--")
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if what == "nofile" else "unlimited"

    def set_all(limit: str) -> None:
        for pid in pids:
            prefix = as_owner if is_postgres(pid) else ()
            done = subprocess.run([*prefix, "prlimit", f"--pid={pid}", f"--{what}={limit}"], capture_output=True, text=True)
            assert done.returncode == 0 or not alive(pid), done.stderr

    set_all(f"{amount}:")
    try:
        yield
    finally:
        set_all(f"{usual}:")


def test_agent_without_a_free_descriptor_keeps_the_lock_and_recovers(etcd_cluster: Cluster) -> None:
    cluster = etcd_cluster
    primary = cluster.primary()
    before = (primary.timeline(), primary.postmaster_pid())
    assert primary.process is not None
    with cluster.writer() as writer:
        began = time.monotonic()
        with _limited([primary.process.pid], "nofile", _open_files(primary.process.pid)):
            time.sleep(1.5 * cluster.ttl)
        writer.wait_resumed(began, 30)
    wait_for(lambda: primary.status_of("/primary") == 200, 30, "the agent answers again")
    assert primary.log().count("cannot accept connections") < 200, "it does not spin"
    assert cluster.primary() is primary
    assert (primary.timeline(), primary.postmaster_pid()) == before
    assert writer.report().longest_gap(after_s=began).seconds < UNDISTURBED_S


def test_server_without_a_free_descriptor_fails_over_at_most_once_and_loses_nothing(etcd_cluster: Cluster) -> None:
    cluster = etcd_cluster
    primary = cluster.primary()
    timeline = primary.timeline()
    assert timeline is not None
    writer = cluster.writer().start()
    postmaster = primary.postmaster_pid()
    assert postmaster is not None
    with _limited(primary.postgres_pids(), "nofile", 12):
        for _ in range(10):
            primary.ask("SELECT pg_switch_wal()")
            primary.ask("SELECT count(*) FROM pg_class, pg_attribute, pg_proc")
            time.sleep(cluster.ttl / 10)
    writer.wait_resumed(time.monotonic(), 30)
    assert lost_commits(cluster, writer) == []
    now_on = cluster.primary().timeline()
    assert now_on is not None and now_on - timeline in (0, 1)
    cluster.wait_healthy()


@contextlib.contextmanager
def _memory_group(name: str, amount: int, pids: list[int]) -> Iterator[Path]:
    """A control group of these processes that may use so much memory."""
    group = CGROUP / name
    group.mkdir()
    try:
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
        (group / LIMIT).write_text(str(amount))
        yield group
    finally:
        wait_for(lambda: _emptied(group), 10, f"{group} can be removed")


def _emptied(group: Path) -> bool:
    """Its processes have left and it is gone; a server may be starting others meanwhile, and leaving takes a moment."""
    for pid in (group / "cgroup.procs").read_text().split():
        with contextlib.suppress(OSError):
            (CGROUP / "cgroup.procs").write_text(pid)
    group.rmdir()
    return True


def test_query_killed_for_memory_restarts_the_server_in_place(
        etcd_cluster: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    cluster = etcd_cluster
    primary = cluster.primary()
    before = (primary.timeline(), primary.postmaster_pid())
    writer = cluster.writer().start()
    began = time.monotonic()
    with _memory_group(f"pgcore-{cluster.mark[:8]}", 100 << 20, primary.postgres_pids()):
        with pytest.raises(psycopg2.OperationalError, match="server closed the connection"):
            primary.query("SELECT length(string_agg(n || repeat('x', 100000), '')) FROM generate_series(1, 8000) n")
        writer.wait_resumed(began, 30)
    report = writer.stop()
    measured("the kernel killed a backend for memory: write gap", report.longest_gap(after_s=began))
    assert cluster.primary() is primary
    assert (primary.timeline(), primary.postmaster_pid()) == before
    assert report.missing(cluster.present(primary)) == []
    cluster.wait_healthy()


def test_agent_without_more_memory_keeps_the_lock(etcd_cluster: Cluster) -> None:
    """Everything it needs is loaded and every thread started before there is trouble."""
    cluster = etcd_cluster
    primary = cluster.primary()
    assert primary.process is not None
    before = (primary.timeline(), primary.postmaster_pid())
    pages = int(Path(f"/proc/{primary.process.pid}/statm").read_text().split()[0])
    with cluster.writer() as writer:
        began = time.monotonic()
        with _limited([primary.process.pid], "as", pages * resource.getpagesize()):
            time.sleep(1.5 * cluster.ttl)
        writer.wait_resumed(began, 30)
    assert cluster.primary() is primary
    assert (primary.timeline(), primary.postmaster_pid()) == before
    assert writer.report().longest_gap(after_s=began).seconds < UNDISTURBED_S
