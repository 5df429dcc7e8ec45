"""A cluster in Leases forms, switches over and fails over, with the rights of the shipped role and no others.

Endpoints are among the stores of ``test_backends``; with ``PGCORE_TEST_STORES=all`` a cluster in ConfigMaps does the same. No
request of an agent may be refused for a right that its role lacks.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from harness import Cluster
from harness.cluster import lost_commits
from harness.kubernetes import LABELS, KubernetesServer

LACKING = "lacks the right"
STORES = {"kubernetes-leases": "/apis/coordination.k8s.io/v1/namespaces/default/leases"}
if os.environ.get("PGCORE_TEST_STORES") == "all":
    STORES["kubernetes-configmaps"] = "/api/v1/namespaces/default/configmaps"


@pytest.fixture(scope="module", params=STORES)
def cluster(request: pytest.FixtureRequest, make_shared_cluster: Callable[..., Cluster]) -> Cluster:
    """Two nodes on each of the stores."""
    if missing := KubernetesServer.missing():
        pytest.skip(f"needs {missing}")
    return make_shared_cluster(size=2, store=request.param).bootstrap()


def pods(server: KubernetesServer) -> dict[str, str | None]:
    """The role that each pod shows."""
    found = server.api.ask("GET", "/api/v1/namespaces/default/pods")["items"]
    return {pod["metadata"]["name"]: pod["metadata"]["labels"].get("role") for pod in found}


def test_a_cluster_in_it_forms_switches_over_and_survives_its_primary(cluster: Cluster) -> None:
    """One test, as each step goes on from what the one before has left."""
    server = cluster.server
    assert isinstance(server, KubernetesServer)
    first = cluster.primary()
    [second] = cluster.others(first)
    objects = server.api.ask("GET", f"{STORES[cluster.store]}?labelSelector=cluster-name%3D{cluster.scope}")["items"]
    assert {f"{cluster.scope}-leader", f"{cluster.scope}-config"} <= {found["metadata"]["name"] for found in objects}
    assert all(found["metadata"]["labels"].items() >= LABELS.items() for found in objects)

    writer = cluster.writer().start()
    answer = cluster.switchover(first, second)
    assert answer is not None and answer.status == 200, answer
    cluster.wait_healthy()
    assert cluster.primary() is second and pods(server) == {first.name: "replica", second.name: "primary"}
    writer.stop()
    assert lost_commits(cluster, writer) == []

    timeline = second.timeline()
    second.kill_everything()
    assert cluster.wait_primary_other_than(second, cluster.ttl + server.lease_slack_s + 10) is first
    assert timeline is not None and first.timeline() == timeline + 1
    second.start()
    cluster.wait_healthy()
    assert not any(LACKING in node.log() for node in cluster.nodes)
