"""The Kubernetes API server that other tests rely on: who may do what, and what outlives it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgcore.testing import kube_apiserver
from pgcore.testing.kube_apiserver import STRANGER, WRONG, KubeApiServer, Refused

pytestmark = pytest.mark.server
PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApiServer]:
    """A running one."""
    if missing := kube_apiserver.missing():
        pytest.skip(f"needs {missing}")
    with KubeApiServer(tmp_path_factory.mktemp("kubernetes")) as running:
        yield running


@pytest.mark.parametrize(("token", "status"), [(STRANGER, 403), (WRONG, 401)])
def test_who_may_not(server: KubeApiServer, token: str, status: int) -> None:
    with pytest.raises(Refused) as refused:
        server.ask("GET", PODS, token=token)
    assert refused.value.status == status


def test_pods_and_accounts_outlive_a_crash(server: KubeApiServer) -> None:
    server.ask("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "agent"}})
    token = server.account_token("agent")
    server.create_pod("n1", {"cluster-name": "demo"}, ip="10.0.0.1")
    server.kill()
    assert server.etcd.process is None and not server.ready()
    server.start()
    pods = server.ask("GET", f"{PODS}?labelSelector=cluster-name%3Ddemo")["items"]
    assert [(pod["metadata"]["name"], pod["status"]["podIP"]) for pod in pods] == [("n1", "10.0.0.1")]
    with pytest.raises(Refused, match="system:serviceaccount:default:agent") as refused:
        server.ask("GET", PODS, token=token)
    assert refused.value.status == 403


def test_nobody_answers_for_a_frozen_one(server: KubeApiServer) -> None:
    with server.frozen():
        assert not server.ready(timeout_s=0.5)
    assert server.ready()
