"""Every way to ask for another leader, by either command line and from either kind to the other: in maintenance mode, scheduled,
without a candidate, and as a manual failover."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from harness import Cluster, Node, wait_for
from harness.cluster import lost_commits
from harness.mixed import MixedCluster, Operator, only_when_all

pytestmark = only_when_all
MOVED_S = 60.0
SOON = timedelta(seconds=6)


@pytest.fixture(scope="module")
def mixed(make_shared_cluster: Callable[..., Cluster], predecessor: Path) -> Iterator[MixedCluster]:
    """n1 is Patroni's; the tests of this file follow one another."""
    yield MixedCluster(make_shared_cluster, predecessor, "patroni pgcore pgcore").bootstrap()


def in_maintenance_mode(operator: Operator, scope: str, old: Node, new: Node) -> None:
    """(EC 73)"""
    operator.ok("pause", scope, "--wait")
    operator.ok("switchover", scope, "--leader", old.name, "--candidate", new.name, "--force")
    wait_for(lambda: old.streams() and new.is_writable(), MOVED_S, f"{old.name} follows {new.name}, still in maintenance mode")
    operator.ok("resume", scope, "--wait")


def scheduled(operator: Operator, scope: str, old: Node, new: Node) -> None:
    """(EC 70)"""
    at = (datetime.now(UTC) + SOON).isoformat()
    operator.ok("switchover", scope, "--leader", old.name, "--candidate", new.name, "--scheduled", at, "--force")


def to_anybody(operator: Operator, scope: str, old: Node, new: Node) -> None:
    operator.ok("switchover", scope, "--leader", old.name, "--force")


def failover(operator: Operator, scope: str, old: Node, new: Node) -> None:
    operator.ok("failover", scope, "--candidate", new.name, "--force")


@pytest.mark.parametrize("program", ["patronictl", "pgcore"])
@pytest.mark.parametrize("ask", [in_maintenance_mode, scheduled, to_anybody, failover], ids=lambda ask: ask.__name__)
def test_a_new_leader_of_the_other_kind_by_every_kind_of_request(
        mixed: MixedCluster, ask: Callable[[Operator, str, Node, Node], None], program: str) -> None:
    """To pgcore's member and back to Patroni's, without a loss."""
    cluster, operator = mixed.cluster, mixed.patronictl if program == "patronictl" else mixed.pgcore
    writer = cluster.writer().start()
    for _ in range(2):
        old = cluster.primary()
        new = cluster.node("n2" if old.name == "n1" else "n1")
        ask(operator, cluster.scope, old, new)
        found = cluster.wait_primary_other_than(old, MOVED_S)
        assert found is new or ask is to_anybody
        cluster.wait_healthy()
        assert writer.report().missing(cluster.present()) == []
    assert lost_commits(cluster, writer) == []
