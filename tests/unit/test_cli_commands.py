"""Commands over the reference store and real REST servers: what they print, what they write, how they exit (cli 1, 4, 5)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from pgcore.cli import course
from pgcore.cli.context import Session
from pgcore.cli.main import group
from pgcore.cli.options import repeat
from pgcore.clock import Deadline, now
from pgcore.daemon.board import Board
from pgcore.daemon.mailbox import Mailbox
from pgcore.dcs.codec import decode
from pgcore.dcs.store import ANYTHING, Key, Record, Store
from pgcore.errors import StoreUnavailableError
from pgcore.model.basics import Instant, Timing
from pgcore.rest.server import RestServer
from pgcore.rest.settings import RestSettings
from pgcore.testing.memory_store import MemoryServer, MemoryStore
from pgcore.testing.processes import free_port
from unit.rest_board import leader_status, status

NODE = """
scope: demo
name: a
ctl: {authentication: {username: api, password: secret}}
etcd3: {host: '127.0.0.1:1'}
"""


class MemorySession(Session):
    """A session whose store is in this process."""

    server: MemoryServer

    def open_store(self, path: str) -> Store:
        assert path == "/service/demo"
        return MemoryStore(self.server, "ctl", Timing())


class Cluster:
    """A cluster in a memory store. ``a`` leads; REST servers are started on demand."""

    def __init__(self, folder: Path) -> None:
        self.server = MemoryServer()
        self.stores = {name: MemoryStore(self.server, name, Timing()) for name in "abc"}
        self.file = folder / "node.yml"
        self.file.write_text(NODE)
        self.rest: RestServer | None = None
        self.board, self.mailbox = Board(), Mailbox()
        self.stores["a"].acquire(force=False, deadline=Deadline.after(1))
        self.put(Key.INITIALIZE, "7000000000000000001")
        self.put(Key.STATUS, '{"optime":1000}')
        self.put(Key.CONFIG, json.dumps({"ttl": 30, "loop_wait": 10, "postgresql": {"use_slots": True}}))
        for name in "abc":
            self.card(name, "primary" if name == "a" else "replica")

    def put(self, key: Key, value: str) -> None:
        self.stores["a"].put(key, value, expect=ANYTHING, deadline=Deadline.after(1))

    def card(self, name: str, role: str, **fields: object) -> None:
        url = f"http://127.0.0.1:{self.rest.bound[0][1]}/patroni" if self.rest and name == "a" else "http://127.0.0.1:1/patroni"
        lsns = {} if role == "primary" else {"receive_lsn": 1000, "replay_lsn": 1000, "replication_state": "streaming"}
        card = {
            "conn_url": f"postgres://10.0.0.{ord(name)}:5432/postgres",
            "api_url": url,
            "state": "running",
            "role": role,
            "timeline": 1,
            "xlog_location": 1000,
            "pgcore_version": "0",
            **lsns,
            **fields,
        }
        self.stores[name].announce(json.dumps(card), deadline=Deadline.after(1))

    def serve(self) -> None:
        """Start the REST API of ``a`` and publish its address."""
        settings = RestSettings("127.0.0.1:0", username="api", password="secret")
        self.rest = RestServer(settings, self.board, self.mailbox, lambda seconds: None)
        self.rest.start()
        self.publish()
        self.card("a", "primary")

    def publish(self) -> None:
        """Put the store's present view on the board of ``a``, as its heartbeat would."""
        view = decode(self.stores["a"].read(fresh=True, deadline=Deadline.after(1)))
        self.board.publish(replace(leader_status(cluster=view, reason="b lags by 7 MB", rule="leader.keep"), at=now()))

    def switch_leader(self, name: str) -> None:
        """The leader gives up the lock and ``name`` takes it, is promoted and clears the request."""
        self.stores["a"].release({}, deadline=Deadline.after(1))
        self.stores[name].acquire(force=False, deadline=Deadline.after(1))
        self.card(name, "primary", timeline=2)
        self.card("a", "replica", timeline=2)
        self.stores[name].delete(Key.FAILOVER, expect=ANYTHING, deadline=Deadline.after(1))

    def heartbeat(self, *steps: Callable[[], None]) -> threading.Thread:
        """Write the next request into the store, then take these steps, publishing after each."""

        def beat() -> None:
            _, letters = self.mailbox.wait(Instant(now() + 10))
            for letter in letters:
                request = letter.request
                self.put(
                    Key.FAILOVER,
                    json.dumps({"leader": request.leader, "member": request.candidate, "scheduled_at": request.scheduled_at}),
                )
                letter.reply.set_result(True)
            for step in steps:
                time.sleep(0.1)
                step()
                self.publish()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        return thread

    def run(self, *arguments: str, input: str | None = None, environ: dict[str, str] | None = None,
            patronictl: bool = False) -> Result:
        session = MemorySession(str(self.file), None, False, environ or {}, patronictl)
        session.server = self.server
        return CliRunner().invoke(group, list(arguments), obj=session, input=input)

    def record(self, key: Key) -> Record:
        """The key as it is stored."""
        return self.stores["a"].read(fresh=True, deadline=Deadline.after(1)).records[key]

    def remove(self, key: Key) -> None:
        self.stores["a"].delete(key, expect=ANYTHING, deadline=Deadline.after(1))

    def after(self, condition: Callable[[], bool], then: Callable[[], object]) -> threading.Thread:
        """Do something on another thread once the condition holds."""

        def wait() -> None:
            while not condition():
                time.sleep(0.02)
            then()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread

    def failover_key(self) -> dict[str, str] | None:
        record = self.stores["a"].read(fresh=True, deadline=Deadline.after(1)).records.get(Key.FAILOVER)
        return json.loads(record.value) if record else None


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    if made.rest:
        made.rest.stop()


