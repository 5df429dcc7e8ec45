"""A small HTTP client: kept-alive connections, TLS with client certificates, several endpoints, one deadline over everything.

Unlike the standard library's client it keeps the deadline whatever the other side does: name resolution, the addresses behind
a name, a peer that sends a byte at a time. An object belongs to one thread; only ``close`` may come from another.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pgcore.clock import Deadline
from pgcore.errors import PgcoreError

KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 2, 1, 3
MAX_LINE_BYTES = 16 * 1024 * 1024


class HttpUnavailableError(PgcoreError):
    """No answer within the deadline. ``sent``: the request may have reached the server and may have been carried out."""

    def __init__(self, problem: str, *, sent: bool) -> None:
        self.sent = sent
        super().__init__(problem)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files: the trusted authority (the system's ones if empty), the own certificate and its key (may be inside)."""

    cacert: str | None = None
    cert: str | None = None
    key: str | None = None

    def context(self) -> ssl.SSLContext:
        """The TLS settings; OSError (ssl.SSLError is one) if a file cannot be read or used."""
        context = ssl.create_default_context(cafile=self.cacert or None)
        if self.cert:
            context.load_cert_chain(self.cert, self.key or None)
        return context


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: status code, headers with lower-case names, body, and the endpoint it came from."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    endpoint: str


class Resolver:
    """Name to addresses within a deadline. Remembers the last answer for the time when the name service does not reply."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], list[tuple[int, str, int]]] = {}

    def addresses(self, host: str, port: int, deadline: Deadline) -> list[tuple[int, str, int]]:
        """(family, address, port) of a host; OSError if nothing is known. Addresses need no look-up and no thread."""
        with suppress(ValueError):
            family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
            return [(family, host, port)]
        failure: list[OSError] = []

        def look_up() -> None:
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                self._known[host, port] = [(entry[0], str(entry[4][0]), port) for entry in found]
            except OSError as error:
                failure.append(error)

        # getaddrinfo knows no deadline: a dead name server costs 5 to 30 s
        thread = threading.Thread(target=look_up, name="resolve", daemon=True)
        thread.start()
        thread.join(deadline.left())
        if (host, port) in self._known:
            return self._known[host, port]
        raise failure[0] if failure else TimeoutError(f"no answer from the name service about {host}")


class _DeadlineSocket(io.RawIOBase):
    """A connected socket whose every operation gets only the time that is left; what http.client needs of a socket."""

    def __init__(self, plain: socket.socket) -> None:
        self.plain = plain
        self.deadline = Deadline.after(0)

    def _arm(self) -> None:
        left = self.deadline.left()
        if left <= 0:
            raise TimeoutError("timed out")
        self.plain.settimeout(left)

    def sendall(self, data: bytes) -> None:
        """Send everything (http.client calls this)."""
        self._arm()
        self.plain.sendall(data)

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read what is there, waiting no longer than the deadline."""
        self._arm()
        return self.plain.recv_into(buffer)

    def receive(self) -> bytes:
        """Some bytes; none at the end of the stream; TimeoutError at the deadline."""
        self._arm()
        return self.plain.recv(65536)

    def makefile(self, *_: object, **__: object) -> io.BufferedReader:
        """A buffered reader over this socket that does not close it (http.client calls this)."""
        return io.BufferedReader(_Unclosing(self))

    @property
    def stale(self) -> bool:
        """An idle connection that has something to read was closed by the other side."""
        return bool(select.select([self.plain], [], [], 0)[0])

    def close(self) -> None:
        """Close, waking a thread that is reading."""
        with suppress(OSError):
            socket.socket.shutdown(self.plain, socket.SHUT_RDWR)
        self.plain.close()


class _Unclosing(io.RawIOBase):
    def __init__(self, source: _DeadlineSocket) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._source.readinto(buffer)


