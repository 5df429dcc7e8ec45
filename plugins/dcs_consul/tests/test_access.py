"""ACL tokens, TLS, and the environment that python-consul would obey."""

from __future__ import annotations

import subprocess
import time

import pytest

from pgcore.plugin import ANYTHING, ConfigError, Deadline, Key, StoreRejectedError, StoreUnavailableError
from pgcore.testing.consul_server import ConsulServer
from pgcore.testing.processes import LOOPBACK, free_port

pytestmark = pytest.mark.server


def soon(seconds=8.0):
    return Deadline.after(seconds)


def write_and_read(store, value):
    store.put(Key.CONFIG, value, expect=ANYTHING, deadline=soon())
    store.announce("card", deadline=soon())
    assert store.acquire(force=False, deadline=soon())
    records = store.read(fresh=True, deadline=soon()).records
    assert (records["config"].value, set(records)) == (value, {"config", "leader", "members/a"})


def test_a_token_that_may_gets_in_and_watches(guarded, connect):
    server, token, _ = guarded
    a, b = (connect(name, host=server.host, token=token) for name in "ab")
    write_and_read(a, "1")
    seen = a.read(fresh=True, deadline=soon()).revision
    b.put(Key.CONFIG, "2", expect=ANYTHING, deadline=soon())
    assert a.watch(seen, timeout=5) is True


def test_a_token_that_consul_does_not_know_is_rejected_by_every_verb_at_once(guarded, connect):
    a = connect("a", host=guarded[0].host, token="00000000-dead-beef-0000-000000000000")
    verbs = [lambda: a.read(fresh=False, deadline=soon()), lambda: a.put(Key.CONFIG, "x", expect=ANYTHING, deadline=soon()),
             lambda: a.announce("card", deadline=soon()), lambda: a.acquire(force=False, deadline=soon()),
             lambda: a.renew({}, deadline=soon()), lambda: a.release({}, deadline=soon()), lambda: a.clear(deadline=soon())]
    before = time.monotonic()
    for verb in verbs:
        with pytest.raises(StoreRejectedError, match=r"consul\.token"):
            verb()
    assert time.monotonic() - before < 4
    before = time.monotonic()
    assert a.watch("1;", timeout=0.5) is False
    assert 0.4 < time.monotonic() - before < 2


def test_a_token_that_may_only_read_reads_and_is_rejected_in_writing(guarded, connect):
    server, token, reader = guarded
    write_and_read(connect("a", host=server.host, token=token), "1")
    weak = connect("b", host=server.host, token=reader)
    assert weak.read(fresh=True, deadline=soon()).records["config"].value == "1"
    for verb in (lambda: weak.put(Key.CONFIG, "2", expect=ANYTHING, deadline=soon()),
                 lambda: weak.announce("card", deadline=soon()), lambda: weak.acquire(force=False, deadline=soon())):
        with pytest.raises(StoreRejectedError, match="Permission denied"):
            verb()
    assert weak.read(fresh=True, deadline=soon()).records["config"].value == "1"


def test_an_unknown_datacenter_is_an_outage_that_says_why(consul, connect):
    with pytest.raises(StoreUnavailableError, match="No path to datacenter"):
        connect("a", host=consul.host, dc="elsewhere").read(fresh=True, deadline=soon(0.5))
    write_and_read(connect("a", host=consul.host, dc="dc1"), "1")


@pytest.mark.parametrize("consistency", ["consistent", "stale"])
def test_reads_of_a_standby_have_the_configured_consistency(consul, connect, line, consistency):
    cable = line(consul.host)
    a = connect("a", host=cable.host, consistency=consistency)
    a.read(fresh=False, deadline=soon())
    assert f"{consistency}=1" in cable.requests[-1]
    assert a.acquire(force=False, deadline=soon())
    a.read(fresh=False, deadline=soon())
    assert "consistent=1" in cable.requests[-1]  # who leads wants to know


def test_the_environment_of_consuls_own_tools_changes_nothing(consul, connect, monkeypatch):
    for name, value in (("ADDR", "http://192.0.2.1:1"), ("TOKEN", "nonsense"), ("SSL", "true"), ("SSL_VERIFY", "true")):
        monkeypatch.setenv(f"CONSUL_HTTP_{name}", value)
    write_and_read(connect("a", host=consul.host), "1")


@pytest.fixture(scope="module")
def secure(program, tmp_path_factory):
    """A Consul with HTTPS that demands certificates of its authority, its address, and the files."""
    directory = tmp_path_factory.mktemp("tls")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=directory)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *curve, "-days", "2", "-subj", "/CN=test ca", "-keyout", "ca.key", "-out", "ca.pem")
    (directory / "extensions").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for name in ("server", "client"):
        openssl("req", *curve, "-subj", f"/O={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
                "-extfile", "extensions", "-out", f"{name}.pem")
    plain, port, rpc, serf = (free_port() for _ in range(4))
    ports = {"http": plain, "https": port, "server": rpc, "serf_lan": serf, "dns": -1, "grpc": -1, "serf_wan": -1}
    options = {"ports": ports, "ca_file": str(directory / "ca.pem"), "cert_file": str(directory / "server.pem"),
               "key_file": str(directory / "server.key"), "verify_incoming_https": True}
    with ConsulServer(directory, ports=(plain, rpc, serf), options=options):
        yield f"{LOOPBACK}:{port}", directory


def test_tls_with_a_client_certificate(secure, connect):
    host, files = secure
    tls = {"cacert": str(files / "ca.pem"), "cert": str(files / "client.pem"), "key": str(files / "client.key")}
    write_and_read(connect("a", host=host, scheme="https", **tls), "1")
    both = files / "both.pem"
    both.write_text((files / "client.pem").read_text() + (files / "client.key").read_text())
    for section in ({"url": f"https://{host}", "cacert": tls["cacert"], "cert": str(both)},
                    {"url": f"https://{host}", "verify": False, "cert": str(both)}):
        assert connect("b", **section).read(fresh=True, deadline=soon()).records["config"].value == "1"
    for section in ({"cacert": tls["cacert"]}, {"cert": tls["cert"], "key": tls["key"]}):
        with pytest.raises(StoreUnavailableError):
            connect("c", host=host, scheme="https", **section).read(fresh=True, deadline=soon(0.5))


def test_a_missing_tls_file_is_a_mistake_in_the_configuration(connect):
    with pytest.raises(ConfigError, match=r"check cacert /nowhere/ca\.pem"):
        connect("a", host="h", scheme="https", cacert="/nowhere/ca.pem")
