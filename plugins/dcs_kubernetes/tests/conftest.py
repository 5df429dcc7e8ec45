"""One API server for all tests, stores on scopes of their own with pods for their members, and ways to it that lose answers."""

from __future__ import annotations

import importlib.util
import itertools
import json
import shutil
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from pgcore.plugin import StoreRequest, Timing
from pgcore.testing.kube_apiserver import ADMINISTRATOR, CONTEXT, KubeApiServer, Refused, missing
from pgcore_dcs_kubernetes.section import KubernetesSection

TIMING = Timing(ttl=8, loop_wait=1, retry_timeout=2)
LABELS = {"application": "pgcore"}
PODS = "/api/v1/namespaces/default/pods"
scopes = itertools.count()


def _gate():
    spec = importlib.util.spec_from_file_location("kubernetes_gate", Path(__file__).with_name("gate.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gate_module = _gate()


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
def pods(kubernetes, scope):
    """Makes the pods of members: ``pods("a")``, with further labels as keyword arguments; ``pods.again()`` after a wipe."""
    made = {}

    def make(member, **labels):
        if member not in made:
            made[member] = LABELS | {"cluster-name": scope} | labels
            kubernetes.create_pod(member, made[member], ip="10.1.0.2")

    def again():
        for member, labels in made.items():
            kubernetes.create_pod(member, labels, ip="10.1.0.2")

    make.again = again
    yield make
    for member in made:
        try:
            kubernetes.ask("DELETE", f"{PODS}/{member}?gracePeriodSeconds=0")
        except Refused as error:
            assert error.status == 404


@pytest.fixture
def connect(kubernetes, scope, pods, monkeypatch):
    """Opens stores on one fresh scope: ``connect("a")``, each with a pod; other keys of the section as keyword arguments.

    ``config`` is another kubeconfig file than the administrator's.
    """
    from pgcore_dcs_kubernetes.store import KubernetesStore

    opened = []

    def open_store(member, *, timing=TIMING, observer=False, path=f"/service/{scope}", pod=True, config=None, **section):
        if pod and not observer:
            pods(member)
        monkeypatch.setenv("KUBECONFIG", str(config or kubernetes.kubeconfig()))
        store = KubernetesStore(StoreRequest(KubernetesSection(labels=LABELS, **section), path, member, timing, observer))
        opened.append(store)
        return store

    yield open_store
    for store in opened:
        store.close()


@pytest.fixture
def gate(kubernetes):
    """A plain way to the API server that can answer in its place."""
    with closing(gate_module.Gate(kubernetes)) as way:
        way.answer = gate_module.answer
        yield way


@pytest.fixture
def by(tmp_path):
    """Makes a kubeconfig file for a plain way: ``by("127.0.0.1:1234")``."""
    def make(host, token=ADMINISTRATOR):
        document = {
            "apiVersion": "v1", "kind": "Config", "current-context": CONTEXT,
            "clusters": [{"name": CONTEXT, "cluster": {"server": f"http://{host}"}}],
            "users": [{"name": CONTEXT, "user": {"token": token}}],
            "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}]}
        path = tmp_path / f"kubeconfig-{host.replace(':', '-')}"
        path.write_text(json.dumps(document))
        return path
    return make


@pytest.fixture
def lines():
    """Closes lines after the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def wipe_all(kubernetes, pods):
    """Starts the API server again without its data, and makes the pods anew, as their controllers would."""
    def again():
        kubernetes.kill()
        shutil.rmtree(kubernetes.etcd.directory / "data")
        kubernetes.start()
        pods.again()
    return again
