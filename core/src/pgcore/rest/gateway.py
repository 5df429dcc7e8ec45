"""Between cheroot and the doors: safe methods to the first, known unsafe ones and plugins' to the second, the rest is 501.

``POST /failsafe`` has a door of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cheroot.wsgi import Gateway_10

from pgcore.clock import now
from pgcore.rest.answer import Answer, encode, error_page
from pgcore.rest.failsafe import FailsafeDoor
from pgcore.rest.front import FrontDoor
from pgcore.rest.lazy import LazyDoor
from pgcore.rest.routes import SAFE_METHODS, Routes
from pgcore.rest.settings import RestSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Doors:
    """The doors, which request goes to which, and the settings that shape every answer."""

    routes: Routes
    first: FrontDoor
    second: LazyDoor
    failsafe: FailsafeDoor
    settings: Callable[[], RestSettings]


def gateway_for(doors: Doors) -> type:
    """The gateway class cheroot makes an object of for every request."""
    return type("RestGateway", (_Gateway,), {"doors": doors})


class _Gateway(Gateway_10):
    doors: Doors

    def __init__(self, req: Any) -> None:
        self.req = req  # the WSGI environment is made only when the second door needs it

    def respond(self) -> None:
        """Answer the request. cheroot closes the connection afterwards."""
        req = self.req
        method, target = req.method.decode("latin-1"), req.uri.decode("latin-1")
        try:
            answer = self._answer(method, target)
        except Exception:
            # The last line of defence of a worker: a bug in one answer must be seen, and must not cost the client its answer.
            logger.exception("REST API failed to answer %s %s", method, target.partition("?")[0])
            answer = error_page(500, "This is a bug; the agent's log has the details.")
        settings = self.doors.settings()
        req.sent_headers = True
        req.close_connection = True
        try:
            req.conn.wfile.write(encode(answer, settings.server_header, settings.headers))
        except OSError as error:
            logger.debug("REST API could not answer %s: %s", req.conn.remote_addr, error)
        logger.debug("REST API %s %s %s %d in %.1f ms", req.conn.remote_addr, method, target.partition("?")[0], answer.code,
                     (now() - req.conn.accepted_at) * 1000)

    def _answer(self, method: str, target: str) -> Answer:
        if self.doors.failsafe.votes(method, target):
            denial = self.doors.failsafe.promise(self.get_environ(), verified=self.req.conn.verified)
            if denial is not None:
                return denial
        path = target.partition("?")[0]
        route = self.doors.routes.plugin(method, path)
        if method in SAFE_METHODS and route is None:
            return self.doors.first.answer(method, target)
        if self.doors.failsafe.knows(method, target):
            return self.doors.failsafe.answer(self.get_environ(), verified=self.req.conn.verified)
        if route is None and not self.doors.routes.is_unsafe(method, path):
            return error_page(501, f"{method} is not available here.")
        environment: Mapping[str, Any] = self.get_environ()
        return self.doors.second.answer({**environment, "pgcore.verified": self.req.conn.verified}, route)
