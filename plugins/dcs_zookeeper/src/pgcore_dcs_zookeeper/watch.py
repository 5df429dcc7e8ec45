"""Watches on the keys that matter, over a connection and a session of their own. It runs in the thread that calls it.

That session owns nothing, so it may be kept alive by pings, which a call of ``watch`` sends while it waits.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from kazoo.protocol.serialization import Exists, Sync
from kazoo.protocol.states import ZnodeStat

from pgcore.plugin import Deadline, Instant, StoreRejectedError, StoreUnavailableError, now
from pgcore_dcs_zookeeper.ensemble import Ensemble
from pgcore_dcs_zookeeper.line import Line, LineLostError, SessionLostError
from pgcore_dcs_zookeeper.session import Session, pause
from pgcore_dcs_zookeeper.tree import WATCHED, Tree

log = logging.getLogger(__name__)
OPEN_S, PROBE_S = 2.0, 1.0


class Watcher:
    """Tells whether one of the watched keys changed."""

    def __init__(self, ensemble: Ensemble, auth: Mapping[str, str], tree: Tree, ttl: int, closing: threading.Event) -> None:
        self.zxid = 0
        """How far the history was that the watch has seen; reads must not be older."""
        self.ttl = ttl
        self._ensemble, self._tree, self._closing = ensemble, tree, closing
        self._session = Session(ensemble, auth, ttl)
        self._paths = {tree.path(key): key for key in WATCHED}
        self._stands: dict[str, int] = {}
        self._watched: Line | None = None
        self._heard_at: Instant = now()
        self._failures = 0

    @property
    def _silence_s(self) -> float:
        """After this long without a sign of life the server is asked for one."""
        return max(1.0, self.ttl / 10)

    def watch(self, seen: str, timeout: float) -> bool:
        """Wait until a watched key differs from the revision ``seen``; see ``Store.watch``."""
        waiting = Deadline.after(timeout)
        while not self._closing.is_set():
            try:
                line = self._line(seen, waiting.within(OPEN_S))
                if revision(self._stands, 0).partition(":")[2] != seen.partition(":")[2]:
                    return True
                self._failures = 0
                self._listen(line, waiting)
            except (LineLostError, SessionLostError, StoreUnavailableError, StoreRejectedError) as error:
                self._lose(error, waiting)
            if waiting.expired:
                break
        return False

    def _line(self, seen: str, deadline: Deadline) -> Line:
        """The connection, with a watch on every key and no older than ``seen``."""
        line = self._watched
        if line is None:
            line = self._session.line(deadline)
            self._look(line, list(self._paths), deadline, synchronised=True)
            self._watched = line
        elif line.zxid < int(seen.partition(":")[0] or "0", 16):
            self._look(line, list(self._paths), deadline, synchronised=True)
        elif line.changed:
            self._look(line, sorted(line.changed & set(self._paths)), deadline, synchronised=False)
        return line

    def _look(self, line: Line, paths: list[str], deadline: Deadline, *, synchronised: bool) -> None:
        line.changed.difference_update(paths)
        requests: list[object] = [Sync(self._tree.root)] if synchronised else []
        replies = line.call([*requests, *(Exists(path, True) for path in paths)], deadline)
        for path, reply in zip(paths, replies[len(requests):], strict=True):
            self._stands[self._paths[path]] = reply.result.mzxid if isinstance(reply.result, ZnodeStat) else 0
        self.zxid = max(self.zxid, line.zxid)
        self._heard_at = now()

    def _listen(self, line: Line, waiting: Deadline) -> None:
        """Wait for news of the server as long as it may be silent; then ask it for a sign of life."""
        if line.changed:
            return
        patience = max(0.0, self._heard_at + self._silence_s - now())
        try:
            line.listen(waiting.within(patience))
            self._heard_at = now()
        except TimeoutError:
            if now() - self._heard_at < self._silence_s or waiting.left() < 0.1:
                return
            probe = waiting.within(PROBE_S)
            line.ping(probe)
            try:
                line.listen(probe)
            except TimeoutError as error:
                if probe.at < waiting.at:
                    raise LineLostError(line.url, "the server is silent", sent=False) from error
                return  # the caller's time is up, not the server's
            self._heard_at = now()

    def _lose(self, error: Exception, waiting: Deadline) -> None:
        if not self._closing.is_set():
            level = logging.DEBUG if self._failures else logging.INFO  # said once until something is heard again
            log.log(level, "the watch on %s ended and begins again: %s", self._tree.root, error or type(error).__name__)
        if isinstance(error, LineLostError):
            self._ensemble.endpoints.avoid(error.url)
        self._session.drop()
        self._watched = None
        self._failures += 1
        rounds = self._failures - len(self._ensemble.endpoints.urls)
        if rounds >= 0:
            pause(self._closing, rounds, waiting)

    def close(self) -> None:
        """End a watch under way, the connection and the session."""
        self._session.close(farewell=True)


def revision(stands: Mapping[str, int], zxid: int) -> str:
    """What a read saw of the watched keys, and where the history of the server that told it stood."""
    return f"{zxid:x}:" + ".".join(f"{stands.get(key, 0):x}" for key in WATCHED)
