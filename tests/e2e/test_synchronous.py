"""Synchronous replication on real servers: nothing acknowledged is lost, whoever dies, and the mode changes under load."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from harness import Cluster, Gap, wait_for
from harness.cluster import lost_commits
from harness.node import Node

QUICK = {"ttl": 5, "loop_wait": 1, "retry_timeout": 2}
Make = Callable[..., Cluster]


def started(make_cluster: Make, size: int = 3, **dynamic: Any) -> Cluster:
    cluster = make_cluster(size=size, dynamic=QUICK | dynamic).bootstrap()
    wait_for(lambda: settled(cluster), 20, "all is as the mode wants it")
    return cluster


def sync_of(cluster: Cluster) -> tuple[str, set[str], int] | None:
    """What ``/sync`` says: leader, standbys, quorum."""
    assert cluster.etcd is not None
    text = cluster.etcd.get(f"/service/{cluster.scope}/sync")
    if text is None:
        return None
    document = json.loads(text)
    return document["leader"], set((document["sync_standby"] or "").split(",")) - {""}, document["quorum"]


def settled(cluster: Cluster) -> bool:
    """``/sync`` names the primary with as many standbys as the mode in force wants, and the health checks say the same."""
    assert cluster.etcd is not None
    primary, sync = cluster.find_primary(), sync_of(cluster)
    if primary is None:
        return False
    config = json.loads(cluster.etcd.get(f"/service/{cluster.scope}/config") or "{}")
    mode, count = config.get("synchronous_mode", "off"), config.get("synchronous_node_count", 1)
    others = {node.name for node in cluster.nodes if node.running} - {primary.name}
    if mode == "off":
        return sync is None and primary.ask("SHOW synchronous_standby_names") == ""
    if sync is None or sync[0] != primary.name or not sync[1] <= others:
        return False
    wanted = (min(count, len(others)), 0) if mode == "on" else (len(others), len(others) - min(count, len(others)))
    path = "/sync" if mode == "on" else "/quorum"
    healthy = {node.name for node in cluster.nodes if node.running and node.status_of(path) == 200}
    return (len(sync[1]), sync[2]) == wanted and healthy == sync[1]


def configure(cluster: Cluster, **changes: Any) -> None:
    """Change the dynamic configuration in the store."""
    assert cluster.etcd is not None
    key = f"/service/{cluster.scope}/config"
    cluster.etcd.put(key, json.dumps(json.loads(cluster.etcd.get(key) or "{}") | changes))


def fail_over(cluster: Cluster, *, at_once: bool) -> tuple[Node, Node]:
    """Kill everything of the primary and wait for the next one; ``at_once`` ends the dead node's lease by hand."""
    assert cluster.etcd is not None
    old = cluster.primary()
    old.kill_everything()
    if at_once:
        cluster.etcd.delete(cluster.leader_key())
    return old, cluster.wait_primary_other_than(old, cluster.ttl + 15)


def whole(cluster: Cluster) -> bool:
    return cluster.streaming() and settled(cluster)


@pytest.mark.parametrize(("mode", "size", "count", "rounds"), [("on", 3, 1, 10), ("quorum", 4, 2, 10)])
def test_no_acknowledged_commit_is_lost_however_often_the_primary_dies(
        make_cluster: Make, measured: Callable[[str, Gap | float], None], mode: str, size: int, count: int, rounds: int) -> None:
    cluster = started(make_cluster, size, synchronous_mode=mode, synchronous_node_count=count)
    writer = cluster.writer(interval_s=0.001).start()
    longest = 0.0
    for number in range(rounds):
        before, died = sync_of(cluster), time.monotonic()
        if number % 4 == 3:  # it is back before its lease has ended
            cluster.primary().kill_everything()
            cluster.others(*(node for node in cluster.nodes if node.running))[0].start()
            new = cluster.primary()
        else:
            old, new = fail_over(cluster, at_once=number > 1)
            assert before is not None and new.name in before[1], (before, new)
            old.start()
        assert writer.report().missing(cluster.present(new)) == []
        wait_for(lambda: whole(cluster), 60, f"all stream and vote again after death {number + 1}", interval_s=0.1)
        longest = max(longest, time.monotonic() - died)
    measured("at most from the death of the primary until all stream and are listed again", longest)
    assert lost_commits(cluster, writer) == []
    assert len(writer.report().acknowledged) > 100 * rounds
    assert len({note.server for note in writer.report().acknowledged}) > 1


