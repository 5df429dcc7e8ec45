"""Who may take the lock when it is free, and when."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness import Cluster, Gap, Node, wait_for

BACKOFF_S = 20


@contextmanager
def _dynamic(cluster: Cluster, **settings: int) -> Iterator[None]:
    """These dynamic settings while it lasts; every agent knows them."""
    assert cluster.etcd is not None
    key = f"/service/{cluster.scope}/config"
    before = cluster.etcd.get(key)
    assert before is not None
    cluster.etcd.put(key, json.dumps(json.loads(before) | settings))
    cluster.wait_aware()
    try:
        yield
    finally:
        cluster.etcd.put(key, before)


def _free_since(cluster: Cluster, old: Node) -> float:
    """When the lease of ``old`` was seen to have ended."""
    assert cluster.etcd is not None
    return cluster.etcd.key_gone(cluster.leader_key(), cluster.ttl + 5, old.name)


def test_primary_race_backoff_waits_for_a_frozen_agent_whose_server_goes_on_and_not_for_a_stopped_one(
    etcd_cluster: Cluster, measured: Callable[[str, Gap | float], None]
) -> None:
    """EC 59. The guard stops the server of a frozen agent, so the wait for its WAL needs a primary without one, as Patroni's."""
    cluster = etcd_cluster
    assert cluster.etcd is not None
    old = cluster.primary()
    with _dynamic(cluster, primary_race_backoff=BACKOFF_S):
        old.freeze_agent()
        began = _free_since(cluster, old)
        new = cluster.wait_primary_other_than(old, cluster.ttl)
        took = time.monotonic() - began
        assert not old.is_writable()
        old.thaw_agent()
    measured("primary_race_backoff, server stopped by the guard: end of the lease to the new primary", took)
    assert cluster.loop_wait <= took < cluster.loop_wait + 5
    cluster.wait_healthy()

    with _dynamic(cluster, primary_race_backoff=BACKOFF_S), cluster.direct_writer(new):
        guards = [pid for pid in new.helper_pids() if pid != new.pid]
        assert guards
        new.freeze_agent()
        for pid in guards:
            os.kill(pid, signal.SIGKILL)
        _free_since(cluster, new)
        time.sleep(cluster.loop_wait + 3)
        assert new.is_writable() and cluster.etcd.get(cluster.leader_key()) is None
        new.thaw_agent()
    cluster.wait_healthy()  # its agent gives it a guard again, which ends what the lease does not cover any more


def _sync(cluster: Cluster) -> tuple[str, str | None, int]:
    """Leader, standbys and quorum of ``/sync``."""
    assert cluster.etcd is not None
    document = json.loads(cluster.etcd.get(f"/service/{cluster.scope}/sync") or "{}")
    return document.get("leader", ""), document.get("sync_standby"), document.get("quorum", 0)


def test_a_quorum_decides_who_leads_an_operator_may_name_another_and_a_standby_leaves_its_duty(
    make_cluster: Callable[..., Cluster], measured: Callable[[str, Gap | float], None]
) -> None:
    """EC 66, 67, 133, 146: n3, not synchronous, gets everything in an orderly failover; without votes a voter does not lead."""
    dynamic = {"ttl": 5, "loop_wait": 1, "retry_timeout": 2, "synchronous_mode": "quorum"}
    cluster = make_cluster(dynamic=dynamic, per_node={"n3": {"tags": {"nosync": True}}})
    n1, n2, n3 = cluster.nodes
    cluster.start_store()
    n1.start()
    assert cluster.primary() is n1
    for node in (n2, n3):
        node.start()
    cluster.wait_healthy()
    cluster.create_table()
    wait_for(lambda: _sync(cluster) == ("n1", "n2", 0), 30, "n2 is synchronous")
    writer = cluster.writer().start()

    began = time.monotonic()
    assert n2.stop() == 0
    writer.wait_resumed(time.monotonic(), 30)
    gap = writer.report().longest_gap(after_s=began)
    measured("synchronous standby stopped: write gap", gap)
    assert _sync(cluster) == ("n1", None, 0)
    assert gap.seconds < 0.9, "the primary waited for a standby that was stopped in order"
    n2.start()
    wait_for(lambda: _sync(cluster) == ("n1", "n2", 0), 30, "n2 is synchronous again")

    answer = n1.request("POST", "/switchover", {"leader": "n1", "candidate": "n3"}, timeout_s=30)
    assert answer is not None and answer.text == "Switchover failed", answer
    assert cluster.primary() is n1
    answer = n1.request("POST", "/failover", {"candidate": "n3"}, timeout_s=30)
    assert answer is not None and answer.text == 'Successfully failed over to "n3"', answer
    writer.wait_resumed(time.monotonic(), 30)
    assert writer.report().missing(cluster.present(n3)) == []
    wait_for(lambda: _sync(cluster) == ("n3", "n1,n2", 1), 30, "n1 and n2 vote")

    for node in (n3, n2):
        node.kill_everything()
    assert cluster.etcd is not None
    cluster.etcd.key_gone(cluster.leader_key(), cluster.ttl + 5, "n3")
    time.sleep(2)
    assert not n1.is_writable() and cluster.etcd.get(cluster.leader_key()) is None
    assert "race.too_few_votes: 0 votes, 1 needed" in n1.log()
    n2.start()
    new = cluster.primary()
    assert new in (n1, n2)
    writer.wait_resumed(time.monotonic(), 20)
    assert writer.stop().missing(cluster.present(new)) == []
