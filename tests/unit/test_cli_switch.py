"""Groups, the question before a lossy failover, agents too old for switchovers, requests that are withdrawn (cli 4.6)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pgcore.cli.api import ApiAnswer, ApiError
from pgcore.cli.main import group
from pgcore.cli.request import Request, Sending
from pgcore.dcs.store import Key, Record, Snapshot, Store
from pgcore.model.basics import Timing
from pgcore.testing.memory_store import MemoryStore
from unit.test_cli_commands import Cluster, MemorySession


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


class Old:
    """An agent that knows failovers only, and refuses them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked.append(self.path)
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(503 if self.path == "/failover" else 501)
                self.end_headers()
                self.wfile.write(b"Failover status unknown" if self.path == "/failover" else b"no such thing")

            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b'{"state": "running", "role": "primary"}')

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def old() -> Iterator[Old]:
    made = Old()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_an_agent_that_knows_failovers_only_is_asked_for_one(cluster: Cluster, old: Old) -> None:
    cluster.card("a", "primary", api_url=f"http://127.0.0.1:{old.server.server_port}/patroni")
    result = cluster.run("switchover", "--candidate", "b", "--force")
    assert old.asked == ["/switchover", "/failover"]
    assert (result.exit_code, cluster.failover_key()) == (1, None)
    assert "Switchover result unknown, details: 503, Failover status unknown\n" in result.stdout


def test_a_failover_to_a_node_that_is_not_synchronous_is_asked_for_twice(cluster: Cluster) -> None:
    cluster.put(Key.CONFIG, '{"synchronous_mode": true}')
    cluster.put(Key.SYNC, '{"leader":"a","sync_standby":"b","quorum":0}')
    result = cluster.run("failover", "--candidate", "c", input="n\n")
    assert (result.exit_code, "may lack acknowledged commits. Really?" in result.output) == (1, True)
    result = cluster.run("failover", "--candidate", "b", input="n\n")
    assert "may lack" not in result.output and "Are you sure you want to failover cluster demo to b" in result.output
    assert cluster.failover_key() is None


class Groups(MemoryStore):
    """What is below a scope of two groups."""

    def read(self, **_: object) -> Snapshot:
        """A leader each."""
        return Snapshot({"0/leader": Record("w", "1"), "1/leader": Record("a", "2")}, "3")


class GroupSession(MemorySession):
    """Group 1 is the cluster of the test."""

    def open_store(self, path: str) -> Store:
        """By the path of the group."""
        if path == "/service/demo":
            return Groups(self.server, "ctl", Timing())
        return super().open_store(path.removesuffix("/1"))


def run(cluster: Cluster, *arguments: str, input: str | None = None) -> Result:
    session = GroupSession(str(cluster.file), None, False, {})
    session.server = cluster.server
    return CliRunner().invoke(group, list(arguments), obj=session, input=input)


def test_the_group_is_asked_for_or_must_be_named(cluster: Cluster) -> None:
    result = run(cluster, "switchover", "--force")
    assert (result.exit_code, "demo has the groups 0, 1: name one with --group" in result.output) == (1, True)
    result = run(cluster, "switchover", "--candidate", "b", input="7\n1\n\n\nn\n")
    assert "Group (0, 1): 7" in result.output and "cluster demo (group 1) to b, demoting the leader a?" in result.output
    result = run(cluster, "failover", "--group", "1", "--candidate", "c", input="n\n")
    assert "Group (" not in result.output and "failover cluster demo (group 1) to c, demoting the leader a?" in result.output
    assert cluster.failover_key() is None


def test_a_request_is_sent_or_withdrawn_but_never_both() -> None:
    reached, go = threading.Event(), threading.Event()

    def send(sending: Sending) -> ApiAnswer:
        reached.set()
        assert go.wait(10)
        sending()
        return ApiAnswer(200, "done")

    withdrawn = Request(send)
    withdrawn.start()
    assert reached.wait(10) and withdrawn.withdraw()
    go.set()
    withdrawn.join(10)
    assert isinstance(withdrawn.answer, ApiError) and not withdrawn.answer.sent
    sent = Request(send)
    sent.start()
    sent.join(10)
    assert sent.answer == ApiAnswer(200, "done") and not sent.withdraw()
