"""A switchover towards a standby that is not ready for it: never a lost commit, and somebody is primary afterwards.

Replication is asynchronous. Either the switchover succeeds without loss, or the old primary stays (or becomes again) primary and
the request ends with an error.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import psycopg2
import pytest

from harness import Cluster, Gap, Node, RestAnswer, Writer, wait_for
from harness.cluster import lost_commits
from pgcore.testing.processes import freeze

SETTLE_S = 40.0


def _no_commit_is_lost(cluster: Cluster, writer: Writer, old: Node, candidate: Node, answer: RestAnswer | None) -> None:
    """Judge the end: who is primary fits the answer, and everything acknowledged is there."""
    writer.wait_resumed(time.monotonic(), SETTLE_S)
    primary = cluster.primary()
    assert lost_commits(cluster, writer) == [], f"answer {answer}, primary now {primary.name}"
    assert answer is not None
    if answer.status == 200:
        assert primary is not old
        assert primary is candidate or "instead of" in answer.text
    else:
        assert answer.status in (412, 503), answer
        assert primary is old


def _request_until_accepted(cluster: Cluster, old: Node, candidate: Node, seconds: float) -> RestAnswer | None:
    """Ask again and again without waiting for health, as a script would; the answer of the last try."""
    deadline = time.monotonic() + seconds
    while True:
        answer = cluster.switchover(old, candidate)
        if (answer is not None and answer.status != 412) or time.monotonic() > deadline:
            return answer
        time.sleep(0.05)


def test_switchover_in_the_first_moments_of_a_new_cluster(
        make_cluster: Callable[..., Cluster], measured: Callable[[str, Gap | float], None]) -> None:
    cluster = make_cluster()
    cluster.start_store()
    for node in cluster.nodes:
        node.start()
    old = cluster.primary()
    cluster.create_table()
    writer = cluster.writer().start()
    candidate = cluster.others(old)[0]
    answer = _request_until_accepted(cluster, old, candidate, 15)
    _no_commit_is_lost(cluster, writer, old, candidate, answer)
    measured(f"switchover right after bootstrap ({answer.status if answer else None}): write gap", writer.report().longest_gap())
    cluster.wait_healthy()


def test_switchover_to_a_standby_that_joined_a_moment_ago(
        make_cluster: Callable[..., Cluster], measured: Callable[[str, Gap | float], None]) -> None:
    cluster = make_cluster(size=1).bootstrap()
    old = cluster.primary()
    writer = cluster.writer().start()
    candidate = cluster.add_node("n2")
    candidate.start()
    answer = _request_until_accepted(cluster, old, candidate, 20)
    # The first writer knows the first node only.
    if answer is not None and answer.status == 200:
        assert lost_commits(cluster, writer) == []
        writer = cluster.writer().start()
    _no_commit_is_lost(cluster, writer, old, candidate, answer)
    gap = writer.report().longest_gap()
    measured(f"switchover to a node that just joined ({answer.status if answer else None}): write gap", gap)
    cluster.wait_healthy()


def _drop_slot(old: Node, candidate: Node) -> None:
    """End the walsender and drop the slot before the standby is back."""
    for _ in range(200):
        old.query("SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = %s", candidate.name)
        try:
            old.query("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s AND NOT active",
                      candidate.name)
        except psycopg2.Error:
            continue  # the standby was quicker
        if not old.query("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", candidate.name):
            return
    pytest.skip("the slot could not be dropped between two connections of the standby")


def _kill_walreceiver(old: Node, candidate: Node) -> None:
    """SIGKILL: PostgreSQL on the candidate restarts all its processes."""
    for pid in candidate.backend_pids("walreceiver"):
        os.kill(pid, signal.SIGKILL)


def _end_walreceiver(old: Node, candidate: Node) -> None:
    """SIGTERM: PostgreSQL on the candidate starts another one within wal_retrieve_retry_interval, 5 s."""
    for pid in candidate.backend_pids("walreceiver"):
        os.kill(pid, signal.SIGTERM)


@pytest.mark.parametrize("harm", [_drop_slot, _kill_walreceiver, _end_walreceiver])
def test_switchover_to_a_standby_that_lost_its_stream_a_moment_ago(
        etcd_cluster: Cluster, measured: Callable[[str, Gap | float], None], harm: Callable[[Node, Node], None]) -> None:
    cluster = etcd_cluster
    old = cluster.primary()
    candidate = cluster.others(old)[0]
    writer = cluster.writer().start()
    time.sleep(0.5)
    began = time.monotonic()
    harm(old, candidate)
    answer = cluster.switchover(old, candidate)
    _no_commit_is_lost(cluster, writer, old, candidate, answer)
    gap = writer.report().longest_gap(after_s=began)
    measured(f"switchover after {harm.__name__.strip('_')} ({answer.status if answer else None}): write gap", gap)
    cluster.wait_healthy()


def test_switchover_to_a_standby_whose_walreceiver_is_frozen(
        etcd_cluster: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    cluster = etcd_cluster
    old = cluster.primary()
    candidate = cluster.others(old)[0]
    writer = cluster.writer().start()
    receivers = candidate.backend_pids("walreceiver")
    assert len(receivers) == 1
    began = time.monotonic()
    freeze(receivers[0])
    try:
        time.sleep(0.5)
        answer = cluster.switchover(old, candidate, timeout_s=90)
        _no_commit_is_lost(cluster, writer, old, candidate, answer)
    finally:
        os.kill(receivers[0], signal.SIGCONT)
    gap = writer.report().longest_gap(after_s=began)
    measured(f"switchover to a standby with a frozen walreceiver ({answer.status if answer else None}): write gap", gap)
    cluster.wait_healthy()


def test_switchover_to_a_standby_whose_server_is_frozen(
        etcd_cluster: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    cluster = etcd_cluster
    old = cluster.primary()
    candidate = cluster.others(old)[0]
    writer = cluster.writer(cluster.connection_string(cluster.others(candidate))).start()
    began = time.monotonic()
    frozen = candidate.postgres_pids()
    for pid in frozen:
        freeze(pid)
    try:
        answer = cluster.switchover(old, candidate, timeout_s=90)
        writer.wait_resumed(time.monotonic(), SETTLE_S)
        assert answer is not None and answer.status in (412, 503), answer
        wait_for(old.is_writable, SETTLE_S, "the old primary is primary")
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    measured(f"switchover to a frozen server ({answer.status}): write gap", writer.report().longest_gap(after_s=began))
    cluster.wait_healthy()
    assert lost_commits(cluster, writer) == []
