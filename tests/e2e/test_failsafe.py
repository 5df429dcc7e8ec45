"""Failsafe mode: the store goes away for long, and the primary stays while every other member agrees. (HA rules 9)"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator

import pytest

from harness import UNDISTURBED_S, Cluster, EtcdServer, Gap, Node, wait_for


def _configured(cluster: Cluster, **settings: object) -> None:
    """Put settings into the dynamic configuration; None takes one out."""
    etcd, key = _etcd(cluster), f"/service/{cluster.scope}/config"
    document = json.loads(etcd.get(key) or "{}") | settings
    etcd.put(key, json.dumps({name: value for name, value in document.items() if value is not None}))


def _etcd(cluster: Cluster) -> EtcdServer:
    assert cluster.etcd is not None
    return cluster.etcd


@pytest.fixture
def failsafe(etcd_cluster: Cluster) -> Iterator[Cluster]:
    """The shared cluster with failsafe mode on; every member knows that and who is in the key, the primary that it wrote it."""
    cluster, etcd, names = etcd_cluster, _etcd(etcd_cluster), {node.name for node in etcd_cluster.nodes}
    _configured(cluster, failsafe_mode=True)

    def written_under_this_lock() -> bool:
        lock, key = etcd.revisions(cluster.leader_key()), etcd.revisions(cluster.key("failsafe"))
        return lock is not None and key is not None and key[1] > lock[0]

    def everybody_knows() -> bool:
        answers = [node.request("GET", "/failsafe") for node in cluster.nodes]
        return all(answer is not None and answer.status == 200 and set(answer.json()) == names for answer in answers)

    wait_for(written_under_this_lock, 30, "the primary has written /failsafe since it was elected")
    cluster.wait_aware()
    wait_for(everybody_knows, 30, "every member knows the key /failsafe")
    yield cluster
    cluster.repair()
    _configured(cluster, failsafe_mode=None)
    cluster.wait_aware()


def _before(primary: Node) -> tuple[int | None, int | None]:
    return primary.timeline(), primary.postmaster_pid()


def test_a_long_outage_of_the_store_is_not_noticed_by_clients(
        failsafe: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    """(EC 23, 26, 29): three times ttl without etcd, then it returns: no read-only moment, same timeline, same postmaster."""
    cluster, etcd = failsafe, _etcd(failsafe)
    primary = cluster.primary()
    before, standbys = _before(primary), cluster.others(primary)
    with cluster.writer() as writer:
        began = time.monotonic()
        etcd.kill()
        end, seen = began + 3 * cluster.ttl, 0
        while time.monotonic() < end:
            assert primary.status_of("/primary") == 200, "clients were sent away"
            assert [node.name for node in standbys if node.is_writable()] == []
            seen += primary.status().get("failsafe_mode_is_active", False) is True
            time.sleep(0.2)
        assert seen, "failsafe mode never carried the cluster"
        assert any(node.status().get("failsafe_mode_is_active") for node in standbys)
        told = primary.request("GET", "/metrics")
        assert told is not None and re.search(r'pgcore_failsafe_rounds_total\{.*,result="agreed"\} [1-9]', told.text)
        assert re.search(r"patroni_failsafe_mode_is_active\{.*\} 1", told.text)
        etcd.start()
        wait_for(lambda: etcd.get(cluster.leader_key()) == primary.name, 30, "the primary has taken the lock back")
        time.sleep(2)
    gap = writer.report().longest_gap(after_s=began)
    measured(f"etcd killed for {3 * cluster.ttl} s with failsafe mode on: write gap", gap)
    assert _before(primary) == before
    assert cluster.primary() is primary
    assert gap.seconds < UNDISTURBED_S
    cluster.wait_healthy()


def test_a_member_that_does_not_answer_ends_the_primary_before_its_lease(
        failsafe: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    """(EC 23, 30, 39): the agent of one standby is frozen while etcd is away; the primary ends its writes and serves reads."""
    cluster, etcd = failsafe, _etcd(failsafe)
    primary = cluster.primary()
    silent = cluster.others(primary)[0]
    direct = cluster.direct_writer(primary).start()
    etcd.kill()
    wait_for(lambda: primary.status().get("failsafe_mode_is_active"), cluster.ttl, "failsafe mode carries the cluster")
    frozen = time.monotonic()
    silent.freeze_agent()
    wait_for(lambda: not primary.is_writable(), cluster.ttl + 5, "the primary ends its writes")
    time.sleep(max(0.0, frozen + cluster.ttl + 1 - time.monotonic()))
    last = direct.report().last_on(f"{primary.host}:{primary.pg_port}")
    assert last is not None
    measured("one member frozen while etcd is away: writes went on for", last - frozen)
    assert last < frozen + cluster.ttl, "writes ended after what the frozen member had agreed to"
    assert not any(node.is_writable() for node in cluster.nodes)
    wait_for(lambda: primary.ask("SELECT pg_is_in_recovery()") is True, 30, "the former primary serves reads")
    silent.thaw_agent()
    time.sleep(2)
    assert not any(node.is_writable() for node in cluster.nodes), "nobody leads while the store is away"
    etcd.start()
    new = cluster.primary(cluster.ttl + 20)
    cluster.wait_healthy()
    direct.stop()
    assert direct.report().missing(cluster.present(new)) == []


def test_a_primary_that_dies_in_failsafe_mode_is_replaced_when_the_store_is_back(failsafe: Cluster) -> None:
    """(EC 31): but no sooner than ttl after it was last accepted."""
    cluster, etcd = failsafe, _etcd(failsafe)
    primary = cluster.primary()
    etcd.kill()
    wait_for(lambda: primary.status().get("failsafe_mode_is_active"), cluster.ttl, "failsafe mode carries the cluster")
    primary.kill_everything()
    etcd.start()
    new = cluster.wait_primary_other_than(primary, 2 * cluster.ttl + 20)
    primary.start()
    cluster.wait_healthy()
    assert cluster.primary() is new


def test_with_quorum_commit_a_silent_standby_does_not_end_the_primary(
        failsafe: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    """``failsafe_quorum``: the agent of one of two standbys is frozen while etcd is away. (decisions/0005)"""
    cluster, etcd = failsafe, _etcd(failsafe)
    _configured(cluster, synchronous_mode="quorum", failsafe_quorum=True)
    primary = cluster.primary()
    silent, other = cluster.others(primary)
    before = _before(primary)

    def each_word_counts() -> bool:
        """Neither has begun nor given a vote within the last 10 s: the test before this one has restarted an agent."""
        answers = [node.request("GET", "/patroni?fresh=1") for node in (silent, other)]
        return all(answer is not None and answer.json()["pgcore"].get("failsafe_binding") for answer in answers)

    wait_for(each_word_counts, 20, "both standbys say that their acceptance binds them")

    def one_may_be_missing() -> bool:
        sync = json.loads(etcd.get(f"/service/{cluster.scope}/sync") or "{}")
        names = (sync.get("sync_standby") or "").split(",")
        return (sync.get("leader"), len(names), sync.get("quorum")) == (primary.name, 2, 1)

    wait_for(one_may_be_missing, 20, "/sync lists both standbys, one of which suffices")
    cluster.wait_aware(primary)  # it has that confirmed
    try:
        with cluster.writer() as writer:
            began = time.monotonic()
            etcd.kill()
            silent.freeze_agent()
            end = began + 2 * cluster.ttl
            while time.monotonic() < end:
                assert primary.is_writable(), "the primary ended its writes"
                assert not other.is_writable() and not silent.is_writable()
                time.sleep(0.2)
            silent.thaw_agent()
            etcd.start()
            wait_for(lambda: etcd.get(cluster.leader_key()) == primary.name, 30, "the primary has taken the lock back")
        gap = writer.report().longest_gap(after_s=began)
        measured("etcd and one of two standbys away with failsafe_quorum: write gap", gap)
        assert _before(primary) == before
        assert gap.seconds < UNDISTURBED_S
    finally:
        cluster.repair()
        _configured(cluster, synchronous_mode=None, failsafe_quorum=None)
        wait_for(lambda: etcd.get(f"/service/{cluster.scope}/sync") in (None, "{}") or "null" in (
            etcd.get(f"/service/{cluster.scope}/sync") or ""), 30, "synchronous replication is off")
