"""The first door: checks, probes, status, cluster, history, metrics. Answered from the board, whatever else is broken.

It never reads PostgreSQL or the store. The one exception is ``GET /patroni?fresh=1``, which pgcore members ask each other in a
race. ``GET /cluster`` wakes the heartbeat if it has to, as who asks has just done something and wants to see it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl

from pgcore.clock import now
from pgcore.daemon.board import Board, Status
from pgcore.model.basics import Instant
from pgcore.rest import checks, status
from pgcore.rest.answer import Answer, bare, error_page, json_answer, json_body
from pgcore.rest.routes import DOCUMENTS, PROBES, first_segment
from pgcore.rest.series import Plugins

FRESH_SECONDS = 0.3
"""What a peer in a race may wait for our positions."""
RECENT_S, LOOK_S = 1.0, 2.0
"""``GET /cluster`` shows what was read so many seconds ago, or waits so long for a new reading; then it shows what is known."""
AGE_HEADER = "X-Pgcore-Observed-Age"

Fresh = Callable[[float], status.Positions | None]
"""Read positions from PostgreSQL within that many seconds; None when it does not answer."""
Vouching = Callable[[], tuple[str | None, bool]]
"""The primary without the store that was accepted as the leader, and whether that may have been forgotten."""
Binding = Callable[[], bool]
"""Whether what is accepted now counts towards ``failsafe_quorum``."""
Described = Callable[[], str]
"""The OpenAPI document of this agent."""


class FrontDoor:
    """Answers every safe request. Any number of threads may ask at once."""

    def __init__(self, board: Board, fresh: Fresh, vouching: Vouching = lambda: (None, False),
                 binding: Binding = lambda: False, wake: Callable[[str], None] = lambda reason: None,
                 plugins: Plugins | None = None, described: Described = lambda: "{}") -> None:
        self._board = board
        self._fresh = fresh
        self._wake = wake
        self._looking = threading.Lock()
        self._vouching = vouching
        self._binding = binding
        self._plugins = plugins
        self._node = status.NodeText(board.scope, board.name)
        self._described = described
        self._handlers: dict[str, Callable[[Mapping[str, str]], Answer]] = {
            word: getattr(self, "_" + word.partition(".")[0]) for word in (*PROBES, *DOCUMENTS)}
        self._started_at: Instant = now()

    def answer(self, method: str, target: str) -> Answer:
        """The answer to ``GET``, ``HEAD`` or ``OPTIONS`` of a request target (rest-api 2)."""
        path, _, query = target.partition("?")
        parameters: dict[str, str] = {}
        for name, value in parse_qsl(query, errors="replace"):
            parameters.setdefault(name, value)
        if method != "GET":
            return bare(checks.health(self._board.status, path, parameters, now()))
        handler = self._handlers.get(first_segment(path))
        return handler(parameters) if handler else self._health(path, parameters)

    def _health(self, path: str, parameters: Mapping[str, str]) -> Answer:
        at, seen = now(), self._board.status
        code = checks.health(seen, path, parameters, at)
        return json_body(code, self._node.at(seen, at), _age(seen, at))

    def _liveness(self, parameters: Mapping[str, str]) -> Answer:
        return bare(checks.liveness(self._board.status, self._started_at, now()))

    def _readiness(self, parameters: Mapping[str, str]) -> Answer:
        return bare(checks.readiness(self._board.status, parameters, now()))

    def _patroni(self, parameters: Mapping[str, str]) -> Answer:
        if parameters.get("fresh") != "1":
            at, seen = now(), self._board.status
            return json_body(200, self._node.at(seen, at), _age(seen, at))
        positions = self._fresh(_limit(parameters.get("within")))
        at, seen = now(), self._board.status
        if seen is None:
            return json_body(200, self._node.at(None, at))
        document = status.node_document(seen, at, positions, asked=True)
        document["pgcore"] |= dict(zip(("failsafe_leader", "failsafe_unknown"), self._vouching(), strict=True))
        document["pgcore"]["failsafe_binding"] = self._binding()
        return json_answer(200, document, {AGE_HEADER: "0.000"} if positions else _age(seen, at))

    def _cluster(self, parameters: Mapping[str, str]) -> Answer:
        seen = self._recent()
        if seen is None or seen.cluster is None:
            return _without_store()
        return json_answer(200, status.cluster_document(seen.cluster, seen.scope, status.mode_of(seen)), _age(seen, now()))

    def _history(self, parameters: Mapping[str, str]) -> Answer:
        seen = self._board.status
        if seen is None or seen.cluster is None:
            return _without_store()
        return json_answer(200, status.history_document(seen.cluster), _age(seen, now()))

    def _metrics(self, parameters: Mapping[str, str]) -> Answer:
        seen = self._board.status
        if seen is None:
            return error_page(503, "The first heartbeat has not ended yet.")
        from pgcore.rest import metrics  # and prometheus_client: most agents' memory would carry it for nothing

        return Answer(200, metrics.exposition(seen, self._plugins), "text/plain")

    def _config(self, parameters: Mapping[str, str]) -> Answer:
        seen = self._board.status
        if seen is None or seen.cluster is None:
            return _without_store()
        document = seen.cluster.config.document if seen.cluster.config else None
        if document is None:
            return error_page(502, "There is no valid /config key.")
        return json_answer(200, document, _age(seen, now()))

    def _failsafe(self, parameters: Mapping[str, str]) -> Answer:
        seen = self._board.status
        members = seen.failsafe if seen else None
        return error_page(502, "There is no /failsafe key.") if members is None else json_answer(200, dict(members))

    def _openapi(self, parameters: Mapping[str, str]) -> Answer:
        return Answer(200, self._described(), "application/json")

    def _recent(self) -> Status | None:
        """An observation of this second: the heartbeat is woken for it and waited for, by one request at a time.

        A store that did not answer just now is not waited for.
        """
        seen, asked = self._board.status, now()
        if seen is None or seen.cluster is None or seen.at + RECENT_S > asked or not self._looking.acquire(blocking=False):
            return seen
        try:
            self._wake("GET /cluster")
            return self._board.until(lambda status: status.at > asked, LOOK_S)
        finally:
            self._looking.release()


def _age(seen: Status | None, at: Instant) -> dict[str, str]:
    return {AGE_HEADER: f"{checks.observed_age(seen, at):.3f}"} if seen else {}


def _without_store() -> Answer:
    return error_page(503, "The store has not been read yet or did not answer in the last heartbeat.")


def _limit(within: str | None) -> float:
    """How long PostgreSQL may take: who asks says how long it waits, so that it learns the rest even from a server that hangs."""
    try:
        return max(0.0, min(FRESH_SECONDS, float(within))) if within else FRESH_SECONDS
    except ValueError:
        return FRESH_SECONDS
