"""One connection to one ZooKeeper server, speaking through kazoo's messages. It has no thread: what nobody calls for is not sent.

kazoo's own client keeps a session alive from a thread of its own and keeps requests in a queue while there is no connection; here
a session lives by the requests of the heartbeat alone, and a request that was given up is never sent later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from kazoo.exceptions import EXCEPTIONS, AuthFailedError, ZookeeperError
from kazoo.protocol.serialization import SASL, Auth, Close, Connect, Ping, ReplyHeader, Watch, int_int_struct, int_struct

from pgcore.net.http import Connector
from pgcore.plugin import Deadline, Instant, StoreRejectedError, now

WATCH_XID, PING_XID, AUTH_XID = -1, -2, -4
LONGEST_MESSAGE = 64 * 1024 * 1024
SASL_REALM = "zk-sasl-md5"
"""The host name that ZooKeeper's servers expect in DIGEST-MD5, whatever they are called."""


class LineLostError(Exception):
    """The connection failed. ``sent``: requests may have reached the server and may have been carried out."""

    def __init__(self, url: str, problem: object, *, sent: bool) -> None:
        self.url, self.sent = url, sent
        super().__init__(f"{url.partition('://')[2]}: {problem}")


class SessionLostError(Exception):
    """ZooKeeper has ended the session, and with it what was bound to it."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A session: by ``number`` and ``password`` it goes on over another connection. Number 0 asks for a new one."""

    timeout_s: float
    number: int = 0
    password: bytes = b"\0" * 16


class Reply(NamedTuple):
    """What became of one request: its result, or the error of ZooKeeper as an object; and where the server's history stood."""

    result: Any
    zxid: int

    @property
    def failed(self) -> bool:
        """Whether the server refused."""
        return isinstance(self.result, ZookeeperError)


