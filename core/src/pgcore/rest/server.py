"""The REST server: doorman, workers, doors. The only file that knows the insides of CherryPy's HTTP server (cheroot).

cheroot parses requests and runs the workers; connections come through our own ``Doorman``, as cheroot gives a worker to every
open connection and shakes hands in the thread that accepts, so that a few silent clients would stop every health check.
"""

from __future__ import annotations

import functools
import io
import itertools
import logging
import queue
import re
import socket
import ssl
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from cheroot import server as cheroot
from cheroot.workers import threadpool

from pgcore.clock import Deadline, now
from pgcore.daemon.board import Board
from pgcore.daemon.mailbox import Mailbox
from pgcore.rest.answer import Answer, encode, error_page
from pgcore.rest.doorman import WRITE_S, Doorman, say_goodbye
from pgcore.rest.failsafe import FailsafeDoor, Nobody, Receiver
from pgcore.rest.front import Fresh, FrontDoor
from pgcore.rest.gateway import Doors, gateway_for
from pgcore.rest.lazy import LazyDoor
from pgcore.rest.listeners import Listeners
from pgcore.rest.manage import Look, Reports, unasked
from pgcore.rest.routes import Routes
from pgcore.rest.series import Plugins
from pgcore.rest.settings import MINIMUM_WORKERS, RestSettings
from pgcore.rest.short import ShortWay
from pgcore.rest.tls import LOOK_S, TlsFiles

if TYPE_CHECKING:
    from pgcore.rest.app import SecondDoor

SHUTDOWN_S = 2.0
"""Seconds running requests get at ``stop``; then their threads are left behind, as daemons."""
QUEUE_SIZE = 200
"""Complete requests that may wait for a worker; more are answered 503."""
RESERVED_WORKERS = 2
"""Workers that only ever serve the first door, however many switchovers are being waited for."""

logger = logging.getLogger(__name__)


class RestServer:
    """The REST API of one agent: ``start``, ``reconfigure`` any number of times, ``stop`` once."""

    def __init__(self, settings: RestSettings, board: Board, mailbox: Mailbox, fresh: Fresh,
                 failsafe: Receiver | None = None, reports: Reports | None = None, look: Look = unasked,
                 plugins: Plugins | None = None, routes: Routes | None = None) -> None:
        self._settings = settings
        routes = routes or Routes(reports=reports.path if reports else "")
        self._stopping = threading.Event()

        def second() -> SecondDoor:
            from pgcore.rest.app import SecondDoor

            return SecondDoor(board, mailbox, self._stopping, lambda: self._settings, reports or Reports(), look)

        @functools.cache
        def described() -> str:
            from pgcore.rest.openapi import described

            return described(routes)

        self._second = LazyDoor(second)
        receiver = failsafe or Nobody()
        front = FrontDoor(board, fresh, receiver.vouching, receiver.binding, mailbox.wake, plugins, described)
        self._doors = Doors(routes, front, self._second, FailsafeDoor(receiver, lambda: self._settings), lambda: self._settings)
        self._http: _HttpServer | None = None
        self._tls: TlsFiles | None = None
        self._renewing = threading.Lock()
        self._renewer: threading.Thread | None = None

    @property
    def bound(self) -> tuple[tuple[str, int], ...]:
        """The addresses listened on, with the real ports; empty when not started."""
        if self._http is None:
            return ()
        names = (sock.getsockname() for sock in self._http.listeners.sockets.values())
        return tuple((name[0], name[1]) for name in names)

    @property
    def settings(self) -> RestSettings:
        """The settings in force."""
        return self._settings

    def start(self) -> None:
        """Bind and serve. Raises FatalError when an address is not to be had, ConfigError for bad TLS files."""
        settings, workers = self._settings, max(MINIMUM_WORKERS, self._settings.thread_pool_size)
        tls = TlsFiles(settings)
        self._second.limit(max(1, workers - RESERVED_WORKERS))
        self._http = _HttpServer(Listeners(settings.addresses, settings.request_queue_size), workers, self._doors)
        self._secure(tls)
        self._http.serve_in_background()

    def reconfigure(self, settings: RestSettings) -> None:
        """Put new settings in force (rest-api 12); requests under way are not disturbed.

        Certificates are read again every time, so a renewed file counts. Raises like ``start``; then the old settings stay.
        """
        http = self._http
        if http is not None:
            tls = TlsFiles(settings)
            http.listeners.move(settings.addresses, http.doorman.listen)
            self._secure(tls)
        self._settings = settings

    def stop(self) -> None:
        """Close the listeners; running requests get a moment to finish."""
        self._stopping.set()
        if self._http:
            self._http.shut(SHUTDOWN_S)
            self._http = None

    def _secure(self, tls: TlsFiles) -> None:
        """Answer with this certificate from now on, and with every one that replaces it in its files."""
        with self._renewing:
            self._tls = tls
            if self._http is not None:
                self._http.doorman.context = tls.context
        if tls.context is not None and self._renewer is None:
            self._renewer = threading.Thread(target=self._renew, name="rest-tls", daemon=True)
            self._renewer.start()

    def _renew(self) -> None:
        while not self._stopping.wait(LOOK_S):
            with self._renewing:
                context = self._tls.renewed() if self._tls else None
                if context is not None and self._http is not None:
                    self._http.doorman.context = context


