"""A Patroni member between two of pgcore: quorum commit, and failsafe mode carried by a leader of pgcore."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import UNDISTURBED_S, Cluster, Gap, Node, wait_for
from harness.cluster import lost_commits
from harness.mixed import MixedCluster

AGREED_S = 60.0
DYNAMIC = {"ttl": 8, "synchronous_mode": "quorum", "failsafe_mode": True}
"""A ttl that Patroni does not take: with its member there nobody does."""


@pytest.fixture(scope="module")
def mixed(make_shared_cluster: Callable[..., Cluster], predecessor: Path) -> Iterator[MixedCluster]:
    """n2 is Patroni's; the tests of this file follow one another."""
    yield MixedCluster(make_shared_cluster, predecessor, "pgcore patroni pgcore", dynamic=DYNAMIC).bootstrap()


def wait_voting(mixed: MixedCluster, by: Node) -> None:
    """Wait until the leader ``by`` counts on one of both others, and everybody says the same."""
    cluster = mixed.cluster
    others = {node.name for node in cluster.others(by)}

    def agreed() -> bool:
        said = {node.name for node in cluster.nodes if node.status_of("/quorum") == 200}
        return mixed.synchronous() == (by.name, others, 1) and said == others

    wait_for(agreed, AGREED_S, f"{by.name} has its voters, and everybody knows")
    assert by.ask("SHOW synchronous_standby_names") == f"ANY 1 ({','.join(sorted(others))})"


def test_a_ttl_below_patronis_is_raised_while_a_member_of_it_is_there(mixed: MixedCluster) -> None:
    etcd, cluster = mixed.cluster.etcd, mixed.cluster
    assert etcd is not None
    assert mixed.document("config")["ttl"] == 8
    for key in ("leader", "members/n1", "members/n2", "members/n3"):
        wait_for(lambda key=key: etcd.ttl(cluster.key(key)) == 20, AGREED_S, f"/{key} has a lease of 20 s")  # type: ignore[misc]


def test_votes_are_handed_on_between_the_kinds(mixed: MixedCluster, measured: Callable[[str, Gap | float], None]) -> None:
    """(EC 145)"""
    cluster = mixed.cluster
    wait_voting(mixed, cluster.node("n1"))
    for operator, name in ((mixed.patronictl, "n2"), (mixed.pgcore, "n3")):
        old = cluster.primary()
        writer = cluster.writer().start()
        time.sleep(0.5)
        began = time.monotonic()
        mixed.move(operator, cluster.node(name))
        writer.wait_resumed(time.monotonic(), 30)
        assert lost_commits(cluster, writer) == []
        measured(f"quorum switchover {old.agent.name} to {cluster.node(name).agent.name}: write gap",
                 writer.report().longest_gap(after_s=began))
        wait_voting(mixed, cluster.node(name))


def test_failsafe_mode_of_a_pgcore_leader_is_carried_by_patroni(
        mixed: MixedCluster, measured: Callable[[str, Gap | float], None]) -> None:
    """Alone it would end its writes while a third of ttl is left; Patroni accepts, so nobody notices. (EC 23, 29)"""
    cluster, etcd, primary = mixed.cluster, mixed.cluster.etcd, mixed.cluster.primary()
    assert etcd is not None and primary.agent.name == "pgcore"
    wait_for(lambda: set(mixed.document("failsafe")) == {"n1", "n2", "n3"}, AGREED_S, "/failsafe names everybody")
    cluster.wait_aware()
    before = (primary.timeline(), primary.postmaster_pid())
    with cluster.writer() as writer:
        began = time.monotonic()
        etcd.kill()
        while time.monotonic() < began + 0.8 * cluster.ttl:
            assert [node.name for node in cluster.nodes if node.is_writable()] == [primary.name]
            time.sleep(0.5)
        assert cluster.node("n2").status().get("failsafe_mode_is_active") is True
        etcd.start()
        wait_for(lambda: etcd.get(cluster.leader_key()) == primary.name, AGREED_S, "the primary has taken the lock back")
    gap = writer.report().longest_gap(after_s=began)
    measured("etcd away, pgcore leads: write gap", gap)
    assert (primary.timeline(), primary.postmaster_pid()) == before
    assert gap.seconds < UNDISTURBED_S + 1
    cluster.wait_healthy()
    assert lost_commits(cluster, writer) == []
