"""The HTTP client keeps its deadline whatever the server does, and never repeats what must not be repeated."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from pgcore.clock import Deadline
from pgcore.net.http import Connector, Endpoints, HttpClient, HttpUnavailableError, LineStream, Resolver
from pgcore.testing.processes import LOOPBACK, free_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Gives each connection to a function, and counts connections and requests."""

    def __init__(self, serve: Callable[[socket.socket, Server], None]) -> None:
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.connections = self.requests = 0
        self._serve = serve
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            self._serve(connection, self)

    def request(self, connection: socket.socket) -> bool:
        """Read one request."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += (more := connection.recv(65536))
            if not more:
                return False
        self.requests += 1
        return True

    def close(self) -> None:
        self._listener.close()


def well(connection: socket.socket, server: Server) -> None:
    while server.request(connection):
        connection.sendall(OK)


def once(connection: socket.socket, server: Server) -> None:
    server.request(connection)
    connection.sendall(OK)


def silent(connection: socket.socket, server: Server) -> None:
    server.request(connection)
    time.sleep(5)


def trickling(connection: socket.socket, server: Server) -> None:
    server.request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(100):
        connection.sendall(b"x")
        time.sleep(0.05)


def hanging_up(connection: socket.socket, server: Server) -> None:
    server.request(connection)


@pytest.fixture
def serve():
    servers = []

    def start(behaviour):
        servers.append(Server(behaviour))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def client():
    clients = []

    def make(*urls):
        clients.append(HttpClient(Endpoints(urls)))
        return clients[-1]

    yield make
    for made in clients:
        made.close()


def get(client, seconds=2.0, idempotent=True):
    return client.request("GET", "/", deadline=Deadline.after(seconds), idempotent=idempotent)


def test_requests_share_one_connection(serve, client):
    server = serve(well)
    http = client(server.url)
    assert [get(http).body for _ in range(3)] == [b"ok"] * 3
    assert (server.connections, server.requests) == (1, 3)


def test_a_connection_the_server_closed_meanwhile_is_replaced_even_for_a_request_that_must_not_be_repeated(serve, client):
    server = serve(once)
    http = client(server.url)
    for _ in range(3):
        assert get(http, idempotent=False).status == 200
        time.sleep(0.05)
    assert (server.connections, server.requests) == (3, 3)


@pytest.mark.parametrize("behaviour", [silent, trickling])
def test_a_slow_server_costs_no_more_than_the_deadline(serve, client, behaviour):
    http, before = client(serve(behaviour).url), time.monotonic()
    with pytest.raises(HttpUnavailableError) as caught:
        get(http, 0.3)
    assert caught.value.sent
    assert time.monotonic() - before < 0.5


def test_a_dead_and_a_silent_server_leave_time_for_a_good_one(serve, client):
    good = serve(well)
    http = client(f"http://{LOOPBACK}:{free_port()}", serve(silent).url, good.url)
    before = time.monotonic()
    assert get(http, 0.9).endpoint == good.url
    assert time.monotonic() - before < 0.8
    before = time.monotonic()
    get(http, 0.9)
    assert time.monotonic() - before < 0.1  # it stays with the good one


def test_a_request_that_must_not_be_repeated_is_not_sent_to_a_second_server(serve, client):
    good = serve(well)
    http = client(serve(hanging_up).url, good.url)
    with pytest.raises(HttpUnavailableError) as caught:
        get(http, idempotent=False)
    assert caught.value.sent and good.requests == 0
    assert get(http, idempotent=False).endpoint == good.url


def test_a_refused_connection_is_known_not_to_have_been_sent(client):
    with pytest.raises(HttpUnavailableError) as caught:
        get(client(f"http://{LOOPBACK}:{free_port()}"))
    assert not caught.value.sent


def test_close_ends_a_request_in_another_thread(serve, client):
    http = client(serve(silent).url)
    threading.Timer(0.2, http.close).start()
    before = time.monotonic()
    with pytest.raises(HttpUnavailableError):
        get(http, 4)
    assert time.monotonic() - before < 1


def test_a_name_service_that_hangs_costs_no_more_than_the_deadline(monkeypatch):
    resolver = Resolver()
    assert resolver.addresses("localhost", 80, Deadline.after(2))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(1) or [])
    before = time.monotonic()
    assert resolver.addresses("localhost", 80, Deadline.after(0.1))  # the last answer it gave
    with pytest.raises(OSError, match="no answer from the name service"):
        resolver.addresses("elsewhere", 80, Deadline.after(0.1))
    assert time.monotonic() - before < 0.5


def test_a_line_that_arrives_in_pieces_survives_the_timeouts_between_them(serve):
    go = threading.Event()

    def pieces(connection: socket.socket, server: Server) -> None:
        server.request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\none\ntw\r\n5")
        go.wait(2)
        connection.sendall(b"\r\no\nthr\r\n")
        connection.sendall(b"3\r\nee\n\r\n0\r\n\r\n")

    stream = LineStream(Connector(), serve(pieces).url, "GET", "/", b"", headers={}, deadline=Deadline.after(1))
    assert stream.status == 200
    assert stream.line(1) == b"one"
    for _ in range(2):
        with pytest.raises(TimeoutError):
            stream.line(0.05)
    go.set()
    assert [stream.line(1), stream.line(1)] == [b"two", b"three"]
    with pytest.raises(ConnectionResetError):
        stream.line(1)
    stream.close()
