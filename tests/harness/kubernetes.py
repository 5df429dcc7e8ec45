"""Kubernetes under a test cluster: agents with the rights of the shipped manifest, and a Pod object for each of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from harness.processes import free_port
from harness.store_server import StoreServer
from pgcore.testing import kube_apiserver
from pgcore.testing.kube_apiserver import CONTEXT, KubeApiServer

MANIFESTS = Path(__file__).parents[2] / "deploy" / "kubernetes"
ACCESS = MANIFESTS / "access.yml"
ROLES = {"use_endpoints": ACCESS, "use_configmaps": MANIFESTS / "role-configmaps.yml",
         "use_leases": MANIFESTS / "role-leases.yml"}
"""The manifest with the role of each mode; that of ConfigMaps and of Leases replaces the one of ``ACCESS``."""
ACCOUNT = "pgcore"
AUDIT = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["ResponseStarted", "ResponseComplete", "Panic"],
         "rules": [{"level": "Metadata", "users": [f"system:serviceaccount:default:{ACCOUNT}"]}, {"level": "None"}]}
"""A line for each request of an agent when it arrives, and for nothing else."""
LABELS = {"application": "pgcore"}
DAY_S = 86400


class KubernetesServer(StoreServer):
    """One API server with its etcd; the cluster is kept in Endpoints."""

    mode: ClassVar[str] = "use_endpoints"

    def __init__(self, directory: Path, host: str = "127.0.0.1", prefix: tuple[str, ...] = ()) -> None:
        super().__init__(directory, host, prefix, name="kube-apiserver")
        self._audit = directory / "audit.log"
        policy = directory / "audit.json"
        policy.write_text(json.dumps(AUDIT))
        self.api = KubeApiServer(directory, host, free_port(host), options=[
            f"--audit-policy-file={policy}", f"--audit-log-path={self._audit}", "--audit-log-mode=blocking"])
        self._pods: list[tuple[str, str, Path]] = []
        self._token = ""

    @classmethod
    def missing(cls) -> str:
        """What this machine lacks."""
        return kube_apiserver.missing()

    def expect(self, scope: str, member: str, home: Path) -> None:
        """Give the member a Pod and a kubeconfig. The Pod's address leads nowhere: Kubernetes takes none of loopback."""
        self._pods.append((scope, member, home))
        if self._token:
            self._admit()

    def _admit(self) -> None:
        if not self._token:
            for file in (ACCESS, ROLES[self.mode]):
                for document in yaml.safe_load_all(file.read_text()):
                    self.api.apply(document)
            self._token = self.api.account_token(ACCOUNT, seconds=DAY_S)
        for number, (scope, member, home) in enumerate(self._pods, start=1):
            self.api.create_pod(member, LABELS | {"cluster-name": scope}, ip=f"10.0.0.{number}")
            (home / ".kube").mkdir(exist_ok=True)
            self.api.kubeconfig(self._token, file=home / ".kube" / "config")

    def requests(self) -> dict[str, float]:
        """Requests of the agents by what they do to which resource, from the audit log."""
        counted: Counter[str] = Counter()
        for line in self._audit.read_text().splitlines():
            event = json.loads(line)
            counted[f"{event['verb']} {event['objectRef']['resource']}"] += 1
        return dict(counted)

    def section(self) -> dict[str, Any]:
        """By the kubeconfig in the agent's home."""
        mode = {} if self.mode == "use_configmaps" else {self.mode: True}
        return {"kubernetes": {"labels": LABELS, "context": CONTEXT, "ports": [{"name": "postgresql", "port": 5432}], **mode}}

    def command(self) -> Sequence[str]:
        """The argument list to run."""
        return [*self._prefix, *self.api.command()]

    def launch(self) -> None:
        """Start etcd and the API server."""
        self.api.prepare()
        super().launch()

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until it serves and knows all members."""
        super().wait_ready(timeout_s)
        self._admit()

    def ready(self) -> bool:
        """Whether it serves."""
        return self.api.ready()

    def stop(self) -> None:
        """End the API server, then its etcd."""
        super().stop()
        self.api.etcd.stop()

    def kill(self) -> None:
        """End both as a crash would."""
        super().kill()
        self.api.etcd.kill()


class ConfigMapsServer(KubernetesServer):
    """The cluster is kept in ConfigMaps."""

    mode = "use_configmaps"


class LeasesServer(KubernetesServer):
    """The cluster is kept in Leases."""

    mode = "use_leases"
