"""Watches in the thread that asks: the objects' own stream of changes, and the end of a lock that nobody renews.

A stream goes on where the last list or event ended, bookmarks included. After any trouble, such as a place that Kubernetes no
longer knows (410), the objects are listed anew.
"""

from __future__ import annotations

import http.client
import json
import logging
from contextlib import suppress

from pgcore.net.http import LineStream
from pgcore.plugin import Deadline, Instant, Json, StoreRejectedError, StoreUnavailableError, Timing, now
from pgcore_dcs_kubernetes.client import FIRST_PAUSE_S, LONGEST_PAUSE_S, Gateway
from pgcore_dcs_kubernetes.mirror import Mirror, thing
from pgcore_dcs_kubernetes.objects import Objects

log = logging.getLogger(__name__)
SLICE_S = 0.5
"""So often it is looked whether something else has brought news: an answer to the other thread, a closed store."""
OPENING_S = 5.0
TROUBLE = (OSError, http.client.HTTPException, ValueError, LookupError, StoreUnavailableError, StoreRejectedError)


class Watcher:
    """Tells whether one of the watched keys changed, or the lock has come to its end."""

    def __init__(self, gateway: Gateway, objects: Objects, mirror: Mirror, leader: str, timing: Timing) -> None:
        self._gateway, self._objects, self._mirror, self._leader = gateway, objects, mirror, leader
        self._stream: LineStream | None = None
        self._place, self._epoch = "", 0
        self._ends = Instant(0.0)
        self._troubled = False
        self.retime(timing)

    def retime(self, timing: Timing) -> None:
        """No stream is trusted for longer than ttl: its server may be frozen or cut off."""
        self._longest_s = max(5, timing.ttl)

    def watch(self, seen: str, timeout: float) -> bool:
        """See ``Store.watch``."""
        waiting, pause_s = Deadline.after(timeout), FIRST_PAUSE_S
        while not self._gateway.closing.is_set():
            if self._mirror.listed and self._mirror.watched() != seen.partition(";")[2]:
                return True
            if waiting.expired:
                break
            try:
                self._follow(waiting)
                self._troubled, pause_s = False, FIRST_PAUSE_S
            except TROUBLE as error:
                self._drop()
                self._place = ""  # it may be too long ago (410), or of a past that was taken back: list anew
                if self._gateway.closing.is_set():
                    break
                level = logging.DEBUG if self._troubled else logging.INFO  # said once until something is heard again
                log.log(level, "the watch on %s is opened again: %s", self._leader, error)
                self._troubled = True
                self._gateway.closing.wait(min(pause_s, waiting.left(), self._lock_ends_in()))
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return False

    def _lock_ends_in(self) -> float:
        left = self._mirror.free_in_s(self._leader)
        return SLICE_S if left is None or left <= 0 else left

    def _follow(self, waiting: Deadline) -> None:
        """Take in what the stream says for a moment. Raises whatever ends the stream."""
        if self._stream is None or self._epoch != self._mirror.epoch or now() > self._ends:
            self._open(waiting)
        assert self._stream is not None
        with suppress(TimeoutError):
            self._take(self._stream.line(min(waiting.left(), SLICE_S, self._lock_ends_in())))

    def _open(self, waiting: Deadline) -> None:
        self._drop()
        opening = waiting.within(OPENING_S)
        if not self._place or self._epoch != self._mirror.epoch:
            self._objects.fill(self._gateway, fresh=False, deadline=opening)
            self._epoch, self._place = self._mirror.epoch, self._mirror.listed
        self._stream = self._objects.stream(self._gateway, self._place, self._longest_s, opening)
        self._ends = Instant(now() + self._longest_s)
        if self._stream.status != 200:
            raise ConnectionResetError(f"the answer was {self._stream.status}")

    def _take(self, line: bytes) -> None:
        event: Json = json.loads(line)
        kind, found = event["type"], event["object"]
        if kind not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK"):
            raise ConnectionResetError(str(found.get("message") or kind))
        self._place = str(found["metadata"]["resourceVersion"])
        if kind == "DELETED":
            self._mirror.remove(str(found["metadata"]["name"]), self._place)
        elif kind != "BOOKMARK":
            self._mirror.add(thing(found))

    def _drop(self) -> None:
        """End the stream."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def close(self) -> None:
        """End a watch."""
        self._gateway.close()
        stream = self._stream
        if stream is not None:
            stream.close()