def test_the_mode_changes_under_load_without_an_error(make_cluster: Make) -> None:
    """(EC 122, 138, 150)"""
    cluster = started(make_cluster)
    primary = cluster.primary()
    configure(cluster, postgresql={"use_pg_rewind": True, "parameters": {"synchronous_standby_names": "ANY 1 (n1,n2,n3)"}})
    wait_for(lambda: primary.ask("SHOW synchronous_standby_names") == "ANY 1 (n1,n2,n3)", 30, "the user's own names are in force")
    writer = cluster.writer(interval_s=0.001).start()
    for mode, count in (("on", 1), ("on", 2), ("quorum", 2), ("quorum", 1), ("on", 1), ("quorum", 1)):
        configure(cluster, synchronous_mode=mode, synchronous_node_count=count)
        wait_for(lambda: settled(cluster), 30, f"{count} standbys, {mode}")
    def rows() -> set[tuple[str, str]]:
        return {(row["application_name"], row["sync_state"]) for row in primary.status()["replication"]}

    wait_for(lambda: rows() == {(node.name, "quorum") for node in cluster.others(primary)}, 30, "the status tells who confirms")
    configure(cluster, synchronous_mode="off")
    own = primary.ask
    wait_for(lambda: sync_of(cluster) is None and own("SHOW synchronous_standby_names") == "ANY 1 (n1,n2,n3)", 30, "off again")
    assert lost_commits(cluster, writer) == []
    assert writer.errors() == []
    assert writer.report().longest_gap().seconds < 4
    assert cluster.primary() is primary


def test_strict_mode_blocks_writes_without_a_standby_and_goes_on_when_one_comes(make_cluster: Make) -> None:
    """(EC 124)"""
    cluster = started(make_cluster, 2, synchronous_mode="on", synchronous_mode_strict=True)
    primary = cluster.primary()
    standby = cluster.others(primary)[0]
    writer = cluster.writer().start()
    writer.wait_resumed(time.monotonic(), 30)
    told = primary.log().count("writes wait for one")
    standby.kill_everything()
    wait_for(lambda: primary.log().count("writes wait for one") > told, 30, "the log says that writes wait")
    blocked = len(writer.report().acknowledged)
    time.sleep(3 * cluster.loop_wait)
    assert len(writer.report().acknowledged) == blocked
    assert (primary.ask("SHOW synchronous_standby_names"), sync_of(cluster)) == (standby.name, (primary.name, {standby.name}, 0))
    began = time.monotonic()
    standby.start()
    writer.wait_resumed(began, 20)
    wait_for(lambda: settled(cluster), 30, "the standby is synchronous again")
    assert "writes do not wait for a missing standby any more" in primary.log()
    assert primary.log().count("writes wait for one") == told + 1
    assert lost_commits(cluster, writer) == []


@pytest.mark.parametrize("mode", ["on", "quorum"])
def test_a_switchover_in_synchronous_mode_loses_nothing(make_cluster: Make, mode: str) -> None:
    cluster = started(make_cluster, synchronous_mode=mode)
    writer = cluster.writer(interval_s=0.001).start()
    for _ in range(3):
        old, before = cluster.primary(), sync_of(cluster)
        assert before is not None
        candidate = cluster.node(min(before[1]))
        began = time.monotonic()
        answer = cluster.switchover(old, candidate)
        assert answer is not None and answer.status == 200, answer
        assert cluster.primary() is candidate
        writer.wait_resumed(began, 30)
        assert writer.report().missing(cluster.present(candidate)) == []
        wait_for(lambda: whole(cluster), 30, "all stream and are listed again", interval_s=0.1)
        assert writer.report().longest_gap(after_s=began).seconds < 4
    assert lost_commits(cluster, writer) == []
