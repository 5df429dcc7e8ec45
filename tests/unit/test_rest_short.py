"""The short way: the same answers as the long one, nothing but plain checks, no stale word, no client that stops the others."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from harness.load import Load
from pgcore.clock import now
from pgcore.daemon.board import Board, Status
from pgcore.daemon.mailbox import Mailbox
from pgcore.model.basics import Instant
from pgcore.rest import doorman
from pgcore.rest.front import FrontDoor
from pgcore.rest.server import RestServer
from pgcore.rest.settings import RestSettings
from pgcore.rest.short import CHECKS, ShortWay
from unit.rest_board import aged, call, leader_status, raw, status, view

CONDITIONS: dict[str, Callable[[], Status | None]] = {
    "leader": leader_status,
    "replica": status,
    "sync standby": lambda: status(synchronous="on", cluster=view(sync=("b",))),
    "no store": lambda: status(cluster=None),
    "nothing yet": lambda: None,
}
PLAIN = [f"{method} {path}" for method in ("GET", "HEAD", "OPTIONS") for path in sorted(CHECKS)] + [
    "GET /patroni", "GET /liveness", "GET /readiness", "GET /readiness?mode=write&lag=10", "OPTIONS /replica?lag=99",
    "OPTIONS /replica?lag=101", "GET /read-only?tag_dc=%C3%A9", "HEAD /replica?replication_state=streaming&lag=&lag=5",
]


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def server(board: Board) -> Iterator[RestServer]:
    settings = RestSettings("127.0.0.1:0", http_extra_headers={"X-Frame-Options": "DENY"})
    server = RestServer(settings, board, Mailbox(), lambda seconds: None)
    server.start()
    yield server
    server.stop()


def _in_two_pieces(address: tuple[str, int], request: bytes) -> bytes:
    """The same request, but torn: such a one is never plain, so that it goes the long way."""
    with socket.create_connection(address, 5) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(request[:-2])
        time.sleep(0.01)
        client.sendall(request[-2:])
        return b"".join(iter(lambda: client.recv(65536), b""))


def _timeless(response: bytes) -> bytes:
    """Without what passes with time."""
    return re.sub(rb'((?:Date|Age): )[^\r]+|("(?:observed_age|lease_seconds_left|seconds)": )[^,}]+', rb"\1\2", response)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_both_ways_give_the_same_answer_byte_for_byte(server: RestServer, board: Board, condition: str) -> None:
    seen = CONDITIONS[condition]()
    if seen is not None:
        board.publish(seen)
    answers = []
    for request in PLAIN:
        text = f"{request} HTTP/1.1\r\nHost: x\r\nUser-Agent: check\r\n\r\n".encode()
        assert _way(board).answer(text, "::1", now()) is not None, request
        answers.append((request, _timeless(raw(server.bound[0], text)), _timeless(_in_two_pieces(server.bound[0], text))))
    assert [request for request, short, long in answers if short != long] == []
    assert len({long for _, _, long in answers}) > 1, "what is compared must differ from request to request"


@pytest.mark.parametrize("request_line", [
    b"GET /patroni?fresh=1 HTTP/1.0", b"GET /patroni?race=1 HTTP/1.0", b"HEAD /liveness HTTP/1.0", b"GET /cluster HTTP/1.0",
    b"GET /metrics HTTP/1.0", b"GET /config HTTP/1.0", b"GET /own HTTP/1.0", b"POST /primary HTTP/1.0",
    b"DELETE /restart HTTP/1.0", b"GET /primary", b"GET  /primary HTTP/1.0", b"GET /primary HTTP/2.0", b"GET /primary#x HTTP/1.0",
    b"GET /pri\xc3\xa9 HTTP/1.0", b"GET * HTTP/1.0", b"GET http://x/primary HTTP/1.0", b"",
    b"GET /replica?" + b"a=&" * 1000 + b" HTTP/1.0",
])
def test_what_is_not_a_plain_check_takes_the_long_way(board: Board, request_line: bytes) -> None:
    board.publish(leader_status())
    assert _way(board).answer(request_line + b"\r\n\r\n", "::1", now()) is None


@pytest.mark.parametrize("rest", [
    b"Content-Length: 2\r\n\r\n{}", b"content-length : 0\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n", b"A: b\r\n c\r\n\r\n",
    b"A b: c\r\n\r\n", b"A: \x00\r\n\r\n", b"A: b\r\n", b"\r\nGET /primary HTTP/1.0\r\n\r\n", b"",
])
def test_what_is_odd_is_left_to_the_parser(board: Board, rest: bytes) -> None:
    board.publish(leader_status())
    assert _way(board).answer(b"GET /primary HTTP/1.0\r\n" + rest, "::1", now()) is None


def _way(board: Board) -> ShortWay:
    return ShortWay(FrontDoor(board, lambda seconds: None), lambda: RestSettings("127.0.0.1:0"))


def test_the_encoded_status_follows_the_board_and_the_clock(server: RestServer, board: Board) -> None:
    def told() -> dict[str, object]:
        return json.loads(call(server.bound[0], "GET", "/patroni").body)

    board.publish(leader_status(failsafe_until=Instant(now() + 2), lease_until=Instant(now() + 2)))
    first, code = told(), call(server.bound[0], "OPTIONS", "/primary").code
    assert (first["failsafe_mode_is_active"], first["role"], code) == (True, "primary", 200)
    time.sleep(2.1)
    second, code = told(), call(server.bound[0], "OPTIONS", "/primary").code
    assert "failsafe_mode_is_active" not in second
    assert (second["pgcore"]["lease_seconds_left"], code) == (0, 503), "no check vouches on the strength of a lease that ended"
    assert second["pgcore"]["observed_age"] >= first["pgcore"]["observed_age"] + 2
    board.publish(aged(status(), 61))
    assert (told()["role"], call(server.bound[0], "OPTIONS", "/replica").code) == ("replica", 503)


def test_a_bug_costs_one_client_a_500_and_is_logged(server: RestServer, board: Board, caplog: pytest.LogCaptureFixture) -> None:
    board.publish(replace(leader_status(), timing=None))  # type: ignore[arg-type]
    assert call(server.bound[0], "OPTIONS", "/health").code == 500
    assert "REST API failed to answer OPTIONS /health" in caplog.text
    assert call(server.bound[0], "OPTIONS", "/primary").code == 200


def test_checks_are_answered_while_every_worker_waits_for_postgresql(board: Board) -> None:
    release, asked = threading.Event(), threading.Semaphore(0)

    def hangs(seconds: float) -> None:
        asked.release()
        release.wait(30)

    server = RestServer(RestSettings("127.0.0.1:0"), board, Mailbox(), hangs)
    server.start()
    board.publish(leader_status())
    clients = [socket.create_connection(server.bound[0], 30) for _ in range(20)]
    try:
        for client in clients:
            client.sendall(b"GET /patroni?fresh=1 HTTP/1.0\r\n\r\n")
        assert all(asked.acquire(timeout=10) for _ in range(5)), "all five workers are taken"
        began = time.monotonic()
        assert [call(server.bound[0], "OPTIONS", "/primary", timeout=5).code for _ in range(10)] == [200] * 10
        assert call(server.bound[0], "GET", "/patroni", timeout=5).code == 200
        assert time.monotonic() - began < 5
    finally:
        release.set()
        for client in clients:
            client.close()
        server.stop()


def test_a_crowd_that_asks_at_once_is_answered_to_the_last(server: RestServer, board: Board) -> None:
    """More clients than may wait at one time, none of which was silent for long enough to be taken for an attack."""
    board.publish(leader_status())
    report = Load(*server.bound[0], "OPTIONS /primary", clients=doorman.MAX_WAITING + 200, seconds=1.0).run()
    assert set(report.codes) == {"200"}
    assert sum(report.codes.values()) >= doorman.MAX_WAITING + 200


def test_a_client_that_does_not_read_its_answer_stops_nobody_and_gets_all_of_it_later(server: RestServer, board: Board) -> None:
    board.publish(replace(leader_status(), tags={"much": "x" * 20_000_000}))
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect(server.bound[0])
        client.sendall(b"GET /patroni HTTP/1.0\r\n\r\n")
        client.recv(1)
        assert call(server.bound[0], "OPTIONS", "/primary", timeout=5).code == 200
        received = b"".join(iter(lambda: client.recv(1 << 20), b""))
    assert len(json.loads(received.partition(b"\r\n\r\n")[2])["tags"]["much"]) == 20_000_000
