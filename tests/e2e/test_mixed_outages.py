"""Two Patroni members and one of pgcore, created by Patroni: a leader of pgcore without its agent, and failsafe mode."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import Cluster, Gap, wait_for
from harness.cluster import lost_commits
from harness.mixed import MixedCluster, only_when_all

AGREED_S = 60.0


@pytest.fixture(scope="module")
def mixed(make_shared_cluster: Callable[..., Cluster], predecessor: Path) -> Iterator[MixedCluster]:
    """n3 is pgcore's; the tests of this file follow one another."""
    yield MixedCluster(make_shared_cluster, predecessor, "patroni patroni pgcore", dynamic={"failsafe_mode": True}).bootstrap()


def test_patroni_promotes_after_the_writes_of_a_pgcore_leader_without_its_agent_have_ended(
        mixed: MixedCluster, measured: Callable[[str, Gap | float], None]) -> None:
    """SIGKILL of the agent alone: its guard ends the server, so that there is never a second writable one. (EC 100)"""
    cluster, old = mixed.cluster, mixed.cluster.node("n3")
    mixed.move(mixed.patronictl, old)
    direct, roaming = cluster.direct_writer(old).start(), cluster.writer().start()
    time.sleep(1)
    old.kill_agent()
    new = cluster.wait_primary_other_than(old, cluster.ttl + 30)
    assert new.agent.name == "patroni"
    roaming.wait_resumed(time.monotonic(), 30)
    direct.stop()
    roaming.stop()
    server = f"{old.host}:{old.pg_port}"
    last, first = direct.report().last_on(server), roaming.report().first_elsewhere(server, 0)
    assert last is not None and first is not None
    measured("from the last write of the one to the first of the other", first - last)
    assert last < first
    old.start()
    cluster.wait_healthy()
    assert cluster.primary() is new


def test_failsafe_mode_of_a_patroni_leader_is_carried_by_pgcore(
        mixed: MixedCluster, measured: Callable[[str, Gap | float], None]) -> None:
    """The store is away; without every acceptance Patroni would demote within retry_timeout. (EC 23, 26, 29)"""
    cluster, etcd, primary = mixed.cluster, mixed.cluster.etcd, mixed.cluster.primary()
    assert etcd is not None and primary.agent.name == "patroni"
    wait_for(lambda: set(mixed.document("failsafe")) == {"n1", "n2", "n3"}, AGREED_S, "/failsafe names everybody")
    cluster.wait_aware()
    before = (primary.timeline(), primary.postmaster_pid())
    with cluster.writer() as writer:
        began = time.monotonic()
        etcd.kill()
        wait_for(lambda: cluster.node("n3").status().get("failsafe_mode_is_active"), AGREED_S, "pgcore has accepted the leader")
        while time.monotonic() < began + 3 * cluster.retry_timeout:
            assert [node.name for node in cluster.nodes if node.is_writable()] == [primary.name]
            time.sleep(0.5)
        etcd.start()
        wait_for(lambda: etcd.get(cluster.leader_key()) == primary.name, AGREED_S, "the primary has taken the lock back")
    measured("etcd away, Patroni leads: write gap", writer.report().longest_gap(after_s=began))
    assert (primary.timeline(), primary.postmaster_pid()) == before
    cluster.wait_healthy()
    assert lost_commits(cluster, writer) == []


@only_when_all
def test_a_patroni_leader_without_its_agent_follows_when_it_is_back(mixed: MixedCluster) -> None:
    """Nothing stops its server, so others promote beside it; its new agent sees the newer timeline and gives way. (EC 100)"""
    cluster, old = mixed.cluster, mixed.cluster.primary()
    if old.agent.name != "patroni":
        mixed.move(mixed.pgcore, cluster.node("n1"))
        old = cluster.node("n1")
    (last,) = [node for node in cluster.others(old) if node.agent.name == "patroni"]
    last.stop()
    old.kill_agent()
    new = cluster.wait_primary_other_than(old, cluster.ttl + 40)
    assert new.agent.name == "pgcore" and old.is_writable()
    old.query("CREATE TABLE beside (i int)")
    old.start()
    wait_for(lambda: not old.is_writable(), AGREED_S, "the old leader is no primary any more")
    last.start()
    cluster.wait_healthy()
    assert cluster.primary() is new and new.query("SELECT to_regclass('beside')::text") == [(None,)]
