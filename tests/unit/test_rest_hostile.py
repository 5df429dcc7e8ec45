"""Requests that nobody means well with: each gets its answer, the code of its endpoint or 400, never a bug or silence."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from pgcore.daemon.board import Board
from pgcore.daemon.mailbox import Mailbox
from pgcore.rest.server import RestServer
from pgcore.rest.settings import RestSettings
from unit.rest_board import call, leader_status, raw

DEEP = b"[" * 100_000
SURROGATE = json.dumps({"\ud800": "\ud800"}).encode()


@pytest.fixture
def address(caplog: pytest.LogCaptureFixture) -> Iterator[tuple[str, int]]:
    """Where a server listens; whatever was asked of it, it has logged no error."""
    caplog.set_level(logging.WARNING)
    board = Board()
    board.publish(leader_status())
    server = RestServer(RestSettings("127.0.0.1:0"), board, Mailbox(), lambda seconds: None)
    server.start()
    yield server.bound[0]
    assert call(server.bound[0], "GET", "/primary").code == 200
    server.stop()
    assert caplog.text == ""


def sent(address: tuple[str, int], line: bytes, *headers: bytes, body: bytes | None = None) -> int:
    """The code of the answer."""
    length = () if body is None else (b"Content-Length: %d" % len(body),)
    answer = raw(address, b"\r\n".join((line + b" HTTP/1.1", *headers, *length, b"", body or b"")))
    return int(answer.split(b" ")[1])


@pytest.mark.parametrize("path", [b"/switchover", b"/failover", b"/restart", b"/reinitialize", b"/failsafe"])
@pytest.mark.parametrize("body", [DEEP, b"{\"a\":" + DEEP, b"NaN", b"{\"leader\": NaN}", b"\xff\xfe\x00", b"1" * 5000, b"\0"])
def test_a_body_that_is_no_json_object_is_refused(address: tuple[str, int], path: bytes, body: bytes) -> None:
    assert sent(address, b"POST " + path, body=body) == 400


@pytest.mark.parametrize(("path", "code"), [(b"/switchover", 400), (b"/failover", 400), (b"/restart", 400), (b"/failsafe", 400)])
def test_half_a_character_in_a_body_can_be_answered(address: tuple[str, int], path: bytes, code: int) -> None:
    assert sent(address, b"POST " + path, body=SURROGATE) == code


def test_half_a_character_in_a_name_is_refused_before_it_reaches_a_file_or_the_store(address: tuple[str, int]) -> None:
    body = json.dumps({"leader": "\ud800", "candidate": "\udfff"}).encode()
    assert sent(address, b"POST /switchover", body=body) == 400


@pytest.mark.parametrize("path", [b"/switchover?x=%ff", b"/switchover?\xff", b"/switchover/%ff%00", b"/switchover/../x",
                                  b"/switchover?a=b;%"])
def test_what_follows_the_first_segment_is_ignored_whatever_it_is(address: tuple[str, int], path: bytes) -> None:
    assert sent(address, b"POST " + path, body=b"{\"x\": 1}") == 400  # no leader is named


@pytest.mark.parametrize(("line", "code"), [
    (b"GET http://x/primary", 200), (b"HEAD HTTPS://x:8008/primary", 200), (b"GET http://x", 200), (b"GET http://x?lag=1", 200),
    (b"GET http://[::1/primary", 200), (b"GET //primary", 200), (b"GET ///patroni", 200), (b"GET /primary#part", 200),
    (b"GET //[", 503), (b"GET http://x/replica", 503), (b"OPTIONS *", 503), (b"GET x", 503), (b"GET /%", 503),
    (b"GET /\xff", 503),
    (b"CONNECT x:443", 501), (b"get /primary", 501), (b"G\xe9T /", 400), (b"GET / x", 400), (b"GET", 400), (b"", 400)])
def test_every_request_line_is_answered_by_what_it_asks_for(address: tuple[str, int], line: bytes, code: int) -> None:
    """Patroni takes an absolute target and too many slashes, too; an address may end with one."""
    assert sent(address, line) == code


@pytest.mark.parametrize(("version", "code"), [
    (b"HTTP/1.9", 200), (b"HTTP/2.0", 505), (b"HTTP/0.9", 505), (b"HTTP/1", 400), (b"HTTP/11.1", 400), (b"http/1.1", 400),
    (b"", 400)])
def test_any_version_of_http_1_is_answered(address: tuple[str, int], version: bytes, code: int) -> None:
    assert raw(address, b"GET /primary " + version + b"\r\nA: b\r\n\r\n").startswith(b"HTTP/1.0 %d " % code)


@pytest.mark.parametrize("header", [b" continued", b"\tcontinued", b"no colon", b" : "])
def test_a_header_that_is_none_is_refused(address: tuple[str, int], header: bytes) -> None:
    assert sent(address, b"POST /reload", header) == 400


@pytest.mark.parametrize("header", [
    b"Cookie: a b=;;=\"", b"Host: \xff", b"Authorization: =?utf-8?b?!!!?=", b"X-A: =?utf-8?b?!!!?=", b"Content-Type: ;;;=\xff",
    b"Accept: */*;q=x", b"Expect: 100-continue", b"Transfer-Encoding: gzip, chunked", b"If-Match: \"", b"Range: bytes=9-1"])
def test_headers_that_nobody_asked_for_are_ignored(address: tuple[str, int], header: bytes) -> None:
    assert sent(address, b"POST /switchover", header, body=b"{\"x\": 1}") == 400
