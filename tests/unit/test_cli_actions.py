"""``flush``, ``pause``, ``resume``, ``demote-cluster``, ``promote-cluster``, refusals with their remedies (cli 4.7-4.10, 5)."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pgcore.cli import course
from pgcore.cli.api import ApiAnswer
from pgcore.clock import Deadline, now
from pgcore.daemon.config_change import change_config
from pgcore.daemon.mailbox import CancelRestart, ChangeConfig, WriteFailover
from pgcore.dcs.store import Key
from pgcore.model.basics import Instant
from pgcore.rest.server import RestServer
from pgcore.rest.settings import RestSettings
from unit.test_cli_commands import Cluster
from unit.test_cli_nodes import Served

LATER = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0).isoformat()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    assert made.rest is not None
    made.rest.stop()


def scheduled(cluster: Cluster) -> None:
    cluster.put(Key.FAILOVER, json.dumps({"leader": "a", "member": "b", "scheduled_at": LATER}))


def config(cluster: Cluster) -> dict[str, object]:
    return json.loads(cluster.stores["a"].read(fresh=True, deadline=Deadline.after(1)).records[Key.CONFIG].value)


# -- flush --------------------------------------------------------------------------------------------------------------------


def test_flush_restart_asks_those_that_have_one_scheduled(cluster: Served) -> None:
    cluster.card("a", "primary", scheduled_restart={"schedule": LATER})
    cluster.says(True)
    result = cluster.run("flush", "demo", "a", "b", "restart", "--force")
    told = ["Success: flush scheduled restart for member a", "No scheduled restart on member b"]
    assert result.stdout.splitlines()[-2:] == told
    assert (result.exit_code, cluster.letters) == (0, [CancelRestart()])


def test_flush_restart_that_is_refused_or_not_answered_ends_with_1(cluster: Served) -> None:
    cluster.card("a", "primary", scheduled_restart={"schedule": LATER})
    cluster.card("b", "replica", scheduled_restart={"schedule": LATER})
    cluster.says(False)
    result = cluster.run("flush", "demo", "restart", "--force")
    lines = result.stdout.splitlines()
    assert lines[-3] == "Failed: flush scheduled restart for member a, status code=404, (no restarts are scheduled)"
    assert lines[-2].startswith("Failed: restart for member b, no answer") and lines[-1] == "No scheduled restart on member c"
    assert result.exit_code == 1


def test_flush_asks_first_and_names_its_target_last(cluster: Served) -> None:
    assert cluster.run("flush", "demo", "restart", "a", "--force").exit_code == 2
    result = cluster.run("flush", "demo", "-r", "leader", "restart", input="n\n")
    assert (result.exit_code, "flush scheduled restarts of members a?" in result.output) == (1, True)


def test_flush_switchover_without_one_does_nothing(cluster: Served) -> None:
    cluster.put(Key.FAILOVER, '{"leader":"a","member":"b"}')  # one of this moment is not scheduled
    result = cluster.run("flush", "demo", "switchover")
    assert (result.exit_code, result.stdout) == (0, "No pending scheduled switchover\n")


def test_flush_switchover_through_the_leader(cluster: Served) -> None:
    scheduled(cluster)
    cluster.publish()
    cluster.says(True)
    result = cluster.run("flush", "demo", "switchover")
    assert (result.exit_code, result.stdout) == (0, "Success: scheduled switchover deleted\n")
    assert [type(letter) for letter in cluster.letters] == [WriteFailover]


def test_flush_switchover_that_no_agent_can_carry_out_clears_the_store(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    scheduled(cluster)
    result = cluster.run("flush", "demo", "switchover")
    assert (result.exit_code, cluster.failover_key()) == (0, {})
    assert "Success: scheduled switchover cleared in the store" in result.stdout


def test_flush_switchover_leaves_the_store_alone_when_an_agent_refuses(cluster: Served) -> None:
    cluster.file.write_text(cluster.file.read_text().replace("secret", "wrong"))
    scheduled(cluster)
    result = cluster.run("flush", "demo", "switchover")
    assert result.exit_code == 1 and (cluster.failover_key() or {}).get("scheduled_at") == LATER
    assert "status code=401, (not authenticated); set ctl.authentication" in result.stdout


# -- pause, resume ------------------------------------------------------------------------------------------------------------


def writes(cluster: Served, *, members: str = "") -> None:
    """The heartbeat of ``a`` writes what it is asked to; then these members show maintenance mode, or its end."""

    def beat() -> None:
        for letter in cluster.mailbox.wait(Instant(now() + 10))[1]:
            request = letter.request
            assert isinstance(request, ChangeConfig)
            change = change_config(cluster.stores["a"], request, Deadline.after(1))
            letter.reply.set_result(change)
            time.sleep(0.3)
            for name in members:
                shown = {"pause": True} if change.document.get("pause") else {}
                cluster.card(name, "primary" if name == "a" else "replica", **shown)

    threading.Thread(target=beat, daemon=True).start()


def test_pause_and_resume_wait_for_every_member(cluster: Served) -> None:
    writes(cluster, members="abc")
    result = cluster.run("pause", "--wait")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "Success: cluster management is paused"), result.output
    assert config(cluster)["pause"] is True
    again = cluster.run("pause")
    assert (again.exit_code, "in maintenance mode already" in again.output) == (1, True)
    writes(cluster, members="abc")
    result = cluster.run("resume", "--wait")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "Success: cluster management is resumed")
    assert "pause" not in config(cluster)
    assert cluster.run("resume").exit_code == 1


def test_members_that_do_not_take_it_over_are_named(cluster: Served) -> None:
    cluster.put(Key.CONFIG, '{"loop_wait": 1}')
    writes(cluster, members="ab")
    result = cluster.run("pause", "demo", "--wait")
    assert (result.exit_code, "Failed: pause is written, but c did not take it over" in result.stdout) == (1, True)


def test_pause_with_a_wrong_password_and_with_nobody_to_ask(cluster: Served, tmp_path: Path) -> None:
    cluster.file.write_text(cluster.file.read_text().replace("secret", "wrong"))
    result = cluster.run("pause")
    assert result.exit_code == 1 and result.stdout.startswith("Failed: pause cluster management, asked a: status code=401")
    (tmp_path / "other").mkdir()
    result = Cluster(tmp_path / "other").run("resume", "demo")
    assert result.exit_code == 1 and "already" in result.stderr
    result = Cluster(tmp_path / "other").run("pause", "demo")
    assert result.exit_code == 1 and "no member could be asked: a: " in result.stderr and "is its agent running?" in result.stderr


# -- demote-cluster, promote-cluster -------------------------------------------------------------------------------------------


def test_a_cluster_becomes_a_standby_and_a_primary_again(cluster: Served) -> None:
    def follows() -> None:
        while "standby_cluster" not in config(cluster):
            time.sleep(0.05)
        time.sleep(3.0)  # it is looked at once a second, at once to begin with
        cluster.card("a", "standby_leader")

    writes(cluster)
    threading.Thread(target=follows, daemon=True).start()
    result = cluster.run("demote-cluster", "--host", "10.9.9.9", "--port", "5433", "--primary-slot-name", "site_b", "--force")
    assert result.exit_code == 0, result.output
    assert "Success: a leads demo as standby leader" in result.stdout and "Waiting: a leads, its role is primary" in result.stderr
    assert config(cluster)["standby_cluster"] == {"host": "10.9.9.9", "port": 5433, "primary_slot_name": "site_b"}
    assert "a standby cluster already" in cluster.run("demote-cluster", "--host", "10.9.9.9", "--force").output
    writes(cluster, members="a")
    result = cluster.run("promote-cluster", input="y\n")
    assert (result.exit_code, "Success: a leads demo as primary" in result.stdout) == (0, True), result.output
    assert "standby_cluster" not in config(cluster)


def test_what_cannot_be_converted_is_refused(cluster: Served) -> None:
    assert "Give at least one of --host, --port and --restore-command" in cluster.run("demote-cluster", "--force").output
    assert cluster.run("demote-cluster", "--port", "0", "--force").exit_code == 2
    assert "no standby cluster already" in cluster.run("promote-cluster", "--force").output
    assert cluster.run("demote-cluster", "--host", "x", input="n\n").exit_code == 1
    cluster.card("a", "primary", api_url="http://127.0.0.1:1/patroni")
    result = cluster.run("demote-cluster", "--host", "x", "--force")
    assert result.exit_code == 1 and "Failed to demote the cluster: a gave no answer" in result.output
    cluster.stores["a"].release({}, deadline=Deadline.after(1))
    assert "has no leader that could demote it" in cluster.run("demote-cluster", "--host", "x", "--force").output
    assert "standby_cluster" not in config(cluster)


# -- who may ask ---------------------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_said_with_its_remedy_and_writes_nothing(cluster: Served) -> None:
    cluster.file.write_text(cluster.file.read_text().replace("ctl:", "unused:"))
    result = cluster.run("switchover", "--force")
    assert (result.exit_code, cluster.failover_key()) == (1, None)
    assert "Switchover failed, details: 401, no auth header received; set ctl.authentication" in result.stdout


@pytest.mark.parametrize("insecure", [True, False])
def test_a_certificate_that_is_not_trusted_ends_the_request(tmp_path: Path, insecure: bool) -> None:
    """Going around it by the store would be what somebody in the middle hopes for."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate),
               "-days", "2", "-subj", "/CN=elsewhere", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    cluster = Cluster(tmp_path)
    settings = RestSettings("127.0.0.1:0", certfile=str(certificate), keyfile=str(key), allowlist=("10.1.2.3",))
    cluster.rest = RestServer(settings, cluster.board, cluster.mailbox, lambda seconds: None)
    cluster.rest.start()
    try:
        cluster.publish()
        cluster.card("a", "primary", api_url=f"https://127.0.0.1:{cluster.rest.bound[0][1]}/patroni")
        if insecure:
            cluster.file.write_text(cluster.file.read_text().replace("ctl: {", "ctl: {insecure: true, "))
        result = cluster.run("switchover", "--force")
        assert (result.exit_code, cluster.failover_key()) == (1, None)
        told = "403, Access is denied; this machine's address is not in its restapi.allowlist" if insecure else (
            "Switchover failed, nothing was asked for")
        assert told in result.stdout and (insecure or "set ctl.cacert" in result.stdout)
    finally:
        cluster.rest.stop()


