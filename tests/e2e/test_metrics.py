"""``/metrics`` of running nodes: a parser reads it, the names are the contract's, and each of our series moves when it should."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness import Cluster, Node, wait_for
from harness.processes import send
from pgcore.testing.processes import freeze
from unit.test_metrics import CONTRACT, UNLESS_UP, kinds

PROMPTLY_S = 2.0
"""A scrape takes milliseconds; whoever waited for PostgreSQL or the store would take longer than this."""
COPY_RATE = "12M"
"""A copy takes a few seconds, so that it can be watched."""


@pytest.fixture(scope="module")
def shared(make_shared_cluster: Callable[..., Cluster]) -> Cluster:
    """Three nodes; the callback of a role change fails, the one of a start works."""
    callbacks = {"on_role_change": "/bin/false", "on_start": "/bin/true"}
    server = {"callbacks": callbacks, "basebackup": [{"checkpoint": "fast"}, {"max-rate": COPY_RATE}]}
    cluster = make_shared_cluster(per_node={name: {"postgresql": server} for name in ("n1", "n2", "n3")})
    return cluster.bootstrap()


@pytest.fixture
def cluster(shared: Cluster) -> Iterator[Cluster]:
    """All nodes are well before and after."""
    yield shared
    shared.repair()


def page(node: Node) -> str:
    """The text, which comes at once."""
    began = time.monotonic()
    answer = node.request("GET", "/metrics")
    assert answer is not None and answer.status == 200, answer
    assert time.monotonic() - began < PROMPTLY_S
    return answer.text


def scrape(node: Node) -> dict[str, float]:
    """Each value by series with its labels besides the first two, which are this node's."""
    found = {}
    for family in text_string_to_metric_families(page(node)):
        for sample in family.samples:
            (scope, name), further = list(sample.labels.items())[:2], list(sample.labels.items())[2:]
            assert (scope, name) == (("scope", "demo"), ("name", node.name))
            labels = ",".join(f"{label}={value}" for label, value in further)
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def series(node: Node, name: str) -> float:
    """One value, 0 if it is absent."""
    return scrape(node).get(name, 0.0)


def wait_above(node: Node, name: str, number: float, timeout_s: float = 30) -> None:
    """Counts appear with a later heartbeat."""
    wait_for(lambda: series(node, name) > number, timeout_s, f"{name} of {node.name} is above {number}")


def contract(text: str) -> list[str]:
    return [line for line in kinds(text) if line.startswith("patroni_")]


