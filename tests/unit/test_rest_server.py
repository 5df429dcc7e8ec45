"""The listener over real connections: shapes of answers, slow and idle clients, bounds, busy ports."""

from __future__ import annotations

import json
import logging
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pgcore import PATRONI_VERSION
from pgcore.clock import now
from pgcore.config.sections import LoginSection, RestapiSection
from pgcore.daemon.board import Board
from pgcore.daemon.mailbox import Mailbox
from pgcore.errors import ConfigError, FatalError
from pgcore.model.basics import Instant
from pgcore.rest import doorman
from pgcore.rest.server import RestServer
from pgcore.rest.settings import RestSettings
from pgcore.testing.processes import free_port
from unit.rest_board import aged, call, leader_status, raw, status, view

Open = Callable[..., RestServer]


@pytest.mark.parametrize(
    "request_line", ["OPTIONS / HTTP/1.0", "HEAD /primary HTTP/1.1", "GET /liveness HTTP/1.0", "GET /readiness HTTP/1.1"]
)
def test_probes_get_a_bare_status_line(serve: Open, request_line: str) -> None:
    address = serve().bound[0]
    assert raw(address, f"{request_line}\r\nHost: x\r\nConnection: keep-alive\r\n\r\n".encode()) == b"HTTP/1.0 200 OK\r\n\r\n"


def test_a_probe_that_ends_its_lines_with_bare_newlines_is_answered(serve: Open) -> None:
    assert raw(serve().bound[0], b"OPTIONS /replica HTTP/1.0\n\n") == b"HTTP/1.0 503 Service Unavailable\r\n\r\n"


def test_a_normal_answer_is_http_10_without_length_and_with_the_extra_headers(serve: Open) -> None:
    address = serve(http_extra_headers={"X-Frame-Options": "SAMEORIGIN"}, server_tokens="ProductOnly").bound[0]
    head, _, body = raw(address, b"GET /patroni HTTP/1.1\r\nHost: x\r\n\r\n").partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.0 200 OK"
    assert [line.partition(":")[0] for line in lines[1:]] == [
        "Server",
        "Date",
        "X-Pgcore-Observed-Age",
        "Content-Type",
        "X-Frame-Options",
    ]
    assert lines[1] == "Server: Patroni"
    assert json.loads(body)["patroni"]["name"] == "a"


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/patroni", 200),
        ("GET", "/patroni/anything", 200),
        ("GET", "/cluster", 200),
        ("GET", "/history", 200),
        ("GET", "/metrics", 200),
        ("GET", "/config", 502),
        ("GET", "/failsafe", 502),
        ("GET", "/replica", 503),
        ("GET", "/switchover", 503),
        ("GET", "/unknown", 503),
        ("HEAD", "/patroni", 503),
        ("OPTIONS", "/metrics", 503),
        ("HEAD", "/liveness", 503),
        ("OPTIONS", "*", 503),
        ("DELETE", "/failover", 501),
        ("PUT", "/reload", 501),
        ("POST", "/foo", 501),
        ("POST", "/", 501),
        ("POST", "/_management", 501),
        ("BREW", "/switchover", 501),
    ],
)
def test_routing(serve: Open, method: str, path: str, code: int) -> None:
    assert call(serve().bound[0], method, path).code == code


def test_an_old_observation_shows_its_age_and_health_goes_down(serve: Open, board: Board) -> None:
    address = serve().bound[0]
    board.publish(aged(status(), 100))
    reply = call(address, "GET", "/replica")
    assert reply.code == 503
    assert 100 <= float(reply.headers["X-Pgcore-Observed-Age"]) < 110
    assert call(address, "GET", "/patroni").code == 200


def test_fresh_positions_come_from_the_server_only_when_asked_for(serve: Open, board: Board) -> None:
    address = serve().bound[0]
    board.publish(status())
    assert json.loads(call(address, "GET", "/patroni?fresh=1").body)["xlog"]["received_location"] == 7
    assert json.loads(call(address, "GET", "/patroni").body)["xlog"]["received_location"] == 1000


