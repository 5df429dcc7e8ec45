"""The second door: management requests as a CherryPy application. The framework's threads, bus and sessions stay unused.

Imported by the first request that needs it (``lazy``).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

import cherrypy  # type: ignore[import-untyped]

from pgcore.daemon.board import Board
from pgcore.daemon.mailbox import Mailbox
from pgcore.model.basics import Json
from pgcore.rest.access import Access, hosts_of
from pgcore.rest.answer import Answer, error_page
from pgcore.rest.configure import ConfigDoor
from pgcore.rest.manage import Look, Management, Reply, Reports
from pgcore.rest.orders import NodeOrders
from pgcore.rest.settings import RestSettings

_ERROR_PAGE = "X-Pgcore-Error-Page"
"""Marks an answer of which only the code is contractual; never leaves the process."""


class _Resource:
    """One path; the methods named like verbs answer them."""

    exposed = True

    def __init__(self, management: Management, orders: NodeOrders) -> None:
        self._management, self._orders = management, orders


class _Switchover(_Resource):
    def POST(self, *path: str, **query: str) -> bytes:
        return _say(self._management.switchover("switchover", _object()))

    def DELETE(self, *path: str, **query: str) -> bytes:
        return _say(self._management.cancel_switchover())


class _Failover(_Resource):
    def POST(self, *path: str, **query: str) -> bytes:
        return _say(self._management.switchover("failover", _object()))


class _Reload(_Resource):
    def POST(self, *path: str, **query: str) -> bytes:
        return _say(self._management.reload())


class _Config(_Resource):
    def __init__(self, door: ConfigDoor) -> None:
        self._door = door

    def PATCH(self, *path: str, **query: str) -> bytes:
        return _say_json(self._door.change(_object(), merge=True))

    def PUT(self, *path: str, **query: str) -> bytes:
        return _say_json(self._door.change(_object(), merge=False))


class _Restart(_Resource):
    def POST(self, *path: str, **query: str) -> bytes:
        return _say(self._orders.restart(_object(optional=True)))

    def DELETE(self, *path: str, **query: str) -> bytes:
        return _say(self._orders.cancel_restart())


class _Reinitialize(_Resource):
    def POST(self, *path: str, **query: str) -> bytes:
        return _say(self._orders.reinitialize(_object(optional=True)))


class _Report:
    """Where members of other groups report; answered ``OK`` whatever comes of it (rest-api 10)."""

    exposed = True

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    def POST(self, *path: str, **query: str) -> bytes:
        self._reports.take(_object())
        return b"OK"


class _Sigterm(_Resource):
    """Patroni's own tests end it through this on Windows; on other systems it does nothing but say so (rest-api 8.5)."""

    def POST(self, *path: str, **query: str) -> bytes:
        return _say(Reply(202, "shutdown scheduled"))


class _Root:
    """The resources by the first segment of their path."""

    def __init__(self, management: Management, orders: NodeOrders, config: ConfigDoor, reports: Reports) -> None:
        self.mpp = self.citus = _Report(reports)
        if reports.path:
            setattr(self, reports.path, self.mpp)
        self.sigterm = _Sigterm(management, orders)
        self.config = _Config(config)
        self.switchover = _Switchover(management, orders)
        self.failover = _Failover(management, orders)
        self.reload = _Reload(management, orders)
        self.restart = _Restart(management, orders)
        self.reinitialize = _Reinitialize(management, orders)


