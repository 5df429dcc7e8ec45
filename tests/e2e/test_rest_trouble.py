"""The REST API of a running node in trouble: it answers at once, and what it says is true. (rest-api 3, 13)"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
import pytest

from harness import Cluster, Node, wait_for
from harness.configuration import dsn
from harness.node import RestAnswer
from harness.processes import send
from pgcore.testing.processes import freeze

AT_ONCE_S = 1.5
"""Every answer comes within this on a loaded machine; a worker or a query that was waited for would take longer."""
STATES = {
    "initializing new cluster", "running custom bootstrap script", "creating replica", "running", "starting", "restarting",
    "stopping", "stopped", "starting after custom bootstrap", "crashed",
}  # fmt: skip
WITHOUT_STORE = """
GET     /primary /leader /read-write             200 503
GET     /replica                                 503 200
GET     /read-only /health /liveness /readiness  200 200
GET     /sync /quorum /async                     503 503
GET     /read-only-sync /read-only-quorum        503 503
GET     /patroni /metrics /failsafe              200 200
GET     /cluster /history /config                503 503
PATCH   /config                                  503 503
PUT     /config                                  503 503
POST    /switchover /failover                    503 503
DELETE  /switchover                              503 503
"""
"""Codes of the primary and of a replica while failsafe mode carries the cluster (rest-api 13)."""


def quick(node: Node, method: str, path: str, body: Any = None, within_s: float = AT_ONCE_S) -> RestAnswer:
    """The answer, which must come within that time; on a busy machine one of three tries is enough."""
    took = []
    while len(took) < 3:
        began = time.monotonic()
        answer = node.request(method, path, body, timeout_s=30)
        took.append(time.monotonic() - began)
        assert answer is not None, f"{method} {path} was not answered"
        if took[-1] < within_s:
            return answer
    raise AssertionError(f"{method} {path} took {took} seconds")


@contextmanager
def silent_clients(node: Node, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that send nothing, or half a request."""
    clients = [socket.create_connection((node.host, node.rest_port), 5) for _ in range(count)]
    try:
        for client in clients[::2]:
            client.sendall(b"GET /primary HTTP/1.1\r\nHost:")
        yield clients
    finally:
        for client in clients:
            client.close()


@contextmanager
def all_connections(node: Node) -> Iterator[None]:
    """Every connection of this server is taken, those of superusers too."""
    taken = []
    try:
        while True:
            try:
                taken.append(psycopg2.connect(dsn([(node.host, node.pg_port)])))
            except psycopg2.OperationalError as refused:
                assert "too many clients" in str(refused), refused
                break
        yield
    finally:
        for link in taken:
            link.close()


@contextmanager
def hung(node: Node) -> Iterator[None]:
    """The server and all its children stand still."""
    pids = node.postgres_pids()
    for pid in pids:
        with suppress(ProcessLookupError):  # a child that has ended meanwhile
            freeze(pid)
    try:
        yield
    finally:
        for pid in pids:
            send(pid, signal.SIGCONT)


def cut_off(client: socket.socket) -> bool:
    """The server has closed this connection, with a word about it if there was a request to answer."""
    client.settimeout(0.1)
    with suppress(TimeoutError):
        try:
            said = client.recv(100)
        except ConnectionError:
            return True
        return said == b"" or said.startswith(b"HTTP/1.0 408 ")
    return False


def _while_all_connections_are_taken(node: Node, path: str, ttl: int) -> None:
    with all_connections(node):
        seen = quick(node, "GET", "/patroni").json()["dcs_last_seen"]
        wait_for(lambda: quick(node, "GET", "/patroni").json()["dcs_last_seen"] > seen + 2, 20, "two more heartbeats")
        assert [quick(node, "OPTIONS", each).status for each in (path, "/health")] == [200, 200]
        document = quick(node, "GET", "/patroni").json()
        assert document["state"] == "running" and document["pgcore"]["observed_age"] < ttl


