"""Orderly changes of the primary under write load: nothing acknowledged is ever lost, and it is quick."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from harness import UNDISTURBED_S, Cluster, Gap, wait_for
from harness.cluster import lost_commits

ORDERLY_GAP_S = 4.0  # the aims are 0.6 s (switchover) and 0.8 s (hand-over); two busy processors vary


@pytest.mark.parametrize("named", [True, False], ids=["to a candidate", "to anybody"])
def test_switchover_loses_nothing(cluster: Cluster, measured: Callable[[str, Gap | float], None], named: bool) -> None:
    old = cluster.primary()
    timeline = old.timeline()
    candidate = cluster.others(old)[0] if named else None
    writer = cluster.writer().start()
    time.sleep(1)
    began = time.monotonic()
    answer = cluster.switchover(old, candidate)
    assert answer is not None and answer.status == 200, answer
    new = cluster.primary()
    assert answer.text == f'Successfully switched over to "{new.name}"'
    assert new is candidate if candidate else new is not old
    writer.wait_resumed(time.monotonic(), 20)
    assert lost_commits(cluster, writer) == []
    gap = writer.report().longest_gap(after_s=began)
    measured("switchover: write gap", gap)
    assert timeline is not None and new.timeline() == timeline + 1
    cluster.wait_healthy()
    assert gap.seconds <= ORDERLY_GAP_S


def test_five_switchovers_in_a_row_leave_a_continuous_history(
        etcd_cluster: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    cluster = etcd_cluster
    writer = cluster.writer().start()
    leaders = []
    first_timeline = cluster.primary().timeline()
    for _ in range(5):
        began = time.monotonic()
        old = cluster.primary()
        candidate = cluster.others(old)[0]
        wait_for(lambda: candidate.status().get("timeline") == old.timeline(), 30, "the candidate reports the new timeline")  # noqa: B023
        answer = cluster.switchover(old, candidate)
        assert answer is not None and answer.status == 200, answer
        assert cluster.primary() is candidate
        leaders.append(candidate.name)
        cluster.wait_healthy()
        writer.wait_resumed(began, 30)
        measured("five in a row: write gap", writer.report().longest_gap(after_s=began))
    assert lost_commits(cluster, writer) == []
    answer = cluster.primary().request("GET", "/history")
    assert answer is not None
    history = answer.json()
    assert first_timeline is not None
    assert [line[0] for line in history[-5:]] == list(range(first_timeline, first_timeline + 5))
    assert [line[4] for line in history[-5:]] == leaders
    assert [line[1] for line in history] == sorted(line[1] for line in history)


def test_stopped_leader_hands_over_and_leaves_nothing_running(
        cluster: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    old = cluster.primary()
    writer = cluster.writer().start()
    time.sleep(1)
    began = time.monotonic()
    code = old.stop()
    assert code == 0, f"the agent ended with {code}"
    assert old.pids() == []
    new = cluster.primary()
    assert new is not old
    writer.wait_resumed(time.monotonic(), 20)
    assert lost_commits(cluster, writer) == []
    gap = writer.report().longest_gap(after_s=began)
    measured("SIGTERM to the leader's agent: write gap", gap)
    old.start()
    cluster.wait_healthy()
    assert cluster.primary() is new
    assert gap.seconds <= ORDERLY_GAP_S


def test_stopped_standby_leaves_nothing_running_and_the_primary_alone(cluster: Cluster) -> None:
    primary = cluster.primary()
    standby = cluster.others(primary)[0]
    with cluster.writer() as writer:
        began = time.monotonic()
        assert standby.stop() == 0
        assert standby.pids() == []
        standby.start()
        cluster.wait_healthy()
    assert cluster.primary() is primary
    assert writer.report().longest_gap(after_s=began).seconds < UNDISTURBED_S


@pytest.mark.parametrize(("body", "status", "words"), [
    ({"leader": "n9"}, 412, "leader name does not match"),
    ({"candidate": "n1"}, 400, "only from a specific leader"),
    ({"leader": "LEADER", "candidate": "n9"}, 412, "candidate does not exists"),
    ({"leader": "LEADER", "candidate": "LEADER"}, 400, "target and source are the same"),
])
def test_impossible_switchover_is_refused_and_changes_nothing(
        etcd_cluster: Cluster, body: dict[str, str], status: int, words: str) -> None:
    primary = etcd_cluster.primary()
    timeline = primary.timeline()
    named = {key: primary.name if value == "LEADER" else value for key, value in body.items()}
    answer = primary.request("POST", "/switchover", named, timeout_s=30)
    assert answer is not None and (answer.status, words in answer.text) == (status, True), answer
    time.sleep(etcd_cluster.loop_wait)
    assert (etcd_cluster.primary(), primary.timeline()) == (primary, timeline)
