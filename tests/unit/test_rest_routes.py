"""Endpoints of plugins over HTTP: what they get, who may call them, and that a bad one harms nobody."""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgcore.daemon.board import Board
from pgcore.daemon.mailbox import Mailbox
from pgcore.errors import PluginError
from pgcore.registry import Registry
from pgcore.rest.routes import CHECK_PATHS, CHECK_WORDS, RESERVED, Routes
from pgcore.rest.server import RestServer
from pgcore.rest.settings import RestSettings
from unit.rest_board import Reply, call, leader_status
from unit.test_daemon_kit import plugins_on_path

PASSWORD = {"Authorization": "Basic " + base64.b64encode(b"admin:secret").decode()}
TOY = """
import threading
go = threading.Event()
def echo(request, status):
    return RestResponse({"method": request.method, "path": request.path, "query": dict(request.query), "body": request.body,
                         "client": request.client, "name": status.name, "leads": status.is_leader})
def die(request, status):
    raise SystemExit("no more")
def hang(request, status):
    go.wait()
    return RestResponse("gone")
@hookimpl
def pgcore_rest_routes():
    return [
        Route("GET", "/toy/open", echo, unsafe=False), Route("GET", "/toy/closed", echo), Route("POST", "/toy-box", echo),
        Route("PUT", "/toy/die", die), Route("PUT", "/toy/hang", hang),
        Route("GET", "/toy/text", lambda request, status: RestResponse("ÿ", 418, "text/plain; charset=utf-8"), unsafe=False),
        Route("GET", "/toy/lines", lambda request, status: RestResponse("a\\nb\\n", 409, "text/csv"), unsafe=False),
        Route("GET", "/toy/strange", lambda request, status: "text", unsafe=False),
        Route("GET", "/toy/no.json", lambda request, status: RestResponse(float("nan")), unsafe=False),
        Route("GET", "/toy/header", lambda request, status: RestResponse("", 200, "text/plain\\r\\nX: y"), unsafe=False),
        Route("GET", "/toy/code", lambda request, status: RestResponse(code=299), unsafe=False),
    ]
"""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Registry]]:
    """A registry with these plugins, by name and source, active."""
    with plugins_on_path(tmp_path / "plugins", monkeypatch) as plugins:
        yield plugins.registry


class Agent:
    """A REST server with the toy plugin and a password."""

    def __init__(self, registry: Registry) -> None:
        self.registry, self.board = registry, Board()
        settings = RestSettings("127.0.0.1:0", username="admin", password="secret")
        self.server = RestServer(settings, self.board, Mailbox(), lambda seconds: None, routes=Routes(registry.rest_routes()))
        self.server.start()
        self.board.publish(leader_status())

    def send(self, method: str, path: str, body: str | None = None, headers: dict[str, str] = PASSWORD) -> Reply:
        return call(self.server.bound[0], method, path, body, headers=headers)


@pytest.fixture
def agent(registry: Callable[..., Registry]) -> Iterator[Agent]:
    agent = Agent(registry(toy=TOY))
    yield agent
    agent.server.stop()


def test_a_handler_gets_the_request_and_what_the_agent_published(agent: Agent) -> None:
    reply = agent.send("POST", "/toy-box?a=1&a=2&b=&c=%C3%BC&d=%ff", json.dumps({"x": [1]}))
    assert (reply.code, reply.headers["Content-Type"]) == (200, "application/json")
    assert json.loads(reply.body) == {
        "method": "POST", "path": "/toy-box", "query": {"a": "1", "c": "ü", "d": "�"}, "body": {"x": [1]},
        "client": "127.0.0.1", "name": "a", "leads": True}


@pytest.mark.parametrize(("body", "code"), [(None, 200), ("", 200), ("[1]", 200), ("nothing", 400), ("NaN", 400)])
def test_a_body_is_any_json_or_none(agent: Agent, body: str | None, code: int) -> None:
    assert agent.send("POST", "/toy-box", body).code == code


def test_an_unsafe_route_is_for_those_who_are_let_in(agent: Agent) -> None:
    for method, path in (("GET", "/toy/closed"), ("POST", "/toy-box")):
        assert agent.send(method, path, headers={}).code == 401
        assert agent.send(method, path).code == 200
    assert agent.send("GET", "/toy/open", headers={}).code == 200


def test_an_answer_may_be_text_with_a_code_of_its_own(agent: Agent) -> None:
    reply = agent.send("GET", "/toy/text")
    assert (reply.code, reply.body, reply.headers["Content-Type"]) == (418, "ÿ", "text/plain;charset=utf-8")


def test_a_text_goes_out_as_it_is(agent: Agent) -> None:
    reply = agent.send("GET", "/toy/lines")
    assert (reply.code, reply.body, reply.headers["Content-Type"]) == (409, "a\nb\n", "text/csv;charset=utf-8")


@pytest.mark.parametrize(("method", "path", "told"), [
    ("PUT", "/toy/die", "SystemExit: no more"), ("GET", "/toy/strange", "TypeError: answered 'text' instead of a RestResponse"),
    ("GET", "/toy/no.json", "ValueError"), ("GET", "/toy/header", "ValueError: an answer cannot have"),
    ("GET", "/toy/code", "ValueError: 299 is not a valid HTTPStatus"),
])
def test_a_handler_that_fails_is_a_500_and_a_line_in_the_log(
        agent: Agent, caplog: pytest.LogCaptureFixture, method: str, path: str, told: str) -> None:
    caplog.set_level(logging.ERROR)
    for _ in range(12):  # more often than there are workers
        reply = agent.send(method, path)
        assert reply.code == 500 and "The plugin toy failed" in reply.body and told not in reply.body
    assert agent.registry.failures == {("toy", f"{method} {path}"): 12}
    assert f"plugin toy failed in {method} {path} (failure 1): {told}" in caplog.text
    assert "Traceback" not in caplog.text and len(caplog.records) == 4
    assert agent.send("GET", "/primary").code == 200