@dataclass(slots=True)
class Endpoints:
    """The servers to talk to, ``scheme://host:port`` each, the preferred one first. Replaced whole, so threads may share it."""

    urls: tuple[str, ...]

    def prefer(self, url: str) -> None:
        """Move an endpoint to the front, so that the next request starts there."""
        if self.urls and self.urls[0] != url and url in self.urls:
            at = self.urls.index(url)
            self.urls = self.urls[at:] + self.urls[:at]

    def avoid(self, url: str) -> None:
        """Move an endpoint to the back."""
        if url in self.urls and len(self.urls) > 1:
            self.urls = (*(other for other in self.urls if other != url), url)


@dataclass(slots=True)
class Connector:
    """Opens connections: name resolution, TCP settings, TLS."""

    tls: TlsFiles = field(default_factory=TlsFiles)
    resolver: Resolver = field(default_factory=Resolver)
    _context: ssl.SSLContext | None = None

    def connect(self, url: str, deadline: Deadline) -> _DeadlineSocket:
        """A connection to an endpoint; OSError if there is none within the deadline."""
        parts = urlsplit(url)
        if parts.hostname is None:
            raise OSError(f"no host in {url}")
        addresses = self.resolver.addresses(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80), deadline)
        failure: OSError = TimeoutError("timed out")
        for position, (family, address, port) in enumerate(addresses):
            budget = deadline.left() / (len(addresses) - position)
            if budget <= 0:
                break
            plain = socket.socket(family, socket.SOCK_STREAM)
            try:
                plain.settimeout(budget)
                plain.connect((address, port))
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _detect_dead_peers(plain)
                if parts.scheme == "https":
                    plain = self._tls_context().wrap_socket(plain, server_hostname=parts.hostname)
                return _DeadlineSocket(plain)
            except OSError as error:
                plain.close()
                failure = error
                if isinstance(error, ssl.SSLError):
                    self._context = None  # the files may be replaced by renewed ones: read them again next time
        raise failure

    def check(self) -> None:
        """Read the TLS files now. Raises OSError if one cannot be read or used."""
        self._tls_context()

    def _tls_context(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = self.tls.context()
        return self._context


def _detect_dead_peers(plain: socket.socket) -> None:
    """A peer whose machine or network vanished is noticed within about 5 s even on an idle connection."""
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", KEEPALIVE_IDLE_S), ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
                          ("TCP_KEEPCNT", KEEPALIVE_PROBES), ("TCP_USER_TIMEOUT", 5000)):
        if hasattr(socket, option):
            plain.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


class HttpClient:
    """Requests to one of several equal servers over one kept-alive connection."""

    def __init__(self, endpoints: Endpoints | Sequence[str], connector: Connector | None = None) -> None:
        self.endpoints = endpoints if isinstance(endpoints, Endpoints) else Endpoints(tuple(endpoints))
        self.connector = connector or Connector()
        self._connected: tuple[str, _DeadlineSocket] | None = None
        self._closed = False

    def request(self, method: str, path: str, body: bytes | None = None, *, headers: Mapping[str, str] | None = None,
                deadline: Deadline, idempotent: bool) -> Response:
        """Send a request to the first endpoint that answers; each gets its share of the time left.

        A request that is not idempotent is not repeated once it may have been received. Raises HttpUnavailableError.
        """
        untried = list(self.endpoints.urls)
        first = untried[0] if untried else ""
        failures, sent = [], False
        while untried and not self._closed:
            url = untried.pop(0)
            share = deadline.within(deadline.left() / (len(untried) + 1))
            try:
                response = self._exchange(url, method, path, body, headers or {}, share)
                self.endpoints.prefer(url)
                return response
            except HttpUnavailableError as error:
                failures.append(f"{url}: {error}")
                sent = sent or error.sent
                if sent and not idempotent:
                    break
            if deadline.expired:
                break
        self.endpoints.avoid(first)
        raise HttpUnavailableError("; ".join(failures) or "no endpoint is known", sent=sent)

    def _exchange(self, url: str, method: str, path: str, body: bytes | None, headers: Mapping[str, str],
                  deadline: Deadline) -> Response:
        """One request to one endpoint. Any failure closes the connection: its answer might come later."""
        sent = False
        try:
            channel = self._channel(url, deadline)
            channel.deadline = deadline
            connection = _Connection(url, channel)
            sent = not deadline.expired
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            content = answer.read()
            if answer.will_close:
                self._drop()
            return Response(answer.status, {name.lower(): value for name, value in answer.headers.items()}, content, url)
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: closed by another thread
            self._drop()
            raise HttpUnavailableError(str(error) or type(error).__name__, sent=sent) from error

    def _channel(self, url: str, deadline: Deadline) -> _DeadlineSocket:
        if self._connected is not None:
            connected_url, channel = self._connected
            if connected_url == url and not channel.stale:
                return channel
            self._drop()
        channel = self.connector.connect(url, deadline)
        self._connected = (url, channel)
        return channel

    def _drop(self) -> None:
        connected, self._connected = self._connected, None
        if connected is not None:
            connected[1].close()

    def close(self) -> None:
        """Close the connection and end a request under way."""
        self._closed = True
        self._drop()


