"""Who may come in: TLS with client certificates, credentials, SASL, ACLs of what is created. Each against a real server."""

from __future__ import annotations

import subprocess
import time

import pytest
from kazoo.client import KazooClient
from kazoo.security import make_digest_acl_credential

from pgcore.plugin import ANYTHING, Deadline, Key, Stored, StoreRejectedError, StoreUnavailableError
from pgcore.testing.processes import LOOPBACK, free_port
from pgcore.testing.zookeeper import ZooKeeperServer, missing

pytestmark = pytest.mark.server
PASSWORD = "key-secret"


def soon(seconds=5.0):
    return Deadline.after(seconds)


def write_and_read(store):
    assert isinstance(store.put(Key.CONFIG, "1", expect=ANYTHING, deadline=soon()), Stored)
    store.announce("card", deadline=soon())
    assert store.acquire(force=False, deadline=soon())
    assert store.read(fresh=True, deadline=soon()).records["config"].value == "1"


@pytest.fixture
def scope(scope):
    """Nothing of what these tests close to others is above the scopes of other tests."""
    return f"/closed{scope.replace('/', '-')}/demo"


def openssl(folder, *arguments):
    subprocess.run(["openssl", *map(str, arguments)], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An authority, a server's certificate that bears no name we use, and a client's with a key under a password."""
    folder = tmp_path_factory.mktemp("certificates")
    new = ("-newkey", "rsa:2048", "-nodes")
    openssl(folder, "req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=ca")
    for name in ("server", "client"):
        openssl(folder, "req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-out", f"{name}.pem")
    openssl(folder, "rsa", "-aes256", "-in", "client.key", "-passout", f"pass:{PASSWORD}", "-out", "client-locked.key")
    openssl(folder, "pkcs12", "-export", "-in", "server.pem", "-inkey", "server.key", "-passout", "pass:changeit",
            "-out", "server.p12")
    subprocess.run(["keytool", "-importcert", "-noprompt", "-alias", "ca", "-file", "ca.pem", "-keystore", "trust.p12",
                    "-storetype", "PKCS12", "-storepass", "changeit"], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def guarded(files, tmp_path_factory):
    """A server with a TLS port that demands client certificates, and SASL with one user."""
    if lacking := missing():
        pytest.skip(f"needs {lacking}")
    users = files / "users.conf"
    users.write_text('Server { org.apache.zookeeper.server.auth.DigestLoginModule required user_pg="sasl-secret"; };\n')
    secure = free_port()
    server = ZooKeeperServer(tmp_path_factory.mktemp("guarded"), settings={
        "secureClientPort": str(secure), "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
        **{f"ssl.{kind}Store.{key}": value for kind, file in (("key", "server.p12"), ("trust", "trust.p12"))
           for key, value in (("location", str(files / file)), ("password", "changeit"), ("type", "PKCS12"))},
        "ssl.hostnameVerification": "false", "authProvider.sasl": "org.apache.zookeeper.server.auth.SASLAuthenticationProvider",
    }, java=(f"-Djava.security.auth.login.config={users}",))
    server.secure = f"{LOOPBACK}:{secure}"
    with server:
        yield server


def tls(guarded, files, **keys):
    return {"hosts": guarded.secure, "use_ssl": True, "cacert": str(files / "ca.pem"), "cert": str(files / "client.pem"),
            "key": str(files / "client-locked.key"), "key_password": PASSWORD, **keys}


def test_tls_with_a_client_certificate_whose_key_has_a_password(guarded, files, connect):
    write_and_read(connect("a", **tls(guarded, files)))


@pytest.mark.parametrize("change", [
    {"cert": None, "key": None, "key_password": None}, {"cacert": None}, {"check_hostname": True}],
    ids=["no certificate of ours", "an authority we do not know", "another name in the certificate"])
def test_tls_that_proves_too_little_connects_nowhere(guarded, files, connect, change):
    store = connect("a", **tls(guarded, files, **change))
    with pytest.raises(StoreUnavailableError, match=guarded.secure):
        store.read(fresh=True, deadline=soon(1))


def test_a_server_that_is_not_verified_may_be_anybody(guarded, files, connect):
    write_and_read(connect("a", **tls(guarded, files, cacert=None, verify=False)))


def test_acls_for_a_certificate_keep_others_out(guarded, files, connect):
    store = connect("a", **tls(guarded, files), set_acls={"CN=client": ["ALL"]})
    write_and_read(store)
    stranger = connect("b", hosts=guarded.host)
    with pytest.raises(StoreRejectedError, match="does not permit"):
        stranger.put(Key.CONFIG, "2", expect=ANYTHING, deadline=soon())


def test_a_digest_opens_what_acls_for_it_close(zookeeper, connect, scope):
    credential = make_digest_acl_credential("pg", "digest-secret")
    acls = {f"digest:{credential}": ["all"]}
    store = connect("a", hosts=zookeeper.host, auth_data={"digest": "pg:digest-secret"}, set_acls=acls)
    write_and_read(store)
    for auth_data in ({}, {"digest": "pg:wrong"}):
        stranger = connect("b", hosts=zookeeper.host, auth_data=auth_data)
        with pytest.raises(StoreRejectedError, match="auth_data"):
            stranger.read(fresh=True, deadline=soon())
        with pytest.raises(StoreRejectedError):
            stranger.acquire(force=False, deadline=soon())
    client = KazooClient(zookeeper.host, auth_data=[("digest", "pg:digest-secret")])
    client.start(timeout=10)
    for path in ("", "/config", "/members", "/members/a", "/leader"):
        [found] = client.get_acls(scope + path)[0]
        assert (found.id.scheme, found.id.id) == ("digest", credential), path
    client.stop()


def test_an_unknown_scheme_is_refused(zookeeper, connect):
    store = connect("a", hosts=zookeeper.host, auth_data={"nonsense": "x"})
    with pytest.raises(StoreRejectedError, match="nonsense"):
        store.read(fresh=True, deadline=soon())


def test_sasl_logs_in_and_opens_what_is_closed_to_others(guarded, connect):
    store = connect("a", hosts=guarded.host, auth_data={"sasl": "pg:sasl-secret"}, set_acls={"sasl:pg": ["ALL"]})
    write_and_read(store)
    with pytest.raises(StoreRejectedError, match="auth_data"):
        connect("b", hosts=guarded.host).read(fresh=True, deadline=soon())


def test_a_wrong_password_of_sasl_is_refused(guarded, connect):
    store = connect("a", hosts=guarded.host, auth_data={"sasl": "pg:wrong"})
    began = time.monotonic()
    with pytest.raises(StoreRejectedError, match="scheme sasl"):
        store.read(fresh=True, deadline=soon())
    assert time.monotonic() - began < 4