class _HttpServer(cheroot.HTTPServer):
    """cheroot's server with our listeners, our doorman and daemon workers."""

    protocol = "HTTP/1.0"
    can_add_keepalive_connection = False

    def __init__(self, listeners: Listeners, workers: int, doors: Doors) -> None:
        first = next(iter(listeners.sockets.values())).getsockname()
        super().__init__(first[:2], gateway_for(doors), minthreads=workers, maxthreads=workers)
        self.software = self.server_name = "pgcore"
        self.requests = _Workers(self, workers)
        self.ConnectionClass = _Call
        self._doors = doors
        self.listeners = listeners
        at_once = ShortWay(doors.first, doors.settings).answer
        self.doorman = Doorman(listeners.sockets.values(), at_once, self._deliver, self._render)
        self._thread = threading.Thread(target=self.doorman.run, name="rest", daemon=True)

    def serve_in_background(self) -> None:
        """Start the workers and the doorman's thread."""
        self.requests.start()
        self.ready = True
        self._thread.start()

    def shut(self, timeout: float) -> None:
        """Stop accepting, give running requests ``timeout`` seconds."""
        self.ready = False
        self.doorman.stop()
        deadline = Deadline.after(timeout)
        self._thread.join(deadline.left())
        self.requests.stop(deadline.left())

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        """cheroot's log goes into ours."""
        logger.log(level if level >= logging.WARNING else logging.DEBUG, "REST API: %s", msg, exc_info=traceback)

    def _deliver(self, sock: socket.socket, address: tuple[str, int], request: bytes) -> None:
        call = _Call(self, sock, request)
        call.remote_addr, call.remote_port = address
        try:
            self.requests.put(call)
        except queue.Full:
            sock.send(self._render(error_page(503, "All workers are busy.", {"Retry-After": "1"})))
            call.close()

    def _render(self, answer: Answer) -> bytes:
        settings = self._doors.settings()
        return encode(answer, settings.server_header, settings.headers)