def test_list_shows_the_members_of_the_configured_cluster(cluster: Cluster) -> None:
    result = cluster.run("list")
    assert result.exit_code == 0
    assert result.output.splitlines()[0].startswith("+ Cluster: demo (7000000000000000001) -")
    assert " ! " not in result.output


def test_list_shows_what_is_wrong_below_the_table(cluster: Cluster) -> None:
    cluster.card("b", "replica", state="start failed")
    assert cluster.run("list", "demo").output.splitlines()[-1] == (
        " ! b is not running PostgreSQL: its state is 'start failed'; its agent's log says why"
    )
    assert [member["Member"] for member in json.loads(cluster.run("list", "-f", "json").output)] == ["a", "b", "c"]


def test_list_with_a_timestamp_and_every_column(cluster: Cluster) -> None:
    lines = cluster.run("list", "-e", "-t").output.splitlines()
    assert datetime.strptime(lines[0], "%Y-%m-%d %H:%M:%S")
    assert "Scheduled restart" in lines[2]


def test_topology_config_and_history(cluster: Cluster) -> None:
    cluster.put(Key.HISTORY, '[[1,5,"no recovery target specified"]]')
    assert "| + b " in cluster.run("topology").output
    assert cluster.run("show-config").output == "loop_wait: 10\npostgresql:\n  use_slots: true\nttl: 30\n\n"
    assert json.loads(cluster.run("history", "-f", "json").output) == [
        {"TL": 1, "LSN": 5, "Reason": "no recovery target specified", "Timestamp": "", "New Leader": ""}
    ]


def test_no_cluster_named_is_a_warning_and_no_store_an_error(cluster: Cluster) -> None:
    cluster.file.write_text("etcd3: {host: '127.0.0.1:1'}")
    result = cluster.run("list")
    assert (result.exit_code, "no cluster is named" in result.output) == (0, True)
    assert cluster.run("show-config").exit_code == 1


def test_a_store_that_does_not_answer_ends_the_command_with_1(cluster: Cluster) -> None:
    with cluster.server.outage():
        result = cluster.run("list")
    assert (result.exit_code, result.output) == (1, "Error: the memory store is switched off\n")


def test_version_asks_the_members(cluster: Cluster) -> None:
    cluster.serve()
    result = cluster.run("version", "demo")
    lines = result.output.splitlines()
    assert result.exit_code == 1  # b and c do not answer
    assert lines[0].startswith("pgcore version ")
    assert lines[2].startswith("a: Patroni 4.1.5 PostgreSQL 15.20 pgcore ")
    assert lines[3].startswith("b: failed to get version: ")


