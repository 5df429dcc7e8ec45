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
    """These dynamic settings while it lasts."""
    assert cluster.etcd is not None
    key = f"/service/{cluster.scope}/config"
    before = cluster.etcd.get(key)
    assert before is not None
    cluster.etcd.put(key, json.dumps(json.loads(before) | settings))
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
        time.sleep(cluster.loop_wait + 1)
        old.freeze_agent()
        began = _free_since(cluster, old)
        new = cluster.wait_primary_other_than(old, cluster.ttl)
        took = time.monotonic() - began
        assert not old.is_writable()
        old.thaw_agent()
    measured("primary_race_backoff, server stopped by the guard: end of the lease to the new primary", took)
    assert cluster.loop_wait <= took < cluster.loop_wait + 5
    cluster.wait_healthy()

    timeline = new.timeline()
    with _dynamic(cluster, primary_race_backoff=BACKOFF_S), cluster.direct_writer(new):
        time.sleep(cluster.loop_wait + 1)
        guards = [pid for pid in new.helper_pids() if pid != new.pid]
        assert guards
        new.freeze_agent()
        for pid in guards:
            os.kill(pid, signal.SIGKILL)
        _free_since(cluster, new)
        time.sleep(cluster.loop_wait + 3)
        assert new.is_writable() and cluster.etcd.get(cluster.leader_key()) is None
        new.thaw_agent()
        wait_for(lambda: cluster.etcd and cluster.etcd.get(cluster.leader_key()) == new.name, 10, f"{new.name} leads again")
    assert new.timeline() == timeline
    new.kill_agent()  # begins anew with a guard
    new.start()
    cluster.wait_healthy()
    assert (cluster.primary(), new.timeline()) == (new, timeline)