class Meanwhile(io.BytesIO):
    """Answers line by line; something happens while the last question is open."""

    def __init__(self, answers: bytes, happens: Callable[[], None]) -> None:
        super().__init__(answers)
        self._happens = happens

    def read1(self, size: int | None = -1) -> bytes:
        line = self.readline()
        if line == b"y\n":
            self._happens()
        return line


@pytest.mark.parametrize("request_of_others", [True, False])
def test_the_store_is_written_only_if_nothing_has_changed_since_it_was_looked_at(tmp_path: Path, request_of_others: bool) -> None:
    cluster = Cluster(tmp_path)
    other = '{"leader":"a","member":"c"}'
    happens = (lambda: cluster.put(Key.FAILOVER, other)) if request_of_others else (lambda: cluster.switch_leader("c"))
    result = cluster.run("switchover", "--candidate", "b", input=Meanwhile(b"\n\ny\n", happens))  # type: ignore[arg-type]
    assert result.exit_code == 1
    assert "Switchover failed, nothing was asked for: the leader or the request in the store has changed" in result.stdout
    assert cluster.failover_key() == (json.loads(other) if request_of_others else None)


def test_a_request_for_the_store_that_nobody_follows_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an old request left behind (an empty one) is no obstacle."""
    monkeypatch.setattr(course, "DECIDED_S", 1.0)
    cluster = Cluster(tmp_path)
    cluster.put(Key.CONFIG, '{"ttl": 1, "loop_wait": 1}')
    cluster.put(Key.FAILOVER, "{}")
    result = cluster.run("failover", "--candidate", "b", "--force")
    assert (result.exit_code, cluster.failover_key()) == (1, {"member": "b"})
    assert "Failover result unknown: nothing was decided within" in result.stdout


def test_a_403_for_want_of_a_certificate_names_the_keys() -> None:
    assert "ctl.certfile and ctl.keyfile" in ApiAnswer(403, "client certificate required").remedy
    assert ApiAnswer(503, "<html><title>x</title><body>busy <b>now</b></body></html>").text == "busy now"


@pytest.mark.parametrize(
    ("url", "words"),
    [("https://127.0.0.1:1/patroni", "cannot use cacert, certfile or keyfile"), ("http://a:b/", "an address that is none"),
     ("http://" + "x" * 70 + "/", "The REST API is not reachable")],
)
def test_what_cannot_even_be_tried_is_told_in_one_sentence(
    tmp_path: Path, url: str, words: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "DECIDED_S", 0.5)
    cluster = Cluster(tmp_path)
    cluster.put(Key.CONFIG, '{"ttl": 1, "loop_wait": 1}')
    cluster.file.write_text(cluster.file.read_text().replace("ctl: {", "ctl: {cacert: /nowhere.pem, "))
    cluster.card("a", "primary", api_url=url)
    result = cluster.run("switchover", "--force")
    assert result.exit_code == 1 and words in result.output and "Traceback" not in result.output + capfd.readouterr().err
    assert (cluster.failover_key() is None) == url.startswith("https")


# -- Ctrl-C --------------------------------------------------------------------------------------------------------------------


def interrupt_when(condition: Callable[[], object]) -> None:
    """SIGINT to this process, whose main thread runs the command, once that is so."""

    def watch() -> None:
        end = time.monotonic() + 20
        while not condition() and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def test_who_stops_watching_is_told_that_it_goes_on(cluster: Served) -> None:
    taken: list[object] = []
    threading.Thread(target=lambda: taken.extend(cluster.mailbox.wait(Instant(now() + 20))[1]), daemon=True).start()
    interrupt_when(lambda: taken)
    result = cluster.run("restart", "demo", "a", "b", "--force")
    assert result.exit_code == 1 and "interrupted: the restart of a goes on at its agent" in result.stderr
    assert "member b" not in result.stdout


def test_what_was_written_into_the_store_goes_on_too(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    interrupt_when(cluster.failover_key)
    result = cluster.run("switchover", "--candidate", "b", "--force")
    assert result.exit_code == 1 and "interrupted: the switchover goes on" in result.stderr
    assert cluster.failover_key() == {"leader": "a", "member": "b"}
