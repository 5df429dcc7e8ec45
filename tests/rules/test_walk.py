"""Walks of a whole cluster in one process: the story ends as it should, and never are two writable under a lease."""

from __future__ import annotations

import pytest

from pgcore.model.basics import Lsn
from rules.walk import Cluster


@pytest.fixture
def cluster() -> Cluster:
    """``a`` leads, ``b`` and ``c`` stream from it."""
    made = Cluster()
    assert made.leader == "a" and made.writable() == ["a"]
    assert all(made.streams_from(made[name]) is made["a"].server for name in "bc")
    return made


def settled(cluster: Cluster, leader: str, timeline: int) -> None:
    """One leader on this timeline, everybody alive follows it, and what was acknowledged by anyone is there."""
    assert cluster.leader == leader
    assert cluster.writable() == [leader]
    server = cluster[leader].server
    assert server.timeline == timeline
    for node in cluster.nodes.values():
        if node.alive and node.name != leader:
            assert cluster.streams_from(node) is server, f"{node.name}: {node.server} {node.trail[-8:]}"
    for name, acknowledged in cluster.acknowledged.items():
        assert server.contains(acknowledged), f"lost what {name} acknowledged: {acknowledged}"


def test_a_healthy_cluster_rests(cluster: Cluster) -> None:
    cluster.run(120)
    settled(cluster, "a", 1)


def test_a_switchover_loses_nothing_and_needs_no_rewind(cluster: Cluster) -> None:
    """EC 61."""
    cluster.ask("a", "b")
    cluster.run(20)
    settled(cluster, "b", 2)
    assert cluster.asked() == "{}"
    assert "demotion.give_away" in cluster["a"].trail
    assert not any(rule.endswith(".rewind") for rule in cluster["a"].trail)


def test_a_candidate_that_stops_receiving_during_the_stop_makes_the_old_primary_resume(cluster: Cluster) -> None:
    """Principles, safety 2: nobody is promoted who lacks a byte. (EC 62, 228)

    Patroni hands over to who has the WAL up to the switch record, and rewinds the old leader; here the lock is kept instead.
    """
    cluster.ask("a", "b")
    cluster.run(5, until=lambda: cluster["a"].server.stopping)
    cluster["b"].cut = True
    cluster.run(15)
    cluster["b"].cut = False
    cluster.run(15)
    settled(cluster, "a", 1)
    assert "demotion.resumed" in cluster["a"].trail
    assert cluster.asked() == "{}"
    assert cluster["a"].memory.refusal


def test_a_candidate_that_does_not_stream_stops_nothing(cluster: Cluster) -> None:
    cluster["b"].cut = True
    cluster.run(1)
    cluster.ask("a", "b")
    cluster.run(25)
    cluster["b"].cut = False
    cluster.run(5)
    settled(cluster, "a", 1)
    assert not any(rule.startswith("demotion") for rule in cluster["a"].trail)
    assert cluster.asked() == "{}"


def test_a_dead_leader_is_replaced_after_its_lease_by_exactly_one_of_two(cluster: Cluster) -> None:
    """EC 42, 43."""
    cluster["a"].alive = False
    cluster.run(29, until=lambda: cluster.leader is None)
    died = cluster.now
    cluster.run(10)
    assert cluster.leader in ("b", "c")
    settled(cluster, str(cluster.leader), 2)
    assert cluster.now - died <= 11


def test_the_one_that_is_ahead_wins(cluster: Cluster) -> None:
    """EC 43."""
    cluster["b"].cut = True
    cluster.run(1)
    cluster["a"].alive = False
    cluster["b"].cut = False
    cluster.run(45)
    settled(cluster, "c", 2)


def test_an_old_primary_that_comes_back_is_stopped_rewound_and_follows(cluster: Cluster) -> None:
    """EC 3, 100: frozen with its server for longer than ttl, it thaws as a primary on the older timeline."""
    a = cluster["a"]
    a.alive = False
    cluster.run(45)
    assert cluster.leader in ("b", "c")
    a.server.position += 500  # what it wrote and nobody received
    a.alive = True
    cluster.run(30)
    settled(cluster, str(cluster.leader), 2)
    assert "down.rewind" in a.trail


def test_a_leader_cut_off_from_the_store_stops_before_another_leads(cluster: Cluster) -> None:
    """EC 22: it serves reads meanwhile and follows afterwards."""
    a = cluster["a"]
    a.reaches_store = False
    cluster.run(30, until=lambda: not a.server.writable)
    assert cluster.leader == "a"
    cluster.run(60)
    assert cluster.leader in ("b", "c")
    assert a.server.running and not a.server.primary
    a.reaches_store = True
    cluster.run(30)
    settled(cluster, str(cluster.leader), 2)


def test_a_short_outage_of_the_store_changes_nothing(cluster: Cluster) -> None:
    """EC 21."""
    cluster.run(30)
    with cluster.kv.outage():
        cluster.run(8)
    cluster.run(15)
    settled(cluster, "a", 1)


def test_an_outage_of_the_store_shorter_than_retry_timeout_demotes_nobody(cluster: Cluster) -> None:
    """EC 21, whenever it begins."""
    cluster.run(30)
    for moment in range(1, 40):
        cluster.run(0.25 * moment)
        with cluster.kv.outage():
            cluster.run(9.5)
        assert cluster["a"].server.writable, f"stopped at {cluster.now}"
        cluster.run(15)