def test_who_asks_for_fresh_positions_says_how_long_it_waits(serve: Open, board: Board) -> None:
    address = serve().bound[0]
    board.publish(status())
    for within in ("0.2", "", "nonsense", "-1", "nan"):
        assert json.loads(call(address, "GET", f"/patroni?fresh=1&within={within}").body)["xlog"]["received_location"] == 7


def test_before_the_first_heartbeat_everything_but_liveness_says_no(serve: Open, board: Board) -> None:
    board._status, board.scope, board.name = None, "demo", "a"
    address = serve().bound[0]
    codes = {
        path: call(address, "GET", path).code for path in ("/", "/replica", "/liveness", "/readiness", "/cluster", "/metrics")
    }
    assert codes == {"/": 503, "/replica": 503, "/liveness": 200, "/readiness": 503, "/cluster": 503, "/metrics": 503}
    reply = call(address, "GET", "/patroni")
    assert (reply.code, json.loads(reply.body)["patroni"]) == (200, {"version": PATRONI_VERSION, "scope": "demo", "name": "a"})


def test_the_cluster_is_read_anew_for_who_asks_and_nobody_else_waits_for_it(board: Board) -> None:
    mailbox = Mailbox()
    server = RestServer(RestSettings("127.0.0.1:0"), board, mailbox, lambda seconds: None)
    server.start()
    try:
        address, replies = server.bound[0], []
        board.publish(aged(leader_status(), 5))
        asking = threading.Thread(target=lambda: replies.append(call(address, "GET", "/cluster")), daemon=True)
        asking.start()
        assert mailbox.wait(Instant(now() + 10))[0] == ("GET /cluster",)
        assert float(call(address, "GET", "/cluster").headers["X-Pgcore-Observed-Age"]) >= 5
        assert call(address, "OPTIONS", "/").code == 200
        board.publish(leader_status(cluster=view(leader="b")))
        asking.join(10)
        assert [each["name"] for each in json.loads(replies[0].body)["members"] if each["role"] == "leader"] == ["b"]
        assert float(replies[0].headers["X-Pgcore-Observed-Age"]) < 5
    finally:
        server.stop()


@pytest.mark.parametrize("path", ["/cluster", "/history", "/config"])
def test_without_the_store_what_stands_there_is_not_to_be_had(serve: Open, board: Board, path: str) -> None:
    address = serve().bound[0]
    board.publish(leader_status(cluster=None))
    began = time.monotonic()
    assert call(address, "GET", path).code == 503
    assert time.monotonic() - began < 1


def test_two_hundred_idle_connections_do_not_delay_a_health_check(serve: Open) -> None:
    address = serve().bound[0]
    idle = [socket.create_connection(address) for _ in range(100)]
    half = [socket.create_connection(address) for _ in range(100)]
    try:
        for connection in half:
            connection.sendall(b"GET /primary HTTP/1.0\r\nHost:")
        began = time.monotonic()
        for _ in range(20):
            assert call(address, "OPTIONS", "/").code == 200
        assert time.monotonic() - began < 1
    finally:
        for connection in idle + half:
            connection.close()


def test_more_connections_than_may_wait_push_out_the_oldest(serve: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorman, "MAX_WAITING", 5)
    address = serve().bound[0]
    connections = [socket.create_connection(address) for _ in range(6)]
    try:
        connections[0].settimeout(5)
        assert connections[0].recv(1) == b""
        assert call(address, "OPTIONS", "/").code == 200
    finally:
        for connection in connections:
            connection.close()


def test_a_client_that_sends_too_slowly_is_cut_off(serve: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorman, "PATIENCE_S", 0.3)
    address = serve().bound[0]
    with socket.create_connection(address, 5) as connection:
        connection.sendall(b"POST /switchover HTTP/1.0\r\nContent-Length: 100\r\n\r\n{")
        began = time.monotonic()
        assert connection.recv(100) == b"HTTP/1.0 408 Request Timeout\r\n\r\n"
        assert connection.recv(100) == b""
    assert 0.2 < time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"GET /" + b"x" * 20000, b"400"),
        (b"POST /switchover HTTP/1.0\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 300000, b"413"),
        (b"POST /switchover HTTP/1.0\r\nContent-Length: -5\r\n\r\n", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
    ],
)
def test_requests_out_of_bounds_are_refused_with_a_readable_answer(serve: Open, request_bytes: bytes, code: bytes) -> None:
    assert raw(serve().bound[0], request_bytes).split(b" ")[1] == code


