"""Three nodes of Patroni become nodes of pgcore one by one, and nodes of Patroni again, under write load all the time.

Each in place: maintenance mode, one agent stopped, the other started on the same file, end of maintenance mode.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness import UNDISTURBED_S, Cluster, Gap, Node, Writer, wait_for
from harness.cluster import lost_commits
from harness.mixed import MixedCluster

ADOPTED_S = 60.0
FILES = ("postgresql.conf", "postgresql.base.conf", "pg_hba.conf", "patroni.dynamic.json")
SLOTS = "SELECT slot_name::text, slot_type FROM pg_replication_slots ORDER BY 1"
SETTINGS = """SELECT name, setting FROM pg_settings WHERE name NOT IN ('application_name', 'wal_retrieve_retry_interval')
    AND NOT (name LIKE 'primary_%' AND NOT pg_is_in_recovery())"""
"""All but the one that pgcore sets and Patroni does not (docs/operations.md), and what a primary does not use."""
DYNAMIC = {"slots": {"kept": {"type": "physical"}}, "postgresql": {"parameters": {"work_mem": "5MB"}}}


@dataclass
class Journey:
    """The cluster on its way, and what must stay the same."""

    mixed: MixedCluster
    writer: Writer

    def look(self) -> dict[str, str]:
        """The present servers."""
        return {node.name: f"{node.postmaster_pid()} {node.ask('SELECT pg_postmaster_start_time()')}"
                for node in self.mixed.cluster.nodes}


@pytest.fixture(scope="module")
def journey(make_shared_cluster: Callable[..., Cluster], predecessor: Path) -> Iterator[Journey]:
    """All of Patroni, with a writer that goes on until the end; the tests of this file follow one another."""
    mixed = MixedCluster(make_shared_cluster, predecessor, "patroni patroni patroni", dynamic=DYNAMIC).bootstrap()
    cluster = mixed.cluster
    wait_for(lambda: all(len(node.query(SLOTS)) == 3 for node in cluster.nodes), ADOPTED_S, "every slot is on every node")
    yield Journey(mixed, cluster.writer().start())


def of_the_server(node: Node) -> set[tuple[Any, ...]]:
    """What an exchange of the agent must leave as it is."""
    return {*node.query(SETTINGS), *node.query(SLOTS), (node.timeline(), node.is_writable())}


def exchange(journey: Journey, node: Node, kind: str) -> None:
    """Let another kind of agent take ``node`` over; its server notices nothing."""
    mixed, cluster = journey.mixed, journey.mixed.cluster
    before, servers, leader = of_the_server(node), journey.look(), cluster.primary()
    owners = {name: (node.data_dir / name).owner() for name in FILES}
    text = node.node_file.read_text()
    began = time.monotonic()
    mixed.by(node.agent.name).ok("pause", cluster.scope, "--wait")
    assert node.stop() == 0
    assert node.postmaster_pid() is not None
    node.agent = mixed.kinds[kind]
    node.start()
    assert node.node_file.read_text() == text
    wait_for(lambda: ("pgcore" in node.status()) == (kind == "pgcore"), ADOPTED_S, f"{kind} answers on {node.name}")
    cluster.wait_aware()
    mixed.by(kind).ok("resume", cluster.scope, "--wait")
    cluster.wait_healthy()
    cluster.wait_aware()
    assert cluster.primary() is leader
    assert journey.look() == servers, "a server was restarted"
    assert of_the_server(node) ^ before == set()
    assert "pending_restart" not in node.status()
    assert {name: (node.data_dir / name).owner() for name in FILES} == owners
    assert json.loads((node.data_dir / "patroni.dynamic.json").read_text()) == mixed.document("config")
    assert journey.writer.report().longest_gap(after_s=began).seconds < UNDISTURBED_S


def move(journey: Journey, candidate: Node, note: Callable[[str, Gap | float], None]) -> None:
    """A switchover: the one thing that clients notice."""
    mixed, servers = journey.mixed, journey.look()
    began = time.monotonic()
    old = mixed.move(mixed.pgcore, candidate)
    journey.writer.wait_resumed(time.monotonic(), 30)
    note(f"switchover {old.agent.name} to {candidate.agent.name} during the migration: write gap",
         journey.writer.report().longest_gap(after_s=began))
    assert {name for name, server in journey.look().items() if server != servers[name]} == {old.name}


def test_patroni_to_pgcore(journey: Journey, measured: Callable[[str, Gap | float], None]) -> None:
    """A standby, the leader where it is, and after a switchover the last one, which leads by then. (EC 175, 188)"""
    cluster = journey.mixed.cluster
    n1, n2, n3 = cluster.nodes
    exchange(journey, n3, "pgcore")
    exchange(journey, n1, "pgcore")
    move(journey, n2, measured)
    exchange(journey, n2, "pgcore")
    assert all("pgcore" in node.status() for node in cluster.nodes)
    assert journey.writer.report().missing(cluster.present()) == []


def test_and_back(journey: Journey, measured: Callable[[str, Gap | float], None]) -> None:
    """The leader where it is, then by a switchover away from it."""
    cluster = journey.mixed.cluster
    n1, n2, n3 = cluster.nodes
    exchange(journey, n2, "patroni")
    move(journey, n1, measured)
    exchange(journey, n1, "patroni")
    exchange(journey, n3, "patroni")
    assert all("pgcore" not in node.status() for node in cluster.nodes)
    assert lost_commits(cluster, journey.writer) == []
    assert len(journey.writer.report().acknowledged) > 1000