def test_names_and_kinds_are_the_contracts_on_a_primary_a_standby_and_without_postgresql(cluster: Cluster) -> None:
    """(metrics, "Series in 4.1.5"; column "PG down")"""
    primary = cluster.primary()
    standby = cluster.others(primary)[0]
    cluster.wait_aware()
    assert contract(page(primary)) == contract(page(standby)) == CONTRACT
    led, followed = scrape(primary), scrape(standby)
    assert [(found["patroni_primary"], found["patroni_replica"]) for found in (led, followed)] == [(1, 0), (0, 1)]
    assert led["patroni_xlog_location_total"] > 0 == followed["patroni_xlog_location_total"]  # the parser adds ``_total``
    assert (led["patroni_postgres_server_version"] // 10000, followed["patroni_postgres_streaming"]) == (15, 1)
    assert 0 < led["pgcore_lease_seconds_left"] <= cluster.ttl and "pgcore_lease_seconds_left" not in followed
    cluster.configure({"pause": True})
    cluster.wait_aware()
    standby.kill_postmaster()
    wait_for(lambda: standby.status().get("state") == "stopped", 20, "the server stays stopped")
    assert contract(page(standby)) == [line for line in CONTRACT if line not in UNLESS_UP]
    stopped = scrape(standby)
    assert (stopped["patroni_is_paused"], stopped["patroni_postgres_running"], stopped["patroni_postgres_state"]) == (1, 0, 12)
    assert (stopped["patroni_replica"], stopped["patroni_xlog_replayed_location_total"]) == (1, 0)
    cluster.configure({"pause": None})


def test_a_scrape_does_not_wait_for_a_server_that_hangs(cluster: Cluster) -> None:
    standby = cluster.others(cluster.primary())[0]
    frozen = standby.postgres_pids()
    for pid in frozen:
        freeze(pid)
    try:
        wait_for(lambda: series(standby, "patroni_postgres_state") == -1, 30, "the agent has noticed")
        assert contract(page(standby)) == [line for line in CONTRACT if line not in UNLESS_UP]
        beats = series(standby, "pgcore_heartbeat_duration_seconds_count")
        wait_above(standby, "pgcore_heartbeat_duration_seconds_count", beats)
    finally:
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                send(pid, signal.SIGCONT)


def test_a_failover_is_counted_by_the_node_that_took_over(cluster: Cluster) -> None:
    old, etcd = cluster.primary(), cluster.etcd
    assert etcd is not None
    before = {node: scrape(node) for node in cluster.others(old)}
    old.kill_everything()
    etcd.delete(cluster.leader_key())  # as its lease would a few seconds later
    new = cluster.wait_primary_other_than(old, cluster.ttl + 30)
    gained = "pgcore_leadership_gained_total{reason=failover}"
    failed = "pgcore_callbacks_total{event=on_role_change,result=failed}"
    wait_above(new, gained, before[new][gained])
    wait_above(new, failed, before[new][failed])
    wait_above(new, "pgcore_writable_seconds_total", before[new]["pgcore_writable_seconds_total"])
    after = scrape(new)
    for moved in ("pgcore_decisions_total{rule=leader.promote}", "pgcore_tasks_total{kind=promote,result=ok}",
                  "pgcore_lease_renewals_total{result=held}", "pgcore_store_request_duration_seconds_count{verb=acquire}",
                  "pgcore_store_request_duration_seconds_count{verb=renew}", "pgcore_heartbeat_duration_seconds_count"):
        wait_above(new, moved, before[new].get(moved, 0))
    assert after[gained] == before[new][gained] + 1
    (other,) = cluster.others(old, new)
    assert scrape(other)[gained] == before[other][gained]
    old.start()
    cluster.wait_healthy()
    wait_above(old, "pgcore_callbacks_total{event=on_start,result=ok}", 0)
    wait_above(old, "pgcore_not_writable_seconds_total", 0)
    assert "pgcore_lease_seconds_left" not in scrape(old) and series(old, "pgcore_writable_seconds_total") == 0


def test_a_switchover_is_counted_by_both(cluster: Cluster) -> None:
    old = cluster.primary()
    new = cluster.others(old)[0]
    gained, lost = "pgcore_leadership_gained_total{reason=switchover}", "pgcore_leadership_lost_total{reason=switchover}"
    before = series(old, lost), series(new, gained)
    cluster.wait_aware()  # a candidate that reports an older timeline is refused
    answer = cluster.switchover(old, new)
    assert answer is not None and answer.status == 200, answer
    wait_above(old, lost, before[0])
    wait_above(new, gained, before[1])
    cluster.wait_healthy()
    assert (series(old, lost), series(new, gained)) == (before[0] + 1, before[1] + 1)
    standing = series(old, "pgcore_writable_seconds_total")
    wait_above(new, "pgcore_writable_seconds_total", series(new, "pgcore_writable_seconds_total"))
    assert series(old, "pgcore_writable_seconds_total") == standing


def test_an_outage_of_the_store_shows_while_it_lasts(cluster: Cluster) -> None:
    primary, etcd = cluster.primary(), cluster.etcd
    assert etcd is not None
    before = scrape(primary)
    etcd.kill()
    try:
        lost, failed = "pgcore_leadership_lost_total{reason=store_lost}", "pgcore_store_request_failures_total{verb=read}"
        left = list[float]()

        def over() -> bool:
            found = scrape(primary)
            left.extend(value for name, value in found.items() if name == "pgcore_lease_seconds_left")
            return found[lost] > before[lost]

        wait_for(over, cluster.ttl + 20, "the primary has given up")
        assert left == sorted(left, reverse=True) and left[-1] < cluster.ttl / 2, "the lease ran down"
        found = scrape(primary)
        assert found[failed] > before[failed]
        assert found["patroni_cluster_unlocked"] == 1 and "pgcore_lease_seconds_left" not in found
    finally:
        etcd.start()
    cluster.wait_healthy()

    def gains() -> float:
        return sum(value for node in cluster.nodes for name, value in scrape(node).items() if "gained_total" in name)

    taken = sum(value for name, value in before.items() if "gained_total" in name)
    wait_for(lambda: gains() > taken, 20, "somebody has counted that it leads again")


def test_a_new_copy_shows_how_far_it_is_and_how_it_ended(cluster: Cluster) -> None:
    standby = cluster.others(cluster.primary())[0]
    ended = "pgcore_tasks_total{kind=reinitialize,result=ok}"
    before = series(standby, ended)
    answer = standby.request("POST", "/reinitialize", {"from_leader": True})
    assert answer is not None and answer.status == 200, answer
    seen: set[str] = set()

    def over() -> bool:
        found = scrape(standby)
        seen.update(name for name in found if name.startswith("pgcore_task_"))
        return found[ended] > before

    wait_for(over, 60, "the copy has ended", interval_s=0.05)
    assert {"pgcore_task_seconds{kind=reinitialize}", "pgcore_task_phase{kind=reinitialize,phase=basebackup}",
            "pgcore_task_bytes_done{kind=reinitialize}", "pgcore_task_bytes_expected{kind=reinitialize}",
            "pgcore_task_progress_ratio{kind=reinitialize}"} <= seen
    cluster.wait_healthy()
    assert not [name for name in scrape(standby) if name.startswith("pgcore_task_")]