def _while_the_server_hangs(node: Node, path: str) -> None:
    with hung(node):
        wait_for(lambda: quick(node, "GET", "/patroni").json()["state"] == "unknown", 20, "the silence is seen")
        document = quick(node, "GET", "/patroni").json()
        assert "xlog" not in document and document["role"] == path.strip("/")
        assert [quick(node, verb, "/health").status for verb in ("GET", "HEAD", "OPTIONS")] == [503, 503, 503]
        assert quick(node, "GET", "/liveness").status == 200
        if path == "/replica":
            assert [quick(node, "GET", each).status for each in ("/replica", "/read-only", "/readiness")] == [503] * 3
    wait_for(lambda: node.status_of(path) == 200 and node.status_of("/health") == 200, 30, "it is back")


def test_the_truth_is_told_at_once_with_a_hung_server_without_connections_and_with_silent_clients(etcd_cluster: Cluster) -> None:
    primary = etcd_cluster.primary()
    replica = etcd_cluster.others(primary)[0]
    with silent_clients(primary, 200) as clients, silent_clients(replica, 100):
        for node, path in ((primary, "/primary"), (replica, "/replica")):
            _while_all_connections_are_taken(node, path, etcd_cluster.ttl)
            _while_the_server_hangs(node, path)
        wait_for(lambda: all(cut_off(client) for client in clients), 20, "whoever says nothing is cut off")
    etcd_cluster.wait_healthy()


@pytest.fixture
def failsafe(etcd_cluster: Cluster) -> Iterator[Cluster]:
    """A healthy cluster with failsafe mode on; it is off again afterwards."""
    etcd_cluster.configure({"failsafe_mode": True})
    wait_for(lambda: all(node.status_of("/failsafe") == 200 for node in etcd_cluster.nodes), 20, "every node knows whom to ask")
    time.sleep(2 * etcd_cluster.loop_wait)  # the key may be from before: the leader counts on what it wrote and saw itself
    yield etcd_cluster
    etcd_cluster.configure({"failsafe_mode": None})


def test_without_the_store_every_endpoint_answers_what_is_known(failsafe: Cluster) -> None:
    """A missing store is 503 where Patroni drops the connection; nothing waits longer than the store may take."""
    primary = failsafe.primary()
    replica = failsafe.others(primary)[0]
    assert failsafe.etcd is not None
    waiting_s = failsafe.retry_timeout + failsafe.loop_wait + AT_ONCE_S
    failsafe.etcd.freeze()
    try:
        wait_for(lambda: primary.status().get("failsafe_mode_is_active"), 30, "failsafe mode carries the cluster")
        wait_for(lambda: replica.status().get("failsafe_mode_is_active"), 30, "the replica has accepted the primary")
        wait_for(lambda: replica.status().get("cluster_unlocked"), 30, "the replica knows of no store")
        for line in WITHOUT_STORE.strip().splitlines():
            method, *paths, at_primary, at_replica = line.split()
            body = {"leader": primary.name, "candidate": replica.name, "ttl": 9} if method in ("POST", "PUT", "PATCH") else None
            for path in paths:
                codes = {quick(primary, method, path, body, waiting_s).status, int(at_primary)}
                assert len(codes) == 1, f"{method} {path} of the primary: {codes}"
                codes = {quick(replica, method, path, body, waiting_s).status, int(at_replica)}
                assert len(codes) == 1, f"{method} {path} of the replica: {codes}"
        assert primary.status()["cluster_unlocked"] is True and primary.is_writable()
    finally:
        failsafe.etcd.thaw()
    failsafe.wait_healthy()
    assert failsafe.primary() is primary


def test_while_the_server_restarts_its_state_is_known(etcd_cluster: Cluster) -> None:
    """EC 224: stopping, starting, restarting or running, but never unknown, and only a running one is healthy."""
    replica = etcd_cluster.others(etcd_cluster.primary())[0]
    ended, seen = threading.Event(), set()

    def watch() -> None:
        while not ended.is_set():
            answer = quick(replica, "GET", "/health")
            seen.add((answer.status, answer.json()["state"]))

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        answer = replica.request("POST", "/restart", {}, timeout_s=60)
        assert answer is not None and (answer.status, answer.text) == (200, "restarted successfully"), answer
        wait_for(lambda: replica.status_of("/health") == 200, 20, "it is healthy again")
    finally:
        ended.set()
        watching.join(10)
    assert {state for _, state in seen} <= STATES and len(seen) > 1, seen
    assert all((code == 200) is (state == "running") for code, state in seen), seen
