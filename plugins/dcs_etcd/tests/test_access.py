"""Logging in to etcd, TLS with client certificates, finding etcd by SRV records."""

from __future__ import annotations

import socket
import subprocess
import threading

import dns.message
import dns.resolver
import dns.rrset
import pytest

from pgcore.plugin import ANYTHING, ConfigError, Deadline, Key, StoreRejectedError, StoreUnavailableError
from pgcore.testing.processes import LOOPBACK, EtcdServer

pytestmark = pytest.mark.server
PASSWORD = "one:two@three"


def soon(seconds=5.0):
    return Deadline.after(seconds)


def write_and_read(store, value):
    store.put(Key.CONFIG, value, expect=ANYTHING, deadline=soon())
    store.announce("card", deadline=soon())
    assert store.acquire(force=False, deadline=soon())
    records = store.read(fresh=True, deadline=soon()).records
    assert (records["config"].value, set(records)) == (value, {"config", "leader", "members/a"})


@pytest.fixture
def guarded(own_etcd):
    """An etcd that wants a login for either API."""
    own_etcd.demand_login(PASSWORD, others=("weak",))
    return own_etcd


def test_a_user_with_the_right_password_gets_in(guarded, connect):
    a, b = (connect(name, host=guarded.host, username="root", password=PASSWORD) for name in "ab")
    write_and_read(a, "1")
    seen = a.read(fresh=True, deadline=soon()).revision
    b.put(Key.CONFIG, "2", expect=ANYTHING, deadline=soon())
    assert a.watch(seen, timeout=5) is True


def test_credentials_may_be_part_of_the_url(guarded, connect):
    quoted = PASSWORD.replace(":", "%3A").replace("@", "%40")
    write_and_read(connect("a", url=f"http://root:{quoted}@{guarded.host}"), "1")


def test_a_restarted_etcd_that_forgot_the_token_gets_a_new_login(guarded, connect):
    a, b = (connect(name, host=guarded.host, username="root", password=PASSWORD) for name in "ab")
    write_and_read(a, "1")
    seen = a.read(fresh=True, deadline=soon()).revision
    a.watch(seen, timeout=0.1)
    guarded.stop()
    guarded.start()
    write_and_read(a, "2")
    seen = a.read(fresh=True, deadline=soon()).revision
    b.put(Key.CONFIG, "3", expect=ANYTHING, deadline=soon())
    assert a.watch(seen, timeout=5) is True


def test_a_changed_user_table_makes_the_old_token_invalid_but_not_the_store(guarded, connect):
    a = connect("a", host=guarded.host, username="root", password=PASSWORD)
    write_and_read(a, "1")
    token = guarded.ask("POST", "/v3/auth/authenticate", {"name": "root", "password": PASSWORD})["token"]
    guarded.ask("POST", "/v3/auth/user/add", {"name": "other", "password": "x"}, {"authorization": token})
    write_and_read(a, "2")


@pytest.mark.parametrize(("username", "password", "words"), [
    ("root", "wrong", "etcd3.password"), ("nobody", PASSWORD, "nobody"), (None, None, "set etcd3.username"),
    ("weak", PASSWORD, "permission denied")])
def test_whoever_may_not_is_told_so_at_once(guarded, connect, username, password, words):
    store = connect("a", host=guarded.host, username=username, password=password)
    with pytest.raises(StoreRejectedError, match=words) as caught:
        store.read(fresh=True, deadline=soon())
    assert PASSWORD not in str(caught.value) and "wrong" not in str(caught.value)


def test_credentials_do_no_harm_where_etcd_wants_none(own_etcd, connect, api):
    write_and_read(connect("a", api=api, host=own_etcd.host, username="root", password=PASSWORD), "1")


def test_the_v2_api_checks_passwords_too(guarded, connect):
    write_and_read(connect("a", api="etcd", host=guarded.host, username="root", password=PASSWORD), "1")
    store = connect("b", api="etcd", host=guarded.host, username="root", password="wrong")
    with pytest.raises(StoreRejectedError, match=r"etcd\.password"):
        store.read(fresh=True, deadline=soon())


# -- TLS --------------------------------------------------------------------------------------------------------------

