"""``/restart`` and ``/reinitialize`` over HTTP, with a thread that plays the heartbeat (rest-api 8.1, 8.3)."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from pgcore.clock import now
from pgcore.daemon.board import Board
from pgcore.daemon.mailbox import CancelRestart, CarryOut, Mailbox, Request, ScheduleRestart
from pgcore.model.basics import Instant
from pgcore.model.orders import ReinitOrder, RestartOrder
from pgcore.rest.server import RestServer
from pgcore.rest.settings import RestSettings
from unit.rest_board import Reply, call, leader_status

LATER = (datetime.now(UTC) + timedelta(days=1)).isoformat()


class Agent:
    """A REST server with its mailbox; each letter is answered with the next of the prepared results."""

    def __init__(self) -> None:
        self.board, self.mailbox = Board(), Mailbox()
        self.board.publish(leader_status())
        self.letters: list[Request] = []
        self.server = RestServer(RestSettings("127.0.0.1:0"), self.board, self.mailbox, lambda seconds: None)
        self.server.start()

    def answers(self, result: object) -> None:
        """The next letter gets this result."""
        threading.Thread(target=self._answer, args=(result,), daemon=True).start()

    def _answer(self, result: object) -> None:
        _, letters = self.mailbox.wait(Instant(now() + 10))
        for letter in letters:
            self.letters.append(letter.request)
            letter.reply.set_result(result)

    def send(self, method: str, path: str, body: object = None) -> Reply:
        """One request; a string is sent as it is."""
        text = body if isinstance(body, str) else None if body is None else json.dumps(body)
        return call(self.server.bound[0], method, path, text)


@pytest.fixture
def agent() -> Iterator[Agent]:
    started = Agent()
    yield started
    started.server.stop()


@pytest.mark.parametrize(
    ("result", "code", "text"),
    [
        ("", 200, "restarted successfully"),
        ("restart conditions are not satisfied", 503, "restart conditions are not satisfied"),
        ("pg_rewind already in progress", 503, "pg_rewind already in progress"),
        ("postgres is still starting", 503, "postgres is still starting"),
        ("restart failed", 503, "restart failed"),
    ],
)
def test_a_restart_is_answered_with_what_came_of_it(agent: Agent, result: str, code: int, text: str) -> None:
    agent.answers(result)
    reply = agent.send("POST", "/restart")
    assert (reply.code, reply.body) == (code, text)
    assert agent.letters == [CarryOut(RestartOrder())]


def test_the_conditions_of_a_restart_reach_the_heartbeat(agent: Agent) -> None:
    agent.answers("")
    body = {"role": "replica", "postgres_version": "15.6", "timeout": "5min", "restart_pending": False}
    assert agent.send("POST", "/restart", body).code == 200
    assert agent.letters == [CarryOut(RestartOrder("replica", 150006, True, 300.0))]


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        ({"roel": "primary"}, 400, "Unknown filter for the scheduled restart: roel"),
        ({"role": "boss"}, 400, "PostgreSQL role should be either primary, standby_leader, or replica"),
        ({"timeout": 0}, 400, "Timeout should be a positive number of seconds"),
        ({"timeout": "soon"}, 400, "Timeout should be a positive number of seconds"),
        ({"postgres_version": "15"}, 400, "Invalid PostgreSQL version format: 15"),
        ({"postgres_version": "15.x"}, 400, "Invalid PostgreSQL version: 15.x"),
        ({"schedule": "2035-01-01T00:00:00"}, 400, "Timezone information is mandatory for the scheduled restart"),
        ({"schedule": "2005-01-01T00:00:00+00:00"}, 422, "Cannot schedule restart in the past"),
        ({"schedule": "tomorrow-ish"}, 422, "Unable to parse scheduled timestamp. "),
        ({"schedule": ""}, 422, "Unable to parse scheduled timestamp. "),
        ({"schedule": None}, 422, "Unable to parse scheduled timestamp. "),
    ],
)
def test_what_is_wrong_with_a_request_is_said_without_the_heartbeat(agent: Agent, body: object, code: int, text: str) -> None:
    reply = agent.send("POST", "/restart", body)
    assert reply.code == code
    assert reply.body.startswith(text)


@pytest.mark.parametrize("path", ["/restart", "/reinitialize"])
@pytest.mark.parametrize("body", ["no json", "[1]"])
def test_a_body_that_is_no_object_stops_the_action(agent: Agent, path: str, body: str) -> None:
    assert agent.send("POST", path, body).code == 400
    assert agent.mailbox.wait(Instant(now())) == ((), ())


def test_a_restart_is_scheduled_once_and_deleted_once(agent: Agent) -> None:
    agent.answers(True)
    reply = agent.send("POST", "/restart", {"schedule": LATER, "role": "replica", "timeout": "1min"})
    assert (reply.code, reply.body) == (202, "Restart scheduled")
    letter = agent.letters[0]
    assert isinstance(letter, ScheduleRestart)
    assert letter.due_at == datetime.fromisoformat(LATER).timestamp()
    assert letter.shown == {"schedule": LATER, "role": "replica", "timeout": 60}
    agent.answers(False)
    reply = agent.send("POST", "/restart", {"schedule": LATER})
    assert (reply.code, reply.body) == (409, "Another restart is already scheduled")
    agent.answers(True)
    reply = agent.send("DELETE", "/restart")
    assert (reply.code, reply.body) == (200, "scheduled restart deleted")
    agent.answers(False)
    reply = agent.send("DELETE", "/restart")
    assert (reply.code, reply.body) == (404, "no restarts are scheduled")
    assert agent.letters[2:] == [CancelRestart(), CancelRestart()]


def test_nothing_is_scheduled_in_maintenance_mode(agent: Agent) -> None:
    agent.board.publish(leader_status(paused=True))
    reply = agent.send("POST", "/restart", {"schedule": LATER})
    assert (reply.code, reply.body) == (500, "Can't schedule restart in the paused state")


def test_a_new_copy_is_answered_when_it_has_begun(agent: Agent) -> None:
    agent.answers("")
    reply = agent.send("POST", "/reinitialize", {"force": "yes", "from_leader": True, "whatever": 1})
    assert (reply.code, reply.body) == (200, "reinitialize started")
    assert agent.letters == [CarryOut(ReinitOrder(True, True))]
    agent.answers("Cluster has no leader, can not reinitialize")
    reply = agent.send("POST", "/reinitialize", "")
    assert (reply.code, reply.body) == (503, "Cluster has no leader, can not reinitialize")


def test_a_restart_without_an_answer_ends_with_the_server(agent: Agent) -> None:
    replies: list[Reply] = []
    asking = threading.Thread(target=lambda: replies.append(agent.send("POST", "/restart")), daemon=True)
    asking.start()
    _, letters = agent.mailbox.wait(Instant(now() + 5))
    assert len(letters) == 1
    agent.server.stop()
    asking.join(10)
    assert [(reply.code, reply.body) for reply in replies] == [(503, "restart status unknown")]
