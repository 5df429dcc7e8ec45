"""The listener over real connections: shapes of answers, slow and idle clients, bounds, busy ports, TLS."""

from __future__ import annotations

import json
import logging
import queue
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pgcore.config.sections import LoginSection, RestapiSection
from pgcore.daemon.board import Board
from pgcore.daemon.mailbox import Mailbox
from pgcore.errors import ConfigError, FatalError
from pgcore.model.basics import Lsn
from pgcore.rest import doorman
from pgcore.rest.server import RestServer
from pgcore.rest.settings import RestSettings
from pgcore.testing.processes import free_port
from unit.rest_board import aged, call, leader_status, raw, status

Open = Callable[..., RestServer]


@pytest.fixture
def board() -> Board:
    board = Board()
    board.publish(leader_status())
    return board


@pytest.fixture
def serve(board: Board) -> Iterator[Open]:
    """Start a server on a free loopback port with these settings."""
    servers: list[RestServer] = []

    def start(**settings: object) -> RestServer:
        server = RestServer(
            RestSettings(**{"listen": "127.0.0.1:0", **settings}), board, Mailbox(), lambda seconds: (Lsn(7), Lsn(6), False)
        )
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


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
    board._status = None
    address = serve().bound[0]
    codes = {
        path: call(address, "GET", path).code for path in ("/", "/replica", "/liveness", "/readiness", "/cluster", "/metrics")
    }
    assert codes == {"/": 503, "/replica": 503, "/liveness": 200, "/readiness": 503, "/cluster": 503, "/metrics": 503}
    assert call(address, "GET", "/patroni").code == 200


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


def test_all_addresses_are_listened_on_with_a_star(serve: Open) -> None:
    server = serve(listen="*:0")
    assert call(("127.0.0.1", server.bound[0][1]), "OPTIONS", "/").code == 200


def test_there_are_six_threads_and_all_of_them_end(serve: Open) -> None:
    before = set(threading.enumerate())
    server = serve()
    started = set(threading.enumerate()) - before
    assert len(started) == 6
    assert all(thread.daemon for thread in started)
    server.stop()
    assert not [thread for thread in started if thread.is_alive()]


def test_a_new_address_is_opened_before_the_old_one_is_closed(serve: Open) -> None:
    server = serve()
    old = server.bound[0]
    server.reconfigure(RestSettings("127.0.0.2:0"))
    assert call(server.bound[0], "OPTIONS", "/").code == 200
    with pytest.raises(OSError):
        socket.create_connection(old, 2)


def test_a_bad_new_setting_leaves_the_old_ones_in_force(serve: Open, tmp_path: Path) -> None:
    server = serve()
    with pytest.raises(ConfigError, match=r"restapi\.certfile"):
        server.reconfigure(replace(server.settings, certfile=str(tmp_path / "missing")))
    with pytest.raises(FatalError, match="not an address of this machine"):
        server.reconfigure(RestSettings("203.0.113.1:8008"))
    assert call(server.bound[0], "OPTIONS", "/").code == 200


# -- TLS ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate authority (ca), a server certificate (server) and a client certificate (client)."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    openssl(
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "ca.key",
        "-out",
        "ca.crt",
        "-subj",
        "/CN=test ca",
        "-days",
        "2",
    )
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1,IP:127.0.0.2\n")
    for name in ("server", "client"):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(
            "x509",
            "-req",
            "-in",
            f"{name}.csr",
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-out",
            f"{name}.crt",
            "-days",
            "2",
            "-extfile",
            "san",
        )
    return folder


