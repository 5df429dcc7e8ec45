"""A real Kubernetes API server for tests, with an etcd of its own, on loopback. Nobody acts on its objects."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pgcore.testing.certificates import Authority
from pgcore.testing.processes import LOOPBACK, EtcdServer, ServerProcess, free_port

ADMINISTRATOR = "token-of-the-administrator"
"""A token with every right."""
STRANGER = "token-of-a-stranger"
"""A token the server knows, without any right: 403."""
WRONG = "token-of-nobody"
"""A token the server does not know: 401."""
CONTEXT = "kind-kind"
"""The context of every kubeconfig made here; ``kubernetes.context`` has the same default."""
STRATEGIC_MERGE = "application/strategic-merge-patch+json"


def kube_apiserver_program() -> str | None:
    """The program to test with, or None.

    What ``PGCORE_TEST_KUBE_APISERVER`` names, else the one on PATH, else the one that ``scripts/build_kube_apiserver.sh`` built.
    """
    if named := os.environ.get("PGCORE_TEST_KUBE_APISERVER"):
        return named
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return shutil.which("kube-apiserver") or shutil.which("kube-apiserver", path=f"{cache}/pgcore/kubernetes")


def missing() -> str:
    """What this machine lacks to run it; empty if nothing."""
    absent = [] if kube_apiserver_program() else ["kube-apiserver (scripts/build_kube_apiserver.sh, PGCORE_TEST_KUBE_APISERVER)"]
    return ", ".join(absent + [name for name in ("etcd", "openssl") if shutil.which(name) is None])


class Refused(ValueError):
    """The answer to a request was not a success; ``status`` is its code."""

    def __init__(self, request: str, status: int, content: str) -> None:
        super().__init__(f"{request}: {status} {content}")
        self.status = status


class KubeApiServer(ServerProcess):
    """One API server from 1.20 on, with RBAC, and the etcd in which it keeps everything.

    Data and certificates survive ``kill`` and ``stop``; etcd (``self.etcd``) is stopped after the server and started before it.
    ``freeze`` is for the API server alone. ``options`` are further command line arguments, ``addresses`` what the certificate
    names besides ``host``. A server ``beside`` another has its etcd, certificates and tokens, and leaves them to it.
    """

    def __init__(self, tmp_dir: Path, host: str = LOOPBACK, port: int | None = None, *, options: Sequence[str] = (),
                 addresses: Sequence[str] = (), beside: KubeApiServer | None = None) -> None:
        super().__init__("kube-apiserver", Path(tmp_dir) / "kube-apiserver")
        self.address, self.port, self.options = host, port or free_port(), tuple(options)
        self._addresses, self._first = (host, *addresses), beside
        self.etcd: EtcdServer = beside.etcd if beside else EtcdServer(self.directory)

    @property
    def host(self) -> str:
        """``127.0.0.1:port``."""
        return f"{self.address}:{self.port}"

    @property
    def url(self) -> str:
        """``https://127.0.0.1:port``."""
        return f"https://{self.host}"

    @property
    def ca(self) -> Path:
        """The certificate of the authority that signed the server's."""
        return self._papers / "ca.crt"

    @property
    def _papers(self) -> Path:
        """The folder of certificates, keys and tokens."""
        return (self._first or self).directory

    def kubeconfig(self, token: str = ADMINISTRATOR, *, namespace: str = "default", file: Path | None = None, url: str = "",
                   user: dict[str, Any] | None = None) -> Path:
        """A file that leads a client here with this token; by default one in the server's folder.

        ``url`` is another way here, ``user`` another login than a token.
        """
        self._certify()
        path = file or self.directory / f"kubeconfig-{token[:40]}"
        document = {
            "apiVersion": "v1", "kind": "Config", "current-context": CONTEXT,
            "clusters": [{"name": CONTEXT, "cluster": {"server": url or self.url, "certificate-authority": str(self.ca)}}],
            "users": [{"name": CONTEXT, "user": user or {"token": token}}],
            "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT, "namespace": namespace}}]}
        path.write_text(json.dumps(document, indent=1))
        return path

    def prepare(self) -> None:
        """Make what the API server needs: certificates, the file of tokens, and its etcd running."""
        self._certify()
        if self.etcd.process is None:
            self.etcd.start()

    def launch(self) -> None:
        """Start etcd, unless it runs, and then the API server, without waiting for that."""
        self.prepare()
        super().launch()

    def stop(self) -> None:
        """End the API server in an orderly way, then its own etcd."""
        super().stop()
        if self._first is None:
            self.etcd.stop()

    def kill(self) -> None:
        """End it, and its own etcd, as a crash would."""
        self.kill_alone()
        if self._first is None:
            self.etcd.kill()

    def kill_alone(self) -> None:
        """End the API server as a crash would; its etcd runs on."""
        super().kill()

    def command(self) -> Sequence[str]:
        """The argument list to run: options that every version from 1.20 to the newest knows."""
        folder = self._papers
        return [
            kube_apiserver_program() or "kube-apiserver", f"--etcd-servers={self.etcd.url}",
            f"--bind-address={self.address}", f"--advertise-address={self.address}", f"--secure-port={self.port}",
            f"--tls-cert-file={folder / 'server.crt'}", f"--tls-private-key-file={folder / 'server.key'}",
            f"--token-auth-file={folder / 'tokens.csv'}", "--authorization-mode=RBAC",
            # A loopback address may not stand in the Endpoints `kubernetes`, so the server need not try to write it there.
            "--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://pgcore.test", f"--service-account-key-file={folder / 'accounts.key'}",
            f"--service-account-signing-key-file={folder / 'accounts.key'}",
            # It would wait for the controller that makes accounts, which is not there.
            "--disable-admission-plugins=ServiceAccount", *self.options]

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """As in ``ServerProcess``, with the patience it needs; ends one that does not come up."""
        try:
            super().wait_ready(timeout_s)
        except AssertionError:
            self.kill()
            raise

    def ready(self, timeout_s: float = 10.0) -> bool:
        """Whether ``/readyz`` says so and it has made its own Service: from 1.33 on no Service can be made before it can."""
        try:
            self.ask("GET", "/readyz", timeout_s=timeout_s)
            return bool(self.ask("GET", "/api/v1/namespaces/default/services/kubernetes", timeout_s=timeout_s))
        except (OSError, http.client.HTTPException, ValueError):
            return False

    def ask(self, method: str, path: str, body: object = None, *, token: str = ADMINISTRATOR,
            content_type: str = "application/json", timeout_s: float = 10.0) -> Any:
        """The answer's JSON (or text). Raises Refused unless it is a success, OSError or HTTPException without one."""
        context = ssl.create_default_context(cafile=str(self.ca))
        connection = http.client.HTTPSConnection(self.address, self.port, timeout=timeout_s, context=context)
        try:
            connection.request(method, path, None if body is None else json.dumps(body),
                               {"Authorization": f"Bearer {token}", "Content-Type": content_type})
            answer = connection.getresponse()
            content = answer.read().decode(errors="replace")
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise Refused(f"{method} {path}", answer.status, content)
        return json.loads(content) if content.startswith(("{", "[")) else content

    def apply(self, document: dict[str, Any], namespace: str = "default") -> None:
        """Create the object of a manifest, in its own namespace or this one, or replace it. Raises Refused."""
        version, kind = document["apiVersion"], document["kind"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        place = document["metadata"].get("namespace", namespace)
        plural = kind.lower() + ("" if kind.endswith("s") else "s")
        path, strictly = f"{root}/namespaces/{place}/{plural}", "?fieldValidation=Strict"  # servers before 1.25 ignore the query
        try:
            self.ask("POST", path + strictly, document)
        except Refused as error:
            if error.status != http.client.CONFLICT:
                raise
            self.ask("PUT", f"{path}/{document['metadata']['name']}{strictly}", document)

    def create_pod(self, name: str, labels: dict[str, str], *, namespace: str = "default", ip: str = "") -> None:
        """Make a Pod object, unless there is one; with ``ip`` as its address, as a kubelet would note it."""
        path = f"/api/v1/namespaces/{namespace}/pods"
        container = {"name": "pgcore", "image": "pgcore"}
        document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
                    "spec": {"containers": [container], "nodeName": "node-of-no-kubelet"}}
        try:
            self.ask("POST", path, document)
        except Refused as error:
            if error.status != http.client.CONFLICT:
                raise
        if ip:
            status = {"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}}
            self.ask("PATCH", f"{path}/{name}/status", status, content_type=STRATEGIC_MERGE)

    def account_token(self, name: str, namespace: str = "default", seconds: int = 3600) -> str:
        """A token of a service account that exists, as a pod of it would be given; ``seconds`` from 600 on."""
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": seconds}}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        return str(self.ask("POST", path, request)["status"]["token"])

    def _certify(self) -> None:
        if self._first is not None:
            self._first._certify()
        if self.ca.exists():
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        authority = Authority(self.directory, self._addresses)
        authority.sign("server")
        authority.sign("accounts")
        tokens = [f'{ADMINISTRATOR},administrator,1,"system:masters"', f"{STRANGER},stranger,2"]
        (self.directory / "tokens.csv").write_text("\n".join(tokens) + "\n")
