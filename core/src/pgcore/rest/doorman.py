"""Receives connections, answers plain checks itself and hands a worker nothing but whole requests.

One thread accepts, shakes hands and reads, never blocking on any single client. So a silent, slow or hostile client costs a file
descriptor for at most ``PATIENCE_S`` seconds, and never a worker: hundreds of open connections delay no health check.
"""

from __future__ import annotations

import logging
import re
import selectors
import socket
import ssl
import threading
from collections.abc import Callable, Collection, Iterable

from pgcore.clock import now
from pgcore.model.basics import Instant
from pgcore.rest.answer import Answer, bare, error_page

PATIENCE_S = 10.0
"""Seconds from accept to the last byte of the request."""
LINGER_S = 2.0
"""Seconds during which the rest of a refused request is swallowed, so that the client can read why."""
WRITE_S = 10.0
"""Seconds a client may take to receive its answer."""
MAX_HEAD = 16 * 1024
MAX_BODY = 256 * 1024
MAX_BUFFERED = 8 * 1024 * 1024
"""Bytes of unfinished requests held at one time."""
MAX_WAITING = 400
"""Unfinished connections held at one time; beyond that the oldest one goes, unless it has only just come."""
CHUNK = 64 * 1024
MOVE_S = 5.0
"""How long somebody who changes the listeners waits for it."""
CLOSED_S = 0.2
"""How long the door stays closed when the process cannot take another connection."""
YOUNG_S, FULL_S = 1.0, 0.005
"""Nobody is closed for want of room before the first; a crowd that asks at once waits in the backlog, each time the second."""

logger = logging.getLogger(__name__)
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_CONTENT_LENGTH = re.compile(rb"(?im)^content-length[ \t]*:[ \t]*(\d{1,12})[ \t]*\r?$")


class Guest:
    """A connection whose request or answer is not complete yet."""

    __slots__ = ("accepted_at", "address", "answer", "body_at", "data", "handshaking", "held", "lingering", "needed", "socket",
                 "until")

    def __init__(self, sock: socket.socket, address: tuple[str, int], accepted_at: Instant, *, handshaking: bool) -> None:
        self.socket, self.address, self.accepted_at, self.handshaking = sock, address, accepted_at, handshaking
        self.until = Instant(accepted_at + PATIENCE_S)
        self.data = bytearray()
        self.held = 0
        """How much of ``data`` counts towards ``MAX_BUFFERED``."""
        self.answer: bytes | memoryview = b""
        """What the client has yet to receive."""
        self.body_at = 0
        """Where the body begins; 0 while the head is not complete."""
        self.needed = 0
        self.lingering = False


