"""Two PostgreSQL nodes and a witness: the store outlives either node, and the witness."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from harness import UNDISTURBED_S, Cluster, Gap, wait_for
from harness.cluster import lost_commits
from harness.witness import Witness

ELECTION_S = 10.0
"""The dead node may have led the Raft cluster too, and then every lease gets a full ttl of the new leader."""


@pytest.fixture(scope="module")
def two(make_shared_cluster: Callable[..., Cluster]) -> Cluster:
    """The cluster that the tests of this file share."""
    return make_shared_cluster(size=2, store="raft", witness=True).bootstrap()


@pytest.fixture
def cluster(two: Cluster) -> Cluster:
    """All of it running and healthy."""
    two.repair()
    return two


def witness_of(cluster: Cluster) -> Witness:
    """The third voter."""
    assert cluster.witness is not None
    return cluster.witness


def test_the_other_node_takes_over_when_one_dies_and_the_dead_one_follows_when_it_is_back(
        cluster: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    old = cluster.primary()
    other, = cluster.others(old)
    died = time.monotonic()
    old.kill_everything()
    assert cluster.wait_primary_other_than(old, 2 * cluster.ttl + ELECTION_S) is other
    measured("one of two nodes dead, with a witness: until the other is writable", time.monotonic() - died)
    old.start()
    cluster.wait_healthy()
    assert cluster.primary() is other


def test_nothing_stops_while_the_witness_is_dead(cluster: Cluster) -> None:
    primary, witness = cluster.primary(), witness_of(cluster)
    before = (primary.timeline(), primary.postmaster_pid())
    wait_for(lambda: f"The ttl of the cluster is {cluster.ttl} s" in witness.log(), 10, "the witness has read the configuration")
    writer = cluster.writer().start()
    time.sleep(0.5)
    began = time.monotonic()
    witness.kill()
    time.sleep(cluster.ttl + 1)  # longer than any lease that was held when it died
    cluster.wait_aware()
    assert cluster.primary() is primary
    assert (primary.timeline(), primary.postmaster_pid()) == before
    assert writer.report().longest_gap(after_s=began).seconds < UNDISTURBED_S
    assert lost_commits(cluster, writer) == []
