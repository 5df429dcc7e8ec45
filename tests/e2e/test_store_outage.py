"""etcd freezes, dies and comes back on the same data."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from harness import UNDISTURBED_S, Cluster, EtcdServer, Gap, wait_for


def _out(etcd: EtcdServer, how: str) -> None:
    (etcd.freeze if how == "frozen" else etcd.kill)()


def _back(etcd: EtcdServer, how: str) -> None:
    (etcd.thaw if how == "frozen" else etcd.start)()


@pytest.mark.parametrize("how", ["frozen", "killed"])
def test_short_outage_of_the_store_is_not_noticed_by_clients(
        etcd_cluster: Cluster, measured: Callable[[str, Gap | float], None], how: str) -> None:
    cluster, etcd = etcd_cluster, etcd_cluster.etcd
    assert etcd is not None
    primary = cluster.primary()
    before = (primary.timeline(), primary.postmaster_pid())
    with cluster.writer() as writer:
        began = time.monotonic()
        _out(etcd, how)
        time.sleep(cluster.retry_timeout - (0.5 if how == "frozen" else 2.2))  # a killed one needs 1 to 2 s to serve
        _back(etcd, how)
        time.sleep(cluster.ttl + 2)  # long enough for a lease that was not renewed to end
    gap = writer.report().longest_gap(after_s=began)
    measured(f"etcd {how} for less than retry_timeout: write gap", gap)
    assert (primary.timeline(), primary.postmaster_pid()) == before
    assert cluster.primary() is primary
    assert gap.seconds < UNDISTURBED_S


@pytest.mark.parametrize("how", ["frozen", "killed"])
def test_long_outage_of_the_store_ends_writes_before_the_lease_and_comes_back(
        etcd_cluster: Cluster, measured: Callable[[str, Gap | float], None], how: str) -> None:
    cluster, etcd = etcd_cluster, etcd_cluster.etcd
    assert etcd is not None
    primary = cluster.primary()
    direct = cluster.direct_writer(primary).start()
    roaming = cluster.writer().start()
    time.sleep(0.5)
    began = time.monotonic()
    _out(etcd, how)
    wait_for(lambda: not primary.is_writable(), cluster.ttl + 5, "the primary ends its writes")
    time.sleep(max(0.0, began + cluster.ttl + 2 - time.monotonic()))
    last = direct.report().last_on(f"{primary.host}:{primary.pg_port}")
    assert last is not None
    measured(f"etcd {how}: writes went on for", last - began)
    assert last < began + cluster.ttl, "writes ended after the lease"
    assert not any(node.is_writable() for node in cluster.nodes)
    assert primary.status_of("/primary") == 503
    returned = time.monotonic()
    _back(etcd, how)
    new = cluster.primary(cluster.ttl + 20)
    measured(f"etcd {how}: from its return to a primary", time.monotonic() - returned)
    roaming.wait_resumed(time.monotonic(), 20)
    direct.stop()
    roaming.stop()
    cluster.wait_healthy()
    present = cluster.present(new)
    assert (direct.report().missing(present), roaming.report().missing(present)) == ([], [])


def test_primary_that_dies_while_the_store_is_away_is_replaced_when_it_returns(etcd_cluster: Cluster) -> None:
    cluster, etcd = etcd_cluster, etcd_cluster.etcd
    assert etcd is not None
    primary = cluster.primary()
    etcd.kill()
    primary.kill_everything()
    time.sleep(cluster.ttl + 2)
    assert not any(node.is_writable() for node in cluster.others(primary))
    etcd.start()
    new = cluster.wait_primary_other_than(primary, cluster.ttl + 20)
    primary.start()
    cluster.wait_healthy()
    assert cluster.primary() is new