class Line:
    """An open connection with a session. Any failure makes it useless: close it."""

    def __init__(self, connector: Connector, url: str, ticket: Ticket, auth: Mapping[str, str], deadline: Deadline) -> None:
        """Connect and log in. Raises LineLostError, SessionLostError (the ticket is worthless), StoreRejectedError."""
        self.url = url
        self.opened_at: Instant = now()
        self.zxid = 0
        self.changed: set[str] = set()
        """Paths whose watch was triggered; whoever watches takes them out."""
        self._bytes = bytearray()
        self._xid = 0
        try:
            self._channel = connector.connect(url, deadline)
        except OSError as error:
            raise LineLostError(url, error, sent=False) from error
        self._channel.deadline = deadline
        try:
            self.ticket = self._greet(ticket)
            for scheme, credential in auth.items():
                self._log_in(scheme, credential)
        except LineLostError as error:
            self.close()
            error.sent = False
            raise
        except BaseException:
            self.close()
            raise

    def _greet(self, ticket: Ticket) -> Ticket:
        greeting = Connect(0, 0, round(ticket.timeout_s * 1000), ticket.number, ticket.password, False)
        self._send(bytes(greeting.serialize()), sent=False)
        answer, _ = Connect.deserialize(self._message(sent=False), 0)
        if answer.time_out <= 0 or not answer.session_id:
            raise SessionLostError
        return replace(ticket, timeout_s=answer.time_out / 1000, number=answer.session_id, password=bytes(answer.passwd))

    def _log_in(self, scheme: str, credential: str) -> None:
        try:
            if scheme == "sasl":
                self._log_in_by_sasl(credential)
                return
            self._send(int_int_struct.pack(AUTH_XID, Auth.type) + Auth(0, scheme, credential).serialize(), sent=False)
            header = ReplyHeader(0, 0, 0)
            while header.xid != AUTH_XID:
                header, _ = ReplyHeader.deserialize(self._message(sent=False), 0)
            if header.err:
                raise AuthFailedError
        except AuthFailedError as error:
            raise StoreRejectedError(f"ZooKeeper at {self.url} refuses the credential of the scheme {scheme}: "
                                     "check auth_data and the server's authentication providers") from error

    def _log_in_by_sasl(self, credential: str) -> None:
        try:
            from puresasl import SASLError, SASLProtocolException
            from puresasl.client import SASLClient
        except ImportError as error:
            raise StoreRejectedError(
                "auth_data.sasl needs the library pure-sasl: pip install 'pgcore-dcs-zookeeper[sasl]'") from error
        user, _, password = credential.partition(":")
        client = SASLClient(host=SASL_REALM, service="zookeeper", mechanism="DIGEST-MD5", username=user, password=password)
        challenge = None
        while not client.complete:
            try:
                response = client.process(challenge=challenge)
            except (SASLError, SASLProtocolException) as error:
                raise AuthFailedError from error
            if client.complete and not response:
                break
            [reply] = self.call([SASL(response or b"")], self._channel.deadline)
            if reply.failed:
                raise AuthFailedError
            challenge = reply.result[0]

    # -- talking -------------------------------------------------------------------------------------------------------

    def call(self, requests: Sequence[Any], deadline: Deadline) -> list[Reply]:
        """Send requests together and collect their replies. The server handles them in order. Raises LineLostError."""
        self._channel.deadline = deadline
        first = self._xid + 1
        frames = bytearray()
        for request in requests:
            self._xid += 1
            frames += _framed(int_int_struct.pack(self._xid, request.type) + request.serialize())
        try:
            self._channel.sendall(bytes(frames))
        except (OSError, ValueError) as error:  # ValueError: closed by another thread
            raise LineLostError(self.url, error, sent=True) from error
        return [self._reply(first + at, request) for at, request in enumerate(requests)]

    def _reply(self, xid: int, request: Any) -> Reply:
        while True:
            message = self._message(sent=True)
            header, offset = ReplyHeader.deserialize(message, 0)
            if self._unasked(header, message, offset):
                continue
            if header.xid != xid:
                raise LineLostError(self.url, f"the answer {header.xid} came in place of {xid}", sent=True)
            self.zxid = max(self.zxid, header.zxid)
            if header.err:
                problem = EXCEPTIONS[header.err]() if header.err in EXCEPTIONS else ZookeeperError(f"error {header.err}")
                return Reply(problem, header.zxid)
            result = request.deserialize(message, offset) if hasattr(request, "deserialize") else None
            return Reply(result, header.zxid)

    def _unasked(self, header: ReplyHeader, message: bytes, offset: int) -> bool:
        """Take a message that answers no request."""
        if header.xid == WATCH_XID:
            event, _ = Watch.deserialize(message, offset)
            self.changed.add(str(event.path))
        return header.xid in (WATCH_XID, PING_XID, AUTH_XID)

    def listen(self, deadline: Deadline) -> None:
        """Wait for one message that no request asked for. TimeoutError: none came. Raises LineLostError."""
        self._channel.deadline = deadline
        message = self._message(sent=False, patient=True)
        header, offset = ReplyHeader.deserialize(message, 0)
        self._unasked(header, message, offset)

    def ping(self, deadline: Deadline) -> None:
        """Ask for a sign of life; the answer comes by ``listen``. Raises LineLostError."""
        self._channel.deadline = deadline
        self._send(int_int_struct.pack(PING_XID, Ping.type), sent=False)

    @property
    def stale(self) -> bool:
        """An idle connection that has something to read was closed by the server."""
        return self._channel.stale

    def close(self) -> None:
        """Close the connection; the session goes on to its end. From any thread: a call under way fails."""
        self._channel.close()

    def farewell(self) -> None:
        """Ask the server to end the session and close without waiting for its word."""
        try:
            self._channel.plain.settimeout(0)
            self._channel.plain.send(_framed(int_int_struct.pack(self._xid + 1, Close.type)))
        except (OSError, ValueError):
            pass
        self.close()

    # -- messages ------------------------------------------------------------------------------------------------------

    def _send(self, body: bytes, *, sent: bool) -> None:
        try:
            self._channel.sendall(_framed(body))
        except (OSError, ValueError) as error:
            raise LineLostError(self.url, error, sent=sent) from error

    def _message(self, *, sent: bool, patient: bool = False) -> bytes:
        """The next message. ``patient``: TimeoutError is not the end of the line, what was read stays."""
        try:
            while True:
                if len(self._bytes) >= int_struct.size:
                    length = int_struct.unpack_from(self._bytes, 0)[0]
                    if not 0 <= length <= LONGEST_MESSAGE:
                        raise OSError("what answers there is not ZooKeeper")
                    end = int_struct.size + length
                    if len(self._bytes) >= end:
                        message = bytes(self._bytes[int_struct.size:end])
                        del self._bytes[:end]
                        return message
                data = self._channel.receive()
                if not data:
                    raise ConnectionResetError("the server closed the connection")
                self._bytes += data
        except (OSError, ValueError) as error:
            if patient and isinstance(error, TimeoutError):
                raise
            raise LineLostError(self.url, error, sent=sent) from error


def _framed(body: bytes) -> bytes:
    return int_struct.pack(len(body)) + body