def test_dsn_finds_the_leader_wherever_it_moves_to(cluster: Cluster) -> None:
    hosts = "host=10.0.0.97,10.0.0.98,10.0.0.99 port=5432,5432,5432 connect_timeout=3 target_session_attrs="
    assert cluster.run("dsn").output == hosts + "read-write\n"
    assert cluster.run("dsn", "-r", "any").output == hosts + "any\n"
    cluster.switch_leader("b")
    assert cluster.run("dsn", "demo", "-r", "primary").output.startswith("host=10.0.0.98,10.0.0.97,10.0.0.99 ")


def test_dsn_of_replicas_ends_with_the_leader_and_leaves_out_who_takes_no_readers(cluster: Cluster) -> None:
    assert cluster.run("dsn", "-r", "replica").output == (
        "host=10.0.0.98,10.0.0.99,10.0.0.97 port=5432,5432,5432 connect_timeout=3 target_session_attrs=prefer-standby\n"
    )
    cluster.card("b", "replica", tags={"noloadbalance": True})
    assert cluster.run("dsn", "-r", "standby").output.startswith("host=10.0.0.99,10.0.0.97 ")


def test_dsn_of_one_member_is_its_address(cluster: Cluster) -> None:
    assert cluster.run("dsn", "-m", "c").output == "host=10.0.0.99 port=5432\n"
    assert cluster.run("dsn", patronictl=True).output == "host=10.0.0.97 port=5432\n"
    cluster.card("a", "standby_leader")
    assert cluster.run("dsn", "-r", "standby-leader").output == "host=10.0.0.97 port=5432\n"
    cluster.put(Key.CONFIG, '{"standby_cluster": {"host": "elsewhere"}}')
    assert cluster.run("dsn").output == "host=10.0.0.97 port=5432\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("-m", "z"), "Can not find a"), (("-r", "standby-leader"), "Can not find"), (("-m", "a", "-r", "any"), "exclusive")],
)
def test_dsn_of_nobody_is_an_error(cluster: Cluster, arguments: tuple[str, ...], words: str) -> None:
    result = cluster.run("dsn", *arguments)
    assert (result.exit_code, words in result.output) == (1, True)


