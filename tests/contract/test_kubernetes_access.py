"""How a member gets to Kubernetes: by itself to each of two API servers, in a pod by its account, elsewhere by a kubeconfig file.

Both servers keep their objects in one etcd and register their addresses themselves, as they do in a cluster; what stands for the
Service in front of them is a line to the first. Members have the rights of the shipped manifests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.kubernetes import ACCESS, ACCOUNT, LABELS, MANIFESTS
from harness.network import Network, namespaces_usable
from pgcore.plugin import ANYTHING, Deadline, Key, Renewal, Store, StoreRejectedError, StoreRequest, StoreUnavailableError, Timing
from pgcore.testing import kube_apiserver
from pgcore.testing.kube_apiserver import KubeApiServer
from pgcore.testing.line import HttpLine
from pgcore.testing.processes import LOOPBACK

pytestmark = pytest.mark.server
TIMING = Timing(ttl=12, loop_wait=1, retry_timeout=6)
BEHIND = ("--endpoint-reconciler-type=lease",)
PERSON = "person"


class Site:
    """Two API servers on one etcd, the address of their Service, and an account with the rights of a member."""

    def __init__(self, folder: Path, first: str, second: str) -> None:
        self.one = KubeApiServer(folder / "one", first, options=BEHIND, addresses=(second, LOOPBACK))
        # What they register is all addresses and one port.
        self.two = KubeApiServer(folder / "two", second, self.one.port, options=BEHIND, beside=self.one)
        self.folder, self.token = folder, ""

    def start(self) -> None:
        """Start both and give the account its rights."""
        for server in (self.one, self.two):
            server.launch()
        for server in (self.one, self.two):
            server.wait_ready()
        for file in (ACCESS, MANIFESTS / "bypass.yml"):
            for document in yaml.safe_load_all(file.read_text()):
                self.one.apply(document)
        self.token = self.one.account_token(ACCOUNT)
        for member in "ab":
            self.one.create_pod(member, LABELS | {"cluster-name": "demo"}, ip="10.1.0.2")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running one. Kubernetes takes no loopback address for an API server, so they are on a bridge of their own."""
    if missing := kube_apiserver.missing():
        pytest.skip(f"needs {missing}")
    if not namespaces_usable():
        pytest.skip("needs root, to make a bridge")
    with Network() as network, ExitStack() as stack:
        made = Site(tmp_path_factory.mktemp("site"), network.own(1), network.own(2))
        stack.callback(made.one.kill)
        stack.callback(made.two.kill)
        made.start()
        yield made


@pytest.fixture
def connect(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Store]]:
    """Opens stores by a kubeconfig file: ``connect("a", url)``."""
    from pgcore_dcs_kubernetes.section import KubernetesSection
    from pgcore_dcs_kubernetes.store import KubernetesStore

    with ExitStack() as stack:
        def open_store(member: str, url: str, *, user: dict[str, Any] | None = None, **section: Any) -> Store:
            file = site.one.kubeconfig(site.token, url=url, user=user, file=site.folder / f"kubeconfig-{member}")
            monkeypatch.setenv("KUBECONFIG", str(file))
            found = KubernetesSection(labels=LABELS, use_endpoints=True, pod_ip="10.1.0.2", **section)
            return stack.enter_context(closing(KubernetesStore(StoreRequest(found, "/service/demo", member, TIMING, False))))
        yield open_store


def soon(seconds: float = 6.0) -> Deadline:
    """A deadline of a heartbeat."""
    return Deadline.after(seconds)


def beat(store: Store) -> None:
    """What a leader's heartbeat asks of its store, within ``retry_timeout`` as the agent gives it to each verb."""
    assert store.read(fresh=True, deadline=soon()).records["leader"].value == "a"
    assert store.renew({}, deadline=soon()) is Renewal.HELD


POD = """
import sys
from pgcore.plugin import Deadline, PgcoreError, StoreRequest, Timing
from pgcore_dcs_kubernetes.section import KubernetesSection
from pgcore_dcs_kubernetes.store import KubernetesStore

section = KubernetesSection(labels={"application": "pgcore"}, use_endpoints=True, pod_ip="10.1.0.2")
store = KubernetesStore(StoreRequest(section, "/service/pod", "a", Timing(ttl=12, loop_wait=1, retry_timeout=6), False))
for line in sys.stdin:
    try:
        if line == "acquire\\n":
            print(store.acquire(force=False, deadline=Deadline.after(6)), flush=True)
        else:
            print(store.renew({}, deadline=Deadline.after(3)).value, flush=True)
    except PgcoreError as error:
        print(type(error).__name__, error, flush=True)
"""


