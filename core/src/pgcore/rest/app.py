"""The second door: management requests and plugins as a CherryPy application. The framework's threads and bus stay unused.

Imported by the first request that needs it (``lazy``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import cherrypy  # type: ignore[import-untyped]

from pgcore.daemon.board import Board
from pgcore.daemon.mailbox import Mailbox
from pgcore.errors import PluginError
from pgcore.hookspecs import RestRequest
from pgcore.model.basics import Json
from pgcore.registry import OwnedRoute
from pgcore.rest import body
from pgcore.rest.access import Access, hosts_of
from pgcore.rest.answer import Answer, error_page
from pgcore.rest.configure import ConfigDoor
from pgcore.rest.manage import Look, Management, Reply, Reports
from pgcore.rest.orders import NodeOrders
from pgcore.rest.routes import first_segment
from pgcore.rest.settings import RestSettings

_ERROR_PAGE = "X-Pgcore-Error-Page"
"""Marks an answer of which only the code is contractual; never leaves the process."""
_AUTHORIZATION, _QUERY, _ROUTE = "pgcore.authorization", "pgcore.query", "pgcore.route"
"""What goes past the framework: it would refuse a header or a query that it cannot decode, where nobody asked for either."""


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


class _PluginEndpoint:
    """Every route of every plugin; the gateway has found out which one is meant."""

    exposed = True

    def __init__(self, board: Board) -> None:
        self._board = board

    def _answer(self, *path: str, **query: str) -> bytes:
        request, response = cherrypy.serving.request, cherrypy.serving.response
        owned: OwnedRoute = request.wsgi_environ[_ROUTE]
        status = self._board.status
        if status is None:
            raise _refusal(503, "The first heartbeat has not ended yet.")
        query = {}
        for name, value in parse_qsl(request.wsgi_environ[_QUERY], errors="replace"):
            query.setdefault(name, value)
        asked = RestRequest(owned.route.method, owned.route.path, query, _body(), request.remote.ip)
        try:
            answer = owned.run(asked, status)
        except PluginError as error:
            raise _refusal(500, f"The plugin {owned.plugin} failed; the agent's log says how.") from error
        response.status = answer.code
        response.headers["Content-Type"] = answer.content_type
        return answer.text.encode("utf-8", "backslashreplace")

    GET = POST = PUT = PATCH = DELETE = _answer


class _Root:
    """The resources by the first segment of their path."""

    def __init__(self, management: Management, orders: NodeOrders, config: ConfigDoor, reports: Reports, board: Board) -> None:
        self.plugin = _PluginEndpoint(board)
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
        self._root = _Root(Management(board, mailbox, stopping, look), orders, config, reports, board)
        self._running = self._plugins = threading.BoundedSemaphore(1)
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
        """How many requests may be worked on at a time; the other workers stay free for health checks.

        Plugins, which may hang, get half of them, so that a switchover always finds a worker.
        """
        self._running, self._plugins = threading.BoundedSemaphore(count), threading.BoundedSemaphore(max(1, count // 2))

    def answer(self, environment: Mapping[str, Any], route: OwnedRoute | None = None) -> Answer:
        """Run the application on a WSGI environment: the resource of its path, or the endpoint of a plugin."""
        taken = []
        try:
            for places in (self._plugins, self._running) if route else (self._running,):
                if not places.acquire(blocking=False):
                    return error_page(503, "Too many requests of this kind are running.", {"Retry-After": "1"})
                taken.append(places)
            return self._run({
                **{name: value for name, value in environment.items() if not name.startswith(("HTTP_", "CONTENT_TYPE"))},
                "PATH_INFO": "/plugin" if route else "/" + first_segment(environment["PATH_INFO"]), "QUERY_STRING": "",
                "SERVER_PROTOCOL": "HTTP/1.0", _ROUTE: route, _QUERY: environment["QUERY_STRING"],
                _AUTHORIZATION: environment.get("HTTP_AUTHORIZATION"),
            })
        finally:
            for places in taken:
                places.release()

    def _run(self, environment: dict[str, Any]) -> Answer:
        head: list[Any] = []
        response = self._application(environment, lambda status, headers, exc_info=None: head.append((status, headers)))
        try:
            body = b"".join(response).decode("utf-8").rstrip(" ")  # the framework pads error pages with blanks
        finally:
            response.close()
        status, headers = head[-1]
        named = {name.lower(): value for name, value in headers}
        challenge = named.get("www-authenticate")
        kind = named.get("content-type", "")
        if environment[_ROUTE] is None:
            kind = "application/json" if kind.startswith("application/json") else "text/html"
        return Answer(int(status[:3]), body, kind, headers={"WWW-Authenticate": challenge} if challenge else {},
                      page=_ERROR_PAGE.lower() in named)

    def _admit(self) -> None:
        environment = cherrypy.serving.request.wsgi_environ
        owned: OwnedRoute | None = environment[_ROUTE]
        if owned is not None and not owned.route.unsafe:
            return
        view = self._board.status.cluster if self._board.status else None
        members = hosts_of(member.api_url for member in view.members) if view else set()
        denial = self._access.denial(
            self._settings(), members | set(self._reports.hosts()), environment["REMOTE_ADDR"],
            verified=environment["pgcore.verified"], authorization=environment[_AUTHORIZATION])
        if denial is not None:
            cherrypy.serving.response.headers.update(denial.headers)
            raise cherrypy.HTTPError(denial.code, denial.text)


def _object(*, optional: bool = False) -> dict[str, Json]:
    """The JSON object of a request; an optional one may be absent or empty (rest-api 8.0). Raises HTTPError 411 or 400."""
    if "Content-Length" not in cherrypy.serving.request.headers and not optional:
        raise _refusal(411, "a Content-Length is needed")
    document = _body()
    if document is None and optional:
        return {}
    if not isinstance(document, dict) or not (document or optional):
        raise _refusal(400, "the body must be a JSON object with at least one key")
    return document


def _body() -> Json:
    """The JSON that was sent, None without a body. Raises HTTPError 400."""
    request = cherrypy.serving.request
    try:
        text = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        return body.read(text) if text else None
    except ValueError as error:
        raise _refusal(400, str(error)) from error


def _say(reply: Reply) -> bytes:
    if reply.page:
        raise _refusal(reply.code, reply.text)
    cherrypy.serving.response.status = reply.code
    return reply.text.encode("utf-8", "backslashreplace")


def _say_json(reply: Reply) -> bytes:
    text = _say(reply)
    cherrypy.serving.response.headers["Content-Type"] = "application/json"
    return text


def _refusal(code: int, text: str) -> cherrypy.HTTPError:
    cherrypy.serving.response.headers[_ERROR_PAGE] = "1"
    return cherrypy.HTTPError(code, text)


def _error_text(status: str, message: str, traceback: str, version: str) -> str:
    return message