def test_a_store_that_was_wiped_heals_without_a_failover(cluster: Cluster) -> None:
    """EC 17."""
    cluster.kv.entries.clear()
    cluster.run(30)
    settled(cluster, "a", 1)
    assert {"leader", "initialize", "config", "status"} <= cluster.kv.entries.keys()


def test_a_candidate_that_dies_right_after_the_hand_over_is_replaced(cluster: Cluster) -> None:
    """EC 64."""
    cluster.ask("a", "b")
    cluster.run(20, until=lambda: cluster.leader == "b")
    cluster["b"].alive = False
    cluster.run(40)
    assert cluster.leader in ("a", "c")
    settled(cluster, str(cluster.leader), 2)


def test_many_switchovers_in_a_row_lose_nothing(cluster: Cluster) -> None:
    for number, candidate in enumerate("bcabca", 2):
        cluster.ask(str(cluster.leader), candidate)
        cluster.run(30)
        settled(cluster, candidate, number)
    assert cluster["a"].server.position > Lsn(1000)


def test_a_replica_cut_off_from_the_store_during_a_failover_follows_afterwards(cluster: Cluster) -> None:
    """EC 107."""
    cluster["c"].reaches_store = False
    cluster["a"].alive = False
    cluster.run(45)
    assert cluster.leader == "b"
    cluster["c"].reaches_store = True
    cluster.run(40)
    settled(cluster, "b", 2)


def test_a_candidate_whose_gate_refuses_does_not_let_one_that_lacks_wal_lead(cluster: Cluster) -> None:
    """Principles, safety 2: c received nothing for a while; b has everything but may not promote; a comes back with all."""
    cluster["b"].vetoes = True
    cluster["c"].cut = True
    cluster.run(5)
    cluster.ask("a", "b")
    cluster.run(20, until=lambda: cluster.leader == "b")
    assert cluster.leader == "b"
    cluster.run(60, until=lambda: bool(cluster.writable()))
    assert cluster.writable() == ["a"]
    cluster["c"].cut = False
    cluster.run(30)
    assert not cluster.unsettled()


def test_an_agent_killed_with_its_server_stopped_and_the_lock_still_held(cluster: Cluster) -> None:
    """EC 230: after its lease another leads, who has everything; the old leader comes back as a standby without a rewind."""
    cluster.ask("a", "b")
    cluster.run(5, until=lambda: cluster["a"].server.stopping)
    cluster["a"].agent = False
    cluster.run(3)
    assert cluster.leader == "a" and not cluster["a"].server.running
    cluster.run(45)
    assert cluster.leader in ("b", "c") and cluster.writable() == [cluster.leader]
    cluster.restart_agent(cluster["a"])
    cluster.run(30)
    assert cluster.leader is not None
    settled(cluster, cluster.leader, 2)
    assert not any(rule.endswith((".rewind", ".copy_anew")) for rule in cluster["a"].trail)


def test_a_rewind_is_not_decided_before_the_new_leader_is_a_primary(cluster: Cluster) -> None:
    """EC 229: the old leader crashed ahead of the others; while the new one is slow to promote nothing is rewound or copied."""
    cluster["a"].cut = True
    cluster.run(1)
    cluster.crash(cluster["a"])
    cluster["a"].alive = False
    for name in "bc":
        cluster[name].slow = 40
    cluster.run(60, until=lambda: cluster.leader in ("b", "c"))
    cluster["a"].cut = False
    cluster.reboot(cluster["a"])
    cluster.run(8)
    assert cluster.writable() == []
    assert not any(rule.endswith((".rewind", ".copy_anew")) for rule in cluster["a"].trail)
    for name in "bc":
        cluster[name].slow = 0
    cluster.run(60)
    assert cluster.leader is not None
    settled(cluster, cluster.leader, 2)


def test_a_restart_of_the_leader_is_no_failover(cluster: Cluster) -> None:
    """The lock is kept, the timeline stays, and the others stream again."""
    cluster.order_restart(cluster["a"])
    cluster.run(30)
    settled(cluster, "a", 1)
    assert "restart.begin" in cluster["a"].trail
    assert not any(rule.startswith(("demotion", "race")) for rule in cluster["b"].trail + cluster["c"].trail)


def test_a_restart_of_the_leader_that_fails_is_a_failover(cluster: Cluster) -> None:
    """Its configuration is broken: it gives the lock up and follows once it is mended (EC 209)."""
    cluster["a"].broken = True
    cluster.order_restart(cluster["a"])
    cluster.run(30)
    assert cluster.leader in ("b", "c")
    cluster["a"].broken = False
    cluster.run(40)
    settled(cluster, str(cluster.leader), 2)


def test_a_leader_that_loses_the_lock_during_its_restart_does_not_come_up_as_a_primary(cluster: Cluster) -> None:
    """Its start is slow and the store is away until another one leads (EC 93)."""
    a = cluster["a"]
    cluster.order_restart(a)
    cluster.run(1, until=lambda: a.task is not None)
    a.slow, a.reaches_store = 100, False
    cluster.run(50)
    assert cluster.leader in ("b", "c")
    assert "store_lost.becoming_primary_must_stop" in a.trail
    a.slow, a.reaches_store = 0, True
    cluster.run(60)
    settled(cluster, str(cluster.leader), 2)
