"""Asking to be kept as the leader, writing the key, and what must not happen beside an accepted primary. (HA rules 9)"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pgcore.clock import Deadline, now
from pgcore.daemon.peers import PeerAccess, Peers, parse_acceptance
from pgcore.dcs.store import ANYTHING, Key
from pgcore.decide.advance import advance
from pgcore.decide.lease import demote_left_s, failsafe_ask_s
from pgcore.model import actions as a
from pgcore.model.basics import Instant, Lsn, Timing
from pgcore.model.cluster import ClusterView, Member
from pgcore.model.failsafe import FailsafeAnswer, FailsafeMap, FailsafeRecord
from pgcore.model.world import Memory
from pgcore.net.http import Response
from pgcore.testing.memory_store import MemoryStore
from unit.test_daemon_kit import SHORT, Bench


class Answering:
    """A member's REST API that answers every POST in the same way, after dropping the first ``drops`` connections."""

    def __init__(self, status: int = 200, body: bytes = b"Accepted", lsn: str | None = "500", drops: int = 0) -> None:
        self.requests: list[tuple[str, Mapping[str, str], Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:
                self.requests.append((handler.path, dict(handler.headers), None))
                accepted = {"failsafe_leader": "z", "failsafe_unknown": True}
                status = {"role": "replica", "xlog": {"received_location": 5}, "pgcore": accepted}
                handler.send_response(200)
                handler.end_headers()
                handler.wfile.write(json.dumps(status).encode())

            def do_POST(handler) -> None:
                content = handler.rfile.read(int(handler.headers["Content-Length"]))
                self.requests.append((handler.path, dict(handler.headers), json.loads(content)))
                if len(self.requests) <= drops:
                    handler.connection.shutdown(socket.SHUT_RDWR)
                    return
                handler.send_response(status)
                if lsn is not None:
                    handler.send_header("lsn", lsn)
                handler.end_headers()
                handler.wfile.write(body)

            def log_message(handler, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/patroni"


@pytest.fixture
def serve() -> Iterator[Callable[..., Answering]]:
    made: list[Answering] = []

    def start(*arguments: Any, **options: Any) -> Answering:
        made.append(Answering(*arguments, **options))
        return made[-1]

    yield start
    for each in made:
        each.server.shutdown()
        each.server.server_close()


@pytest.fixture
def frozen() -> Iterator[str]:
    """A member that takes connections and never answers."""
    with socket.socket() as channel:
        channel.bind(("127.0.0.1", 0))
        channel.listen(16)
        yield f"http://127.0.0.1:{channel.getsockname()[1]}/patroni"


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Bench]:
    member = Bench(tmp_path)
    yield member
    member.close()


Serve = Callable[..., Answering]
ACCEPTED = FailsafeRecord("b", "", "http://10.0.0.2:8008/patroni", {}, Instant(0.0), 30.0)


def asked(urls: Mapping[str, str], timeout_s: float = 1.0, access: PeerAccess | None = None) -> dict[str, FailsafeAnswer]:
    return Peers(access or PeerAccess()).ask_failsafe(urls, {"name": "a"}, timeout_s)


def test_everybody_is_asked_with_the_login_of_unsafe_requests(serve: Serve) -> None:
    """(EC 23, 34)"""
    b, c = serve(lsn="500"), serve(lsn=None)
    answers = asked({"b": b.url, "c": c.url}, access=PeerAccess("api", "secret"))
    assert answers == {"b": FailsafeAnswer(True, Lsn(500)), "c": FailsafeAnswer(True)}
    [(path, headers, document)] = b.requests
    assert (path, document, headers["Authorization"][:6]) == ("/failsafe", {"name": "a"}, "Basic ")


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"accepted"), (200, b"Accepted\n"), (200, b""), (202, b"Accepted"), (500, b"Running as a leader"), (502, b"<p>x")],
)
def test_only_200_with_the_exact_word_is_a_yes(serve: Serve, status: int, body: bytes) -> None:
    b = serve(status, body)
    answer = asked({"b": b.url})["b"]
    assert not answer.accepted and str(status) in answer.problem
    assert len(b.requests) == 1, "a refusal is not asked for twice"


def test_an_acceptance_that_binds_is_told_from_one_that_does_not(serve: Serve) -> None:
    binding = Response(200, {"x-pgcore-failsafe": "binding"}, b"Accepted", "")
    assert parse_acceptance(binding) == FailsafeAnswer(True, binding=True)
    assert parse_acceptance(replace(binding, headers={})) == FailsafeAnswer(True)
    assert parse_acceptance(replace(binding, status=500)).refused
    assert not asked({"b": "http://127.0.0.1:1/patroni"}, 0.3)["b"].refused, "silence is no refusal"


def test_a_poll_for_votes_announces_itself_and_reads_what_others_have_accepted(serve: Serve) -> None:
    b = serve()
    known = Member("b", api_url=b.url)
    heard = Peers(PeerAccess()).poll([known], 1.0, announced=True)["b"]
    assert (heard.reachable, heard.failsafe_leader, heard.failsafe_unknown) == (True, "z", True)
    plain = Peers(PeerAccess()).poll([known], 1.0)["b"]
    assert plain.reachable
    asked = [path.partition("&within=")[0] for path, _, _ in b.requests]
    assert asked == ["/patroni?fresh=1&race=1", "/patroni?fresh=1"]


def test_a_dropped_connection_is_tried_once_more(serve: Serve) -> None:
    assert asked({"b": serve(drops=1).url})["b"].accepted
    assert not asked({"b": serve(drops=2).url})["b"].accepted


