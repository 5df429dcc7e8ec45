"""Every node and etcd in a network namespace of its own; one is cut off without a single connection being closed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from harness import UNDISTURBED_S, Cluster, Gap
from harness.agents import chosen_agent
from harness.network import Network, namespaces_usable

pytestmark = [pytest.mark.netns, pytest.mark.skipif(not namespaces_usable(), reason="needs root and network namespaces")]


@pytest.fixture(scope="module")
def networked() -> Iterator[Cluster]:
    """Three nodes in namespaces."""
    with Network() as network, Cluster(network=network, agent=chosen_agent()) as cluster:
        yield cluster.bootstrap()


@pytest.fixture
def cluster(networked: Cluster) -> Iterator[Cluster]:
    """The cluster of this module, healthy and uncut."""
    networked.repair()
    yield networked
    assert networked.network is not None
    for node in networked.nodes:
        networked.network.heal(node.name)


def test_primary_cut_off_from_everything_ends_its_writes_before_another_begins(
        cluster: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    assert cluster.network is not None
    old = cluster.primary()
    direct = cluster.direct_writer(old).start()  # a client on the primary's own machine
    elsewhere = cluster.writer(cluster.connection_string(cluster.others(old))).start(wait=False)
    roaming = cluster.writer().start()
    time.sleep(0.5)
    cut = time.monotonic()
    cluster.network.cut(old.name)
    new = cluster.wait_primary_other_than(old, cluster.ttl + 15)
    elsewhere.wait_resumed(time.monotonic(), 20)
    roaming.wait_resumed(time.monotonic(), 20)
    direct.stop()
    elsewhere.stop()
    roaming.stop()
    server = f"{old.host}:{old.pg_port}"
    last, first = direct.report().last_on(server), elsewhere.report().first_elsewhere(server, cut)
    assert last is not None and first is not None
    measured("cut off: writes on the old primary went on for", last - cut)
    measured("cut off: last write on the old primary to first on the new", first - last)
    measured("cut off: write gap of a client in between", roaming.report().longest_gap(after_s=cut))
    assert last < first, f"{old.name} accepted a write {last - first:.3f} s after {new.name} had accepted one"
    assert last < cut + cluster.ttl

    cluster.network.heal(old.name)
    cluster.wait_healthy()
    assert not old.is_writable()
    present = cluster.present()
    # Asynchronous replication: what only the cut-off machine had acknowledged is the tail; nothing from before the cut is.
    for writer in (direct, elsewhere, roaming):
        report = writer.report()
        acknowledged = {note.number: note for note in report.acknowledged}
        early = [number for number in report.missing(present) if acknowledged[number].acknowledged_s < cut - 0.1]
        late = [number for number in report.missing(present) if acknowledged[number].server != server]
        assert (early, late) == ([], [])


def test_standby_cut_off_does_not_disturb_the_primary_and_catches_up(
        cluster: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    assert cluster.network is not None
    primary = cluster.primary()
    standby = cluster.others(primary)[0]
    before = (primary.timeline(), primary.postmaster_pid())
    writer = cluster.writer(cluster.connection_string(cluster.others(standby))).start()
    cut = time.monotonic()
    cluster.network.cut(standby.name)
    time.sleep(cluster.ttl + 2)
    cluster.network.heal(standby.name)
    cluster.wait_healthy()
    report = writer.stop()
    gap = report.longest_gap(after_s=cut)
    measured("standby cut off: write gap", gap)
    assert (primary.timeline(), primary.postmaster_pid()) == before
    assert cluster.primary() is primary
    assert report.missing(cluster.present()) == []
    assert gap.seconds < UNDISTURBED_S
