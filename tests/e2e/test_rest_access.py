"""HTTPS, several addresses and the ways to be let in, put in force in a running node by reloads. (rest-api 11, 12)"""

from __future__ import annotations

import base64
import http.client
import json
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import Cluster, Node, wait_for
from harness.configuration import REST_PASSWORD, REST_USER, merged
from harness.processes import free_port, send
from pgcore.testing.certificates import Authority

PASSWORD = {"Authorization": "Basic " + base64.b64encode(f"{REST_USER}:{REST_PASSWORD}".encode()).decode()}
Reconfigure = Callable[..., None]


def ask(node: Node, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, port: int = 0,
        context: ssl.SSLContext | None = None, source: str = "127.0.0.1") -> tuple[int, str, http.client.HTTPMessage]:
    """One call from this address: code, text, headers. Raises OSError."""
    place: dict[str, Any] = {"host": node.host, "port": port or node.rest_port, "timeout": 10, "source_address": (source, 0)}
    link = http.client.HTTPSConnection(**place, context=context) if context else http.client.HTTPConnection(**place)
    try:
        link.request(method, path, None if body is None else json.dumps(body), headers or {})
        answer = link.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        link.close()


@pytest.fixture
def replica(etcd_cluster: Cluster) -> Iterator[Node]:
    """A replica of a healthy cluster; its REST API is configured as before afterwards."""
    node = etcd_cluster.others(etcd_cluster.primary())[0]
    yield node
    reload(node, {})
    wait_for(lambda: node.status_of("/replica") == 200, 20, "plain HTTP again")
    etcd_cluster.wait_aware(node)


def reload(node: Node, change: dict[str, Any]) -> None:
    """Lay this over the ``restapi`` section of the node's file and tell the agent."""
    read = node.log().count("was read again")
    node.write_file(yaml.safe_dump(merged(node.document, {"restapi": change})))
    send(node.pid, signal.SIGHUP)
    wait_for(lambda: node.log().count("was read again") > read, 20, "the file is read again")


def published(cluster: Cluster, node: Node) -> str:
    """The REST address in the member's card."""
    assert cluster.etcd is not None
    return str(json.loads(cluster.etcd.get(cluster.key(f"members/{node.name}")) or "{}").get("api_url"))


def serial(node: Node, context: ssl.SSLContext) -> str:
    """Of the certificate that the node shows."""
    with (socket.create_connection((node.host, node.rest_port), 5) as plain,
          context.wrap_socket(plain, server_hostname=node.host) as link):
        return str((link.getpeercert() or {})["serialNumber"])


def test_https_on_two_addresses_with_client_certificates_and_a_renewal(
    etcd_cluster: Cluster, replica: Node, tmp_path: Path
) -> None:
    authority, second = Authority(tmp_path, (replica.host,)), free_port(replica.host)
    certificate, key = authority.sign("server")
    authority.sign("operator")
    nobody, operator = authority.client(), authority.client("operator")
    tls = {"listen": [f"{replica.host}:{replica.rest_port}", f"{replica.host}:{second}"], "certfile": str(certificate),
           "keyfile": str(key), "cafile": str(authority.ca), "verify_client": "optional", "server_tokens": "Minimal",
           "http_extra_headers": {"X-One": "1", "X-Two": "2"}, "https_extra_headers": {"X-Two": "3"}}
    reload(replica, tls)
    wait_for(lambda: ask(replica, "GET", "/replica", context=nobody, port=second)[0] == 200, 20, "HTTPS on the second address")
    code, _, headers = ask(replica, "GET", "/patroni", context=nobody)
    assert (code, headers["X-One"], headers["X-Two"]) == (200, "1", "3") and headers["Server"].startswith("Patroni/4.")
    assert replica.request("GET", "/patroni") is None, "plain HTTP is over"
    wait_for(lambda: published(etcd_cluster, replica).startswith("https://"), 20, "the card says so")

    assert ask(replica, "POST", "/reload", context=nobody, headers=PASSWORD)[:2] == (403, "client certificate required")
    assert ask(replica, "POST", "/reload", context=operator)[:2] == (401, "no auth header received")
    assert ask(replica, "POST", "/reload", context=operator, headers=PASSWORD)[:2] == (202, "reload scheduled")
    first = serial(replica, nobody)
    authority.sign("server")
    wait_for(lambda: serial(replica, nobody) != first, 30, "the renewed certificate is shown without a reload")

    reload(replica, tls | {"verify_client": "required"})
    wait_for(lambda: _refused(replica, nobody), 20, "a certificate is required of everybody")
    assert ask(replica, "GET", "/replica", context=operator)[0] == 200


def _refused(node: Node, context: ssl.SSLContext) -> bool:
    try:
        ask(node, "GET", "/replica", context=context)
    except OSError:
        return True
    return False


def test_what_cannot_be_opened_is_named_and_nothing_changes(etcd_cluster: Cluster, replica: Node) -> None:
    before = published(etcd_cluster, replica)
    with socket.create_server((replica.host, 0)) as taken:
        wanted = f"{replica.host}:{taken.getsockname()[1]}"
        for change, problem in (
            ({"listen": wanted, "connect_address": wanted}, f"restapi.listen: cannot listen on {wanted}: the port is in use"),
            ({"certfile": "/nowhere/server.crt"}, "restapi.certfile: cannot use /nowhere/server.crt"),
        ):
            reload(replica, change)
            wait_for(lambda problem=problem: problem in replica.log(), 20, problem)  # type: ignore[misc]
            etcd_cluster.wait_aware(replica)
            assert replica.status_of("/replica") == 200
            assert published(etcd_cluster, replica) == before
    assert replica.running


def test_only_addresses_that_are_listed_may_change_something(etcd_cluster: Cluster, replica: Node) -> None:
    """EC 35: members are let in by their addresses, but not asked for when a primary without the store asks its members."""
    member = etcd_cluster.others(replica)[0].host
    request = {"name": "n9", "conn_url": "postgres://10.0.0.9/", "api_url": "http://10.0.0.9/patroni"}

    def codes(method: str, path: str, body: Any = None) -> list[int]:
        return [ask(replica, method, path, body, headers=PASSWORD, source=source)[0] for source in ("127.0.0.1", member)]

    reload(replica, {"allowlist": ["10.0.0.0/8", "no.such.host.invalid"]})
    wait_for(lambda: codes("POST", "/reload") == [403, 403], 20, "nobody is let in")
    assert ask(replica, "POST", "/restart", {}, headers=PASSWORD)[:2] == (403, "Access is denied")
    assert codes("POST", "/failsafe", request) == [403, 403]
    assert codes("GET", "/replica") == [200, 200]
    assert "nothing is known of no.such.host.invalid" in replica.log()

    reload(replica, {"allowlist_include_members": True})
    wait_for(lambda: codes("POST", "/sigterm") == [403, 202], 20, "members are let in")
    assert codes("POST", "/failsafe", request) == [502, 502], "let in; failsafe mode is off"

    reload(replica, {"allowlist": ["localhost"], "authentication": None})
    wait_for(lambda: ask(replica, "POST", "/sigterm")[0] == 202, 20, "no password is needed where every address is loopback")
    assert codes("POST", "/sigterm") == [202, 403]
