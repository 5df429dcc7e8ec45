"""One API server for the tests that do not break it, stores on scopes of their own, and pods for their members."""

from __future__ import annotations

import itertools

import pytest

from pgcore.plugin import StoreRequest, Timing
from pgcore.testing.kube_apiserver import KubeApiServer, missing
from pgcore_dcs_kubernetes.section import KubernetesSection

TIMING = Timing(ttl=8, loop_wait=1, retry_timeout=2)
LABELS = {"application": "pgcore"}
MODES = {"configmaps": {}, "endpoints": {"use_endpoints": True}, "leases": {"use_leases": True}}
scopes = itertools.count()


@pytest.fixture(scope="session")
def kubernetes(tmp_path_factory):
    """An API server; whoever freezes or restarts it brings it back."""
    if lacking := missing():
        pytest.skip(f"needs {lacking}")
    with KubeApiServer(tmp_path_factory.mktemp("kubernetes")) as server:
        yield server


@pytest.fixture
def scope():
    """The name of a scope that no other test uses."""
    return f"own{next(scopes)}"


@pytest.fixture
def connect(kubernetes, scope, monkeypatch):
    """Opens stores on one fresh scope: ``connect("a")``, each with a pod; other keys of the section as keyword arguments."""
    from pgcore_dcs_kubernetes.store import KubernetesStore

    monkeypatch.setenv("KUBECONFIG", str(kubernetes.kubeconfig()))
    opened, pods = [], set()

    def open_store(member, *, timing=TIMING, observer=False, path=f"/service/{scope}", pod=True, **section):
        if pod and not observer and member not in pods:
            pods.add(member)
            make_pod(kubernetes, member, scope)
        store = KubernetesStore(StoreRequest(KubernetesSection(labels=LABELS, **section), path, member, timing, observer))
        opened.append(store)
        return store

    yield open_store
    for store in opened:
        store.close()
    for member in pods:
        kubernetes.ask("DELETE", f"/api/v1/namespaces/default/pods/{member}?gracePeriodSeconds=0")


def make_pod(server, member, scope, **labels):
    """The pod of a member."""
    server.create_pod(member, LABELS | {"cluster-name": scope} | labels, ip="10.1.0.2")
