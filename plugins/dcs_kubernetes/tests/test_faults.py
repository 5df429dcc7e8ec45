"""What Kubernetes does to its clients, and what others see of a cluster in it: rights, labels, addresses, objects that vanish."""

from __future__ import annotations

import os

import pytest

from pgcore.plugin import ABSENT, ANYTHING, ConfigError, Deadline, Key, Renewal, Stored, StoreRejectedError, Timing
from pgcore.testing.kube_apiserver import STRANGER, WRONG

pytestmark = pytest.mark.server
API, CORE = "/api/v1/namespaces/default", "application/strategic-merge-patch+json"
RUNNING, LEADING = '{"state":"running","role":"replica"}', '{"state":"running","role":"primary"}'


def soon(seconds=8.0):
    return Deadline.after(seconds)


def acquire(store):
    return store.acquire(force=False, deadline=soon())


def read(store, fresh=True):
    return {path: record.value for path, record in store.read(fresh=fresh, deadline=soon()).records.items()}


def put(store, key, value, expect=ANYTHING):
    return store.put(key, value, expect=expect, deadline=soon())


def test_a_right_that_is_missing_is_named_and_a_login_that_is_refused(connect, kubernetes):
    stranger, nobody = (connect("a", config=kubernetes.kubeconfig(token), **{"use_leases": True}) for token in (STRANGER, WRONG))
    with pytest.raises(StoreRejectedError, match=r"lacks the right `list` on `leases` of the API group `coordination\.k8s\.io`"):
        read(stranger)
    with pytest.raises(StoreRejectedError, match="lacks the right `create` on `leases`"):
        acquire(stranger)
    with pytest.raises(StoreRejectedError, match="context kind-kind of the kubeconfig file was refused"):
        read(nobody)


def test_a_member_without_its_pod_is_told_so(connect):
    with pytest.raises(StoreRejectedError, match="no pod 'a' in namespace 'default': a member must be named after its pod"):
        connect("a", pod=False).announce(RUNNING, deadline=soon())
    with pytest.raises(ConfigError, match="the name of a pod"):
        connect("A_1", pod=False)
    with pytest.raises(ConfigError, match="no way to log in"):
        connect("a", context="elsewhere")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_trouble_that_passes_is_waited_out(connect, gate, by, status):
    a = connect("a", config=by(gate.host), retriable_http_codes=502)
    answers = [gate.answer(status, "not now", "Retry-After: 0")] * 2
    gate.instead = lambda request: answers.pop() if answers and not request.startswith("GET") else None
    assert isinstance(put(a, Key.CONFIG, "x", ABSENT), Stored)
    assert not answers and read(a)["config"] == "x"


def test_a_refusal_during_a_renewal_is_waited_out_and_others_are_not(connect, gate, by):
    a = connect("a", config=by(gate.host))
    assert acquire(a)
    answers = [gate.answer(403, "the authorizer is away")] * 3
    gate.instead = lambda request: answers.pop() if answers and request.startswith("PATCH") else None
    assert a.renew({}, deadline=soon()) is Renewal.HELD
    gate.instead = lambda request: gate.answer(403, "quota exceeded") if request.startswith("P") else None
    with pytest.raises(StoreRejectedError, match="quota exceeded"):
        put(a, Key.CONFIG, "x")


def test_a_watch_that_came_too_late_lists_anew(connect, gate, by):
    a, b = connect("a", config=by(gate.host)), connect("b")
    seen = a.read(fresh=True, deadline=soon()).revision
    gone = [gate.answer(410, "too old resource version")]
    gate.instead = lambda request: gone.pop() if gone and "watch=1" in request else None
    assert a.watch(seen, timeout=0.5) is False
    assert not gone
    put(b, Key.CONFIG, "x")
    assert a.watch(seen, timeout=8) is True


def test_whoever_stopped_renewing_loses_the_lock_though_its_watch_goes_on(connect):
    hung, b = (connect(name, timing=Timing(1, 1, 1)) for name in "ab")
    assert acquire(hung)
    seen = b.read(fresh=True, deadline=soon()).revision
    hung.watch(hung.read(fresh=True, deadline=soon()).revision, timeout=0.1)
    assert b.watch(seen, timeout=5) is True, "the end of the lock ends a watch"
    assert "leader" not in read(b, fresh=False) and acquire(b)
    assert hung.renew({}, deadline=soon()) is Renewal.TAKEN


def test_the_pod_shows_the_role(connect, kubernetes):
    a = connect("a", bootstrap_labels={"making": "yes"}, tmp_role_label="shown")

    def labels():
        found = kubernetes.ask("GET", f"{API}/pods/a")["metadata"]["labels"]
        return {name: found.get(name) for name in ("role", "shown", "making")}

    a.announce('{"state":"creating replica","role":"uninitialized"}', deadline=soon())
    assert labels() == {"role": None, "shown": None, "making": "yes"}
    a.announce(RUNNING, deadline=soon())
    assert labels() == {"role": "replica", "shown": "replica", "making": None}
    assert acquire(a)
    a.announce(LEADING, deadline=soon())
    assert labels() == {"role": "primary", "shown": "primary", "making": None}
    kubernetes.ask("PATCH", f"{API}/pods/a", {"metadata": {"labels": {"role": "replica"}}}, content_type=CORE)
    read(a)
    a.announce(LEADING, deadline=soon())
    assert labels()["role"] == "primary", "what somebody changed by hand is put right"