def test_handlers_that_hang_leave_room_for_switchovers_and_checks(agent: Agent) -> None:
    hanging = [threading.Thread(target=agent.send, args=("PUT", "/toy/hang"), daemon=True) for _ in range(8)]
    for thread in hanging:
        thread.start()
    codes = set()
    while 503 not in codes:  # until one of them really hangs
        codes.add(agent.send("PUT", "/toy/die").code)
    assert agent.send("POST", "/switchover", "{}").code == 400
    assert agent.send("GET", "/primary").code == 200
    import pgcore_daemontest_toy

    pgcore_daemontest_toy.go.set()
    for thread in hanging:
        thread.join(10)
    assert agent.send("POST", "/toy-box").code == 200


@pytest.mark.parametrize(("method", "path", "code"), [
    ("GET", "/toy", 503), ("GET", "/toy/open/x", 503), ("HEAD", "/toy/open", 503), ("OPTIONS", "/toy/open", 503),
    ("POST", "/toy/open", 501), ("DELETE", "/toy-box", 501), ("GET", "/toy/%6fpen", 503), ("GET", "/plugin", 503),
    ("POST", "/plugin", 501)])
def test_what_no_plugin_asked_for_stays_as_it_was(agent: Agent, method: str, path: str, code: int) -> None:
    assert agent.send(method, path).code == code


def test_before_the_first_heartbeat_there_is_nothing_to_hand_out(registry: Callable[..., Registry]) -> None:
    routes = Routes(registry(toy=TOY).rest_routes())
    server = RestServer(RestSettings("127.0.0.1:0"), Board(), Mailbox(), lambda seconds: None, routes=routes)
    server.start()
    assert call(server.bound[0], "GET", "/toy/open").code == 503
    server.stop()


# -- what ends the start ----------------------------------------------------------------------------------------------------

ONE = "@hookimpl\ndef pgcore_rest_routes(): return [Route({!r}, {!r}, None, unsafe={!r})]\n"
BUILT_IN = [f"/{word}" for word in sorted(RESERVED)] + ["/config/mine"]
CHECKS = [path for path in CHECK_PATHS if path != "/"] + [f"/my/{word}s" for word in CHECK_WORDS]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", BUILT_IN)
def test_no_plugin_takes_an_endpoint_of_pgcore(registry: Callable[..., Registry], method: str, path: str) -> None:
    with pytest.raises(PluginError, match=f"plugin thief: pgcore_rest_routes brings {method} {path}, but .* is an endpoint"):
        Routes(registry(thief=ONE.format(method, path, True)).rest_routes())


@pytest.mark.parametrize("path", CHECKS)
def test_no_plugin_takes_a_health_check(registry: Callable[..., Registry], path: str) -> None:
    with pytest.raises(PluginError, match=r"plugin thief: .* is a health check"):
        Routes(registry(thief=ONE.format("GET", path, False)).rest_routes())


@pytest.mark.parametrize(("source", "told"), [
    (ONE.format("HEAD", "/x", True), "not one of the methods"), (ONE.format("get", "/x", True), "not one of the methods"),
    (ONE.format("GET", "x", True), "no path like"), (ONE.format("GET", "/x/", True), "no path like"),
    (ONE.format("GET", "/x?y", True), "no path like"), (ONE.format("GET", "/", True), "no path like"),
    (ONE.format("POST", "/x", False), "only a GET may be open"),
    ("@hookimpl\ndef pgcore_rest_routes(): return [Route('PUT', '/x', None, description={'x': {1}})]\n", "PUT /x is no JSON"),
    ("@hookimpl\ndef pgcore_rest_routes(): return [Route('PUT', '/x', None, description={'responses': []})]\n", "are no object"),
    ("@hookimpl\ndef pgcore_rest_routes(): return [1]\n", "brings 1, wanted a Route"),
    ("@hookimpl\ndef pgcore_rest_routes(): raise KeyError('moon')\n", "failed in pgcore_rest_routes: KeyError"),
])
def test_a_route_that_cannot_be_ends_the_start_and_names_the_plugin(
        registry: Callable[..., Registry], source: str, told: str) -> None:
    with pytest.raises(PluginError, match=f"plugin odd: .*{told}"):
        Routes(registry(odd=source).rest_routes())


def test_two_plugins_cannot_have_the_same_endpoint(registry: Callable[..., Registry]) -> None:
    source = ONE.format("PUT", "/x", True)
    with pytest.raises(PluginError, match=r"PUT /x, which plugin (a|b) brings too"):
        Routes(registry(a=source, b=source).rest_routes())


def test_the_path_of_reports_from_other_groups_is_taken(registry: Callable[..., Registry]) -> None:
    with pytest.raises(PluginError, match="/groups is an endpoint of pgcore"):
        Routes(registry(odd=ONE.format("PUT", "/groups", True)).rest_routes(), "groups")
