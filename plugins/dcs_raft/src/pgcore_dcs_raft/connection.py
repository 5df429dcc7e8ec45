"""Connections of a member: what pysyncobj's transport expects of its own, with a handshake and limits.

A message is delivered only after the peer has proven the password (``channel``), and only up to ``LARGEST_BYTES``.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import struct
from collections.abc import Callable
from typing import Any

from pysyncobj.monotonic import monotonic  # type: ignore[import-untyped]
from pysyncobj.poller import POLL_EVENT_TYPE  # type: ignore[import-untyped]
from pysyncobj.tcp_connection import CONNECTION_STATE  # type: ignore[import-untyped]

from pgcore_dcs_raft.channel import Channel, Refused
from pgcore_dcs_raft.wire import decode, encode

log = logging.getLogger(__name__)

LARGEST_BYTES = 2**23
"""Above the largest batch of entries. A peer that announces more is hung up on before it can send it."""
UNSENT_BYTES = 4 * LARGEST_BYTES
READ_BYTES = 2**12
"""At once, and all that is kept of a peer that has not proven the password."""
LARGEST_READ_BYTES = 2**16
MOST_STRANGERS = 32
MOST_CONNECTIONS = 256
PAUSE_S = 0.5
COMPLAINTS_S = 60.0
WAITING = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINPROGRESS)
_LENGTH = struct.Struct(">I")


class Connection:
    """A socket that delivers messages. The camel-case names are what pysyncobj's transport calls."""

    complained_at = float("-inf")

    def __init__(self, poller: Any, secret: bytes | None, timeout_s: float, accepted: socket.socket | None = None) -> None:
        self.state = CONNECTION_STATE.DISCONNECTED
        self.since = monotonic()
        self._poller, self._secret, self._timeout_s = poller, secret, timeout_s
        self._on_message: Callable[[Any], None] | None = None
        self._on_connected: Callable[[], None] | None = None
        self._on_disconnected: Callable[[], None] | None = None
        self._socket: socket.socket | None = None
        if accepted is not None:
            self._take(accepted, connects=False)
            self.state = CONNECTION_STATE.CONNECTED
            self._write(self._channel.hello())

    def setOnConnectedCallback(self, callback: Callable[[], None]) -> None:
        """Called when the peer has proven the password."""
        self._on_connected = callback

    def setOnMessageReceivedCallback(self, callback: Callable[[Any], None]) -> None:
        """Called with every message."""
        self._on_message = callback

    def setOnDisconnectedCallback(self, callback: Callable[[], None]) -> None:
        """Called when the connection ends, or the attempt to connect."""
        self._on_disconnected = callback

    def connect(self, host: str | None, port: int) -> bool:
        """Begin to connect. False if that is impossible."""
        if host is None:
            return False
        try:
            made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        except OSError:
            return False
        made.setblocking(False)
        if made.connect_ex((host, port)) not in (0, *WAITING):
            made.close()
            return False
        self._take(made, connects=True)
        self.state = CONNECTION_STATE.CONNECTING
        return True

    def _take(self, made: socket.socket, *, connects: bool) -> None:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._channel = made, Channel(self._secret, connects=connects)
        self._unread, self._unsent = bytearray(), bytearray()
        self.since = self._heard_at = monotonic()
        self._greeted = False
        self._subscribe(POLL_EVENT_TYPE.READ | POLL_EVENT_TYPE.WRITE)

    def send(self, message: Any) -> None:
        """Send a message, now or when the socket takes it. Hangs up on a peer that has been silent or does not read."""
        if self._socket is None or not self._channel.is_open:
            return
        if monotonic() - self._heard_at > self._timeout_s or len(self._unsent) > UNSENT_BYTES:
            self.disconnect()
            return
        sealed = self._channel.seal(encode(message))
        self._write(_LENGTH.pack(len(sealed)) + sealed)

    def disconnect(self) -> None:
        """End the connection."""
        was = self.state
        self.state = CONNECTION_STATE.DISCONNECTED
        if self._socket is not None:
            self._poller.unsubscribe(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if was != CONNECTION_STATE.DISCONNECTED and self._on_disconnected is not None:
            self._on_disconnected()

    # -- events --------------------------------------------------------------------------------------------------------

    def _subscribe(self, events: int) -> None:
        if self._socket is not None:
            self._poller.subscribe(self._socket.fileno(), self._on_event, events | POLL_EVENT_TYPE.ERROR)

    def _on_event(self, descriptor: int, event: int) -> None:
        if self._socket is None or descriptor != self._socket.fileno():
            self._poller.unsubscribe(descriptor)
            return
        if event & POLL_EVENT_TYPE.ERROR or self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.disconnect()
            return
        if event & POLL_EVENT_TYPE.WRITE:
            if self.state == CONNECTION_STATE.CONNECTING and not self._greeted:
                self._greeted = True
                self._write(self._channel.hello())
            self._write(b"")
        if event & POLL_EVENT_TYPE.READ and self._socket is not None:
            self._read()

    def _write(self, data: bytes) -> None:
        self._unsent += data
        try:
            while self._unsent and self._socket is not None:
                del self._unsent[:self._socket.send(self._unsent)]
        except OSError as error:
            if error.errno not in WAITING:
                self.disconnect()
        self._subscribe(POLL_EVENT_TYPE.READ | (POLL_EVENT_TYPE.WRITE if self._unsent else 0))

    def _read(self) -> None:
        """Read at most about as much as one message may have; the rest is still there at the next event."""
        ended = False
        try:
            most = LARGEST_BYTES + _LENGTH.size if self._channel.is_open else 0
            while self._socket is not None and len(self._unread) <= most:
                data = self._socket.recv(max(READ_BYTES, min(most, LARGEST_READ_BYTES)))
                if not data:
                    ended = True
                    break
                self._unread += data
                self._heard_at = monotonic()
        except OSError as error:
            ended = error.errno not in WAITING
        try:
            while self._socket is not None and self._step():
                pass
        except (Refused, ValueError) as error:
            self._complain(error)
            ended = True
        if ended:
            self.disconnect()

    def _complain(self, error: Exception) -> None:
        """Once in a while: strangers must not fill the log."""
        if self._socket is not None and monotonic() > Connection.complained_at + COMPLAINTS_S:
            Connection.complained_at = monotonic()
            log.warning("Hung up on %s, which takes part in no Raft cluster of ours: %s (the same is not repeated for a minute)",
                        self._socket.getpeername()[0], error)

    def _step(self) -> bool:
        """Take one piece off what was read. False if it is not complete."""
        if not self._channel.is_open:
            size = self._channel.expects
            if len(self._unread) < size:
                return False
            self._write(self._channel.receive(self._cut(size)))
            if self._channel.is_open and self.state == CONNECTION_STATE.CONNECTING:
                self.state = CONNECTION_STATE.CONNECTED
                if self._on_connected is not None:
                    self._on_connected()
            return True
        if len(self._unread) < _LENGTH.size:
            return False
        size = _LENGTH.unpack_from(self._unread)[0]
        if size > LARGEST_BYTES:
            raise Refused(f"it announced a message of {size} bytes, at most {LARGEST_BYTES} are taken")
        if len(self._unread) < _LENGTH.size + size:
            return False
        self._cut(_LENGTH.size)
        message = decode(self._channel.unseal(self._cut(size)))
        if self._on_message is not None:
            self._on_message(message)
        return True

    def _cut(self, size: int) -> bytes:
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return data


class Listener:
    """Accepts connections for the transport."""

    def __init__(self, poller: Any, host: str, port: int, accept: Callable[[socket.socket], None]) -> None:
        self._poller, self._address, self._accept = poller, (host, port), accept
        self._socket: socket.socket | None = None
        self._paused_until: float | None = None

    def bind(self) -> None:
        """Listen. Raises OSError."""
        host, _ = self._address
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(self._address)
        self._socket.listen(MOST_STRANGERS)
        self._poller.subscribe(self._socket.fileno(), self._on_event, POLL_EVENT_TYPE.READ)

    def unbind(self) -> None:
        """Listen no more."""
        if self._socket is not None:
            self._poller.unsubscribe(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def resume(self) -> None:
        """Go on after a pause."""
        if self._socket is not None and self._paused_until is not None and monotonic() > self._paused_until:
            self._paused_until = None
            self._poller.subscribe(self._socket.fileno(), self._on_event, POLL_EVENT_TYPE.READ)

    def _on_event(self, descriptor: int, event: int) -> None:
        if self._socket is None:
            return
        try:
            accepted, _ = self._socket.accept()
        except OSError as error:
            if error.errno not in (*WAITING, errno.ECONNABORTED):  # no descriptor left: it would be reported without pause
                log.warning("The Raft port cannot accept connections for now: %s", error)
                self._poller.unsubscribe(descriptor)
                self._paused_until = monotonic() + PAUSE_S
            return
        with contextlib.suppress(OSError):  # gone already
            self._accept(accepted)