class Doorman:
    """``at_once(request, client, accepted_at)`` answers what takes no time, ``deliver(socket, address, request)`` gets the rest.

    Neither may block. ``render`` encodes refusals.
    """

    def __init__(self, listeners: Iterable[socket.socket], at_once: Callable[[bytes, str, Instant], bytes | None],
                 deliver: Callable[[socket.socket, tuple[str, int], bytes], None], render: Callable[[Answer], bytes]) -> None:
        self.context: ssl.SSLContext | None = None
        """TLS for connections accepted from now on; may be replaced at any time."""
        self._listeners: set[socket.socket] = set()
        self._wanted = frozenset(listeners)
        self._moved = threading.Event()
        self._at_once = at_once
        self._deliver = deliver
        self._render = render
        self._guests: dict[int, Guest] = {}
        self._due: Instant | None = None
        """No guest's time ends before."""
        self._buffered = 0
        self._stopping = False
        self._closed_until: Instant | None = None
        self._overfull = False
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve until ``stop``."""
        try:
            while not self._stopping:
                self._move()
                for key, _ in self._selector.select(self._pause()):
                    if isinstance(key.data, Guest):
                        self._attend(key.data)
                    elif key.fileobj is self._woken:
                        self._woken.recv(CHUNK)
                    else:
                        self._accept(key.fileobj)  # type: ignore[arg-type]
                self._show_out()
                self._open_again()
        finally:
            for guest in list(self._guests.values()):
                self._drop(guest)
            self._selector.close()
            for sock in {*self._listeners, *self._wanted, self._wake, self._woken}:
                sock.close()

    def listen(self, listeners: Collection[socket.socket]) -> None:
        """Accept from these instead; returns when the others are closed. May be called from any other thread."""
        self._wanted = frozenset(listeners)
        self._moved.clear()
        self._knock()
        self._moved.wait(MOVE_S)

    def stop(self) -> None:
        """End ``run``; the listeners and all unfinished connections are closed. May be called from any thread."""
        self._stopping = True
        self._knock()

    def _knock(self) -> None:
        try:
            self._wake.send(b"x")
        except OSError:
            pass  # run() has already ended and closed it

    def _move(self) -> None:
        """Begin with the listeners that are wanted and end with the others; whoever waits there already is still let in."""
        wanted = self._wanted
        if wanted != self._listeners:
            for listener in self._listeners - wanted:
                self._accept(listener)
                if self._closed_until is None:
                    self._selector.unregister(listener)
                listener.close()
            for listener in wanted - self._listeners:
                listener.setblocking(False)
                if self._closed_until is None:
                    self._selector.register(listener, selectors.EVENT_READ)
            self._listeners = set(wanted)
        self._moved.set()

    def _pause(self) -> float | None:
        """Seconds until a guest's time may end or the door opens; None when there is nothing to wait for."""
        ends = [end for end in (self._due, self._closed_until) if end is not None]
        return max(0.0, min(ends) - now()) if ends else None

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(64):
            if self._is_crowded():
                self._close(FULL_S)
                return
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as error:
                self._close_for_a_while(error)
                return
            if self._overfull:
                self._overfull = False
                logger.info("REST API accepts connections again")
            self._welcome(sock, address)

    def _close_for_a_while(self, error: OSError) -> None:
        """Out of descriptors or memory: make room, and leave the listeners alone, which stay readable, for a moment."""
        if not self._overfull:
            logger.warning("REST API cannot accept connections: %s; the oldest unfinished one is closed, trying again every %g s",
                           error, CLOSED_S)
        self._overfull = True
        self._drop_oldest()
        self._close(CLOSED_S)

    def _is_crowded(self) -> bool:
        """There is no room, and everybody here has only just come."""
        oldest = self._oldest() if len(self._guests) >= MAX_WAITING else None
        return oldest is not None and oldest.accepted_at > now() - YOUNG_S

    def _close(self, seconds: float) -> None:
        if self._closed_until is None:
            for listener in self._listeners:
                self._selector.unregister(listener)
        self._closed_until = Instant(now() + seconds)

    def _open_again(self) -> None:
        if self._closed_until is not None and self._closed_until <= now():
            self._closed_until = None
            for listener in self._listeners:
                self._selector.register(listener, selectors.EVENT_READ)

    def _welcome(self, sock: socket.socket, address: tuple[str, int]) -> None:
        context = self.context
        try:
            sock.setblocking(False)
            if context is not None:
                sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError) as error:
            logger.debug("REST API lost %s while accepting: %s", address[0], error)
            sock.close()
            return
        # Data usually arrives with the connection: then the selector never hears of it.
        self._attend(Guest(sock, (address[0], address[1]), now(), handshaking=context is not None))

    def _attend(self, guest: Guest) -> None:
        """Take what the client sent; answer or deliver the request when it is complete."""
        if guest.socket.fileno() < 0:
            return  # dropped for want of room after the selector had named it
        try:
            if guest.handshaking:
                guest.socket.do_handshake()  # type: ignore[attr-defined]
                guest.handshaking = False
            if guest.answer:
                self._say(guest)
            else:
                self._read(guest)
        except ssl.SSLWantWriteError:
            self._wait_for(guest, selectors.EVENT_WRITE)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            self._wait_for(guest, selectors.EVENT_WRITE if guest.answer else selectors.EVENT_READ)
        except (OSError, ValueError) as error:
            logger.debug("REST API lost %s: %s", guest.address[0], error)
            self._drop(guest)
        except Exception:
            # This thread is the only way in: a bug that one request brings to light must not close it for all others.
            logger.exception("REST API failed to read a request of %s", guest.address[0])
            self._drop(guest)

    def _wait_for(self, guest: Guest, events: int) -> None:
        """Attend to this guest again when its socket is ready for that."""
        number = guest.socket.fileno()
        try:
            if number in self._guests:
                self._selector.modify(guest.socket, events, guest)
            else:
                if len(self._guests) >= MAX_WAITING:
                    self._drop_oldest()
                self._selector.register(guest.socket, events, guest)
                self._guests[number] = guest
        except OSError as error:
            logger.debug("REST API cannot wait for %s: %s", guest.address[0], error)
            self._drop(guest)
            return
        self._due = guest.until if self._due is None else min(self._due, guest.until)

    def _read(self, guest: Guest) -> None:
        """Read until the request is complete or the client has nothing more to say for now."""
        while True:
            chunk = guest.socket.recv(CHUNK)
            if not chunk:
                return self._drop(guest)
            if guest.lingering:
                return None  # the selector says when there is more: others are served in between
            if not guest.data:
                guest.answer = self._at_once(chunk, guest.address[0], guest.accepted_at) or b""
                if guest.answer:
                    guest.until = Instant(now() + WRITE_S)
                    return self._say(guest)
            guest.data += chunk
            guest.held += len(chunk)
            self._buffered += len(chunk)
            refusal = self._measure(guest)
            if refusal is not None:
                return self._refuse(guest, refusal)
            if guest.body_at and len(guest.data) >= guest.needed:
                return self._hand_over(guest)

    def _say(self, guest: Guest) -> None:
        """Send the answer, or what is left of it, and close."""
        while (sent := guest.socket.send(guest.answer)) < len(guest.answer):
            guest.answer = memoryview(guest.answer)[sent:]
        self._forget(guest)
        say_goodbye(guest.socket)
        guest.socket.shutdown(socket.SHUT_RDWR)  # close alone ends nothing while a child that is being started holds a copy
        guest.socket.close()

    def _measure(self, guest: Guest) -> Answer | None:
        """Find the end of the head and of the body; a refusal when a bound is passed."""
        if not guest.body_at:
            match = _HEAD_END.search(guest.data, 0, MAX_HEAD + 4)
            if match is None:
                return error_page(400, "The request head is too large.") if len(guest.data) > MAX_HEAD else None
            length = _CONTENT_LENGTH.search(guest.data, 0, match.end())
            guest.body_at = match.end()
            guest.needed = guest.body_at + (int(length.group(1)) if length else 0)
        if guest.needed - guest.body_at > MAX_BODY:
            return error_page(413, f"The request body may have {MAX_BODY} bytes at most.")
        if self._buffered > MAX_BUFFERED:
            return error_page(503, "Too many unfinished requests.", {"Retry-After": "1"})
        return None

    def _hand_over(self, guest: Guest) -> None:
        self._forget(guest)
        head = bytes(guest.data[:guest.body_at])
        # Some probes end lines with a bare newline; the parser insists on the full form.
        head = b"\r\n".join(line.rstrip(b"\r") for line in head.split(b"\n"))
        self._deliver(guest.socket, guest.address, head + bytes(guest.data[guest.body_at:guest.needed]))

    def _refuse(self, guest: Guest, answer: Answer) -> None:
        """Say why, then swallow what is still coming: closing at once would destroy the answer on its way."""
        self._release(guest)
        guest.data = bytearray()
        guest.lingering = True
        guest.until = Instant(now() + LINGER_S)
        guest.socket.send(self._render(answer))
        if not isinstance(guest.socket, ssl.SSLSocket):
            guest.socket.shutdown(socket.SHUT_WR)
        self._wait_for(guest, selectors.EVENT_READ)

    def _show_out(self) -> None:
        at = now()
        if self._due is None or self._due > at:
            return
        for guest in [guest for guest in self._guests.values() if guest.until <= at]:
            if guest.data and not guest.lingering:
                try:
                    guest.socket.send(self._render(bare(408)))
                except (OSError, ValueError):
                    pass  # it did not listen either
            self._drop(guest)
        self._due = min((guest.until for guest in self._guests.values()), default=None)

    def _oldest(self) -> Guest | None:
        return min(self._guests.values(), key=lambda guest: guest.until, default=None)

    def _drop_oldest(self) -> None:
        oldest = self._oldest()
        if oldest is not None:
            self._drop(oldest)

    def _drop(self, guest: Guest) -> None:
        self._forget(guest)
        guest.socket.close()

    def _forget(self, guest: Guest) -> None:
        if self._guests.get(guest.socket.fileno()) is guest:
            self._selector.unregister(guest.socket)
            del self._guests[guest.socket.fileno()]
        self._release(guest)

    def _release(self, guest: Guest) -> None:
        self._buffered -= guest.held
        guest.held = 0


def say_goodbye(sock: socket.socket) -> None:
    """Over TLS the end must be announced, or clients take the end of the body for an attack."""
    if isinstance(sock, ssl.SSLSocket):
        try:
            sock.settimeout(0)
            sock.unwrap()
        except (OSError, ValueError):
            pass  # the peer need not answer our goodbye
