"""Three new nodes become a cluster, and each says over REST what it is."""

from __future__ import annotations

import pytest

from harness import Cluster, wait_for

BOTH = {"/read-only": 200, "/sync": 503, "/quorum": 503, "/standby-leader": 503, "/health": 200, "/liveness": 200,
        "/readiness": 200, "/patroni": 200, "/cluster": 200, "/config": 200, "/history": 200, "/metrics": 200, "/nonsense": 503}
PRIMARY = BOTH | dict.fromkeys(("/", "/primary", "/master", "/read-write", "/leader", "/read-only-sync"), 200)
PRIMARY |= dict.fromkeys(("/replica", "/async"), 503)
STANDBY = BOTH | dict.fromkeys(("/", "/primary", "/master", "/read-write", "/leader", "/read-only-sync"), 503)
STANDBY |= dict.fromkeys(("/replica", "/async"), 200)
# HEAD and OPTIONS are health checks on every path; what exists for GET only is 503 then (REST 2).
GET_ONLY = {"/liveness", "/readiness", "/patroni", "/cluster", "/config", "/history", "/metrics"}


def test_new_nodes_become_one_primary_with_two_streaming_standbys(cluster: Cluster) -> None:
    primary = cluster.primary()
    standbys = cluster.others(primary)
    streaming = {row[0] for row in primary.query("SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'")}
    assert streaming == {node.name for node in standbys}
    assert len({node.system_identifier() for node in cluster.nodes}) == 1
    assert [node for node in cluster.nodes if node.is_writable()] == [primary]
    primary.query("CREATE TABLE IF NOT EXISTS seen (word text)")
    primary.query("INSERT INTO seen VALUES ('hello')")
    for node in standbys:
        wait_for(lambda node=node: node.ask("SELECT count(*) FROM seen"), 30, f"{node.name} replays the insert")  # type: ignore[misc]
    primary.query("DROP TABLE seen")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_health_checks_answer_by_role(etcd_cluster: Cluster, method: str) -> None:
    primary = etcd_cluster.primary()
    for node in etcd_cluster.nodes:
        expected = PRIMARY if node is primary else STANDBY
        wanted = {path: 503 if method != "GET" and path in GET_ONLY else code for path, code in expected.items()}
        found = {}
        for path in wanted:
            answer = node.request(method, path)
            found[path] = answer.status if answer else 0
        assert found == wanted, f"{method} on {node.name}"


def test_status_and_cluster_view_describe_the_cluster(etcd_cluster: Cluster) -> None:
    primary = etcd_cluster.primary()
    for node in etcd_cluster.nodes:
        status = node.status()
        assert status["role"] == ("primary" if node is primary else "replica")
        assert (status["state"], status["patroni"]["scope"], status["patroni"]["name"]) == ("running", "demo", node.name)
        assert status["timeline"] == primary.timeline()
        assert status["database_system_identifier"] == str(primary.system_identifier())
        assert ("location" in status["xlog"]) == (node is primary)
    followers = {row["application_name"] for row in primary.status()["replication"]}
    assert followers == {node.name for node in etcd_cluster.others(primary)}
    answer = primary.request("GET", "/cluster")
    assert answer is not None
    view = answer.json()
    assert view["scope"] == "demo"
    roles = {member["name"]: (member["role"], member["state"]) for member in view["members"]}
    expected = {node.name: ("replica", "streaming") for node in etcd_cluster.nodes} | {primary.name: ("leader", "running")}
    assert roles == expected
    assert all(member["port"] == etcd_cluster.node(member["name"]).pg_port for member in view["members"])


@pytest.mark.parametrize(("method", "path"), [
    ("POST", "/switchover"), ("DELETE", "/switchover"), ("POST", "/failover"), ("POST", "/reload")])
def test_unsafe_requests_need_the_password(etcd_cluster: Cluster, method: str, path: str) -> None:
    answer = etcd_cluster.primary().request(method, path, {}, authenticated=False)
    assert answer is not None and answer.status == 401
