"""Synchronous replication on real servers: nothing acknowledged is lost, whoever dies, and the mode changes under load."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from harness import Cluster, wait_for
from harness.cluster import lost_commits
from harness.node import Node

QUICK = {"ttl": 5, "loop_wait": 1, "retry_timeout": 2}
Make = Callable[..., Cluster]


def started(make_cluster: Make, size: int = 3, **dynamic: Any) -> Cluster:
    cluster = make_cluster(size=size, dynamic=QUICK | dynamic).bootstrap()
    wait_for(lambda: settled(cluster), 20, "all is as the mode wants it")
    return cluster


def sync_of(cluster: Cluster) -> tuple[str, set[str], int] | None:
    """What ``/sync`` says: leader, standbys, quorum."""
    assert cluster.etcd is not None
    text = cluster.etcd.get(f"/service/{cluster.scope}/sync")
    if text is None:
        return None
    document = json.loads(text)
    return document["leader"], set((document["sync_standby"] or "").split(",")) - {""}, document["quorum"]


def settled(cluster: Cluster) -> bool:
    """``/sync`` names the primary with as many standbys as the mode in force wants, and the health checks say the same."""
    assert cluster.etcd is not None
    primary, sync = cluster.find_primary(), sync_of(cluster)
    if primary is None:
        return False
    config = json.loads(cluster.etcd.get(f"/service/{cluster.scope}/config") or "{}")
    mode, count = config.get("synchronous_mode", "off"), config.get("synchronous_node_count", 1)
    others = {node.name for node in cluster.nodes if node.running} - {primary.name}
    if mode == "off":
        return sync is None and primary.ask("SHOW synchronous_standby_names") == ""
    if sync is None or sync[0] != primary.name or not sync[1] <= others:
        return False
    wanted = (min(count, len(others)), 0) if mode == "on" else (len(others), len(others) - min(count, len(others)))
    path = "/sync" if mode == "on" else "/quorum"
    healthy = {node.name for node in cluster.nodes if node.running and node.status_of(path) == 200}
    return (len(sync[1]), sync[2]) == wanted and healthy == sync[1]


def configure(cluster: Cluster, **changes: Any) -> None:
    """Change the dynamic configuration in the store."""
    assert cluster.etcd is not None
    key = f"/service/{cluster.scope}/config"
    cluster.etcd.put(key, json.dumps(json.loads(cluster.etcd.get(key) or "{}") | changes))


def fail_over(cluster: Cluster, *, at_once: bool) -> tuple[Node, Node]:
    """Kill everything of the primary and wait for the next one; ``at_once`` ends the dead node's lease by hand."""
    assert cluster.etcd is not None
    old = cluster.primary()
    old.kill_everything()
    if at_once:
        cluster.etcd.delete(cluster.leader_key())
    return old, cluster.wait_primary_other_than(old, cluster.ttl + 15)


def whole(cluster: Cluster) -> bool:
    return cluster.streaming() and settled(cluster)


@pytest.mark.parametrize(("mode", "size", "count", "rounds"), [("on", 3, 1, 10), ("quorum", 4, 2, 10)])
def test_no_acknowledged_commit_is_lost_however_often_the_primary_dies(
        make_cluster: Make, mode: str, size: int, count: int, rounds: int) -> None:
    cluster = started(make_cluster, size, synchronous_mode=mode, synchronous_node_count=count)
    writer = cluster.writer(interval_s=0.001).start()
    for number in range(rounds):
        before = sync_of(cluster)
        old, new = fail_over(cluster, at_once=number > 1)
        assert before is not None and new.name in before[1], (before, new)
        assert writer.report().missing(cluster.present(new)) == []
        old.start()
        wait_for(lambda: whole(cluster), 60, f"all stream and vote again after death {number + 1}", interval_s=0.1)
    assert lost_commits(cluster, writer) == []
    assert len(writer.report().acknowledged) > 100 * rounds
    assert len({note.server for note in writer.report().acknowledged}) > 1