class SecondDoor:
    """Routes, access and bodies of the unsafe verbs; at most ``limit`` of them at a time."""

    def __init__(self, board: Board, mailbox: Mailbox, stopping: threading.Event,
                 settings: Callable[[], RestSettings], reports: Reports, look: Look) -> None:
        self._board = board
        self._reports = reports
        self._settings = settings
        self._access = Access()
        orders, config = NodeOrders(board, mailbox, stopping), ConfigDoor(board, mailbox)
        self._root = _Root(Management(board, mailbox, stopping, look), orders, config, reports)
        self._running = threading.BoundedSemaphore(1)
        cherrypy.config.update({"environment": "embedded", "log.screen": False, "checker.on": False})
        self._application = cherrypy.Application(self._root, "", {"/": {
            "request.dispatch": cherrypy.dispatch.MethodDispatcher(),
            "request.process_request_body": False,
            "request.show_tracebacks": False,
            "error_page.default": _error_text,
            "hooks.on_start_resource": self._admit,
        }})
        self._application.log.access_log.disabled = True

    def limit(self, count: int) -> None:
        """How many requests may be worked on at a time; the other workers stay free for health checks."""
        self._running = threading.BoundedSemaphore(count)

    def knows(self, method: str, target: str) -> bool:
        """There is a handler for this verb on this path (rest-api 2)."""
        resource = getattr(self._root, target.partition("?")[0].split("/")[1], None) if target.startswith("/") else None
        return isinstance(resource, _Resource | _Report) and method.isupper() and hasattr(resource, method)

    def answer(self, environment: Mapping[str, Any]) -> Answer:
        """Run the application on a WSGI environment."""
        running = self._running
        if not running.acquire(blocking=False):
            return error_page(503, "Too many management requests are running.", {"Retry-After": "1"})
        try:
            return self._run(dict(environment))
        finally:
            running.release()

    def _run(self, environment: dict[str, Any]) -> Answer:
        head: list[Any] = []
        response = self._application(environment, lambda status, headers, exc_info=None: head.append((status, headers)))
        try:
            body = b"".join(response).decode("utf-8").rstrip()  # the framework pads error pages with blanks
        finally:
            response.close()
        status, headers = head[-1]
        named = {name.lower(): value for name, value in headers}
        challenge = named.get("www-authenticate")
        kind = "application/json" if named.get("content-type", "").startswith("application/json") else "text/html"
        return Answer(int(status[:3]), body, kind, headers={"WWW-Authenticate": challenge} if challenge else {},
                      page=_ERROR_PAGE.lower() in named)

    def _admit(self) -> None:
        request = cherrypy.serving.request
        view = self._board.status.cluster if self._board.status else None
        members = hosts_of(member.api_url for member in view.members) if view else set()
        denial = self._access.denial(
            self._settings(), members | set(self._reports.hosts()), request.remote.ip,
            verified=request.wsgi_environ["pgcore.verified"], authorization=request.headers.get("Authorization"))
        if denial is not None:
            cherrypy.serving.response.headers.update(denial.headers)
            raise cherrypy.HTTPError(denial.code, denial.text)


def _object(*, optional: bool = False) -> dict[str, Json]:
    """The JSON object of a request; an optional one may be absent or empty (rest-api 8.0). Raises HTTPError 411 or 400."""
    request = cherrypy.serving.request
    if "Content-Length" not in request.headers and not optional:
        raise _refusal(411, "a Content-Length is needed")
    try:
        text = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        document = json.loads(text or (b"{}" if optional else b"null"), parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise _refusal(400, "the body is not JSON") from error
    if not isinstance(document, dict) or not (document or optional):
        raise _refusal(400, "the body must be a JSON object with at least one key")
    return document


def _no_number(word: str) -> Json:
    raise ValueError(f"{word} is not JSON")


def _finite(digits: str) -> float:
    """What could not be written down as JSON again is refused where it comes from."""
    number = float(digits)
    return number if isfinite(number) else _no_number(digits)


def _say(reply: Reply) -> bytes:
    if reply.page:
        raise _refusal(reply.code, reply.text)
    cherrypy.serving.response.status = reply.code
    return reply.text.encode("utf-8", "backslashreplace")  # it may quote half a character of the request


def _say_json(reply: Reply) -> bytes:
    text = _say(reply)
    cherrypy.serving.response.headers["Content-Type"] = "application/json"
    return text


def _refusal(code: int, text: str) -> cherrypy.HTTPError:
    cherrypy.serving.response.headers[_ERROR_PAGE] = "1"
    return cherrypy.HTTPError(code, text)


def _error_text(status: str, message: str, traceback: str, version: str) -> str:
    return message