def _client(certificates: Path, *, certificate: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    if certificate:
        context.load_cert_chain(certificates / "client.crt", certificates / "client.key")
    return context


def _tls(certificates: Path, verify_client: str = "none") -> dict[str, str]:
    return {
        "certfile": str(certificates / "server.crt"),
        "keyfile": str(certificates / "server.key"),
        "cafile": str(certificates / "ca.crt"),
        "verify_client": verify_client,
    }


def test_over_tls_the_whole_body_arrives_and_the_end_is_announced(serve: Open, certificates: Path) -> None:
    server = serve(**_tls(certificates), https_extra_headers={"Strict-Transport-Security": "max-age=1"})
    reply = call(server.bound[0], "GET", "/metrics", context=_client(certificates, certificate=False))
    assert reply.body.endswith("\n") and reply.headers["Strict-Transport-Security"] == "max-age=1"
    context = _client(certificates, certificate=False)
    with (
        socket.create_connection(server.bound[0], 5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False) as connection,
    ):
        connection.sendall(b"GET /patroni HTTP/1.0\r\n\r\n")
        while connection.recv(65536):
            pass  # a missing goodbye would raise SSLEOFError


def test_a_client_certificate_is_optional_for_checks_and_needed_for_actions(serve: Open, certificates: Path) -> None:
    address = serve(**_tls(certificates, "Optional")).bound[0]
    without, with_one = _client(certificates, certificate=False), _client(certificates, certificate=True)
    assert call(address, "OPTIONS", "/", context=without).code == 200
    refused = call(address, "POST", "/reload", context=without)
    assert (refused.code, refused.body) == (403, "client certificate required")
    assert call(address, "POST", "/reload", context=with_one).code == 202


def test_a_required_client_certificate_is_required_of_everybody(serve: Open, certificates: Path) -> None:
    address = serve(**_tls(certificates, "required")).bound[0]
    with pytest.raises(OSError):
        call(address, "GET", "/primary", context=_client(certificates, certificate=False))
    assert call(address, "GET", "/primary", context=_client(certificates, certificate=True)).code == 200


def test_silent_tls_clients_do_not_stop_health_checks(serve: Open, certificates: Path) -> None:
    address = serve(**_tls(certificates)).bound[0]
    idle = [socket.create_connection(address) for _ in range(50)]
    try:
        began = time.monotonic()
        assert call(address, "OPTIONS", "/", context=_client(certificates, certificate=False)).code == 200
        assert time.monotonic() - began < 1
    finally:
        for connection in idle:
            connection.close()


def test_plain_http_on_a_tls_port_is_dropped(serve: Open, certificates: Path) -> None:
    address = serve(**_tls(certificates)).bound[0]
    try:
        assert not raw(address, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")
    except ConnectionResetError:
        pass


def test_tls_is_switched_on_by_a_reload_without_closing_the_port(serve: Open, certificates: Path) -> None:
    server = serve()
    address = server.bound[0]
    server.reconfigure(replace(server.settings, **_tls(certificates)))
    assert server.bound[0] == address
    assert call(address, "OPTIONS", "/", context=_client(certificates, certificate=False)).code == 200


def test_a_key_with_an_unknown_password_is_refused_without_asking_the_terminal(board: Board, certificates: Path) -> None:
    subprocess.run(
        ["openssl", "rsa", "-aes256", "-passout", "pass:secret", "-in", "server.key", "-out", "locked.key"],
        cwd=certificates,
        check=True,
        capture_output=True,
    )
    tls = {**_tls(certificates), "keyfile": str(certificates / "locked.key")}
    with pytest.raises(ConfigError, match="keyfile_password") as caught:
        RestServer(
            RestSettings("127.0.0.1:0", **tls, keyfile_password="wrong-guess"), board, Mailbox(), lambda seconds: None
        ).start()
    assert "wrong-guess" not in str(caught.value)
    server = RestServer(RestSettings("127.0.0.1:0", **tls, keyfile_password="secret"), board, Mailbox(), lambda seconds: None)
    server.start()
    server.stop()


def test_the_section_of_the_configuration_becomes_settings() -> None:
    section = RestapiSection(
        listen="0.0.0.0:8008", connect_address="10.0.0.1:8008", authentication=LoginSection(username="api", password="secret")
    )
    settings = RestSettings.of(section)
    assert (settings.api_url, settings.username, settings.password) == ("http://10.0.0.1:8008/patroni", "api", "secret")
    assert settings.request_queue_size == 128
    assert "secret" not in repr(settings)


def test_a_full_queue_is_answered_and_does_not_end_the_thread(serve: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    with monkeypatch.context() as patched:
        patched.setattr(server._http.requests, "put", _refuse)
        assert raw(server.bound[0], b"OPTIONS / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 503 ")
    assert call(server.bound[0], "OPTIONS", "/").code == 200


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
