"""The short way: what load balancers and probes ask every second is answered by the thread that read it.

A worker costs such a request two changes of thread and a parser for everything HTTP can be. Whatever is not plainly one of these
few questions, or would take longer than a moment, goes the long way through cheroot; the answers are the same.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from pgcore.clock import now
from pgcore.model.basics import Instant
from pgcore.rest.answer import encode
from pgcore.rest.front import FrontDoor
from pgcore.rest.routes import CHECK_PATHS, CHECK_WORDS, PROBES
from pgcore.rest.settings import RestSettings

MAX_REQUEST = 2048
"""Longer requests are nobody's health check, and reading their parameters takes longer than a moment."""
CHECKS = frozenset((*CHECK_PATHS, *(f"/{word}" for word in CHECK_WORDS)))
"""Answered at once for every safe verb, with or without parameters (rest-api 3.1)."""
PROBED = frozenset(f"/{word}" for word in PROBES)
"""The same for GET alone (rest-api 4)."""
STATUS = "/patroni"
"""Only without parameters: with them it may ask PostgreSQL, or be a vote."""

logger = logging.getLogger(__name__)
_PLAIN = re.compile(
    rb"(GET|HEAD|OPTIONS) (/[!-\"$-~]*) HTTP/1\.[01]\r?\n"
    rb"(?:(?!(?i:content-length|transfer-encoding|expect)[ \t]*:)[0-9A-Za-z-]+:[\t -~]*\r?\n)*\r?\n"
)
"""A request that can mean one thing only: no body, no continued lines, no fragment, nothing but printable ASCII."""


class ShortWay:
    """Answers plain checks; None for everything else."""

    def __init__(self, front: FrontDoor, settings: Callable[[], RestSettings]) -> None:
        self._front = front
        self._settings = settings

    def answer(self, request: bytes, client: str, accepted_at: Instant) -> bytes | None:
        """The whole response to a whole request, from the board alone and in constant time."""
        plain = _PLAIN.fullmatch(request) if len(request) <= MAX_REQUEST else None
        if plain is None:
            return None
        method, target = plain[1].decode(), plain[2].decode()
        if not _at_once(method, target):
            return None
        try:
            answer = self._front.answer(method, target)
        except Exception:
            return None  # the long way meets the same bug, logs it and answers 500
        settings = self._settings()
        response = encode(answer, settings.server_header, settings.headers)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("REST API %s %s %s %d in %.1f ms", client, method, target.partition("?")[0], answer.code,
                         (now() - accepted_at) * 1000)
        return response


def _at_once(method: str, target: str) -> bool:
    path = target.partition("?")[0]
    return path in CHECKS or (method == "GET" and (path in PROBED or target == STATUS))
