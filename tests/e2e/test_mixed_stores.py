"""Patroni and pgcore on each further store: the layout of keys, locks and watches is the same for both. (dcs-layout 5-9)"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import Cluster
from harness.cluster import lost_commits
from harness.mixed import MixedCluster, only_when_all
from harness.stores import SERVERS

pytestmark = only_when_all


@pytest.mark.parametrize(("store", "order"), [
    ("etcd", "patroni pgcore pgcore"), ("consul", "pgcore patroni patroni"), ("zookeeper", "patroni pgcore patroni"),
    ("kubernetes", "pgcore patroni pgcore")])
def test_members_of_both_kinds_share_this_store(
        make_cluster: Callable[..., Cluster], predecessor: Path, store: str, order: str) -> None:
    """Created by one, switched over to the other and back, and a dead leader of each is followed by one of the other kind."""
    if missing := SERVERS[store].missing():
        pytest.skip(f"needs {missing}")
    mixed = MixedCluster(make_cluster, predecessor, order, store=store).bootstrap()
    cluster = mixed.cluster
    writer = cluster.writer().start()
    for operator in (mixed.patronictl, mixed.pgcore):
        old = cluster.primary()
        new = next(node for node in cluster.others(old) if node.agent is not old.agent)
        mixed.move(operator, new)
        for each in (mixed.patronictl, mixed.pgcore):
            rows = json.loads(each.ok("list", cluster.scope, "-f", "json"))
            assert {row["Member"]: row["Role"] for row in rows} == {
                node.name: "Leader" if node is new else "Replica" for node in cluster.nodes}
    assert lost_commits(cluster, writer) == []
    old = cluster.primary()
    for same in [node for node in cluster.others(old) if node.agent is old.agent]:
        same.stop()
    cluster.wait_aware(*(node for node in cluster.nodes if node.running))
    died = time.monotonic()
    old.kill_everything()
    new = cluster.wait_primary_other_than(old, 2 * cluster.ttl + 40)
    assert new.agent is not old.agent
    print(f"{store}: {new.agent.name} writable {time.monotonic() - died:.1f} s after {old.agent.name} died")
    for node in cluster.nodes:
        if not node.running:
            node.start()
    cluster.wait_healthy()
