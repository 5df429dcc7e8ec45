"""The REST API under the load of many HAProxys: quick, and nobody else in the agent notices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness import Cluster, Gap
from harness.agents import patroni_agent
from harness.lease import LeaseWatch
from harness.load import Load

CLIENTS = 20


@pytest.fixture(scope="module")
def theirs(make_shared_cluster: Callable[..., Cluster], predecessor: Path) -> Cluster:
    """A primary of Patroni."""
    return make_shared_cluster(agent=patroni_agent(predecessor), size=1).bootstrap()


def test_the_lease_is_renewed_on_time_while_twenty_clients_ask_without_a_pause(
        etcd_cluster: Cluster, measured: Callable[[str, Gap | float], None]) -> None:
    node = etcd_cluster.primary()
    standby = etcd_cluster.others(node)[0]
    loads = [Load(node.host, node.rest_port, "OPTIONS /primary", CLIENTS, 5.0),
             Load(standby.host, standby.rest_port, "GET /replica", CLIENTS, 5.0)]
    with LeaseWatch(node) as watch:
        reports = [load.finish(process) for load, process in [(load, load.start()) for load in loads]]
    for report in reports:
        assert set(report.codes) == {"200"}
        assert report.per_second > 200
    assert etcd_cluster.primary() is node
    late = etcd_cluster.ttl - etcd_cluster.loop_wait - watch.least_left_s
    measured("lateness of a lease renewal under the load of twenty clients", max(0.0, late))
    assert late < etcd_cluster.loop_wait, "a renewal may be late for want of a processor, but not by a whole heartbeat"


@pytest.mark.parametrize(("request_line", "times"), [("OPTIONS /primary", 2.0), ("GET /patroni", 1.5)])
def test_more_requests_per_second_than_the_predecessor(
        etcd_cluster: Cluster, theirs: Cluster, request_line: str, times: float) -> None:
    found: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(2):
        # In turns: both share whatever else the machine does.
        for name, node in (("ours", etcd_cluster.primary()), ("theirs", theirs.primary())):
            report = Load(node.host, node.rest_port, request_line, CLIENTS, 0.7).run()
            assert set(report.codes) == {"200"}, name
            found[name].append(report.per_second)
    assert sum(found["ours"]) >= times * sum(found["theirs"]), found
