"""Load on a REST API as HAProxy makes it: a new connection for every request. Run as a program, it is the process that asks.

One request on standard input as JSON, one result on standard output. The process is its own, so that the asking shares no
interpreter with whoever measures.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field

GRACE_S = 5.0
"""Requests under way at the end get this long; what then has no answer counts as failed."""


@dataclass(frozen=True, slots=True)
class Load:
    """``clients`` that each ask again as soon as they were answered, for ``seconds``."""

    host: str
    port: int
    request: str
    """First line without the version, such as ``OPTIONS /primary``."""
    clients: int
    seconds: float

    def start(self) -> subprocess.Popen[str]:
        """The process that asks; hand it to ``finish``."""
        process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(self)))
        process.stdin.close()
        return process

    def finish(self, process: subprocess.Popen[str]) -> LoadReport:
        """Wait for the end of the load. Raises AssertionError when its process failed or hangs."""
        assert process.stdout is not None
        try:
            text = process.stdout.read()
            assert process.wait(self.seconds + 2 * GRACE_S) == 0, f"the load's process ended with {process.returncode}"
        finally:
            process.stdout.close()
            process.kill()
        return LoadReport(**json.loads(text))

    def run(self) -> LoadReport:
        """Load now, and wait for its end."""
        return self.finish(self.start())


@dataclass(slots=True)
class LoadReport:
    """What the clients saw."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    """From ``connect`` to the end of the answer, sorted."""
    codes: dict[str, int] = field(default_factory=dict)
    """How often each status code came; ``failed`` counts connections without a whole answer."""

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return len(self.latencies_s) / self.seconds

    def percentile(self, share: float) -> float:
        """The latency in seconds that this share of the answers did not exceed."""
        return self.latencies_s[min(len(self.latencies_s) - 1, int(share * len(self.latencies_s)))] if self.latencies_s else 0.0


class _Asking:
    """All clients on one poller: threads would measure each other's turns."""

    def __init__(self, load: Load) -> None:
        self._load, self._address = load, (load.host, load.port)
        self._request = f"{load.request} HTTP/1.0\r\n\r\n".encode()
        self._poller = select.epoll()
        self._open: dict[int, tuple[socket.socket, float, bytearray]] = {}
        self.report = LoadReport()

    def run(self) -> LoadReport:
        began = time.perf_counter()
        end = began + self._load.seconds
        for _ in range(self._load.clients):
            self._ask()
        while self._open and time.perf_counter() < end + GRACE_S:
            for number, event in self._poller.poll(1.0):
                if not self._turn(number, event):
                    continue
                if time.perf_counter() < end:
                    self._ask()
                else:
                    self.report.seconds = self.report.seconds or time.perf_counter() - began
        self.report.seconds = self.report.seconds or time.perf_counter() - began
        self._count("failed", len(self._open))
        self.report.latencies_s.sort()
        return self.report

    def _ask(self) -> None:
        client = socket.socket()
        client.setblocking(False)
        since = time.perf_counter()
        code = client.connect_ex(self._address)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        self._open[client.fileno()] = client, since, bytearray()
        self._poller.register(client, select.EPOLLOUT)

    def _turn(self, number: int, event: int) -> bool:
        """One step of one client; whether its request is over."""
        client, since, answer = self._open[number]
        try:
            if event & select.EPOLLOUT:
                client.send(self._request)
                self._poller.modify(client, select.EPOLLIN)
                return False
            chunk = client.recv(65536)
            if chunk:
                answer += chunk
                return False
        except OSError:
            answer.clear()
        took = time.perf_counter() - since
        del self._open[number]
        client.close()
        words = bytes(answer[:16]).split(b" ")
        if len(words) < 2:
            self._count("failed", 1)
        else:
            self._count(words[1].decode("ascii", "replace"), 1)
            self.report.latencies_s.append(took)
        return True

    def _count(self, code: str, number: int) -> None:
        if number:
            self.report.codes[code] = self.report.codes.get(code, 0) + number


if __name__ == "__main__":
    print(json.dumps(asdict(_Asking(Load(**json.loads(sys.stdin.read()))).run())))
