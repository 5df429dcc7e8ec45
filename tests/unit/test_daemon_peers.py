"""Asking members over REST: real listeners that answer, are silent, drop connections or speak TLS. (HA rules 15.3)"""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pgcore.daemon.peers import BRIEF_S, MOST_THREADS, THREADS, PeerAccess, Peers, parse_status
from pgcore.model.basics import Lsn, Tags
from pgcore.model.cluster import Member
from pgcore.model.world import PeerView

LEADING = ("running", "unknown", "stopping", "starting", "crashed")
REPLICA = {"state": "running", "role": "replica", "timeline": 3, "xlog": {"received_location": 500, "replayed_location": 400}}
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


class Answering:
    """A member's REST API with one answer."""

    def __init__(self, document: Any = REPLICA, *, status: int = 200, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        body = document if isinstance(document, bytes) else json.dumps(document).encode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:
                self.requests.append((handler.path, dict(handler.headers)))
                handler.send_response(status)
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)

            def log_message(handler, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
        self.scheme = "http"
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.scheme = "https"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def member(self, name: str) -> Member:
        return Member(name, api_url=f"{self.scheme}://127.0.0.1:{self.server.server_port}/patroni")

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def listening() -> Iterator[str]:
    """A socket that takes connections and never says a word."""
    with socket.socket() as channel:
        channel.bind(("127.0.0.1", 0))
        channel.listen(16)
        yield f"http://127.0.0.1:{channel.getsockname()[1]}/patroni"


@contextmanager
def black_hole() -> Iterator[str]:
    """A full accept queue: further SYNs are dropped, as by a network that swallows packets."""
    with ExitStack() as stack:
        channel = stack.enter_context(socket.socket())
        channel.bind(("127.0.0.1", 0))
        channel.listen(0)
        for _ in range(8):
            knock = stack.enter_context(socket.socket())
            knock.setblocking(False)
            knock.connect_ex(channel.getsockname())
        time.sleep(0.02)
        yield f"http://127.0.0.1:{channel.getsockname()[1]}/patroni"


def refused() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/patroni"


Serve = Callable[..., Answering]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Answering] = []

    def start(*arguments: Any, **options: Any) -> Answering:
        servers.append(Answering(*arguments, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def peers() -> Peers:
    return Peers(PeerAccess())


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began = time.monotonic()
    return call(), time.monotonic() - began


# -- asking ------------------------------------------------------------------------------------------------------------


def test_every_member_is_asked_for_its_fresh_status(serve: Serve, peers: Peers) -> None:
    b, c = serve(), serve({**REPLICA, "role": "primary", "xlog": {"location": 900}})
    answers = peers.poll([b.member("b"), c.member("c")], 2)
    assert (answers["b"].position, answers["b"].timeline, answers["b"].is_primary) == (Lsn(500), 3, False)
    assert answers["c"].is_primary
    assert re.fullmatch(r"/patroni\?fresh=1&within=0\.[0-9]{3}|/patroni\?fresh=1&within=1\.[0-9]{3}", b.requests[0][0])


def test_the_status_code_does_not_matter(serve: Serve, peers: Peers) -> None:
    assert peers.poll([serve(status=503).member("b")], 2)["b"].reachable


def test_a_login_is_sent_along(serve: Serve) -> None:
    b = serve()
    assert Peers(PeerAccess("admin", "pä:ss")).poll([b.member("b")], 2)["b"].reachable
    kind, token = b.requests[0][1]["Authorization"].split()
    assert (kind, base64.b64decode(token).decode()) == ("Basic", "admin:pä:ss")


def test_new_access_settings_count_from_the_next_question(serve: Serve, peers: Peers) -> None:
    b = serve()
    peers.poll([b.member("b")], 2)
    peers.access = PeerAccess("admin", "new")
    peers.poll([b.member("b")], 2)
    assert [("Authorization" in headers) for _, headers in b.requests] == [False, True]


@pytest.mark.parametrize("silence", [listening, black_hole])
def test_silent_members_cost_the_timeout_once_and_the_others_nothing(silence: Any, serve: Serve, peers: Peers) -> None:
    b = serve()
    with silence() as one, silence() as two:
        members = [Member("x", api_url=one), Member("y", api_url=two), b.member("b")]
        answers, took = timed(lambda: peers.poll(members, 0.4))
    assert [name for name, answer in answers.items() if answer.reachable] == ["b"]
    assert took < 0.4 + 0.35


@pytest.mark.parametrize("body", [b"", b"not json", b"[1, 2]", b"null", b'"text"'])
def test_an_answer_that_is_no_status_is_no_answer(body: bytes, serve: Serve, peers: Peers) -> None:
    assert peers.poll([serve(body).member("b")], 2) == {"b": PeerView("b", False)}


@pytest.mark.parametrize("url", [None, "", "http:///patroni", "b:8008"])
def test_a_member_without_a_usable_address_is_unreachable_at_once(url: str | None, peers: Peers) -> None:
    answers, took = timed(lambda: peers.poll([Member("b", api_url=url)], 2))
    assert answers == {"b": PeerView("b", False)} and took < 0.5


def test_a_refused_connection_is_known_at_once(peers: Peers) -> None:
    answers, took = timed(lambda: peers.poll([Member("b", api_url=refused())], 2))
    assert not answers["b"].reachable and took < 0.5


def test_nobody_to_ask_is_answered_at_once(peers: Peers) -> None:
    assert timed(lambda: peers.poll([], 2))[0] == {}


def test_a_member_silent_of_late_is_waited_for_only_briefly(serve: Serve, peers: Peers) -> None:
    b = serve()
    with listening() as url:
        answers, took = timed(lambda: peers.poll([Member("x", api_url=url), b.member("b")], 3, {"x"}))
    assert (answers["x"].reachable, answers["b"].reachable) == (False, True)
    assert BRIEF_S - 0.05 < took < BRIEF_S + 0.35


def test_a_member_asked_briefly_can_answer(serve: Serve, peers: Peers) -> None:
    assert peers.poll([serve().member("b")], 3, {"b"})["b"].reachable


def asking() -> int:
    """How many threads that ask members there are."""
    return sum(thread.name.startswith("peer-") for thread in threading.enumerate())


def silent(count: int, url: str) -> list[Member]:
    return [Member(f"x{number}", api_url=url) for number in range(count)]


class NoThreads:
    """The module ``threading`` of a process that is at its limit."""

    class Thread(threading.Thread):
        """One that cannot begin."""

        def start(self) -> None:
            """As Python says it."""
            raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("count", [THREADS, 4 * THREADS])
def test_a_healthy_member_is_reached_behind_many_silent_ones(serve: Serve, peers: Peers, count: int) -> None:
    with listening() as url:
        answers, took = timed(lambda: peers.poll([*silent(count, url), serve().member("z")], 0.5))
    assert [name for name, answer in answers.items() if answer.reachable] == ["z"]
    assert took < 0.5 + 0.35


def test_silent_members_that_are_being_probed_delay_nobody(serve: Serve, peers: Peers) -> None:
    """A race begins while the dead leader is still being probed."""
    with listening() as url:
        peers.probe([Member("leader", api_url=url)])
        answers, took = timed(lambda: peers.poll([*silent(THREADS - 1, url), serve().member("z")], 0.5))
    assert answers["z"].reachable and took < 0.5 + 0.35


def test_there_is_a_thread_for_every_member_and_never_one_too_many(peers: Peers) -> None:
    at_first = asking()
    with listening() as url:
        for _ in range(3):
            peers.poll(silent(THREADS + 3, url), 0.05)
        grown = asking() - at_first
        assert grown == 4  # one more than members, for a probe under way
        peers.poll(silent(MOST_THREADS + 20, url), 0.05)
    assert asking() - at_first == MOST_THREADS - THREADS


def test_the_configured_number_of_threads_is_there_from_the_start() -> None:
    before = asking()
    Peers(PeerAccess(), THREADS + 2)
    Peers(PeerAccess(), 1)
    assert asking() - before == 2 * THREADS + 2


def test_members_are_asked_with_the_threads_there_are_when_no_more_can_be_had(
    serve: Serve, peers: Peers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    servers = [serve() for _ in range(THREADS + 3)]
    members = [server.member(f"m{number}") for number, server in enumerate(servers)]
    with monkeypatch.context() as patched:
        patched.setattr("pgcore.threads.threading", NoThreads())
        answers = peers.poll(members, 2)
    assert all(answer.reachable for answer in answers.values())
    assert f"members are asked by {THREADS} threads instead of {THREADS + 4}: can't start new thread" in caplog.text


# -- what harms the threads ----------------------------------------------------------------------------------------------


def survives(peers: Peers, broken: Member, healthy: Member, *, reachable: bool = False) -> None:
    """What is known of the broken member is known at once, however often it is asked, and the healthy one is still reached."""
    for _ in range(THREADS + 1):
        answers, took = timed(lambda: peers.poll([broken], 1))
        assert answers == {"x": PeerView("x", reachable)} and took < 0.9
    assert peers.silent() == (set() if reachable else {"x"})
    assert peers.poll([healthy], 0.4)["b"].reachable


def test_a_card_with_a_malformed_address_harms_nobody(serve: Serve, peers: Peers) -> None:
    survives(peers, Member("x", api_url="http://[::1/patroni"), serve().member("b"))


def test_a_status_with_an_infinite_position_harms_nobody(serve: Serve, peers: Peers) -> None:
    infinite = b'{"role": "replica", "xlog": {"received_location": Infinity}}'
    survives(peers, serve(infinite).member("x"), serve().member("b"), reachable=True)


def test_a_deeply_nested_status_harms_nobody(serve: Serve, peers: Peers) -> None:
    survives(peers, serve(b"[" * 200_000).member("x"), serve().member("b"))


def test_a_certificate_that_is_missing_for_a_moment_does_not_end_the_asking(serve: Serve) -> None:
    peers = Peers(PeerAccess(cacert="/no/such/file"))
    survives(peers, Member("x", api_url="https://127.0.0.1:1/patroni"), serve().member("b"))
    peers.access = PeerAccess()
    answers = peers.poll([Member("x", api_url=serve().member("x").api_url)], 0.4)
    assert answers["x"].reachable


# -- silence -------------------------------------------------------------------------------------------------------------


def test_silence_is_remembered_until_the_member_answers_again(serve: Serve, peers: Peers) -> None:
    b = serve()
    with listening() as url:
        peers.poll([Member("b", api_url=url), Member("x", api_url=url)], 0.2)
        time.sleep(0.1)
    assert peers.silent() == {"b", "x"}
    peers.poll([b.member("b")], 1)
    assert peers.silent() == {"x"}


def test_a_member_whose_server_is_still_starting_is_not_silent(serve: Serve, peers: Peers) -> None:
    answer = peers.poll([serve({"state": "starting", "role": "replica"}).member("b")], 1)["b"]
    assert (answer.reachable, answer.starting, peers.silent()) == (False, True, frozenset())


def test_a_probe_does_not_wait_and_notes_who_is_silent(serve: Serve, peers: Peers) -> None:
    b = serve()
    gone = Member("x", api_url=refused())
    assert timed(lambda: peers.probe([gone, b.member("b")]))[1] < 0.2
    end = time.monotonic() + 2
    while (peers.silent() != {"x"} or not b.requests) and time.monotonic() < end:
        time.sleep(0.01)
    assert peers.silent() == {"x"} and len(b.requests) == 1


def test_probes_do_not_pile_up(peers: Peers) -> None:
    with listening() as url, socket.socket() as counter:
        counter.bind(("127.0.0.1", 0))
        counter.listen(16)
        counter.settimeout(0.2)
        slow = Member("x", api_url=f"http://127.0.0.1:{counter.getsockname()[1]}/patroni")
        for _ in range(20):
            peers.probe([slow])
        accepted = [counter.accept()[0]]
        with pytest.raises(TimeoutError):
            accepted.append(counter.accept()[0])
        for channel in accepted:
            channel.close()
        assert url


# -- TLS -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two self-signed certificates whose names fit no address."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("server", "other"):
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
                "-keyout",
                f"{name}.key",
                "-out",
                f"{name}.crt",
                "-subj",
                f"/CN={name}",
            ],
            cwd=folder,
            check=True,
            capture_output=True,
        )
    return folder


@pytest.fixture
def tls(serve: Serve, certificates: Path) -> Answering:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    context.load_verify_locations(certificates / "other.crt")
    context.verify_mode = ssl.CERT_OPTIONAL
    return serve(context=context)


def test_any_certificate_will_do_without_an_authority(tls: Answering, peers: Peers) -> None:
    assert peers.poll([tls.member("b")], 2)["b"].position == Lsn(500)


@pytest.mark.parametrize(("authority", "reached"), [("server", True), ("other", False)])
def test_with_an_authority_the_chain_counts_and_the_name_does_not(
    tls: Answering, certificates: Path, authority: str, reached: bool
) -> None:
    peers = Peers(PeerAccess(cacert=str(certificates / f"{authority}.crt")))
    assert peers.poll([tls.member("b")], 2)["b"].reachable is reached


def test_a_client_certificate_is_shown(tls: Answering, certificates: Path) -> None:
    own = PeerAccess(certfile=str(certificates / "other.crt"), keyfile=str(certificates / "other.key"))
    assert Peers(own).poll([tls.member("b")], 2)["b"].reachable


def test_a_silent_tls_member_costs_no_more_than_the_timeout(peers: Peers) -> None:
    with listening() as url:
        answers, took = timed(lambda: peers.poll([Member("b", api_url=url.replace("http", "https"))], 0.4))
    assert not answers["b"].reachable and took < 0.8


# -- reading a status ------------------------------------------------------------------------------------------------------


def view(**changes: Any) -> PeerView:
    return PeerView("b", **{"reachable": True, "position": Lsn(500), "timeline": 3} | changes)


STATUSES: dict[str, tuple[Any, PeerView]] = {
    "a replica of Patroni": (REPLICA, view()),
    "replayed more than received": (
        REPLICA | {"xlog": {"received_location": 400, "replayed_location": 600}},
        view(position=Lsn(600)),
    ),
    "the newer word wal": ({**REPLICA, "xlog": None, "wal": {"received_location": 500, "replayed_location": 1}}, view()),
    "a primary by its location": (
        {"role": "replica", "timeline": 3, "xlog": {"location": 500}},
        view(is_primary=True, position=Lsn(0)),
    ),
    "role primary": ({**REPLICA, "role": "primary"}, view(is_primary=True, position=Lsn(0))),
    "role master of old releases": ({**REPLICA, "role": "master"}, view(is_primary=True, position=Lsn(0))),
    "role standby_leader": ({**REPLICA, "role": "standby_leader"}, view()),
    "positions as text": (REPLICA | {"xlog": {"received_location": "500", "replayed_location": None}}, view()),
    "positions that are null": (
        REPLICA | {"xlog": {"received_location": None, "replayed_location": None}},
        view(position=Lsn(0)),
    ),
    "positions that make no sense": (
        REPLICA | {"xlog": {"received_location": [], "replayed_location": "x"}}, view(position=Lsn(0)),
    ),
    "an empty xlog": ({**REPLICA, "xlog": {}}, PeerView("b", False)),
    "no timeline": ({**REPLICA, "timeline": None}, view(timeline=None)),
    "timeline 0": ({**REPLICA, "timeline": 0}, view(timeline=None)),
    "no xlog while running": ({"state": "running", "role": "replica", "timeline": 3}, PeerView("b", False)),
    "no xlog while starting": ({"state": "starting", "role": "replica"}, PeerView("b", False, starting=True)),
    "no xlog after a crash": ({"state": "crashed", "role": "primary"}, PeerView("b", False, starting=True)),
    **{f"no xlog of a primary, {state}, lease {left}": (
        {"state": state, "role": "primary", "pgcore": {"lease_seconds_left": left}},
        PeerView("b", False, starting=state in LEADING[-2:], counts_on_lock=counts))
       for state, left, counts in [("unknown", 0.0, False), *((each, 3.2, each != "stopping") for each in LEADING)]},
    "no xlog, promoted": ({"role": "promoted", "pgcore": {"promoting": True}}, PeerView("b", False, promoting=True)),
    "it is promoted": ({**REPLICA, "pgcore": {"promoting": True}}, view(promoting=True)),
    "no xlog while a copy is made": ({"state": "creating replica", "role": "replica"}, PeerView("b", False)),
    "no xlog and nofailover": (
        {"state": "starting", "tags": {"nofailover": True}},
        PeerView("b", False, nofailover=True, starting=True),
    ),
    "tags that are null": ({**REPLICA, "tags": None}, view()),
    "tags that are no mapping": ({**REPLICA, "tags": ["nofailover"]}, view()),
    "nofailover": ({**REPLICA, "tags": {"nofailover": True}}, view(nofailover=True, failover_priority=0)),
    "priority": ({**REPLICA, "tags": {"failover_priority": 5}}, view(failover_priority=5)),
    "priority 0": ({**REPLICA, "tags": {"failover_priority": 0}}, view(nofailover=True, failover_priority=0)),
    "priority as text": ({**REPLICA, "tags": {"failover_priority": "2"}}, view(failover_priority=2)),
    "nofailover false wins over priority 0": (
        {**REPLICA, "tags": {"nofailover": False, "failover_priority": 0}},
        view(failover_priority=0),
    ),
    "nofailover null leaves it to the priority": (
        {**REPLICA, "tags": {"nofailover": None, "failover_priority": -1}},
        view(nofailover=True, failover_priority=-1),
    ),
    "a failed watchdog": ({**REPLICA, "watchdog_failed": True}, view(watchdog_failed=True)),
    "a watchdog that is well": ({**REPLICA, "watchdog_failed": False}, view()),
    "an empty object": ({}, PeerView("b", False)),
    "null": (None, PeerView("b", False)),
    "a list": ([], PeerView("b", False)),
}


@pytest.mark.parametrize(("document", "expected"), STATUSES.values(), ids=STATUSES)
def test_a_status_is_read_as_the_race_needs_it(document: Any, expected: PeerView) -> None:
    """EC 47: among them answers without WAL fields, which count as unreachable."""
    assert parse_status("b", document) == expected


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"nofailover": True},
        {"nofailover": False},
        {"failover_priority": 3},
        {"failover_priority": 0},
        {"failover_priority": None},
        {"nofailover": False, "failover_priority": 0},
        {"nofailover": "false"},
        {"failover_priority": "4"},
        {"failover_priority": "high"},
        {"failover_priority": "0"},
        {"failover_priority": []},
        {"nofailover": True, "failover_priority": 7},
    ],
    ids=str,
)
def test_a_member_judges_its_own_tags_as_its_peers_do(tags: dict[str, Any]) -> None:
    seen, own = parse_status("b", {**REPLICA, "tags": tags}), Tags(tags)
    assert seen.nofailover == own.nofailover
    assert seen.failover_priority == own.failover_priority
