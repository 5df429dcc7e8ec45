"""Tags decide who may lead, who is preferred, who copies from whom and who serves reads."""

from __future__ import annotations

import time
from collections.abc import Callable

from harness import Cluster, wait_for

TAGS = {
    "n2": {"tags": {"nofailover": True, "noloadbalance": True, "replicatefrom": "n3"}},
    "n3": {"tags": {"failover_priority": 1}},
    "n4": {"tags": {"failover_priority": 2, "rack": "a1"}},
}


def _followers(cluster: Cluster, name: str) -> set[str]:
    rows = cluster.node(name).query("SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'")
    return {row[0] for row in rows}


def test_tags_keep_their_promises_before_and_after_a_failover(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(size=4, per_node=TAGS)
    n1, n2, n3, n4 = cluster.nodes
    cluster.start_store()
    n1.start()
    assert cluster.primary() is n1
    for node in (n2, n3, n4):
        node.start()
    cluster.wait_healthy()
    wait_for(lambda: _followers(cluster, "n3") == {"n2"} and _followers(cluster, "n1") == {"n3", "n4"}, 30, "n2 streams from n3")

    # noloadbalance: in good health, but not for readers.
    assert (n2.status_of("/replica"), n2.status_of("/async"), n2.status_of("/health")) == (503, 503, 200)
    assert n3.status_of("/replica") == 200
    assert (n4.status_of("/replica?tag_rack=a1"), n4.status_of("/replica?tag_rack=b2")) == (200, 503)
    assert n2.status()["tags"] == {"nofailover": True, "noloadbalance": True, "replicatefrom": "n3"}

    # nofailover: not even on request.
    answer = cluster.switchover(n1, n2)
    assert answer is not None and answer.status == 412, answer
    assert cluster.primary() is n1

    # At the same position the higher failover_priority leads; nofailover stays a standby and keeps its upstream.
    n1.kill_everything()
    assert cluster.wait_primary_other_than(n1, cluster.ttl + 10) is n4
    cluster.wait_healthy(without=(n1,))
    wait_for(lambda: _followers(cluster, "n3") == {"n2"} and _followers(cluster, "n4") == {"n3"}, 30, "n2 still streams from n3")

    # Without its chosen upstream a cascading standby follows the leader.
    n3.kill_everything()
    wait_for(lambda: "n2" in _followers(cluster, "n4"), cluster.ttl + 30, "n2 streams from n4")

    # Alone, the nofailover node leaves the cluster without a primary.
    n4.kill_everything()
    assert cluster.etcd is not None
    cluster.etcd.key_gone(cluster.leader_key(), cluster.ttl + 5, "n4")
    time.sleep(cluster.loop_wait + 2)
    assert not n2.is_writable()
    assert cluster.etcd.get(cluster.leader_key()) is None
    n4.start()
    assert cluster.primary() is n4
