"""Unsafe requests over HTTP: bodies, and switchovers with a thread that plays the heartbeat (rest-api 8)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from pgcore.clock import now
from pgcore.daemon.board import Board, Status
from pgcore.daemon.mailbox import Mailbox, ReloadConfig, WriteFailover
from pgcore.errors import StoreUnavailableError
from pgcore.model.basics import Instant, Timing
from pgcore.model.cluster import ClusterView, FailoverRequest, Member
from pgcore.model.world import PeerView
from pgcore.rest import manage
from pgcore.rest.manage import Look, unasked
from pgcore.rest.server import RestServer
from pgcore.rest.settings import RestSettings
from unit.rest_board import Reply, call, leader_status, member, status, view

Published = Status | ClusterView
LATER = (datetime.now(UTC) + timedelta(days=1)).isoformat()


@dataclass
class Agent:
    """A server with its board and mailbox; ``play`` is the heartbeat: each step is published after a letter was answered."""

    settings: RestSettings = field(default_factory=lambda: RestSettings("127.0.0.1:0"))
    first: Status = field(default_factory=leader_status)
    look: Look = unasked

    def __post_init__(self) -> None:
        self.board, self.mailbox, self.letters = Board(), Mailbox(), []
        self.board.publish(self.first)
        self.server = RestServer(self.settings, self.board, self.mailbox, lambda seconds: None, look=self.look)
        self.server.start()

    def play(self, result: object, *steps: ClusterView | None) -> threading.Thread:
        """Answer the next letter with ``result``, then publish these views, one heartbeat each."""
        thread = threading.Thread(target=self._play, args=(result, steps), daemon=True)
        thread.start()
        return thread

    def _play(self, result: object, steps: tuple[ClusterView | None, ...]) -> None:
        _, letters = self.mailbox.wait(Instant(now() + 10))
        for letter in letters:
            self.letters.append(letter.request)
            if isinstance(result, Exception):
                letter.reply.set_exception(result)
            elif result is not None:
                letter.reply.set_result(result)
        for step in steps:
            time.sleep(0.05)
            self.board.publish(replace(self.first, cluster=step, at=now()))

    def post(self, path: str, body: object = None, **headers: str) -> Reply:
        text = body if isinstance(body, str) else None if body is None else json.dumps(body)
        return call(self.server.bound[0], "POST", path, text, headers=headers)


@pytest.fixture
def agent() -> Iterator[Callable[..., Agent]]:
    agents: list[Agent] = []

    def start(**arguments: object) -> Agent:
        agents.append(Agent(**arguments))
        return agents[-1]

    yield start
    for started in agents:
        started.server.stop()


Start = Callable[..., Agent]
PENDING = FailoverRequest("9", "a", "b")


def test_a_switchover_answers_when_the_new_leader_is_seen(agent: Start) -> None:
    """EC 77: the moment in which nobody leads is not taken for success."""
    node = agent()
    node.play(True, view(failover=PENDING), view(leader=None, failover=PENDING), view(leader="b"))
    began = time.monotonic()
    reply = node.post("/switchover", {"leader": "a", "candidate": "b"})
    assert (reply.code, reply.body, reply.headers["Content-Type"]) == (200, 'Successfully switched over to "b"', "text/html")
    assert time.monotonic() - began < 1
    assert node.letters == [WriteFailover("a", "b")]


def test_another_winner_than_the_candidate_is_named(agent: Start) -> None:
    node = agent()
    node.play(True, view(leader="c"))
    assert node.post("/switchover", {"leader": "a", "member": "b"}).body == 'Switched over to "c" instead of "b"'


def test_a_failover_without_a_leader_succeeds_with_its_candidate(agent: Start) -> None:
    """EC 78."""
    node = agent(first=status(cluster=view(leader=None)))
    node.play(True, view(leader=None, failover=FailoverRequest("9", None, "b")), view(leader="b"))
    reply = node.post("/failover", {"candidate": "b"})
    assert (reply.code, reply.body) == (200, 'Successfully failed over to "b"')
    assert node.letters == [WriteFailover(None, "b")]


def test_a_failover_that_names_the_leader_is_a_switchover(agent: Start) -> None:
    """EC 79: by its answer, by what is written, and by its conditions."""
    node = agent()
    node.play(True, view(leader="b"))
    assert node.post("/failover", {"leader": "a", "candidate": "b"}).body == 'Successfully switched over to "b"'
    assert node.letters == [WriteFailover("a", "b")]
    synchronous = agent(first=leader_status(cluster=view(sync=("b",)), synchronous="on"))
    assert synchronous.post("/failover", {"leader": "a", "candidate": "c"}).code == 412


def test_a_manual_failover_may_go_to_a_member_that_is_not_synchronous(agent: Start) -> None:
    """EC 66."""
    node = agent(first=leader_status(cluster=view(sync=("b",)), synchronous="on"))
    node.play(True, view(leader="c", sync=("b",)))
    assert node.post("/failover", {"candidate": "c"}).code == 200


def test_where_votes_decide_any_member_may_be_asked_for(agent: Start) -> None:
    """The leader knows who is fit; it drops the request if that is too few. (HA rules 16.1, EC 67)"""
    node = agent(first=leader_status(cluster=view(sync=("b",)), synchronous="quorum"))
    node.play(True, view())
    assert node.post("/switchover", {"leader": "a", "candidate": "c"}).body == "Switchover failed"


def test_a_request_that_vanishes_with_the_old_leader_in_place_has_failed(agent: Start) -> None:
    node = agent()
    node.play(True, view(failover=PENDING), view())
    reply = node.post("/switchover", {"leader": "a", "candidate": "b"})
    assert (reply.code, reply.body) == (503, "Switchover failed")


def test_an_observation_made_before_the_write_does_not_count_as_failure(agent: Start) -> None:
    node = agent()
    stale = replace(leader_status(), at=Instant(now() - 5))
    thread = threading.Thread(target=lambda: (time.sleep(0.05), node.board.publish(stale)), daemon=True)
    node.play(True, None, view(leader="b"))
    thread.start()
    assert node.post("/switchover", {"leader": "a"}).code == 200


def test_without_an_outcome_in_time_the_status_is_unknown(agent: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manage, "_patience", lambda observed: 0.3)
    node = agent()
    node.play(True, view(failover=PENDING))
    reply = node.post("/switchover", {"leader": "a"})
    assert (reply.code, reply.body) == (503, "Switchover status unknown")


def test_patience_is_twice_the_loop_but_twenty_seconds_at_least() -> None:
    assert manage._patience(status(timing=Timing(30, 3, 3))) == 20
    assert manage._patience(status(timing=Timing(100, 30, 10))) == 60


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (False, "failed to write failover key into DCS"),
        (StoreUnavailableError("down"), "failed to write failover key into DCS"),
        (None, "Switchover status unknown"),
    ],
)
def test_a_write_that_did_not_happen_or_is_undecided(agent: Start, result: object, text: str) -> None:
    node = agent(first=leader_status(timing=Timing(5, 1, 0)))
    node.play(result)
    reply = node.post("/switchover", {"leader": "a"})
    assert (reply.code, reply.body) == (503, text)


def test_a_scheduled_switchover_is_accepted_at_once(agent: Start) -> None:
    node = agent()
    node.play(True)
    reply = node.post("/switchover", {"leader": "a", "scheduled_at": LATER})
    assert (reply.code, reply.body) == (202, "Switchover scheduled")
    assert node.letters == [WriteFailover("a", None, LATER)]


def _with(*members: Member, **fields: object) -> ClusterView:
    return replace(view(**fields), members=members)


@pytest.mark.parametrize(
    ("observed", "path", "body", "code", "text"),
    [
        ({}, "/failover", {"x": 1}, 400, "Failover could be performed only to a specific candidate"),
        ({}, "/switchover", {"candidate": "b"}, 400, "Switchover could be performed only from a specific leader"),
        ({}, "/failover", {"leader": "a"}, 400, "Failover could be performed only to a specific candidate"),
        ({}, "/failover", {"candidate": "b", "scheduled_at": LATER}, 400, "Failover can't be scheduled"),
        ({}, "/failover", {"leader": "a", "candidate": "b", "scheduled_at": LATER}, 400, "Failover can't be scheduled"),
        ({}, "/failover", {"leader": "a", "candidate": "a"}, 400, "Switchover target and source are the same"),
        ({}, "/failover", {"leader": "z", "candidate": "b"}, 412, "leader name does not match"),
        (
            {"paused": True},
            "/switchover",
            {"leader": "a", "candidate": "b", "scheduled_at": LATER},
            400,
            "Can't schedule switchover in the paused state",
        ),
        (
            {"paused": True},
            "/switchover",
            {"leader": "a"},
            400,
            "Switchover is possible only to a specific candidate in a paused state",
        ),
        ({}, "/switchover", {"leader": "a", "candidate": "a"}, 400, "Switchover target and source are the same"),
        (
            {},
            "/switchover",
            {"leader": "a", "scheduled_at": "2999-01-01T00:00"},
            400,
            "Timezone information is mandatory for the scheduled switchover",
        ),
        ({}, "/switchover", {"leader": "a", "scheduled_at": "2001-01-01T00:00Z"}, 422, "Cannot schedule switchover in the past"),
        ({}, "/switchover", {"leader": "b"}, 412, "leader name does not match"),
        ({}, "/switchover", {"leader": "a", "candidate": "z"}, 412, "candidate does not exists"),
        (
            {"cluster": view(sync=("b",)), "synchronous": "on"},
            "/switchover",
            {"leader": "a", "candidate": "c"},
            412,
            "candidate name does not match with sync_standby",
        ),
        ({"synchronous": "on"}, "/switchover", {"leader": "a"}, 412, "switchover is not possible: can not find sync_standby"),
        (
            {"cluster": _with(member("a", "primary"))},
            "/switchover",
            {"leader": "a"},
            412,
            "switchover is not possible: cluster does not have members except leader",
        ),
        (
            {"cluster": _with(member("a", "primary"), member("b", tags={"nofailover": True}))},
            "/switchover",
            {"leader": "a"},
            412,
            "switchover is not possible: no good candidates have been found",
        ),
        (
            {"cluster": _with(member("a", "primary"), member("b", tags={"nofailover": True}))},
            "/failover",
            {"candidate": "b"},
            412,
            "failover is not possible: no good candidates have been found",
        ),
        (
            {"cluster": _with(member("a", "primary"), replace(member("b"), api_url=None))},
            "/switchover",
            {"leader": "a"},
            412,
            "switchover is not possible: no good candidates have been found",
        ),
    ],
)
def test_requests_that_cannot_work_are_refused_before_anything_is_written(
    agent: Start, observed: dict[str, object], path: str, body: dict[str, str], code: int, text: str
) -> None:
    """EC 66, 71, 73."""
    node = agent(first=leader_status(**observed))
    reply = node.post(path, body)
    assert (reply.code, reply.body) == (code, text)


@pytest.mark.parametrize(
    ("seen", "good"),
    [
        (PeerView("b", False), False),
        (PeerView("b", True, nofailover=True), False),
        (PeerView("b", True, watchdog_failed=True), False),
        (PeerView("b", True), True),
    ],
)
def test_candidates_are_asked_how_they_are_before_anything_is_written(agent: Start, seen: PeerView, good: bool) -> None:
    node = agent(look=lambda members: [seen])
    node.play(True, view(leader="b"))
    reply = node.post("/switchover", {"leader": "a", "candidate": "b"})
    assert (reply.code == 200) is good
    assert bool(node.letters) is good
    if not good:
        assert (reply.code, reply.body) == (412, "switchover is not possible: no good candidates have been found")


def test_one_good_candidate_is_enough(agent: Start) -> None:
    def answers(members: Sequence[Member]) -> Iterator[PeerView]:
        assert [member.name for member in members] == ["b", "c"]
        yield PeerView("c", True)
        raise AssertionError("the other one is not waited for")

    node = agent(look=answers)
    node.play(True, view(leader="c"))
    assert node.post("/switchover", {"leader": "a"}).code == 200


def test_an_unreadable_time_and_a_lost_store(agent: Start) -> None:
    assert agent().post("/switchover", {"leader": "a", "scheduled_at": "tomorrow-ish"}).code == 422
    assert agent(first=leader_status(cluster=None)).post("/switchover", {"leader": "a"}).code == 503


@pytest.mark.parametrize(
    ("body", "code"),
    [("", 400), ("[1]", 400), ("{}", 400), ("{", 400), ("\xff", 400), ("[" * 100_000, 400), ('{"leader": NaN}', 400),
     ('{"leader": 1e999}', 400), ('{"leader": "\\ud800"}', 400),
     ('{"leader": ' + "[" * 70 + "]" * 70 + "}", 400)],
)
def test_bodies_must_be_json_objects(agent: Start, body: str, code: int) -> None:
    assert agent().post("/switchover", body).code == code


def test_a_body_without_its_length_is_refused(agent: Start) -> None:
    node = agent()
    assert call(node.server.bound[0], "POST", "/switchover", headers={"Transfer-Encoding": "chunked"}).code == 411


def test_what_was_written_is_shown_when_it_is_answered(agent: Start) -> None:
    node = agent()
    scheduled = view(failover=FailoverRequest("42", "a", None, LATER, 1.0))
    node.play(True, scheduled)
    assert node.post("/switchover", {"leader": "a", "scheduled_at": LATER}).code == 202
    assert "scheduled_switchover" in call(node.server.bound[0], "GET", "/cluster").body
    node.play(True, view())
    assert call(node.server.bound[0], "DELETE", "/switchover").code == 200
    assert "scheduled_switchover" not in call(node.server.bound[0], "GET", "/cluster").body


def test_a_scheduled_switchover_can_be_deleted_if_it_is_still_the_same(agent: Start) -> None:
    scheduled = view(failover=FailoverRequest("42", "a", None, LATER, 1.0))
    for result, code in ((True, 200), (False, 409)):
        node = agent(first=leader_status(cluster=scheduled))
        node.play(result)
        assert call(node.server.bound[0], "DELETE", "/switchover").code == code
        assert node.letters == [WriteFailover(version="42")]
    reply = call(agent().server.bound[0], "DELETE", "/switchover")
    assert (reply.code, reply.body) == (404, "no switchover is scheduled")


def test_reload_goes_to_the_heartbeat(agent: Start) -> None:
    node = agent()
    thread = node.play(True)
    reply = node.post("/reload")
    thread.join(5)
    assert (reply.code, reply.body, node.letters) == (202, "reload scheduled", [ReloadConfig()])


def test_many_waiting_switchovers_leave_workers_for_health_checks(agent: Start) -> None:
    node = agent()
    waiting = [threading.Thread(target=node.post, args=("/switchover", {"leader": "a"}), daemon=True) for _ in range(8)]
    for thread in waiting:
        thread.start()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and sum(thread.is_alive() for thread in waiting) > 3:
        time.sleep(0.01)  # five of them are refused at once
    assert sum(thread.is_alive() for thread in waiting) == 3
    assert node.post("/reload").code == 503
    assert call(node.server.bound[0], "OPTIONS", "/").code == 200


def test_stopping_ends_a_waiting_switchover(agent: Start) -> None:
    node = agent()
    node.play(True, view(failover=PENDING))
    replies: list[Reply] = []
    thread = threading.Thread(target=lambda: replies.append(node.post("/switchover", {"leader": "a"})), daemon=True)
    thread.start()
    time.sleep(0.3)
    began = time.monotonic()
    node.server.stop()
    thread.join(5)
    assert time.monotonic() - began < 3
    assert [reply.body for reply in replies] == ["Switchover status unknown"]
