"""Two Patroni members and one of pgcore, which created the cluster: leaders of either kind die, and come back behind the other.

Synchronous mode, so that not one acknowledged commit may be lost. n1 is preferred as the synchronous standby.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import Cluster, Gap, Node, wait_for
from harness.cluster import lost_commits
from harness.mixed import MixedCluster
from pgcore.testing.processes import freeze

AGREED_S = 60.0


@pytest.fixture(scope="module")
def mixed(make_shared_cluster: Callable[..., Cluster], predecessor: Path) -> Iterator[MixedCluster]:
    """n1 is pgcore's; the tests of this file follow one another."""
    yield MixedCluster(make_shared_cluster, predecessor, "pgcore patroni patroni", dynamic={"synchronous_mode": True},
                       per_node={"n1": {"tags": {"sync_priority": 2}}}).bootstrap()


def wait_protected(mixed: MixedCluster, by: Node) -> set[str]:
    """Wait until the leader ``by`` has written its one synchronous standby for good, and everybody says the same; its name."""
    cluster = mixed.cluster

    def agreed() -> set[str] | None:
        leader, standbys, quorum = mixed.synchronous()
        said = {node.name for node in cluster.nodes if node.status_of("/sync") == 200}
        preferred = by.name == "n1" or standbys == {"n1"}
        return standbys if preferred and (leader, len(standbys), quorum) == (by.name, 1, 0) and said == standbys else None

    return wait_for(agreed, AGREED_S, f"{by.name} has a synchronous standby, and everybody knows")


def die(mixed: MixedCluster, note: Callable[[str, Gap | float], None]) -> tuple[Node, Node]:
    """Kill everything of the leader under load, with writes that no standby got; the old and the new leader.

    Its lease is ended by hand: that others wait for the end of one is shown in test_mixed_outages.py.
    """
    cluster, old = mixed.cluster, mixed.cluster.primary()
    assert cluster.etcd is not None
    heir, timeline = wait_protected(mixed, old), old.timeline()
    writer = cluster.writer().start()
    time.sleep(1)
    for sender in old.backend_pids("walsender"):
        freeze(sender)
    old.query("SET synchronous_commit = local; CREATE TABLE IF NOT EXISTS nobody_has (i int); CHECKPOINT")
    assert old.timeline() == timeline
    died = time.monotonic()
    old.kill_everything()
    cluster.etcd.delete(cluster.leader_key())
    new = cluster.wait_primary_other_than(old, cluster.ttl + 30)
    note(f"dead {old.agent.name}, until {new.agent.name} is writable", time.monotonic() - died)
    assert {new.name} == heir
    writer.wait_resumed(time.monotonic(), 40)
    assert lost_commits(cluster, writer) == []
    return old, new


def come_back(mixed: MixedCluster, old: Node, new: Node) -> None:
    """The dead node follows, without what it had alone; its data directory was rewound, not copied."""
    kept = (old.data_dir / "PG_VERSION").stat().st_ino
    old.start()
    mixed.cluster.wait_healthy()
    assert old.query("SELECT to_regclass('nobody_has')::text") == new.query("SELECT to_regclass('nobody_has')::text") == [(None,)]
    assert (old.data_dir / "PG_VERSION").stat().st_ino == kept, "copied anew"
    assert mixed.cluster.primary() is new


def test_patroni_joins_what_pgcore_created_and_reads_its_sync_key(mixed: MixedCluster) -> None:
    cluster = mixed.cluster
    assert cluster.primary() is cluster.node("n1")
    assert len({node.system_identifier() for node in cluster.nodes}) == 1
    standby = wait_protected(mixed, cluster.node("n1")).pop()
    for operator in (mixed.patronictl, mixed.pgcore):
        lines = [line for line in operator.ok("list", cluster.scope).splitlines() if "Sync Standby" in line]
        assert len(lines) == 1 and f" {standby} " in lines[0]


def test_a_switchover_goes_to_the_other_kinds_sync_standby_only(
        mixed: MixedCluster, measured: Callable[[str, Gap | float], None]) -> None:
    """Both command lines refuse the asynchronous member, and both ways nothing is lost. (EC 65)"""
    cluster = mixed.cluster
    for operator in (mixed.patronictl, mixed.pgcore):
        old = cluster.primary()
        heir = cluster.node(wait_protected(mixed, old).pop())
        asynchronous = cluster.others(old, heir)[0]
        refused = operator.run("switchover", cluster.scope, "--leader", old.name, "--candidate", asynchronous.name, "--force")
        assert cluster.primary() is old, refused.stdout
        writer = cluster.writer().start()
        began = time.monotonic()
        mixed.move(operator, heir)
        writer.wait_resumed(time.monotonic(), 30)
        assert lost_commits(cluster, writer) == []
        measured(f"synchronous switchover {old.agent.name} to {heir.agent.name}: write gap",
                 writer.report().longest_gap(after_s=began))
    assert cluster.primary() is cluster.node("n1")


def test_patroni_takes_over_from_a_dead_pgcore_and_rewinds_it(
        mixed: MixedCluster, measured: Callable[[str, Gap | float], None]) -> None:
    """(EC 95, 116)"""
    old, new = die(mixed, measured)
    assert (old.agent.name, new.agent.name) == ("pgcore", "patroni")
    come_back(mixed, old, new)


def test_pgcore_takes_over_from_a_dead_patroni_which_is_rewound(
        mixed: MixedCluster, measured: Callable[[str, Gap | float], None]) -> None:
    """(EC 95, 116)"""
    old, new = die(mixed, measured)
    assert (old.agent.name, new.agent.name) == ("patroni", "pgcore")
    come_back(mixed, old, new)
