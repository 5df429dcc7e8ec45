"""``/failsafe`` over a real listener: who may ask, what is answered, and how fast. (rest-api 9, 11)"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from pgcore.clock import now
from pgcore.daemon.board import Board
from pgcore.daemon.mailbox import Mailbox
from pgcore.model.basics import Instant, Lsn
from pgcore.model.failsafe import FailsafeVerdict
from pgcore.rest.server import RestServer
from pgcore.rest.settings import RestSettings
from unit.rest_board import Reply, call, leader_status, raw, replica_node, status, view

BODY = {"name": "b", "conn_url": "postgres://10.0.0.2:5432/db", "api_url": "http://10.0.0.2:8008/patroni", "slots": {"b": 5}}
Open = Callable[..., "Asked"]


class Asked:
    """A server whose daemon accepts everybody, and what it was asked."""

    def __init__(self, board: Board, verdict: FailsafeVerdict, **settings: object) -> None:
        self.requests: list[Mapping[str, Any]] = []
        self.promises = 0
        self.accepted: tuple[str | None, bool] = (None, False)
        self.binds = False
        self.verdict = verdict
        self.server = RestServer(
            RestSettings(**{"listen": "127.0.0.1:0", **settings}), board, Mailbox(), lambda seconds: None, failsafe=self
        )
        self.server.start()

    def accept(self, request: Mapping[str, Any]) -> FailsafeVerdict:
        self.requests.append(request)
        return self.verdict

    def promise(self) -> None:
        self.promises += 1

    def vouching(self) -> tuple[str | None, bool]:
        return self.accepted

    def binding(self) -> bool:
        return self.binds

    def post(self, body: object = BODY, **headers: str) -> Reply:
        text = body if isinstance(body, str) else json.dumps(body)
        return call(self.server.bound[0], "POST", "/failsafe", text, headers=headers)


@pytest.fixture
def board() -> Board:
    made = Board()
    made.publish(status())
    return made


@pytest.fixture
def serve(board: Board) -> Iterator[Open]:
    made: list[Asked] = []

    def start(verdict: FailsafeVerdict = FailsafeVerdict(200, "Accepted", Lsn(77)), **settings: object) -> Asked:
        made.append(Asked(board, verdict, **settings))
        return made[-1]

    yield start
    for each in made:
        each.server.stop()


def test_an_acceptance_is_exact_and_carries_the_position(serve: Open) -> None:
    """(EC 26, 34)"""
    asked = serve()
    reply = asked.post()
    assert (reply.code, reply.body, reply.headers["lsn"]) == (200, "Accepted", "77")
    assert asked.requests == [BODY]


def test_without_a_position_there_is_no_header(serve: Open) -> None:
    assert "lsn" not in serve(FailsafeVerdict(200, "Accepted")).post().headers


@pytest.mark.parametrize(("code", "text"), [(500, "Running as a leader"), (500, "c held the lock 1.0 s ago")])
def test_a_refusal_says_why(serve: Open, code: int, text: str) -> None:
    """(EC 36)"""
    reply = serve(FailsafeVerdict(code, text)).post()
    assert (reply.code, reply.body) == (code, text)


def test_with_the_mode_off_only_the_code_counts(serve: Open) -> None:
    assert serve(FailsafeVerdict(502, "failsafe_mode is off")).post().code == 502


def test_an_agent_without_a_daemon_behind_it_says_that_the_mode_is_off(board: Board) -> None:
    server = RestServer(RestSettings(listen="127.0.0.1:0"), board, Mailbox(), lambda seconds: None)
    server.start()
    assert call(server.bound[0], "POST", "/failsafe", json.dumps(BODY)).code == 502
    server.stop()


@pytest.mark.parametrize(
    "body", ["", "x", "[]", "{}", '{"name": "b"}', '{"name": 1, "conn_url": "x", "api_url": "y"}', "[" * 9000]
)
def test_a_body_that_is_no_request_is_refused(serve: Open, body: str) -> None:
    asked = serve()
    assert asked.post(body).code == 400 if body else 411
    assert asked.requests == []


def test_without_a_length_nothing_is_read(serve: Open) -> None:
    assert raw(serve().server.bound[0], b"POST /failsafe HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.0 411 ")


def test_the_password_is_asked_for(serve: Open) -> None:
    asked = serve(username="api", password="secret")
    assert asked.post().code == 401
    token = base64.b64encode(b"api:secret").decode()
    assert asked.post(Authorization=f"Basic {token}").code == 200


def test_the_allowlist_counts_but_not_the_list_of_members(serve: Open, board: Board) -> None:
    """(EC 35): with ``allowlist_include_members`` the caller's address is not looked for in a list that needs the store."""
    far = tuple(replace(each, api_url="http://10.9.9.9:8008/patroni") for each in view().members)
    board.publish(status(cluster=view(members=far)))
    assert serve(allowlist_include_members=True).post().code == 200
    board.publish(status(cluster=None))
    assert serve(allowlist_include_members=True).post().code == 200
    assert serve(allowlist=("10.1.1.1",), allowlist_include_members=True).post().code == 403
    assert serve(allowlist=("127.0.0.1",)).post().code == 200