@pytest.fixture
def certificates(tmp_path):
    """An authority and what it signed for the server and for a client."""
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=tmp_path)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *curve, "-days", "2", "-subj", "/CN=test ca", "-keyout", "ca.key", "-out", "ca.pem")
    (tmp_path / "extensions").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for name in ("server", "client"):
        openssl("req", *curve, "-subj", f"/O={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
                "-extfile", "extensions", "-out", f"{name}.pem")
    return {name: tmp_path / name for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")}


def test_tls_with_a_client_certificate(tmp_path, certificates, connect, api):
    files = certificates
    with EtcdServer(tmp_path, certificates=(files["server.pem"], files["server.key"], files["ca.pem"])) as server:
        tls = {"cacert": str(files["ca.pem"]), "cert": str(files["client.pem"]), "key": str(files["client.key"])}
        a, b = (connect(name, api=api, host=server.host, protocol="https", **tls) for name in "ab")
        write_and_read(a, "1")
        seen = a.read(fresh=True, deadline=soon()).revision
        b.put(Key.CONFIG, "2", expect=ANYTHING, deadline=soon())
        assert a.watch(seen, timeout=5) is True
        a.close()

        both = tmp_path / "both.pem"
        both.write_text(files["client.pem"].read_text() + files["client.key"].read_text())
        c = connect("c", api=api, url=f"https://{server.host}", cacert=tls["cacert"], cert=str(both))
        assert c.read(fresh=True, deadline=soon()).records["config"].value == "2"

        for missing in ("cert", "cacert"):
            rest = {name: path for name, path in tls.items() if name != missing and not (missing == "cert" and name == "key")}
            with pytest.raises(StoreUnavailableError):
                connect("d", api=api, host=server.host, protocol="https", **rest).read(fresh=True, deadline=soon(0.5))


def test_a_missing_tls_file_is_a_mistake_in_the_configuration(connect, api):
    with pytest.raises(ConfigError, match=r"check cacert /nowhere/ca\.pem"):
        connect("a", api=api, host="h", protocol="https", cacert="/nowhere/ca.pem")


# -- SRV --------------------------------------------------------------------------------------------------------------

class NameServer:
    """Answers SRV questions from a table, everything else with "no such name"."""

    def __init__(self) -> None:
        self.records: dict[str, tuple[str, int]] = {}
        self.asked: list[str] = []
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self._socket.bind((LOOPBACK, 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                wire, peer = self._socket.recvfrom(4096)
            except OSError:
                return
            query = dns.message.from_wire(wire)
            name = query.question[0].name
            self.asked.append(name.to_text(omit_final_dot=True))
            answer = dns.message.make_response(query)
            if self.asked[-1] in self.records:
                host, port = self.records[self.asked[-1]]
                answer.answer.append(dns.rrset.from_text(name, 1, "IN", "SRV", f"0 0 {port} {host}."))
            else:
                answer.set_rcode(dns.rcode.NXDOMAIN)
            self._socket.sendto(answer.to_wire(), peer)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def names():
    server = NameServer()
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [LOOPBACK], server.port
    before, dns.resolver.default_resolver = dns.resolver.default_resolver, resolver
    yield server
    dns.resolver.default_resolver = before
    server.close()


def test_srv_records_name_the_servers(etcd, connect, names, api):
    names.records["_etcd-client._tcp.db.example"] = ("localhost", etcd.port)
    write_and_read(connect("a", api=api, srv="db.example"), "1")
    assert names.asked == ["_etcd-client-ssl._tcp.db.example", "_etcd-client._tcp.db.example"]


def test_srv_records_of_peers_lead_to_the_clients_with_a_suffix(etcd, connect, names):
    names.records["_etcd-server-blue._tcp.db.example"] = ("localhost", etcd.peer_port)
    write_and_read(connect("a", srv="db.example", srv_suffix="blue"), "1")
    assert names.asked[0] == "_etcd-client-ssl-blue._tcp.db.example"


def test_a_domain_without_records_is_an_outage_that_says_why(connect, names):
    with pytest.raises(StoreUnavailableError, match=r"no SRV record below db\.example"):
        connect("a", srv="db.example").read(fresh=True, deadline=soon(0.5))
