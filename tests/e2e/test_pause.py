"""Maintenance mode: whatever happens, agents leave PostgreSQL alone, and at its end the cluster is whole again. (HA rules 23)"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator

import pytest

from harness import Cluster, Node, wait_for
from harness.processes import send


@pytest.fixture
def paused(etcd_cluster: Cluster) -> Iterator[Cluster]:
    """A healthy cluster whose members have all acknowledged the maintenance mode; it ends with the test."""
    etcd_cluster.configure({"pause": True})
    wait_for(lambda: all(_card(etcd_cluster, node).get("pause") for node in etcd_cluster.nodes), 20, "every member has paused")
    yield etcd_cluster
    etcd_cluster.configure({"pause": None})
    wait_for(lambda: not any(_card(etcd_cluster, node).get("pause") for node in etcd_cluster.nodes), 20, "nobody pauses any more")


def _value(cluster: Cluster, name: str) -> str | None:
    assert cluster.etcd is not None
    return cluster.etcd.get(cluster.key(name))


def _card(cluster: Cluster, node: Node) -> dict[str, object]:
    return dict(json.loads(_value(cluster, f"members/{node.name}") or "{}"))


def _undisturbed(cluster: Cluster, seconds: float, writable: Node | None) -> None:
    """For so long the same servers run, with the same upstreams, and nobody but this one accepts writes."""
    before = {node.name: node.postmaster_pid() for node in cluster.nodes}
    standbys = [node for node in cluster.nodes if node is not writable and before[node.name]]
    followed = {node.name: node.ask("SHOW primary_conninfo") for node in standbys}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert [node for node in cluster.nodes if node.is_writable()] == ([writable] if writable else [])
        assert {node.name: node.postmaster_pid() for node in cluster.nodes} == before
        time.sleep(0.2)
    assert {node.name: node.ask("SHOW primary_conninfo") for node in standbys} == followed


def test_a_wiped_and_a_frozen_store_change_nothing_in_maintenance_mode(paused: Cluster) -> None:
    """EC 40, 189, 190: the holder writes its keys back, the mode among them; without the store the role answers for the lock."""
    cluster, etcd = paused, paused.etcd
    assert etcd is not None
    primary = cluster.primary()
    etcd.wipe(f"/service/{cluster.scope}/")
    _undisturbed(cluster, cluster.ttl + 1, primary)
    assert _value(cluster, "leader") == primary.name
    assert _value(cluster, "initialize") == str(primary.system_identifier())
    assert json.loads(_value(cluster, "config") or "{}")["pause"] is True
    wait_for(lambda: all(_card(cluster, node).get("pause") for node in cluster.nodes), 30, "every member is back, still paused")

    etcd.freeze()
    try:
        _undisturbed(cluster, cluster.ttl + 2, primary)
        assert {path: primary.status_of(path) for path in ("/primary", "/leader", "/liveness")} == {
            "/primary": 200, "/leader": 200, "/liveness": 200}
        assert all(node.status_of("/primary") == 503 and node.status_of("/liveness") == 200 for node in cluster.others(primary))
    finally:
        etcd.thaw()
    wait_for(lambda: _value(cluster, "leader") == primary.name, 20, "the primary has its lock back")


def test_an_agent_that_ends_in_maintenance_mode_leaves_its_server_and_adopts_it_later(paused: Cluster) -> None:
    """EC 195: nothing of the agent stays behind that could stop the server when the lease ends."""
    cluster = paused
    primary = cluster.primary()
    standby = cluster.others(primary)[0]
    pids = {node.name: node.postmaster_pid() for node in cluster.nodes}
    assert [node.stop() for node in (primary, standby)] == [0, 0]
    assert _value(cluster, "leader") == primary.name, "the lock was left to its lease"
    wait_for(lambda: not primary.helper_pids(), 30, "the guard has ended with its agent")
    _undisturbed(cluster, cluster.ttl + 3, primary)
    assert _value(cluster, "leader") is None
    for node in (primary, standby):
        node.start()
    wait_for(lambda: _value(cluster, "leader") == primary.name, 20, "the adopted primary takes the lock back")
    wait_for(cluster.streaming, 20, "as before")
    assert {node.name: node.postmaster_pid() for node in cluster.nodes} == pids


def test_what_is_stopped_by_hand_in_maintenance_mode_stays_stopped_until_it_ends(paused: Cluster) -> None:
    """EC 188, 191"""
    cluster = paused
    primary = cluster.primary()
    stopped, follower = cluster.others(primary)
    for node in (stopped, primary):
        pid = node.postmaster_pid()
        assert pid is not None
        send(pid, signal.SIGINT)
        wait_for(lambda node=node: node.postmaster_pid() is None, 20, f"{node.name} is stopped by hand")  # type: ignore[misc]
    wait_for(lambda: _value(cluster, "leader") is None, 30, "the holder without a server has given the lock back")
    _undisturbed(cluster, cluster.ttl + 2, None)
    assert {node.name: _card(cluster, node)["state"] for node in (stopped, primary)} == dict.fromkeys(
        (stopped.name, primary.name), "stopped")

    cluster.configure({"pause": None})
    wait_for(cluster.find_primary, 30, "somebody leads again")
    cluster.wait_healthy()
    assert follower.postmaster_pid()