def test_an_answer_waits_for_nothing(serve: Open) -> None:
    """No heartbeat runs, no framework is loaded, and the workers of management requests are all taken."""
    asked = serve()
    began = time.monotonic()
    assert asked.post().code == 200
    assert time.monotonic() - began < 0.5
    threads = [threading.Thread(target=asked.post) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert len(asked.requests) == 21


@pytest.mark.parametrize(("method", "code"), [("PUT", 501), ("DELETE", 501), ("HEAD", 503)])
def test_other_verbs_are_not_known(serve: Open, method: str, code: int) -> None:
    assert call(serve().server.bound[0], method, "/failsafe").code == code


def test_the_key_is_shown_also_while_the_store_is_away(serve: Open, board: Board) -> None:
    address = serve().server.bound[0]
    assert call(address, "GET", "/failsafe").code == 502
    board.publish(status(cluster=None, failsafe={"a": "http://x/patroni"}))
    reply = call(address, "GET", "/failsafe")
    assert (reply.code, json.loads(reply.body)) == (200, {"a": "http://x/patroni"})


def test_a_status_says_that_failsafe_mode_carries_the_cluster_until_it_does_not(serve: Open, board: Board) -> None:
    """(EC 29): and the primary stays one for its clients."""
    address = serve().server.bound[0]
    board.publish(leader_status(cluster=None, failsafe_until=Instant(now() + 0.3)))
    assert json.loads(call(address, "GET", "/patroni").body)["failsafe_mode_is_active"] is True
    assert call(address, "GET", "/primary").code == 200
    time.sleep(0.31)
    assert "failsafe_mode_is_active" not in json.loads(call(address, "GET", "/patroni").body)


def test_the_metrics_know_the_key_while_the_store_is_away(serve: Open, board: Board) -> None:
    board.publish(status("b", replica_node(), cluster=None, failsafe={"b": "x"}, failsafe_until=Instant(now() + 5)))
    text = call(serve().server.bound[0], "GET", "/metrics").body
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    values = {name.partition("{")[0]: value for name, value in lines.items()}
    assert (values["patroni_failsafe_member"], values["patroni_failsafe_mode_is_active"]) == ("1", "1")


def test_a_binding_acceptance_says_so(serve: Open) -> None:
    assert serve(FailsafeVerdict(200, "Accepted", None, True)).post().headers["X-Pgcore-Failsafe"] == "binding"
    assert "X-Pgcore-Failsafe" not in serve().post().headers


def test_a_vote_binds_and_tells_whom_this_node_has_accepted(serve: Open) -> None:
    asked = serve()
    address = asked.server.bound[0]
    asked.accepted = ("a", True)
    document = json.loads(call(address, "GET", "/patroni?fresh=1&race=1").body)
    assert (document["pgcore"]["failsafe_leader"], document["pgcore"]["failsafe_unknown"]) == ("a", True)
    assert asked.promises == 1
    call(address, "GET", "/patroni?fresh=1")
    call(address, "GET", "/patroni?race=2")
    call(address, "GET", "/primary?race=1")
    call(address, "HEAD", "/patroni?race=1")
    assert asked.promises == 1, "only an announced poll binds"


def test_a_member_says_whether_its_acceptance_would_count_and_is_not_bound_by_the_question(serve: Open) -> None:
    asked = serve()
    address = asked.server.bound[0]
    for asked.binds in (False, True):
        assert json.loads(call(address, "GET", "/patroni?fresh=1").body)["pgcore"]["failsafe_binding"] is asked.binds
    assert asked.promises == 0


def test_a_stranger_gets_no_vote_as_that_could_end_a_primary(serve: Open) -> None:
    asked = serve(username="api", password="secret")
    assert call(asked.server.bound[0], "GET", "/patroni?fresh=1&race=1").code == 401
    assert asked.promises == 0
    assert call(asked.server.bound[0], "GET", "/patroni?fresh=1").code == 200
