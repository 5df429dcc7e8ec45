"""One streaming watch on a scope, kept open between calls. It runs in the thread that calls it; there is no other.

Changes that came between two calls wait in the socket. A lost server costs a reconnection and no change: the next stream starts
right behind the last revision seen. Silence is never trusted for long: an isolated etcd ends the stream itself (``hasleader``),
a vanished machine is found by TCP, a frozen process by asking for its version.
"""

from __future__ import annotations

import http.client
import json
import logging

from pgcore.net.http import HttpClient, HttpUnavailableError, LineStream
from pgcore.plugin import Deadline, Instant, Json, Key, StoreRejectedError, StoreUnavailableError, now
from pgcore_dcs_etcd.v3_gateway import EtcdError, Gateway, decode, encode, parse

log = logging.getLogger(__name__)
WATCHED = frozenset({Key.LEADER, Key.CONFIG, Key.FAILOVER, Key.SYNC, Key.INITIALIZE})
OPEN_S, PROBE_S, FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 1.0, 0.05, 1.0


class Watcher:
    """Tells whether one of the watched keys below ``prefix`` changed."""

    def __init__(self, gateway: Gateway, prefix: str, silence_s: float) -> None:
        self._gateway, self._prefix, self.silence_s = gateway, prefix, silence_s
        self._stream: LineStream | None = None
        self._heard_at: Instant = now()
        self._last_change = 0
        self._failures = 0
        self._forget = False
        self.position = 0
        """Revision of the newest change seen; reads must not be older."""

    def watch(self, seen: int, timeout: float) -> bool:
        """Wait until a watched key is newer than ``seen``; see ``Store.watch``."""
        waiting = Deadline.after(timeout)
        while not self._gateway.closing.is_set():
            if self._forget:
                self._drop()
                self._forget, self.position, self._last_change = False, 0, 0
            if self._last_change > seen:
                return True
            try:
                if self._stream is None:
                    if self._open(seen, waiting):
                        return True
                elif self._hear(self._stream, waiting):
                    continue
            except (OSError, http.client.HTTPException, ValueError, LookupError, EtcdError, HttpUnavailableError,
                    StoreUnavailableError, StoreRejectedError) as error:
                self._lose(error, waiting)
            if waiting.expired:
                break
        return False

    def reset(self) -> None:
        """The store's history was replaced by an older one (restored from a backup): begin anew. Callable from any thread."""
        self._forget = True

    def close(self) -> None:
        """End a watch and the stream."""
        self._gateway.close()
        self._drop()

    def _open(self, seen: int, waiting: Deadline) -> bool:
        """Start a stream behind what is known; true if that alone is news."""
        opening = waiting.within(OPEN_S)
        self._gateway.prepare(opening)
        path, headers = self._gateway.target("/watch")
        start = max(seen, self.position)
        request = {"key": encode(self._prefix), "range_end": encode(self._prefix[:-1] + chr(ord(self._prefix[-1]) + 1))}
        if start:
            request["start_revision"] = str(start + 1)
        locator = self._gateway.locator
        self._stream = stream = LineStream(
            locator.connector, locator.endpoints.urls[0], "POST", path, json.dumps({"create_request": request}).encode(),
            headers=headers | {"Grpc-Metadata-Hasleader": "true"}, deadline=opening)
        if self._gateway.closing.is_set():
            self._drop()
            return False
        if stream.status != 200:
            parse(stream.status, stream.line(opening.left()))
            raise EtcdError(-1, f"HTTP status {stream.status}")
        known = self._take(stream.line(opening.left()))
        if known < start:  # it lags behind, or was set back: only a read can tell
            self._lose(EtcdError(-1, f"it knows nothing newer than revision {known}"), waiting)
            return True
        return not start

    def _hear(self, stream: LineStream, waiting: Deadline) -> bool:
        """Read one message; false after a silence."""
        patience = max(0.0, self._heard_at + self.silence_s - now())
        try:
            self._take(stream.line(max(min(patience, waiting.left()), 0.01)))
            self._failures = 0
            return True
        except TimeoutError:
            if now() - self._heard_at >= self.silence_s and waiting.left() > 0.1:
                self._probe(stream.url, waiting.within(PROBE_S))
                self._heard_at, self._failures = now(), 0
            return False

    def _probe(self, url: str, deadline: Deadline) -> None:
        """Raise HttpUnavailableError if the server at the other end of the stream does not answer."""
        client = HttpClient([url], self._gateway.locator.connector)
        try:
            client.request("GET", "/version", deadline=deadline, idempotent=True)
        finally:
            client.close()

    def _take(self, line: bytes) -> int:
        """Note what a message says; the server's revision. Raises EtcdError if it ends the stream."""
        self._heard_at = now()
        result: Json = parse(200, line)
        if result.get("canceled"):
            if int(result.get("compact_revision", 0)):
                # What happened in between is lost: whatever the caller knows, it has to look again.
                self._last_change = self.position = max(self.position, int(result["compact_revision"]) - 1)
                self._drop()
                return self.position
            raise EtcdError(-1, str(result.get("cancel_reason") or "the watch was cancelled"))
        for event in result.get("events", ()):
            revision = int(event["kv"]["mod_revision"])
            if decode(event["kv"]["key"]).removeprefix(self._prefix) in WATCHED:
                self._last_change = max(self._last_change, revision)
            self.position = max(self.position, revision)
        return int(result["header"]["revision"])

    def _lose(self, error: Exception, waiting: Deadline) -> None:
        """Drop the stream; the next one goes to another server, at once until all were tried, then with growing pauses."""
        servers = self._gateway.locator.endpoints
        server = self._stream.url if self._stream is not None else next(iter(servers.urls), "")
        if not self._gateway.closing.is_set():
            level = logging.DEBUG if self._failures else logging.INFO  # said once until something is heard again
            log.log(level, "the watch on %s at %s ended and is opened again: %s", self._prefix, server, error)
        servers.avoid(server)
        self._drop()
        if isinstance(error, EtcdError) and (error.stale_login or "permission denied" in error.message.lower()):
            self._gateway.forget_token()
        self._failures += 1
        rounds = self._failures - len(servers.urls)
        if rounds >= 0:
            self._gateway.closing.wait(min(FIRST_PAUSE_S * 2 ** min(rounds, 5), LONGEST_PAUSE_S, waiting.left()))

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
