"""Requests that are none: proper ones cut off, garbled, overlong, contradictory, from a seed, and what a server makes of them."""

from __future__ import annotations

import random
import re
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Ending = Literal["wait", "shut", "reset"]
"""What the client does when it has sent all: listen, say that it is done and listen, or break off."""

TARGETS = (b"/", b"/primary", b"/replica?lag=1MB&tag_a=b", b"/patroni", b"/cluster", b"/config", b"/metrics", b"/openapi.json",
           b"/liveness", b"/readiness?mode=write", b"/failsafe", b"/switchover", b"/reinitialize", b"/mpp", b"/nowhere")
ODD_TARGETS = (b"*", b"", b"http://[::1/primary", b"//[", b"//primary", b"http://x/primary", b"/%", b"/%00", b"/\xff\xfe",
               b"/a#b", b"/a b", b"?", b"/" + b"a/" * 700, b"/?" + b"x=1&" * 700, b"/?lag=" + b"9" * 1500, b"/..//../x",
               b"x:443")
METHODS = (b"GET", b"HEAD", b"OPTIONS", b"POST", b"PUT", b"PATCH", b"DELETE")
ODD_METHODS = (b"get", b"CONNECT", b"TRACE", b"PRI", b"", b"G\0T", b"\xff", b"X" * 3000, b"GET GET")
VERSIONS = (b"HTTP/1.0", b"HTTP/1.1")
ODD_VERSIONS = (b"", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9.9", b"HTTP/1", b"HTTP/1.1.1", b"HTTP/-1.-1", b"http/1.1", b"ICY/1.0",
                b"HTTP/" + b"9" * 5000 + b".1")
LENGTHS = (b"0", b"1", b"99", b"300000", b"999999999999", b"9" * 40, b"-1", b"+2", b"0x2", b"2 2", b"", b"two", b"2, 2", b"\xb2")
ODD_HEADERS = (
    b"no colon", b": no name", b" continued", b"Space : before", b"\0: \0", b"\xff\xfe: \xff", b"A:", b"Cookie: a b=;;=\"",
    b"Content_Length: 5", b"Host: a, b", b"Expect: 100-continue", b"Expect: what", b"Upgrade: h2c", b"Connection: keep-alive",
    b"Authorization: Basic !!!", b"Authorization: Basic " + b"A" * 5000, b"Authorization: =?utf-8?b?!!!?=", b"H: v", b"I: v",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"X: " + b"y" * 20000,
)
BODIES = (b"", b"{}", b"[]", b"null", b"{\"leader\": 1}", b"[" * 3000, b"\0\xff" * 40, b"{\"a\": \"\\ud800\"}", b"NaN",
          b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffff\r\nx", b"zz\r\n\r\n", b"x" * 70000)
GREETINGS = (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"SSH-2.0-x\r\n",
             b"\0\0\0\x08\x04\xd2\x16\x2f", b"\r\n\r\n\r\n", b"\n", b"\xff" * 200, b"\r" * 20000, b"GET /primary\r\n\r\n",
             b"GET /\n\n")


@dataclass(frozen=True, slots=True)
class Attempt:
    """Bytes to send in these pieces, and how to end."""

    pieces: tuple[bytes, ...]
    ending: Ending


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back until the server closed; ``seconds`` is None if it had not closed in time."""

    attempt: Attempt
    answer: bytes
    seconds: float | None

    @property
    def code(self) -> int | None:
        """Of the answer, None for a connection that was closed without one."""
        match = re.match(rb"HTTP/1\.0 (\d{3}) ", self.answer)
        assert match or not self.answer, self
        return int(match[1]) if match else None


def attempts(seed: int, count: int, authorization: bytes) -> list[Attempt]:
    """So many, always the same for a seed. Those with the authorization ask for nothing that would harm a primary."""
    chance = random.Random(seed)
    return [_attempt(chance, authorization) for _ in range(count)]


def _attempt(chance: random.Random, authorization: bytes) -> Attempt:
    if chance.random() < 0.08:
        data = chance.choice(GREETINGS)
    else:
        data = b"".join(_request(chance, authorization) for _ in range(chance.choice((1, 1, 1, 1, 2, 5))))
    garble: Callable[[bytes, random.Random], bytes] = chance.choice((_same, _same, _cut, _flip, _inserted, _newlines))
    data = garble(data, chance)
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice((0, 0, 0, 1, 3))))
    pieces = tuple(data[begin:end] for begin, end in zip((0, *cuts), (*cuts, len(data)), strict=True))
    return Attempt(pieces, chance.choice(("wait", "wait", "shut", "shut", "reset")))


def _request(chance: random.Random, authorization: bytes) -> bytes:
    def pick(usual: tuple[bytes, ...], odd: tuple[bytes, ...], odds: float) -> bytes:
        return chance.choice(odd if chance.random() < odds else usual)

    line = b" ".join((pick(METHODS, ODD_METHODS, 0.1), pick(TARGETS, ODD_TARGETS, 0.2), pick(VERSIONS, ODD_VERSIONS, 0.1)))
    headers = [chance.choice(ODD_HEADERS) for _ in range(chance.choice((0, 0, 1, 3)))]
    if chance.random() < 0.03:
        headers += [b"Many-%d: %d" % (number, number) for number in range(1500)]
    body = chance.choice(BODIES) if chance.random() < 0.5 else b""
    if body or chance.random() < 0.1:
        true = str(len(body)).encode()
        headers += [b"Content-Length: " + pick((true,), LENGTHS, 0.3) for _ in range(chance.choice((1, 1, 1, 2)))]
    if body and chance.random() < 0.5:
        headers.append(authorization)
    chance.shuffle(headers)
    return b"\r\n".join((line, *headers, b"", body))


def _same(data: bytes, chance: random.Random) -> bytes:
    return data


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[:chance.randrange(len(data) + 1)]


def _flip(data: bytes, chance: random.Random) -> bytes:
    garbled = bytearray(data)
    for _ in range(chance.choice((1, 3, 20))):
        if garbled:
            garbled[chance.randrange(len(garbled))] = chance.randrange(256)
    return bytes(garbled)


def _inserted(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice((b"\0", b"\r\n", b"\n", b"\r", b" ", b":", chance.randbytes(30))) + data[at:]


def _newlines(data: bytes, chance: random.Random) -> bytes:
    return data.replace(b"\r\n", chance.choice((b"\n", b"\r", b"\n\r", b"\r\r\n", b"\0\n")))


def tried(address: tuple[str, int], attempt: Attempt, patience_s: float) -> Outcome:
    """Send it, and hear what the server says until it closes, for so many seconds at most."""
    began, answer = time.monotonic(), b""
    with socket.create_connection(address, patience_s) as link:
        link.settimeout(patience_s)
        try:
            for piece in attempt.pieces:
                link.sendall(piece)
                if len(attempt.pieces) > 1:
                    time.sleep(0.01)
            if attempt.ending == "reset":
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return Outcome(attempt, b"", 0.0)
            if attempt.ending == "shut":
                link.shutdown(socket.SHUT_WR)
            while chunk := link.recv(65536):
                answer += chunk
        except TimeoutError:
            return Outcome(attempt, answer, None)
        except OSError:
            pass  # closed while we were still sending
        return Outcome(attempt, answer, time.monotonic() - began)