def test_clients_that_vanish_leave_no_error_in_the_log(serve: Open, caplog: pytest.LogCaptureFixture) -> None:
    address = serve().bound[0]
    for sent in (b"", b"GET /", b"GET /metrics HTTP/1.0\r\n\r\n"):
        connection = socket.create_connection(address)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        connection.sendall(sent)
        connection.close()
    assert call(address, "OPTIONS", "/").code == 200
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_busy_port_names_the_address_and_the_remedy(serve: Open, board: Board) -> None:
    host, port = serve().bound[0]
    second = RestServer(RestSettings(f"{host}:{port}"), board, Mailbox(), lambda seconds: None)
    with pytest.raises(FatalError) as caught:
        second.start()
    assert str(caught.value).startswith(f"restapi.listen: cannot listen on {host}:{port}: the port is in use (stop the process")
    second.stop()


@pytest.mark.parametrize("listen", ["127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999"])
def test_an_address_that_cannot_be_read_is_a_mistake_in_the_configuration(board: Board, listen: str) -> None:
    with pytest.raises(ConfigError, match=r"restapi\.listen"):
        RestServer(RestSettings(listen), board, Mailbox(), lambda seconds: None).start()


def test_there_are_six_threads_and_all_of_them_end(serve: Open) -> None:
    before = set(threading.enumerate())
    server = serve()
    started = set(threading.enumerate()) - before
    assert len(started) == 6
    assert all(thread.daemon for thread in started)
    server.stop()
    assert not [thread for thread in started if thread.is_alive()]


def test_the_section_of_the_configuration_becomes_settings() -> None:
    section = RestapiSection(
        listen="0.0.0.0:8008", connect_address="10.0.0.1:8008", authentication=LoginSection(username="api", password="secret")
    )
    settings = RestSettings.of(section)
    assert (settings.api_url, settings.username, settings.password) == ("http://10.0.0.1:8008/patroni", "api", "secret")
    assert settings.request_queue_size == 1024
    assert "secret" not in repr(settings)


def test_a_full_queue_is_answered_and_does_not_end_the_thread(serve: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    with monkeypatch.context() as patched:
        patched.setattr(server._http.requests, "put", _refuse)
        assert raw(server.bound[0], b"GET /cluster HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 503 ")
        assert call(server.bound[0], "OPTIONS", "/").code == 200, "a check needs no worker"
    assert call(server.bound[0], "GET", "/cluster").code == 200


def _refuse(connection: object) -> None:
    raise queue.Full


@pytest.mark.server
def test_haproxy_routes_to_the_node_that_says_primary(serve: Open, board: Board, tmp_path: Path) -> None:
    rest, traffic, database = serve().bound[0][1], free_port(), socket.create_server(("127.0.0.1", 0))
    config = tmp_path / "haproxy.cfg"
    config.write_text(f"""
defaults
    mode tcp
    timeout client 5s
    timeout server 5s
    timeout connect 1s
listen primary
    bind 127.0.0.1:{traffic}
    option httpchk OPTIONS /primary
    http-check expect status 200
    server a 127.0.0.1:{database.getsockname()[1]} check port {rest} inter 100ms fall 1 rise 1
""")
    proxy = subprocess.Popen(["haproxy", "-db", "-f", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert _within(5, lambda: _reaches(traffic, database))
        board.publish(replace(leader_status(), lease_until=None))
        assert _within(5, lambda: not _reaches(traffic, database))
    finally:
        proxy.terminate()
        proxy.wait(10)
        database.close()


def _reaches(port: int, database: socket.socket) -> bool:
    """A connection to the proxy arrives at the database's socket."""
    database.settimeout(0.3)
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            database.accept()[0].close()
            return True
    except OSError:
        return False


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False
