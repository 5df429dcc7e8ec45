"""A session with ZooKeeper that moves from server to server, and the attempts of one verb inside its deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from kazoo.exceptions import (
    AuthFailedError,
    InvalidACLError,
    NoAuthError,
    SessionClosedRequireSaslError,
    SessionExpiredError,
    SessionMovedError,
)
from kazoo.protocol.serialization import Close, Exists

from pgcore.plugin import Deadline, Instant, StoreRejectedError, StoreUnavailableError, now
from pgcore_dcs_zookeeper.ensemble import Ensemble
from pgcore_dcs_zookeeper.line import Line, LineLostError, Reply, SessionLostError, Ticket
from pgcore_dcs_zookeeper.tree import Tree

T = TypeVar("T")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0


class Session:
    """One session. One thread uses it; only ``close`` may come from another."""

    def __init__(self, ensemble: Ensemble, auth: Mapping[str, str], timeout_s: float) -> None:
        self.timeout_s = timeout_s
        """What is asked of the server; it may give another, see ``ticket``."""
        self.ticket: Ticket | None = None
        self._ensemble, self._auth = ensemble, auth
        self._line: Line | None = None
        self._closed = False

    def line(self, deadline: Deadline, *, no_older_than_s: float | None = None) -> Line:
        """The connection, opened if there is none, or none so young. Raises LineLostError, SessionLostError, StoreRejectedError.

        Whoever asks for a young one wants the session extended: the server that leads hears of it when a connection is opened.
        """
        line = self._line
        if line is not None and (line.stale or (no_older_than_s is not None and now() - line.opened_at > no_older_than_s)):
            self.drop()
            line = None
        if line is None:
            line = self._open(deadline)
        return line

    def _open(self, deadline: Deadline) -> Line:
        if self._closed:
            raise LineLostError("store://", "it is closed", sent=False)
        url = self._ensemble.ensure(deadline)
        try:
            line = Line(self._ensemble.connector, url, self.ticket or Ticket(self.timeout_s), self._auth, deadline)
        except SessionLostError:
            self.ticket = None
            raise
        self.ticket, self._line = line.ticket, line
        if self._closed:
            self.drop()
        return line

    def call(self, requests: Sequence[Any], deadline: Deadline) -> list[Reply]:
        """Send requests over the connection and check what concerns the session. Raises as ``line`` does."""
        line = self.line(deadline)
        replies = line.call(requests, deadline)
        for request, reply in zip(requests, replies, strict=True):
            if isinstance(reply.result, SessionExpiredError):
                self.drop()
                self.ticket = None
                raise SessionLostError
            if isinstance(reply.result, SessionMovedError):
                raise LineLostError(line.url, "the session is in use over another connection", sent=True)
            if isinstance(reply.result, NoAuthError | AuthFailedError | SessionClosedRequireSaslError):
                target = getattr(request, "path", "several nodes")
                raise StoreRejectedError(f"ZooKeeper at {line.url} does not permit {type(request).__name__} of {target}: "
                                         "check auth_data, cert and the ACLs of its nodes")
            if isinstance(reply.result, InvalidACLError):
                raise StoreRejectedError("ZooKeeper takes set_acls for no valid ACL: check its principals and schemes")
        return replies

    def make_parents(self, tree: Tree, path: str, deadline: Deadline) -> None:
        """Create what is missing above a path, and only that: the right to create may begin below what an administrator made."""
        above = tree.above(path)
        found = self.call([Exists(parent, False) for parent in above], deadline)
        missing = [tree.create(parent, "") for parent, reply in zip(above, found, strict=True) if reply.failed]
        if missing:
            self.call(missing, deadline)

    def end(self, deadline: Deadline) -> None:
        """End the session, which removes what is bound to it; proven when this returns. Raises LineLostError."""
        if self.ticket is not None:
            with suppress(SessionLostError):
                self.call([Close()], deadline)
        self.drop()
        self.ticket = None

    def drop(self) -> None:
        """Close the connection; the session goes on."""
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def close(self, *, farewell: bool = False) -> None:
        """Close the connection for good. ``farewell`` ends the session, too."""
        self._closed = True
        line, self._line = self._line, None
        if line is not None:
            line.farewell() if farewell else line.close()


class Attempts:
    """Repeats what a lost connection or a lost session interrupted, inside one deadline, at one server after another."""

    def __init__(self, ensemble: Ensemble, closing: threading.Event) -> None:
        self._ensemble, self._closing = ensemble, closing

    def run(self, what: str, session: Session, call: Callable[[Deadline], T], deadline: Deadline, *,
            repeatable: bool = True) -> T:
        """Call until it answers; each server but the last gets its share of the time.

        Raises StoreUnavailableError at the deadline, or at once if what is not ``repeatable`` may have been carried out.
        """
        failed = 0
        problems: dict[str, str] = {}
        while True:
            left = max(1, len(self._ensemble.endpoints.urls) - failed)
            try:
                return call(deadline.within(deadline.left() / left))
            except SessionLostError:
                session.drop()  # the next attempt begins a new one
                problem, sent = "the session was lost", False
            except LineLostError as error:
                session.drop()
                self._ensemble.endpoints.avoid(error.url)
                problem, sent = str(error), error.sent
            problems[problem.partition(": ")[0]] = problem
            if sent and not repeatable:
                raise StoreUnavailableError(f"the answer of ZooKeeper to {what} was lost; it may have happened ({problem})")
            failed += 1
            rounds = failed - len(self._ensemble.endpoints.urls)
            if rounds >= 0:
                self._closing.wait(min(FIRST_PAUSE_S * 2 ** min(rounds, 5), LONGEST_PAUSE_S, deadline.left()))
            if deadline.expired or self._closing.is_set():
                raise StoreUnavailableError(f"ZooKeeper gave no answer to {what} in time: {'; '.join(problems.values())}")


def pause(closing: threading.Event, failures: int, until: Deadline) -> Instant:
    """Wait after a failure, longer after each, not beyond ``until``."""
    closing.wait(min(FIRST_PAUSE_S * 2 ** min(failures, 5), LONGEST_PAUSE_S, until.left()))
    return now()
