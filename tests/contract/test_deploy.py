"""What deploy/ ships: a real API server takes the manifests, their role suffices and allows no more, the image's entrypoint makes
configurations that hold. No image is built here, as that needs Docker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgcore.testing import kube_apiserver
from pgcore.testing.kube_apiserver import KubeApiServer, Refused
from pgcore.testing.processes import EtcdServer

pytestmark = pytest.mark.server
TOP = Path(__file__).parents[2]
DOCKER, MANIFESTS = TOP / "deploy" / "docker", TOP / "deploy" / "kubernetes"
PODS, ENDPOINTS = "/api/v1/namespaces/default/pods", "/api/v1/namespaces/default/endpoints"
SELECTED = "?labelSelector=cluster-name%3Ddemo"


def documents() -> list[dict[str, Any]]:
    """Every object of every manifest of a cluster in Endpoints; the account stands before what names it."""
    paths = sorted(set(MANIFESTS.glob("*.yml")) - set(MANIFESTS.glob("role-*.yml")))
    return [document for path in paths for document in yaml.safe_load_all(path.read_text())]


def of_kind(kind: str) -> dict[str, Any]:
    """The first object of a kind."""
    return next(document for document in documents() if document["kind"] == kind)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApiServer]:
    """An API server that has taken all manifests, and the pod demo-0 as the StatefulSet would make it."""
    if missing := kube_apiserver.missing():
        pytest.skip(f"needs {missing}")
    with KubeApiServer(tmp_path_factory.mktemp("deploy")) as running:
        for document in documents():
            running.apply(document)
        template = of_kind("StatefulSet")["spec"]["template"]
        template["spec"]["volumes"].append({"name": "data", "emptyDir": {}})
        running.apply({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"] | {"name": "demo-0"},
                       "spec": template["spec"]})
        yield running


def test_the_manifests_fit_together(server: KubeApiServer) -> None:
    """Selectors find the pod, probes and Services name its ports, what is mounted and read exists."""
    [pod] = server.ask("GET", PODS + SELECTED)["items"]
    [container] = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {container[probe]["httpGet"]["path"]: container[probe]["httpGet"]["port"] for probe in
            ("livenessProbe", "readinessProbe")} == {"/liveness": "rest", "/readiness": "rest"}
    found = server.ask("GET", "/api/v1/namespaces/default/services")["items"]
    services = {each["metadata"]["name"]: each["spec"] for each in found}
    assert of_kind("ConfigMap")["data"]["SCOPE"] in services
    assert "selector" not in services["demo"], "Kubernetes would write the Endpoints that the leader writes"
    for name in ("demo-repl", "demo-nodes"):
        assert services[name]["selector"].items() <= (pod["metadata"]["labels"] | {"role": "replica"}).items()
    assert {port["port"] for name in ("demo", "demo-repl") for port in services[name]["ports"]} == {ports["postgresql"]}
    assert of_kind("StatefulSet")["spec"]["serviceName"] in services
    assert pod["spec"]["serviceAccountName"] == of_kind("ServiceAccount")["metadata"]["name"]


@pytest.mark.parametrize(("method", "path"), [
    ("GET", PODS + SELECTED), ("GET", PODS + SELECTED + "&watch=1&timeoutSeconds=1"), ("GET", f"{PODS}/demo-0"),
    ("PATCH", f"{PODS}/demo-0"), ("POST", ENDPOINTS), ("GET", f"{ENDPOINTS}/demo"), ("GET", ENDPOINTS + SELECTED),
    ("GET", ENDPOINTS + SELECTED + "&watch=1&timeoutSeconds=1"), ("PATCH", f"{ENDPOINTS}/demo"),
    ("POST", "/api/v1/namespaces/default/services"), ("DELETE", ENDPOINTS + SELECTED)])
def test_the_role_allows_what_an_agent_does(server: KubeApiServer, method: str, path: str) -> None:
    name = "demo-config" if path.endswith("services") else "demo"
    body = {"metadata": {"name": name, "labels": {"cluster-name": "demo"}}, "spec": {"clusterIP": "None"}}
    if method == "PATCH":
        body = {"metadata": {"annotations": {"status": "{}"}}}  # type: ignore[dict-item]
    if path == ENDPOINTS:
        del body["spec"]
    server.ask(method, path, None if method in ("GET", "DELETE") else body, token=server.account_token("pgcore"),
               content_type=kube_apiserver.STRATEGIC_MERGE if method == "PATCH" else "application/json")


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/api/v1/namespaces/default/secrets"), ("GET", "/api/v1/namespaces/default/configmaps/demo-settings"),
    ("POST", PODS), ("DELETE", f"{PODS}/demo-0"), ("POST", f"{PODS}/demo-0/exec?command=id"),
    ("GET", "/api/v1/namespaces/default/services"), ("DELETE", "/api/v1/namespaces/default/services/demo"),
    ("DELETE", f"{ENDPOINTS}/demo"), ("GET", "/api/v1/namespaces/kube-system/endpoints"), ("GET", "/api/v1/nodes"),
    ("GET", "/apis/apps/v1/namespaces/default/statefulsets/demo"),
    ("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings")])
def test_the_role_allows_no_more(server: KubeApiServer, method: str, path: str) -> None:
    with pytest.raises(Refused) as refused:
        server.ask(method, path, {} if method == "POST" else None, token=server.account_token("pgcore"))
    assert refused.value.status == 403, refused.value


@pytest.mark.parametrize(("mode", "objects", "others"), [
    ("configmaps", "/api/v1/namespaces/configmaps/configmaps", ("/apis/coordination.k8s.io/v1/namespaces/configmaps/leases",)),
    ("leases", "/apis/coordination.k8s.io/v1/namespaces/leases/leases",
     ("/api/v1/namespaces/leases/configmaps", "/api/v1/namespaces/leases/pods"))])
def test_the_roles_of_the_other_modes_replace_the_first_and_allow_no_more(
        server: KubeApiServer, mode: str, objects: str, others: tuple[str, ...]) -> None:
    """That they suffice is shown by whole clusters (``tests/e2e/test_kubernetes_modes.py``)."""
    server.ask("POST", "/api/v1/namespaces", {"metadata": {"name": mode}})
    for file in ("access.yml", f"role-{mode}.yml"):
        for document in yaml.safe_load_all((MANIFESTS / file).read_text()):
            server.apply(document, mode)
    token = server.account_token("pgcore", mode)
    assert server.ask("GET", objects, token=token)["items"] == [] and server.ask("DELETE", objects, token=token)
    core = f"/api/v1/namespaces/{mode}"
    for path in (*others, f"{core}/secrets", f"{core}/endpoints", objects.replace(f"/{mode}/", "/default/", 1)):
        with pytest.raises(Refused) as refused:
            server.ask("GET", path, token=token)
        assert refused.value.status == 403, path
    for path in (f"{core}/services", f"{core}/pods"):
        with pytest.raises(Refused) as refused:
            server.ask("POST", path, {}, token=token)
        assert refused.value.status == 403, path


# -- the entrypoint ----------------------------------------------------------------------------------------------------


def validate(folder: Path, variables: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run the image's entrypoint as the image would, but to check the configuration."""
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": programs, "NODE_BASE": str(DOCKER / "node.yml"), "NODE_DIRECTORY": str(folder / "run"),
                   "PGDATA": str(folder / "data"), "POD_IP": "10.0.0.1", **variables}
    return subprocess.run(["sh", DOCKER / "entrypoint.sh", "validate", "-i", *options], env=environment, capture_output=True,
                          text=True, timeout=60)