class _Workers(threadpool.ThreadPool):
    """A fixed number of daemon threads: a request that waits for a switchover must not keep the process alive."""

    def __init__(self, server: _HttpServer, workers: int) -> None:
        super().__init__(server, min=workers, max=workers, accepted_queue_size=QUEUE_SIZE, accepted_queue_timeout=0)
        self._names = itertools.count(1)

    def _spawn_worker(self) -> threading.Thread:
        worker = threadpool.WorkerThread(self.server)
        worker.daemon = True
        worker.name = f"rest-{next(self._names)}"
        worker.start()
        return worker

    def stop(self, timeout: float = SHUTDOWN_S) -> None:
        """End the idle workers now, busy ones when they are done; wait ``timeout`` seconds for them."""
        deadline = Deadline.after(timeout)
        workers = list(self._clear_threads())  # type: ignore[attr-defined]
        for _ in workers:
            try:
                self._queue.put_nowait(threadpool._SHUTDOWNREQUEST)  # type: ignore[attr-defined]
            except queue.Full:
                break
        for worker in workers:
            worker.join(deadline.left())


class _Request(io.BytesIO):
    """A whole request in memory, with the two names cheroot expects of its reader."""

    bytes_read = 0

    def has_data(self) -> bool:
        """Nothing is ever left for a second request."""
        return False


class _Writer:
    """Sends with one deadline for the whole answer."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.bytes_written = 0

    def write(self, data: bytes) -> int:
        """Send everything within ``WRITE_S``. Raises OSError."""
        deadline = Deadline.after(WRITE_S)
        left = memoryview(data)
        while left:
            self._socket.settimeout(max(0.001, deadline.left()))
            left = left[self._socket.send(left):]
        self.bytes_written += len(data)
        return len(data)


class _Headers(cheroot.HeaderReader):
    """``Expect: 100-continue`` is dropped: by the time the request is parsed its body is here."""

    def __call__(self, rfile: object, hdict: dict[bytes, bytes] | None = None) -> dict[bytes, bytes]:
        try:
            found: dict[bytes, bytes] = super().__call__(rfile, hdict)
            return found
        except UnboundLocalError as error:  # cheroot expects a header before the first line that continues one
            raise ValueError("Illegal header line.") from error

    def _allow_header(self, key_name: bytes) -> bool:
        return key_name != b"Expect"


_REQUEST_LINE = re.compile(rb"([!-~]+) ([!-\xff]+) (HTTP/([0-9])\.[0-9])\r\n")
_WITH_HOST = re.compile(rb"(?i:https?)://[^/?#]*")


class _HttpRequest(cheroot.HTTPRequest):
    header_reader = _Headers()

    def read_request_line(self) -> bool:
        """Method, target and version; every method and target goes on to the doors, which know what they answer.

        A target with scheme and host means its path. So does one with too many slashes at its beginning, as of an address that
        ended with one.
        """
        line = self.rfile.readline()
        if line == b"\r\n":  # one empty line before a request is forgiven
            line = self.rfile.readline()
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            self.simple_response("400 Bad Request", "Malformed Request-Line")
            return False
        self.started_request = True
        self.method, target, self.request_protocol, major = match.groups()
        if major != b"1":
            self.simple_response("505 HTTP Version Not Supported")
            return False
        host = _WITH_HOST.match(target)
        if host or target[:1] == b"/":
            target = b"/" + target[host.end() if host else 0:].lstrip(b"/")
        self.uri = target.partition(b"#")[0] or b"/"
        self.path, _, self.qs = self.uri.partition(b"?")
        self.scheme, self.authority, self.response_protocol = b"http", b"", "HTTP/1.0"
        return True


class _Call(cheroot.HTTPConnection):
    """A connection that has delivered its one request."""

    RequestHandlerClass = _HttpRequest

    def __init__(self, server: _HttpServer, sock: socket.socket, request: bytes) -> None:
        makers: dict[str, Callable[[], object]] = {"rb": lambda: _Request(request), "wb": lambda: _Writer(sock)}
        super().__init__(server, sock, lambda sock, mode, size: makers[mode]())
        self.accepted_at = now()
        self.verified = isinstance(sock, ssl.SSLSocket) and bool(sock.getpeercert())

    def close(self) -> None:
        """Close the connection, whatever state it is in."""
        say_goodbye(self.socket)
        try:
            super().close()
        except OSError:
            self.socket.close()