class _Connection(http.client.HTTPConnection):
    """http.client speaking over a connection made elsewhere; it never connects or closes by itself."""

    def __init__(self, url: str, channel: _DeadlineSocket) -> None:
        parts = urlsplit(url)
        super().__init__(parts.hostname or "", parts.port)
        self.sock = channel

    def close(self) -> None:
        """Leave the connection to its owner."""


class LineStream:
    """A response without end whose body is read line by line, each with a time-out, without losing what arrived before it."""

    def __init__(self, connector: Connector, url: str, method: str, path: str, body: bytes, *,
                 headers: Mapping[str, str], deadline: Deadline) -> None:
        """Connect, send the request, read the header. Raises OSError or http.client.HTTPException."""
        self.url = url
        self._bytes = bytearray()
        self._lines = bytearray()
        self._ended = False
        self._channel = connector.connect(url, deadline)
        self._channel.deadline = deadline
        try:
            _Connection(url, self._channel).request(method, path, body, dict(headers))
            status, header = self._header()
            self.status = status
            self._chunked = "chunked" in header.get("transfer-encoding", "").lower()
        except BaseException:
            self._channel.close()
            raise

    def _header(self) -> tuple[int, dict[str, str]]:
        while (end := self._bytes.find(b"\r\n\r\n")) < 0:
            self._receive()
        first, *rest = bytes(self._bytes[:end]).decode("latin-1").split("\r\n")
        del self._bytes[:end + 4]
        try:
            status = int(first.split(" ")[1])
        except (IndexError, ValueError) as error:
            raise http.client.BadStatusLine(first) from error
        return status, {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}

    def _receive(self) -> None:
        data = b"" if self._ended else self._channel.receive()
        if not data:
            raise ConnectionResetError("the server ended the stream")
        self._bytes += data
        if len(self._bytes) > MAX_LINE_BYTES:
            raise http.client.LineTooLong("stream")

    def line(self, timeout_s: float) -> bytes:
        """The next line. TimeoutError: none yet, ask again; OSError or HTTPException: the stream is over."""
        self._channel.deadline = Deadline.after(timeout_s)
        while True:
            self._decode()
            if (end := self._lines.find(b"\n")) >= 0:
                line = bytes(self._lines[:end])
                del self._lines[:end + 1]
                return line
            self._receive()

    def _decode(self) -> None:
        """Move complete chunks from the raw bytes to the lines."""
        if not self._chunked:
            self._lines += self._bytes
            self._bytes.clear()
            return
        while (end := self._bytes.find(b"\r\n")) >= 0:
            try:
                size = int(bytes(self._bytes[:end]).split(b";")[0], 16)
            except ValueError as error:
                raise http.client.HTTPException("broken chunk in a stream") from error
            if size == 0:
                self._ended = True
                return
            if len(self._bytes) < end + 2 + size + 2:
                return
            self._lines += self._bytes[end + 2:end + 2 + size]
            del self._bytes[:end + 2 + size + 2]

    def close(self) -> None:
        """Close the connection, from any thread; a waiting ``line`` ends with an error."""
        self._channel.close()
