"""One cluster on each store that has no files of its own here: it forms, switches over, fails over, and outlives its store.

etcd and Raft are proven more closely elsewhere. A further store is a class in ``harness`` and a line in ``harness.stores``. Other
ways to use the same servers take part with ``PGCORE_TEST_STORES=all``; their stores are proven by the kit in every run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from harness import UNDISTURBED_S, Cluster, Gap, wait_for
from harness.cluster import lost_commits
from harness.store_server import StoreServer
from harness.stores import SERVERS, WAYS, StoreKind

ELSEWHERE = {"etcd3"} | (set() if os.environ.get("PGCORE_TEST_STORES") == "all" else set(WAYS))
BACK_S = 40.0


@pytest.fixture(scope="module", params=[kind for kind in SERVERS if kind not in ELSEWHERE])
def kind(request: pytest.FixtureRequest) -> StoreKind:
    """Each store in turn, as far as this machine has its server."""
    if missing := SERVERS[request.param].missing():
        pytest.skip(f"needs {missing}")
    return str(request.param)


@pytest.fixture
def cluster(pool, kind: StoreKind) -> Cluster:  # type: ignore[no-untyped-def]
    """The healthy cluster that all tests of one store share."""
    healthy: Cluster = pool.healthy(kind)
    return healthy


def server_of(cluster: Cluster) -> StoreServer:
    """The server of a cluster whose agents are not the store."""
    assert cluster.server is not None
    return cluster.server


def test_new_nodes_become_one_primary_with_two_streaming_standbys(cluster: Cluster) -> None:
    primary = cluster.primary()
    assert [node for node in cluster.nodes if node.is_writable()] == [primary]
    assert len({node.system_identifier() for node in cluster.nodes}) == 1
    for node in cluster.nodes:
        answer = node.request("GET", "/cluster")
        assert answer is not None
        roles = {member["name"]: member["role"] for member in answer.json()["members"]}
        assert roles == {peer.name: "leader" if peer is primary else "replica" for peer in cluster.nodes}


def test_switchover_loses_nothing(cluster: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    old = cluster.primary()
    candidate = cluster.others(old)[0]
    writer = cluster.writer().start()
    time.sleep(0.5)
    began = time.monotonic()
    answer = cluster.switchover(old, candidate)
    assert answer is not None and answer.status == 200, answer
    assert cluster.primary() is candidate
    writer.wait_resumed(time.monotonic(), 20)
    assert lost_commits(cluster, writer) == []
    measured("switchover: write gap", writer.report().longest_gap(after_s=began))


def test_standby_leads_when_the_lease_of_the_dead_leader_ends(
        cluster: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    old = cluster.primary()
    timeline = old.timeline()
    died = time.monotonic()
    old.kill_everything()
    new = cluster.wait_primary_other_than(old, cluster.ttl + server_of(cluster).lease_slack_s + 10)
    measured("dead node: until another is writable", time.monotonic() - died)
    assert timeline is not None and new.timeline() == timeline + 1
    old.start()
    cluster.wait_healthy()
    assert cluster.primary() is new


def test_restart_of_the_store_loses_nothing(cluster: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    server, primary = server_of(cluster), cluster.primary()
    before = (primary.timeline(), primary.postmaster_pid())
    writer = cluster.writer().start()
    time.sleep(0.5)
    began = time.monotonic()
    server.kill()
    server.start()
    away = time.monotonic() - began
    measured("store restarted: it was away for", away)
    cluster.wait_aware()
    if away < cluster.retry_timeout - 1:  # not on a machine that takes longer to start the server than an agent waits for it
        assert (primary.timeline(), primary.postmaster_pid()) == before
        assert cluster.primary() is primary
        assert writer.report().longest_gap(after_s=began).seconds < UNDISTURBED_S
    returned = time.monotonic()
    writer.wait_resumed(returned, BACK_S)
    assert lost_commits(cluster, writer) == []


def test_leases_that_are_ended_by_hand_move_nothing(cluster: Cluster) -> None:
    primary = cluster.primary()
    before = (primary.timeline(), primary.postmaster_pid())
    writer = cluster.writer().start()
    time.sleep(0.5)
    began = time.monotonic()
    if not server_of(cluster).end_leases():
        pytest.skip(f"nobody ends a lease of {cluster.store} by hand")
    cluster.wait_aware()
    cluster.wait_healthy()
    assert cluster.primary() is primary
    assert (primary.timeline(), primary.postmaster_pid()) == before
    assert writer.report().longest_gap(after_s=began).seconds < UNDISTURBED_S
    assert lost_commits(cluster, writer) == []


def test_outage_longer_than_ttl_ends_writes_before_the_lease_and_comes_back(
        cluster: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    server, primary = server_of(cluster), cluster.primary()
    direct = cluster.direct_writer(primary).start()
    roaming = cluster.writer().start()
    time.sleep(0.5)
    began = time.monotonic()
    server.freeze()
    wait_for(lambda: not primary.is_writable(), cluster.ttl + 5, "the primary ends its writes")
    time.sleep(max(0.0, began + cluster.ttl + 2 - time.monotonic()))
    last = direct.report().last_on(f"{primary.host}:{primary.pg_port}")
    assert last is not None
    measured("store frozen: writes went on for", last - began)
    assert last < began + cluster.ttl, "writes ended after the lease"
    assert not any(node.is_writable() for node in cluster.nodes)
    server.thaw()
    returned = time.monotonic()
    new = cluster.primary(BACK_S)
    measured("store frozen: from its return to a primary", time.monotonic() - returned)
    roaming.wait_resumed(time.monotonic(), 20)
    direct.stop()
    roaming.stop()
    cluster.wait_healthy()
    present = cluster.present(new)
    assert (direct.report().missing(present), roaming.report().missing(present)) == ([], [])
