"""Who may change something: addresses, client certificates, passwords, and where nothing is asked for (rest-api 11)."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable

import pytest

from pgcore.daemon.board import Board
from pgcore.daemon.mailbox import Mailbox
from pgcore.rest import access
from pgcore.rest.access import Access
from pgcore.rest.manage import Reports
from pgcore.rest.server import RestServer
from pgcore.rest.settings import RestSettings
from unit.rest_board import call

Open = Callable[..., RestServer]
UNSAFE = [
    ("PATCH", "/config"), ("PUT", "/config"), ("POST", "/reload"), ("POST", "/restart"), ("DELETE", "/restart"),
    ("POST", "/reinitialize"), ("POST", "/switchover"), ("DELETE", "/switchover"), ("POST", "/failover"), ("POST", "/failsafe"),
    ("POST", "/sigterm"), ("POST", "/citus"), ("POST", "/mpp"),
]  # fmt: skip


def _basic(text: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({}, "no auth header received"),
        ({"Authorization": "Bearer x"}, "no auth header received"),
        ({"Authorization": "basic " + base64.b64encode(b"api:secret").decode()}, "no auth header received"),
        ({"Authorization": "Basic !!!"}, "not authenticated"),
        (_basic("api:wrong"), "not authenticated"),
        (_basic("other:secret"), "not authenticated"),
    ],
)
@pytest.mark.parametrize(("method", "path"), UNSAFE)
def test_every_request_that_changes_something_needs_the_password(
    serve: Open, method: str, path: str, headers: dict[str, str], text: str
) -> None:
    address = serve(username="api", password="secret").bound[0]
    reply = call(address, method, path, '{"x": 1}', headers=headers)
    assert (reply.code, reply.body, reply.headers["WWW-Authenticate"]) == (401, text, 'Basic realm="Patroni"')


def test_what_changes_nothing_needs_no_password_and_an_unknown_verb_is_not_asked_for_one(serve: Open) -> None:
    address = serve(username="api", password="p\u00e4:ss").bound[0]
    assert call(address, "GET", "/patroni").code == 200
    assert call(address, "POST", "/unknown").code == 501
    assert call(address, "POST", "/reload", headers=_basic("api:p\u00e4:ss")).code == 202


@pytest.mark.parametrize(("method", "path"), UNSAFE)
def test_every_request_that_changes_something_is_refused_outside_the_allowlist(serve: Open, method: str, path: str) -> None:
    reply = call(serve(allowlist=("10.0.0.0/8",)).bound[0], method, path, '{"x": 1}')
    assert (reply.code, reply.body) == (403, "Access is denied")


def _allowed(client: str, members: tuple[str, ...] = (), **settings: object) -> bool:
    restapi = RestSettings("10.0.0.1:8008", username="api", password="x", **settings)
    authorization = _basic("api:x")["Authorization"]
    return Access().denial(restapi, members, client, verified=False, authorization=authorization) is None


def test_an_allowlist_lets_in_addresses_networks_names_and_members() -> None:
    assert _allowed("10.9.9.9")
    assert _allowed("10.0.0.7", allowlist=("10.0.0.0/24",)) and not _allowed("10.0.1.7", allowlist=("10.0.0.0/24",))
    assert _allowed("fd00::7", allowlist=("fd00::/64",)) and not _allowed("fd01::7", allowlist=("fd00::/64",))
    assert _allowed("fe80::1%eth0", allowlist=("fe80::1",))
    assert _allowed("127.0.0.1", allowlist=("localhost",)) and _allowed("::ffff:10.0.0.7", allowlist=("10.0.0.7",))
    assert not _allowed("10.0.0.7", allowlist=("no such host",))
    assert _allowed("127.0.0.1", ("127.0.0.1",), allowlist_include_members=True)
    assert _allowed("127.0.0.1", ("10.0.0.9", "localhost"), allowlist=("10.0.0.7",), allowlist_include_members=True)
    assert not _allowed("127.0.0.2", ("127.0.0.1",), allowlist_include_members=True)
    assert not _allowed("127.0.0.1", (), allowlist_include_members=True)
    assert not _allowed("127.0.0.1", ("127.0.0.1",), allowlist=("10.0.0.7",))


def test_a_name_that_cannot_be_looked_up_is_told_of_once_and_tried_again_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    restapi, door = RestSettings("127.0.0.1:8008", allowlist=("no.such.host.invalid", "10.0.0.7")), Access()

    def denied(client: str) -> bool:
        return door.denial(restapi, (), client, verified=False, authorization=None) is not None

    assert not denied("10.0.0.7")
    assert caplog.records == [], "who is let in by an address waits for no name service"
    assert denied("10.0.0.8")
    assert [record.levelno for record in caplog.records] == [logging.ERROR] and "no.such.host.invalid" in caplog.text
    monkeypatch.setattr(access, "LOOK_UP_S", 0.0)
    assert denied("10.0.0.8") and len(caplog.records) == 1


def test_without_authentication_actions_are_for_loopback_only() -> None:
    def denial(**settings: str) -> object:
        return Access().denial(RestSettings(**settings), (), "127.0.0.1", verified=False, authorization=None)

    assert denial(listen="127.0.0.2:8008", connect_address="127.0.0.2:8008") is None
    assert denial(listen="0.0.0.0:8008", connect_address="10.0.0.1:8008").code == 403
    assert denial(listen="127.0.0.1:8008", connect_address="10.0.0.1:8008").code == 403


@pytest.mark.parametrize("path", ["/citus", "/mpp"])
def test_a_report_of_another_group_is_handed_on_to_whoever_handles_groups(path: str) -> None:
    taken: list[object] = []
    reports = Reports("citus", taken.append, lambda: ["127.0.0.1"])
    settings = RestSettings("127.0.0.1:0", username="admin", password="secret", allowlist_include_members=True)
    server = RestServer(settings, Board(), Mailbox(), lambda seconds: None, reports=reports)
    server.start()
    try:
        body = json.dumps({"type": "after_promote", "group": 1})
        assert call(server.bound[0], "POST", path, body).code == 401
        assert taken == []
        reply = call(server.bound[0], "POST", path, body, headers=_basic("admin:secret"))
        assert (reply.code, reply.body, taken) == (200, "OK", [{"type": "after_promote", "group": 1}])
        assert call(server.bound[0], "POST", path, "{}", headers=_basic("admin:secret")).code == 400
    finally:
        server.stop()


def test_in_a_cluster_without_groups_a_report_has_no_effect(serve: Open) -> None:
    assert call(serve().bound[0], "POST", "/mpp", '{"type": "x"}').body == "OK"


def test_sigterm_is_answered_and_does_nothing(serve: Open) -> None:
    address = serve().bound[0]
    reply = call(address, "POST", "/sigterm")
    assert (reply.code, reply.body) == (202, "shutdown scheduled")
    assert call(address, "OPTIONS", "/").code == 200