def test_the_environment_of_the_manifests_makes_a_node(server: KubeApiServer, tmp_path: Path) -> None:
    settings, secret = of_kind("ConfigMap")["data"], of_kind("Secret")["stringData"]
    variables = {**settings, **dict.fromkeys(secret, "secret"), "POD_NAME": "demo-0", "POD_NAMESPACE": "default",
                 "HOME": str(tmp_path), "KUBERNETES_SERVICE_HOST": "10.96.0.1",
                 "KUBECONFIG": str(server.kubeconfig(server.account_token("pgcore"), file=tmp_path / "kubeconfig"))}
    done = validate(tmp_path, variables, "--print", "--secrets")
    assert done.returncode == 0, done.stderr
    node = yaml.safe_load(done.stdout)
    assert (node["scope"], node["name"], node["postgresql"]["connect_address"]) == ("demo", "demo-0", "10.0.0.1:5432")
    assert node["kubernetes"] == {"labels": {"application": "pgcore"}, "namespace": "default", "use_endpoints": True,
                                  "pod_ip": "10.0.0.1", "ports": [{"name": "postgresql", "port": 5432}]}
    assert node["bootstrap"]["dcs"]["synchronous_mode"] == "quorum" and node["bootstrap"]["dcs"]["ttl"] == 30
    assert node["restapi"]["authentication"] == {"username": "operator", "password": "secret"}
    left = validate(tmp_path, variables | secret)
    assert left.returncode == 1 and "FIXME" in left.stderr