def test_a_frozen_member_costs_no_more_than_the_time_there_is(serve: Serve, frozen: str) -> None:
    """(EC 23): the others are asked at the same time."""
    began = time.monotonic()
    answers = asked({"b": frozen, "c": serve().url}, 0.6)
    assert time.monotonic() - began < 0.8
    assert not answers["b"].accepted and answers["b"].problem
    assert answers["c"].accepted


@pytest.mark.parametrize("url", ["", "nonsense", "http://127.0.0.1:1/patroni", "http://[/patroni"])
def test_an_address_that_leads_nowhere_is_a_no(url: str) -> None:
    assert not asked({"b": url}, 0.5)["b"].accepted


def test_nobody_to_ask_is_no_refusal() -> None:
    """(EC 24)"""
    assert asked({}) == {}


def test_the_request_names_this_node_its_slots_and_its_ttl(member: Bench, serve: Serve) -> None:
    b = serve()
    world = member.world(memory=Memory(lease_until=Instant(now() + 4)))
    action = a.AskFailsafe({"b": b.url}, {"b": Lsn(7)}, 1.0)
    before = now()
    outcome = member.performer.perform(action, world)
    [(_, _, document)] = b.requests
    assert document["name"] == "a" and document["slots"] == {"b": 7} and document["ttl"] == SHORT.ttl
    assert document["conn_url"].startswith("postgres://") and document["api_url"].endswith("/patroni")
    until = advance(world, action, outcome).memory.lease_until
    assert until is not None and before + SHORT.ttl <= until <= before + SHORT.ttl + 0.2


def stored(member: Bench) -> tuple[str, str] | None:
    record = member.store.read(fresh=True, deadline=Deadline.after(1)).records.get(Key.FAILSAFE)
    return (record.value, record.version) if record else None


def test_the_key_is_written_as_every_member_reads_it_and_never_over_an_unseen_change(member: Bench) -> None:
    first = member.performer.perform(a.WriteFailsafe({"a": "x", "b": "y"}), member.world())
    assert stored(member) == ('{"a":"x","b":"y"}', first.value)
    late = a.WriteFailsafe({"a": "x"}, str(first.value))
    other = MemoryStore(member.server, "b", SHORT)
    other.put(Key.FAILSAFE, '{"b":"y"}', expect=ANYTHING, deadline=Deadline.after(1))
    assert member.performer.perform(late, member.world()).value is None
    assert stored(member) is not None and (stored(member) or ("",))[0] == '{"b":"y"}'


def accepting(member: Bench) -> None:
    """The member has read the key and accepted ``b``."""
    receiver = member.ports.failsafe
    receiver.saw(ClusterView(failsafe={"a": "x", "b": "y"}))
    receiver.know(replace(member.world(), settings=replace(member.configuration.settings(), failsafe_mode=True)))
    assert receiver.accept({"name": "b", "conn_url": "", "api_url": ""}).code == 200


def test_the_lock_is_not_touched_beside_an_accepted_primary(member: Bench) -> None:
    """(EC 26)"""
    accepting(member)
    outcome = member.performer.perform(a.AcquireLease(), member.world())
    assert isinstance(outcome.value, FailsafeRecord) and outcome.value.name == "b"
    assert member.store.read(fresh=True, deadline=Deadline.after(1)).records.get(Key.LEADER) is None


def test_nothing_is_promoted_beside_an_accepted_primary(member: Bench) -> None:
    accepting(member)
    outcome = member.performer.perform(a.Promote(), member.world(memory=Memory(lease_until=Instant(now() + 30))))
    assert not outcome.ok and "b was accepted as the leader" in outcome.error


def test_the_node_shows_whom_it_has_accepted(member: Bench) -> None:
    accepting(member)
    outcome = member.performer.perform(a.ObserveNode(), member.world())
    record = outcome.value.failsafe  # type: ignore[attr-defined]
    assert record is not None and record.name == "b"
    assert advance(member.world(), a.ObserveNode(), outcome).memory.failsafe == record


@pytest.mark.parametrize("timing", [Timing(5, 1, 1), Timing(10, 3, 3), Timing(20, 6, 6), Timing(30, 10, 10), Timing(60, 10, 10)])
def test_the_store_is_not_waited_for_into_the_time_that_asking_and_demoting_need(member: Bench, timing: Timing) -> None:
    """(EC 21, 23): from the beat after a renewal there is time for the store, for a frozen member, and to demote."""
    left = float(timing.ttl - timing.loop_wait)
    world = member.world(memory=Memory(lease_until=Instant(now() + left)), timing=timing, is_primary=True)
    world = replace(world, settings=replace(world.settings, failsafe_mode=True))
    store_s = member.performer._store_deadline(world).left()
    assert store_s >= 0.3
    ask_s = min(failsafe_ask_s(timing), left - store_s - demote_left_s(timing))
    assert ask_s > 0.5
    assert left - store_s - ask_s >= demote_left_s(timing) - 0.01


def test_a_map_without_this_node_or_of_another_lock_tells_nothing() -> None:
    """(EC 25)"""
    assert FailsafeMap({"b": "y"}, mine=True).others("a") is None
    assert FailsafeMap({"a": "x"}).others("a") is None
    assert FailsafeMap(None, mine=True).others("a") is None
    assert FailsafeMap({"a": "x"}, mine=True).others("a") == {}
    assert FailsafeMap({"a": "x", "b": "new"}, {"b": "old", "d": "z"}, mine=True).others("a") == {"b": "new", "d": "z"}
