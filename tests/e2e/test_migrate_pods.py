"""The printed plan for a cluster of pods, run by a shell there and back: a real API server, kubectl, Patroni, pgcore, PostgreSQL.

No pod is started. There is neither a kubelet nor a controller here: ``Stage`` plays them. It ends the agent of a pod that is
deleted, makes the pod anew from the template of the StatefulSet, starts the agent that the image stands for, and sets Ready.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import Cluster, Node
from harness.agents import AgentKind, patroni_agent, pgcore_agent
from harness.cluster import lost_commits
from harness.kubernetes import LABELS, KubernetesServer
from pgcore.testing.kube_apiserver import STRATEGIC_MERGE

BIN = Path(sys.executable).parent
PAGE = (Path(__file__).parents[2] / "docs" / "migrating-from-patroni.md").read_text()
PLAN, AFTER = re.findall(r"^(pgcore migrate plan --image (\S+)) patroni\.yml$", PAGE, re.MULTILINE)[0]
BEFORE = "registry.example/patroni:4.1"
SETS, PODS = "/apis/apps/v1/namespaces/default/statefulsets", "/api/v1/namespaces/default/pods"
QUICK = {"postgresql": {"parameters": {"wal_retrieve_retry_interval": "500ms"}}}
LOOK_S = 0.1
WHOLE_S = 60.0
pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl (scripts/bootstrap.sh test unpacks one)")


class Stage:
    """The controller of the StatefulSet ``demo`` and the kubelet of its pods, with an agent on this machine for each."""

    def __init__(self, cluster: Cluster, agents: dict[str, AgentKind]) -> None:
        assert isinstance(cluster.server, KubernetesServer)
        self.api, self.cluster, self._agents = cluster.server.api, cluster, agents
        self.made: list[tuple[str, str]] = []
        """Pod and image, in the order in which pods were made anew."""
        self.failure: BaseException | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        labels = LABELS | {"cluster-name": cluster.scope}
        self.api.ask("POST", SETS, {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "demo"}, "spec": {
            "serviceName": "demo-nodes", "replicas": len(cluster.nodes), "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [
                {"name": "database", "image": BEFORE}, {"name": "exporter", "image": "registry.example/exporter:1"}]}}}})

    def __enter__(self) -> Stage:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def set(self) -> dict[str, Any]:
        """The StatefulSet."""
        return dict(self.api.ask("GET", f"{SETS}/demo"))

    def _run(self) -> None:
        try:
            while not self._over.wait(LOOK_S):
                for number, node in enumerate(self.cluster.nodes, start=1):
                    self._look_after(number, node)
        except BaseException as error:
            self.failure = error
            raise

    def _look_after(self, number: int, node: Node) -> None:
        pod = self.api.ask("GET", f"{PODS}/{node.name}")
        if pod["metadata"].get("deletionTimestamp"):
            assert node.stop() == 0
            self.api.ask("DELETE", f"{PODS}/{node.name}?gracePeriodSeconds=0")
            self._make(number, node)
        elif node.status_of("/readiness") == 200:
            self._status(node.name, {"conditions": [{"type": "Ready", "status": "True"}]})

    def _make(self, number: int, node: Node) -> None:
        template = self.set["spec"]["template"]
        spec = template["spec"] | {"nodeName": "node-of-no-kubelet"}
        self.api.ask("POST", PODS, {"apiVersion": "v1", "kind": "Pod", "spec": spec,
                                    "metadata": template["metadata"] | {"name": node.name}})
        address = f"10.0.0.{number}"
        self._status(node.name, {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]})
        image = spec["containers"][0]["image"]
        self.made.append((node.name, image))
        node.agent = self._agents[image]
        node.start()

    def _status(self, name: str, status: dict[str, Any]) -> None:
        self.api.ask("PATCH", f"{PODS}/{name}/status", {"status": status}, content_type=STRATEGIC_MERGE)


@pytest.fixture
def stage(make_cluster: Callable[..., Cluster], predecessor: Path) -> Iterator[Stage]:
    """A leader and a standby of Patroni in the pods demo-0 and demo-1."""
    if missing := KubernetesServer.missing():
        pytest.skip(f"needs {missing}")
    patroni = patroni_agent(predecessor, (20, 1, 3))
    cluster = make_cluster(names=("demo-0", "demo-1"), store="kubernetes", agent=patroni, dynamic=QUICK).bootstrap()
    with Stage(cluster, {BEFORE: patroni, AFTER: pgcore_agent()}) as running:
        yield running


def sh(script: str, home: Path, code: int = 0) -> str:
    """What a shell prints that runs these lines and stops at the first that fails; with a code, what it complains of."""
    environ = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(home)}
    done = subprocess.run(["sh", "-eu"], input=script, capture_output=True, text=True, timeout=WHOLE_S, env=environ)
    assert done.returncode == code, f"{script}\n{done.stdout}{done.stderr}"
    return done.stderr if code else done.stdout


def test_a_shell_runs_the_printed_plan_there_and_back(stage: Stage, tmp_path: Path) -> None:
    """One switchover each way, no commit is lost, and the StatefulSet is in the end what it was."""
    cluster = stage.cluster
    (tmp_path / ".kube").mkdir()
    stage.api.kubeconfig(file=tmp_path / ".kube" / "config")
    first, [second] = cluster.primary(), cluster.others(cluster.primary())
    before, timeline = stage.set, first.timeline() or 0
    writer = cluster.writer().start()
    plan = sh(f"{PLAN} {first.node_file}", tmp_path)
    _, head, way_back = sh(plan, tmp_path).rpartition(f"# {cluster.scope}: back from")
    assert stage.failure is None and stage.made == [(second.name, AFTER), (first.name, AFTER)]
    assert all("pgcore" in node.status() for node in cluster.nodes)
    assert cluster.primary() is second and second.timeline() == timeline + 1
    assert stage.set["spec"]["updateStrategy"] == before["spec"]["updateStrategy"]
    sh(head + way_back, tmp_path)
    assert stage.failure is None and stage.made[2:] == [(first.name, BEFORE), (second.name, BEFORE)]
    assert not any("pgcore" in node.status() for node in cluster.nodes)
    assert cluster.primary() is first and first.timeline() == timeline + 2
    writer.stop()
    assert lost_commits(cluster, writer) == []
    [line] = [line for line in way_back.splitlines() if " set image " in line]
    assert sh(line, tmp_path, code=1) == "no image is noted: ask for the plan with --image-before\n"
    after = stage.set
    assert (after["spec"], after["metadata"].get("annotations")) == (before["spec"], before["metadata"].get("annotations"))