COMPOSE = yaml.safe_load((DOCKER / "compose.yml").read_text())


def test_the_environment_of_compose_makes_a_node(tmp_path: Path) -> None:
    variables = COMPOSE["services"]["pgcore1"]["environment"]
    with EtcdServer(tmp_path) as etcd:
        assert variables["ETCD3_HOSTS"] == "etcd:2379" and "etcd" in COMPOSE["services"]
        odd = "it's \"odd\": #1"
        done = validate(tmp_path, variables | {"ETCD3_HOSTS": etcd.host, "PGPASSWORD_STANDBY": odd, "PGCORE_NAME": "other"},
                        "--print", "--secrets")
    assert done.returncode == 0, done.stderr
    node = yaml.safe_load(done.stdout)
    assert node["postgresql"]["authentication"]["replication"] == {"username": "standby", "password": odd}
    assert (node["name"], node["etcd3"]["hosts"]) == ("other", [etcd.host])


NEEDED = {"SCOPE": "demo", "ETCD3_HOSTS": "127.0.0.1:1", "PGPASSWORD_SUPERUSER": "a", "PGPASSWORD_STANDBY": "b"}


@pytest.mark.parametrize(("change", "words"), [
    ({"SCOPE": ""}, "SCOPE is not set"), ({"ETCD3_HOSTS": ""}, "no store is named"),
    ({"PGPASSWORD_STANDBY": ""}, "PGPASSWORD_STANDBY is not set"), ({"CONSUL_HOST": "c:8500"}, "more than one store"),
    ({"PGPASSWORD_SUPERUSER_FILE": "/x"}, "both PGPASSWORD_SUPERUSER and")])
def test_what_is_missing_or_contradicts_is_said_in_one_line(tmp_path: Path, change: dict[str, str], words: str) -> None:
    done = validate(tmp_path, NEEDED | change)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and words in done.stderr


# -- Docker ------------------------------------------------------------------------------------------------------------


def test_compose_and_dockerfile_name_only_what_exists() -> None:
    services, text = COMPOSE["services"], (DOCKER / "Dockerfile").read_text()
    stages = re.findall(r"^FROM \S+ AS (\S+)", text, re.MULTILINE)
    for service in services.values():
        build = service["build"]
        assert (DOCKER / build["context"]).resolve() == TOP and (TOP / build["dockerfile"]).is_file()
        assert build["target"] in stages
        assert set(service.get("depends_on", ())) <= set(services)
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert (DOCKER / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"]
    for source in re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE):
        assert (TOP / source).exists(), source
    for stage in re.findall(r"--from=(\S+)", text):
        assert stage in stages


def test_haproxy_takes_its_file_and_knows_every_node() -> None:
    file = DOCKER / "haproxy.cfg"
    done = subprocess.run(["haproxy", "-c", "-f", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    nodes = {name for name, service in COMPOSE["services"].items() if service["build"]["target"] == "node"}
    assert set(re.findall(r"server \S+ (\S+):5432", file.read_text())) == nodes == {"pgcore1", "pgcore2", "pgcore3"}