def test_endpoints_lead_to_the_leader_and_nowhere_without_one(connect, kubernetes, scope):
    a = connect("a", use_endpoints=True, ports=({"name": "postgresql", "port": 5433},))
    assert acquire(a) and a.renew({}, deadline=soon()) is Renewal.HELD
    put(a, Key.CONFIG, "{}")
    found = kubernetes.ask("GET", f"{API}/endpoints/{scope}")
    [subset] = found["subsets"]
    assert subset["ports"] == [{"name": "postgresql", "port": 5433, "protocol": "TCP"}]
    assert (subset["addresses"][0]["ip"], subset["addresses"][0]["targetRef"]["name"]) == ("10.1.0.2", "a")
    assert kubernetes.ask("GET", f"{API}/services/{scope}-config")["spec"]["clusterIP"] == "None"
    assert a.release({}, deadline=soon())
    assert not kubernetes.ask("GET", f"{API}/endpoints/{scope}").get("subsets")


def test_the_lock_is_shared_with_a_member_that_writes_as_patroni_does(connect, kubernetes, scope):
    path = f"{API}/configmaps"
    theirs = {"leader": "p", "ttl": "8", "acquireTime": "2026-01-01T00:00:00+00:00", "renewTime": "2026-01-01T00:00:00+00:00",
              "transitions": "0", "optime": "7"}
    labels = {"application": "pgcore", "cluster-name": scope}
    kubernetes.ask("POST", path, {"metadata": {"name": f"{scope}-leader", "labels": labels, "annotations": theirs}})
    a = connect("a")
    assert read(a)["leader"] == "p" and read(a)["status"] == '{"optime":7}'
    assert acquire(a) is False and a.renew({}, deadline=soon()) is Renewal.TAKEN
    kubernetes.ask("PATCH", f"{path}/{scope}-leader", {"metadata": {"annotations": {"leader": None}}}, content_type=CORE)
    assert acquire(a) is True
    ours = kubernetes.ask("GET", f"{path}/{scope}-leader")["metadata"]["annotations"]
    assert (ours["leader"], ours["ttl"], ours["transitions"], ours["optime"]) == ("a", "8", "1", "7")


def test_groups_of_one_scope_are_apart_and_seen_from_above(connect, kubernetes, scope, pods):
    pods("a", **{"citus-group": "0"})
    pods("b", **{"citus-group": "1"})
    above = connect("x", observer=True)
    a, b = (connect(name, path=f"/service/{scope}/{group}") for group, name in enumerate("ab"))
    for store in (a, b):
        assert acquire(store)
        store.announce(RUNNING, deadline=soon())
    assert (read(a)["leader"], read(b)["leader"]) == ("a", "b") and set(read(a)) == {"leader", "members/a"}
    assert set(read(above)) == {"0/leader", "0/members/a", "1/leader", "1/members/b"}


def test_an_object_that_somebody_deleted_is_made_again(connect, kubernetes, scope):
    a = connect("a", use_leases=True)
    assert acquire(a)
    put(a, Key.CONFIG, "x")
    for name in ("leader", "config"):
        kubernetes.ask("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{scope}-{name}")
    assert a.renew({}, deadline=soon()) is Renewal.GONE
    assert acquire(a) and isinstance(put(a, Key.CONFIG, "y"), Stored)
    assert read(a) == {"leader": "a", "config": "y"}


def test_the_servers_behind_the_service_are_found_and_one_that_is_dead_harms_nobody(connect, kubernetes):
    path = f"{API}/endpoints"
    body = {"metadata": {"name": "kubernetes"}, "subsets": [
        {"addresses": [{"ip": "192.0.2.1"}], "ports": [{"name": "https", "port": 6443}]}]}
    kubernetes.ask("POST", path, body)
    try:
        a = connect("a", bypass_api_service=True)
        assert acquire(a)
        read(a)
        assert set(a._direct._servers.urls) == {"https://192.0.2.1:6443", kubernetes.url}, "the Service is the last resort"
    finally:
        kubernetes.ask("DELETE", f"{path}/kubernetes")


def test_the_token_of_the_service_account_is_read_again_when_it_changes(tmp_path, kubernetes, monkeypatch):
    from kubernetes.client import Configuration

    from pgcore_dcs_kubernetes.access import ServiceAccount

    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(kubernetes.port))
    token = tmp_path / "token"
    token.write_text("first\n")
    account, configuration = ServiceAccount(str(token), str(kubernetes.ca)), Configuration()
    account.load_and_set(configuration)
    configuration.refresh_api_key_hook = account.refresh
    assert configuration.auth_settings()["BearerToken"]["value"] == "bearer first"
    (tmp_path / "new").write_text("second")
    os.replace(tmp_path / "new", token)
    assert configuration.auth_settings()["BearerToken"]["value"] == "bearer second"
    token.unlink()
    assert configuration.auth_settings()["BearerToken"]["value"] == "bearer second"