def test_who_watches_is_told_of_an_outage_and_sees_its_end(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    rounds = iter((None, StoreUnavailableError("the store is away"), None, KeyboardInterrupt()))

    def once() -> None:
        click.echo("shown")
        if (end := next(rounds)) is not None:
            raise end

    with pytest.raises(KeyboardInterrupt):
        repeat(once, 0.01, watch=False)
    assert capsys.readouterr() == ("shown\n" * 4, "Error: the store is away\n")


# -- switchover ---------------------------------------------------------------------------------------------------------------


def test_a_switchover_shows_its_steps_and_who_leads(cluster: Cluster) -> None:
    cluster.serve()
    cluster.heartbeat(lambda: None, lambda: cluster.switch_leader("b"))
    result = cluster.run("switchover", "--leader", "a", "--candidate", "b", "--force")
    assert result.exit_code == 0, result.output
    assert "the request is in the store" in result.output
    assert 'Successfully switched over to "b"' in result.output
    assert "s  b holds the leader lock" in result.output
    assert "b leads demo on timeline 2, " in result.output and "s after the request" in result.output
    assert result.output.index("Successfully") < result.output.rindex("| b      | 10.0.0.98 | Leader ")


def test_a_failed_switchover_exits_with_1_and_tells_the_reason(cluster: Cluster) -> None:
    cluster.serve()
    cluster.heartbeat(lambda: None, lambda: cluster.stores["a"].delete(Key.FAILOVER, expect=ANYTHING, deadline=Deadline.after(1)))
    result = cluster.run("switchover", "--force")
    assert result.exit_code == 1
    assert "Switchover failed, details: 503, Switchover failed\n" in result.output
    assert "a says: b lags by 7 MB (rule leader.keep)" in result.output


def test_prompts_have_defaults_and_a_no_ends_everything(cluster: Cluster) -> None:
    result = cluster.run("switchover", input="\n\n\nn\n")
    assert result.exit_code == 1
    assert "Primary [a]:" in result.output and "Candidate ['b', 'c']" in result.output and "Aborted!" in result.output
    assert cluster.failover_key() is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--leader", "b"), "b is not the leader of demo, a is"),
        (("--candidate", "a"), "a is the leader already"),
        (("--candidate", "z"), "z cannot take over: it is not a member; candidates are b, c"),
        (("--candidate", "b", "--scheduled", "tomorrow-ish"), "is not a time"),
        (("--scheduled", "2001-01-01T00:00"), "is in the past"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_asked(cluster: Cluster, arguments: tuple[str, ...], words: str) -> None:
    result = cluster.run("switchover", "--force", *arguments)
    assert (result.exit_code, words in result.output) == (1, True), result.output


def test_a_cluster_without_leader_or_candidates(cluster: Cluster) -> None:
    for name in "bc":
        cluster.card(name, "replica", tags={"nofailover": True})
    assert "there is no candidate" in cluster.run("switchover", "--force").output
    cluster.stores["a"].release({}, deadline=Deadline.after(1))
    assert "demo has no leader: use failover" in cluster.run("switchover", "--force").output
    assert "a failover needs a candidate" in cluster.run("failover", "--force").output


def test_a_scheduled_switchover_is_accepted(cluster: Cluster) -> None:
    cluster.serve()
    cluster.heartbeat(lambda: None)
    when = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0).isoformat()
    result = cluster.run("switchover", "--scheduled", when, "--force")
    assert (result.exit_code, "Switchover scheduled" in result.output) == (0, True)
    assert f" Switchover scheduled at: {when}" in result.output
    assert cluster.failover_key() == {"leader": "a", "member": None, "scheduled_at": when}


def test_without_the_api_the_request_goes_into_the_store_and_is_watched(cluster: Cluster) -> None:
    def play() -> None:
        while cluster.failover_key() is None:
            time.sleep(0.02)
        time.sleep(0.3)
        cluster.switch_leader("c")

    threading.Thread(target=play, daemon=True).start()
    result = cluster.run("switchover", "--force")
    assert result.exit_code == 0, result.output
    assert "The REST API is not reachable" in result.output and "writing the request into the store" in result.output
    assert "c leads demo on timeline 2" in result.output


def test_without_the_api_a_request_that_vanishes_has_failed(cluster: Cluster) -> None:
    def play() -> None:
        while cluster.failover_key() is None:
            time.sleep(0.02)
        time.sleep(0.6)
        cluster.stores["a"].delete(Key.FAILOVER, expect=ANYTHING, deadline=Deadline.after(1))

    threading.Thread(target=play, daemon=True).start()
    result = cluster.run("failover", "--candidate", "b", "--force")
    assert (result.exit_code, "Failover failed: a still leads" in result.output) == (1, True)


def test_an_api_that_breaks_off_is_not_asked_twice(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "ANSWER_S", 0.3)
    cluster.serve()  # no heartbeat answers
    threading.Thread(target=lambda: (time.sleep(0.8), cluster.switch_leader("b")), daemon=True).start()
    result = cluster.run("switchover", "--force")
    assert result.exit_code == 0, result.output
    assert "the request may be under way" in result.output
    assert cluster.failover_key() is None


def test_a_failover_chooses_a_leader_for_a_cluster_without_one(cluster: Cluster) -> None:
    cluster.stores["a"].release({}, deadline=Deadline.after(1))
    settings = RestSettings("127.0.0.1:0", username="api", password="secret")
    cluster.rest = RestServer(settings, cluster.board, cluster.mailbox, lambda seconds: None)
    cluster.rest.start()
    view = decode(cluster.stores["b"].read(fresh=True, deadline=Deadline.after(1)))
    cluster.board.publish(status("b", cluster=view))
    cluster.card("b", "replica", api_url=f"http://127.0.0.1:{cluster.rest.bound[0][1]}/patroni")
    cluster.heartbeat(lambda: cluster.switch_leader("b"))
    result = cluster.run("failover", "--candidate", "b", "--force")
    assert (result.exit_code, 'Successfully failed over to "b"' in result.output) == (0, True), result.output


# -- the program --------------------------------------------------------------------------------------------------------------


def _pgcore(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PGCORE", "PATRONI", "DCS_URL"))}
    return subprocess.run(
        [sys.executable, "-m", "pgcore", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**kept, **environ},
        check=False,
    )


def test_the_program_explains_itself_and_refuses_nonsense() -> None:
    assert "switchover" in _pgcore("--help").stdout
    assert _pgcore("version").stdout.startswith("pgcore version ")
    assert _pgcore("frobnicate").returncode == 2
    assert _pgcore("list", "-f", "xml").returncode == 2


def test_a_named_file_that_is_missing_is_an_error_also_from_the_environment() -> None:
    for done in (_pgcore("-c", "/nonexistent.yml", "list"), _pgcore("list", PATRONICTL_CONFIG_FILE="/nonexistent.yml")):
        assert (done.returncode, done.stderr.startswith("Error: /nonexistent.yml: does not exist")) == (1, True)
        assert "Traceback" not in done.stderr


def test_dcs_url_names_the_bad_scheme_or_port() -> None:
    assert "use one of" in _pgcore("-d", "ftp://127.0.0.1", "list", "demo").stderr
    assert "has no valid port" in _pgcore("-d", "127.0.0.1:http", "list", "demo").stderr


def test_validate_prints_every_problem_and_exits_with_1(tmp_path: Path) -> None:
    file = tmp_path / "bad.yml"
    file.write_text("scope: demo\nname: a\nrestapi: {listen: 127.0.0.1}\npostgresql: {listen: 127.0.0.1:5432}\n")
    done = _pgcore("validate", str(file))
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert any("restapi.listen" in line for line in lines) and any("postgresql.data_dir" in line for line in lines)
    assert all(line.startswith(("error: ", "warning: ")) for line in lines)
    assert _pgcore("validate", str(tmp_path / "missing.yml")).returncode == 1


def test_validate_says_valid_and_warnings_do_not_fail(tmp_path: Path) -> None:
    with_server = _etcd_like_port()
    file = tmp_path / "good.yml"
    file.write_text(f"""
scope: demo
name: a
restapi: {{listen: '127.0.0.2:{free_port()}', connect_address: '127.0.0.2:8008'}}
etcd3: {{host: '127.0.0.1:{with_server.getsockname()[1]}'}}
unknown_key: 1
postgresql:
  listen: 127.0.0.2:{free_port()}
  connect_address: 127.0.0.2:5432
  data_dir: {tmp_path}/data
  bin_dir: /usr/lib/postgresql/15/bin
  authentication:
    superuser: {{username: postgres, password: x}}
    replication: {{username: replicator, password: x}}
""")
    with with_server:
        done = _pgcore("validate", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{file}: valid"
    assert "warning: " in done.stderr and "unknown_key" in done.stderr


def _etcd_like_port() -> object:
    import socket

    return socket.create_server(("127.0.0.1", 0))


def _imported_by(*arguments: str) -> set[str]:
    """What is heavy among the modules that a command has loaded when it ends: it must be quick (architecture: 300 ms)."""
    heavy = ("rich", "cherrypy", "cheroot", "psycopg2", "prometheus_client", "dateutil", "pgcore.daemon.agent", "pgcore.decide")
    code = f"import sys; from pgcore.cli.main import main; end = main({list(arguments)}); print(*sys.modules); sys.exit(end)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(heavy) & set(done.stdout.splitlines()[-1].split())


@pytest.mark.server
def test_list_and_switchover_against_a_real_etcd(tmp_path: Path) -> None:
    from harness.etcd import EtcdServer

    etcd = EtcdServer(tmp_path).start()
    try:
        etcd.put("/cloud/demo/initialize", "7000000000000000001")
        etcd.put("/cloud/demo/leader", "a")
        etcd.put("/cloud/demo/members/a", '{"conn_url":"postgres://127.0.0.2:5432/postgres","state":"running","role":"primary"}')
        url = f"etcd3://{etcd.address}/cloud"
        rows = json.loads(_pgcore("-d", url, "list", "demo", "-f", "json").stdout)
        assert [(row["Member"], row["Role"], row["State"]) for row in rows] == [("a", "Leader", "running")]
        file = tmp_path / "node.yml"
        file.write_text(f"scope: demo\nnamespace: cloud\netcd3: {{hosts: ['{etcd.address}']}}\n")
        assert "| a      |" in _pgcore("list", PGCORECTL_CONFIG_FILE=str(file)).stdout
        assert "there is no candidate" in _pgcore("-c", str(file), "switchover", "--force").stderr
        assert _imported_by("-c", str(file), "list") == set()
    finally:
        etcd.stop()