def in_pod(folder: Path, server: str) -> subprocess.Popen[str]:
    """The store of a member in a process whose file system has what a container finds there, in a mount namespace of its own."""
    host, _, port = server.partition(":")
    place = "/run/secrets/kubernetes.io"
    script = f'mount -t tmpfs none /run && mkdir -p {place} && ln -s "$1" {place}/serviceaccount && exec "$2" -c "$3"'
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder),
                   "KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    return subprocess.Popen(["unshare", "--mount", "sh", "-c", script, "sh", str(folder), sys.executable, POD], env=environment,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def rotate(folder: Path, token: str, ca: str) -> None:
    """Put both files there as a kubelet does: in a folder to which a link changes at one blow."""
    fresh = folder / f"..{time.monotonic_ns()}"
    fresh.mkdir()
    (fresh / "token").write_text(token)
    (fresh / "ca.crt").write_text(ca)
    (folder / "..new").symlink_to(fresh.name)
    os.replace(folder / "..new", folder / "..data")
    for name in ("token", "ca.crt"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


def test_a_pod_logs_in_by_its_account_and_goes_on_when_its_token_is_replaced(site: Site, tmp_path: Path) -> None:
    """The second token is that of another account, so it shows which of them is used: the first loses its rights."""
    server = site.one
    binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
               "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT}}
    for name in ("before", "after"):
        server.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
        server.apply(binding | {"metadata": {"name": name}, "subjects": [{"kind": "ServiceAccount", "name": name}]})
    rotate(tmp_path, server.account_token("before"), server.ca.read_text())
    pod = in_pod(tmp_path, server.host)
    orders, answers = pod.stdin, pod.stdout
    assert orders is not None and answers is not None

    def told(verb: str) -> str:
        orders.write(verb + "\n")
        orders.flush()
        return answers.readline().strip()

    try:
        assert told("acquire") == "True"
        rotate(tmp_path, server.account_token("after"), server.ca.read_text())
        assert told("renew") == "held"
        server.apply(binding | {"metadata": {"name": "before"}, "subjects": []})
        assert told("renew") == "held"
        rotate(tmp_path, server.account_token("before"), server.ca.read_text())
        deadline = time.monotonic() + 20
        while (answer := told("renew")) == "held" and time.monotonic() < deadline:
            time.sleep(0.1)
        assert "lacks the right `patch` on `endpoints`" in answer and "default:before" in answer
        rotate(tmp_path, "nobody's", server.ca.read_text())
        assert "the login by the service account of this pod was refused" in told("renew")
        rotate(tmp_path, server.account_token("after"), server.ca.read_text())
        assert told("renew") == "held"
    finally:
        orders.close()
        assert pod.wait(20) == 0
        answers.close()


def credential(file: Path, token: str, lasts: timedelta) -> None:
    """What a login program prints."""
    expires = (datetime.now(UTC) + lasts).strftime("%Y-%m-%dT%H:%M:%SZ")
    document = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
                "status": {"token": token, "expirationTimestamp": expires}}
    file.with_suffix(".new").write_text(json.dumps(document))
    os.replace(file.with_suffix(".new"), file)


def test_the_login_program_of_a_kubeconfig_is_asked_again_and_cannot_hold_up_a_verb(
        site: Site, connect: Callable[..., Store], tmp_path: Path) -> None:
    told, waits = tmp_path / "told", tmp_path / "waits"
    credential(told, site.token, timedelta(minutes=1))
    program = f"while [ -e {waits} ]; do sleep 0.1; done; cat {told}"
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", program],
                     "interactiveMode": "Never"}}
    a = connect("a", site.one.url, user=user)
    a.read(fresh=True, deadline=soon())
    credential(told, "nobody's", timedelta(minutes=1))  # less than five minutes: it is asked again at once
    with pytest.raises(StoreRejectedError, match="was refused"):
        a.read(fresh=True, deadline=soon())
    waits.touch()
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="login"):
        a.read(fresh=True, deadline=soon(1))
    assert time.monotonic() - began < 3
    credential(told, site.token, timedelta(hours=1))
    waits.unlink()
    a.read(fresh=True, deadline=soon())
    credential(told, "nobody's", timedelta(hours=1))
    a.read(fresh=True, deadline=soon())


def test_one_api_server_of_two_is_enough_whatever_became_of_the_other_and_of_the_service(
        site: Site, connect: Callable[..., Store]) -> None:
    with closing(HttpLine(site.one.host)) as service:
        a, by_service = (connect(name, f"https://{service.host}", bypass_api_service=name == "a") for name in "ab")
        assert a.acquire(force=False, deadline=soon())
        beat(a)
        assert by_service.read(fresh=True, deadline=soon()).records["leader"].value == "a"
        service.close()
        with pytest.raises(StoreUnavailableError):
            by_service.read(fresh=True, deadline=soon(1))
        beat(a)
        with site.one.frozen():
            seen = a.read(fresh=True, deadline=soon()).revision
            beat(a)
            connect("b", site.two.url).put(Key.CONFIG, "changed", expect=ANYTHING, deadline=soon())
            assert a.watch(seen, timeout=20) is True, "the watch goes on at the other server"
            assert a.read(fresh=False, deadline=soon()).records["config"].value == "changed"
        site.two.kill_alone()
        beat(a)
        site.one.kill_alone()
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            a.renew({}, deadline=soon(2))
        assert time.monotonic() - began < 4
