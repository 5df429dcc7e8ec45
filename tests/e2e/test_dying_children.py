"""Each kind of PostgreSQL process is killed in turn: the server mends itself, nobody fails over, the agent reconnects."""

from __future__ import annotations

import signal
import time

import pytest

from harness import UNDISTURBED_S, Cluster, Node, wait_for
from harness.processes import send

ON_THE_PRIMARY = ("checkpointer", "background writer", "walwriter", "autovacuum launcher", "logical replication launcher",
                  "logger", "walsender", "pgcore heartbeat", "client backend")
ON_A_STANDBY = ("startup", "walreceiver", "checkpointer")


def _victim(node: Node, kind: str) -> int:
    """A process of this kind: by its title, or a backend by what it calls itself."""
    name = {"client backend": "harness", "pgcore heartbeat": "pgcore heartbeat"}.get(kind)
    if name is None:
        return wait_for(lambda: node.backend_pids(kind), 30, f"{node.name} has a {kind}")[0]
    rows = wait_for(lambda: node.query("SELECT pid FROM pg_stat_activity WHERE application_name = %s AND pid <> pg_backend_pid()",
                                       name), 30, f"{node.name} has a connection of {name}")
    return int(rows[0][0])


@pytest.mark.parametrize("kind", ON_THE_PRIMARY)
def test_killed_process_of_the_primary_costs_a_moment_and_no_failover(etcd_cluster: Cluster, kind: str) -> None:
    cluster = etcd_cluster
    primary = cluster.primary()
    before = (primary.timeline(), primary.postmaster_pid())
    writer = cluster.writer().start()
    began = time.monotonic()
    send(_victim(primary, kind), signal.SIGKILL)
    writer.wait_resumed(began, 20)
    report = writer.stop()
    assert cluster.primary() is primary
    assert (primary.timeline(), primary.postmaster_pid()) == before
    assert report.missing(cluster.present(primary)) == []
    wait_for(lambda: primary.status().get("xlog"), 30, "the agent asks its server again")
    cluster.wait_healthy()


@pytest.mark.parametrize("kind", ON_A_STANDBY)
def test_killed_process_of_a_standby_is_nothing_to_the_primary(etcd_cluster: Cluster, kind: str) -> None:
    cluster = etcd_cluster
    primary = cluster.primary()
    standby = cluster.others(primary)[0]
    before = (primary.timeline(), primary.postmaster_pid())
    with cluster.writer() as writer:
        began = time.monotonic()
        send(_victim(standby, kind), signal.SIGKILL)
        time.sleep(0.5)
        cluster.wait_healthy(30)
        writer.wait_resumed(began, 30)
    assert cluster.primary() is primary
    assert (primary.timeline(), primary.postmaster_pid()) == before
    assert writer.report().longest_gap(after_s=began).seconds < UNDISTURBED_S
