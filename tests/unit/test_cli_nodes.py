"""``restart``, ``reload`` and ``reinit`` over a memory store and a real REST server, whose heartbeat is played (cli 4.3-4.5)."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pgcore.clock import now
from pgcore.daemon.mailbox import CancelRestart, CarryOut, ReloadConfig, Request, ScheduleRestart
from pgcore.model.basics import Instant
from pgcore.model.node import Writes
from pgcore.model.orders import ReinitOrder, RestartOrder
from unit.rest_board import leader_status, primary_node, status
from unit.test_cli_commands import Cluster

LATER = (datetime.now(UTC) + timedelta(days=1)).isoformat()


class Served(Cluster):
    """``a`` has a REST API; its heartbeat answers letters with what ``says`` holds, one after the other."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.letters: list[Request] = []
        self.came = threading.Event()
        self.serve()

    def says(self, *results: object) -> None:
        threading.Thread(target=self._answer, args=(list(results),), daemon=True).start()

    def _answer(self, results: list[object]) -> None:
        while results:
            for letter in self.mailbox.wait(Instant(now() + 10))[1]:
                self.letters.append(letter.request)
                self.came.set()
                result = results.pop(0)
                if result == "" and isinstance(letter.request, CarryOut) and isinstance(letter.request.order, RestartOrder):
                    self.restarted()
                letter.reply.set_result(result)

    def restarted(self) -> None:
        """PostgreSQL did not accept writes for a quarter of a second."""
        writes = Writes(began=now(), ceased=Instant(now() - 0.25))
        self.board.publish(status("a", primary_node(writes=writes), leads=True))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    assert made.rest is not None
    made.rest.stop()


def last(cluster: Served, *arguments: str, **options: str) -> str:
    """The last line of a command's output."""
    return cluster.run(*arguments, **options).stdout.splitlines()[-1]  # type: ignore[arg-type]


def test_a_restart_asks_shows_and_says_what_came_of_it(cluster: Served) -> None:
    cluster.says("")
    result = cluster.run("restart", "demo", "a", input="\ny\n15.7\n")
    assert result.exit_code == 0
    assert result.output.startswith("+ Cluster: demo")
    assert "Are you sure you want to restart members a?" in result.output
    assert result.stdout.splitlines()[-1] == "Success: restart on member a"
    assert re.search(r"Write gap: 0.250 s \(± 0\.0\d\d s\), a did not accept writes", result.stderr)
    assert cluster.letters == [CarryOut(RestartOrder(postgres_version=150007))]


def test_a_restart_goes_from_member_to_member(cluster: Served) -> None:
    cluster.says("restart conditions are not satisfied")
    result = cluster.run("restart", "demo", "--force")
    lines = result.stdout.splitlines()
    assert lines[-3] == "Failed: restart for member a, status code=503, (restart conditions are not satisfied)"
    assert lines[-2].startswith("Failed: restart for member b, no answer: ") and "is its agent running?" in lines[-2]
    assert result.exit_code == 1


def test_only_members_with_a_pending_restart(cluster: Served) -> None:
    assert "waits for a restart" in cluster.run("restart", "demo", "--pending", "--force").stderr
    cluster.card("a", "primary", pending_restart=True)
    cluster.says("")
    assert last(cluster, "restart", "demo", "--pending", "--timeout", "30s", "--force") == "Success: restart on member a"
    assert cluster.letters == [CarryOut(RestartOrder(restart_pending=True, timeout_s=30.0))]


def test_a_restart_is_scheduled_and_replaced_by_force(cluster: Served) -> None:
    cluster.says(False)
    line = last(cluster, "restart", "demo", "a", "--scheduled", LATER, "--force")
    assert line == "Failed: another restart is already scheduled on member a"
    cluster.card("a", "primary", scheduled_restart={"schedule": LATER})
    cluster.says(True, True)
    assert last(cluster, "restart", "demo", "a", "--scheduled", LATER, "--force") == "Success: restart scheduled on member a"
    assert [type(letter) for letter in cluster.letters] == [ScheduleRestart, CancelRestart, ScheduleRestart]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("restart", "demo", "x", "--force"), "No 'any' among provided members"),
        (("restart", "demo", "a", "-r", "replica", "--force"), "No 'replica' among provided members"),
        (("restart", "demo", "-r", "standby-leader", "--force"), "no member has the role standby-leader"),
        (("restart", "demo", "--scheduled", "2005-01-01", "--force"), "is in the past"),
        (("reinit", "demo", "a", "--force"), "No 'replica' among provided members"),
        (("reinit", "demo", "--force"), "name the members"),
    ],
)
def test_what_cannot_be_done_ends_with_1_before_any_call(cluster: Served, arguments: tuple[str, ...], words: str) -> None:
    result = cluster.run(*arguments)
    assert (result.exit_code, words in result.output) == (1, True), result.output
    assert cluster.letters == []


def test_a_refused_question_calls_nobody(cluster: Served) -> None:
    assert cluster.run("restart", "demo", "a", input="\nn\n").exit_code == 1
    assert cluster.letters == []


def test_reload(cluster: Served) -> None:
    cluster.says(True)
    line = last(cluster, "reload", "demo", "-r", "leader", "--force")
    assert line.startswith("Reload request received for member a")
    assert cluster.came.wait(10)  # the answer does not wait for the heartbeat
    assert cluster.letters == [ReloadConfig()]


def replica(cluster: Served, **task: object) -> None:
    """``a`` is a replica of ``b``; beside its heartbeat this runs."""
    cluster.switch_leader("b")
    cluster.card("a", "replica")
    cluster.board.publish(replace(leader_status(), task=task, at=now()))


def test_a_new_copy_offers_to_cancel_what_runs(cluster: Served) -> None:
    replica(cluster)
    cluster.says("pg_rewind already in progress", "")
    result = cluster.run("reinit", "demo", "a", "--from-leader", input="y\ny\n")
    assert "a: pg_rewind already in progress. Cancel it and reinitialize anyway?" in result.output
    assert result.stdout.splitlines()[-1] == "Success: reinitialize for member a"
    assert cluster.letters == [CarryOut(ReinitOrder(False, True)), CarryOut(ReinitOrder(True, True))]


def test_a_new_copy_is_waited_for_until_its_task_has_ended(cluster: Served) -> None:
    replica(cluster, kind="reinitialize")
    cluster.says("")
    done = threading.Timer(0.7, lambda: cluster.board.publish(replace(leader_status(), at=now())))
    done.start()
    began = now()
    assert last(cluster, "reinit", "demo", "a", "--wait", "--force") == "Reinitialize is completed on: a"
    assert now() - began > 0.5
