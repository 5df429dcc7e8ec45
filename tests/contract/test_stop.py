"""Stopping a real PostgreSQL: who is waited for, what is told meanwhile, what happens to those who do not end. (HA rules 18.3)"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.postgres_node import BIN_DIR, Node, eventually, make, root
from pgcore.clock import Deadline
from pgcore.model.basics import State
from pgcore.model.node import ControlState
from pgcore.postgres import backends, local, postmaster
from pgcore.postgres.connection import Session
from pgcore.postgres.programs import os_user
from pgcore.testing.processes import freeze

pytestmark = [pytest.mark.server, pytest.mark.skipif(not BIN_DIR, reason="no PostgreSQL programs on this machine")]
__all__ = ["make", "root"]


def client(node: Node) -> tuple[Session, int]:
    """A session of a user and the process that serves it."""
    deadline = Deadline.after(10)
    session = Session(local.superuser(node.settings, os_user(node.settings), statement_timeout_s=0), deadline)
    return session, session.query("SELECT pg_backend_pid()", deadline=deadline)[0][0]


def safe(node: Node) -> bool:
    return {"safe_point": True} in node.reported


@pytest.mark.parametrize("ends", [True, False], ids=["they end at the signal", "one is killed in the end"])
def test_a_stuck_session_is_stopped_at_the_limit_and_the_safe_point_is_told_only_when_it_is_gone(
        make: Callable[..., Node], ends: bool) -> None:
    """(EC 88, 89, 90) Fast, after the limit immediate, after as long again SIGKILL for all; until then nobody calls it safe."""
    node = make("stubborn").bootstrap()
    session, pid = client(node)
    running = node.server.postmaster()
    assert running is not None and pid in (backends.user_backends(running.pid) or [])
    if not ends:
        freeze(pid)
    began, told = time.monotonic(), []
    stopping = threading.Thread(target=node.stop, kwargs={"timeout_s": 1.0})
    stopping.start()
    while stopping.is_alive():
        told.append((safe(node), os.path.exists(f"/proc/{pid}/mem") and running.alive and _lives(pid)))
        time.sleep(0.02)
    took = time.monotonic() - began
    assert not node.look().running and node.server.state is State.STOPPED
    assert not postmaster.orphans(node.settings.data_dir)
    if ends:
        assert took < 1 and safe(node)
    else:
        assert 2.0 <= took < 7
        assert not any(is_safe and lives for is_safe, lives in told)
    session.close()


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_only_stuck_sessions_are_bounded_when_the_stop_as_a_whole_is_not(make: Callable[..., Node]) -> None:
    """(EC 88) Without synchronous mode the checkpoint takes what it takes; a session that does not end does not."""
    node = make("sessions").bootstrap()
    running = node.server.postmaster()
    assert running is not None
    checkpointer = next(pid for pid in running.children() if "checkpointer" in Path(f"/proc/{pid}/cmdline").read_text())
    freeze(checkpointer)  # as if its disk were slow
    stopping = threading.Thread(target=node.stop, kwargs={"timeout_s": None, "sessions_s": 0.5})
    stopping.start()
    eventually(lambda: safe(node))
    time.sleep(1.0)
    assert stopping.is_alive() and running.alive
    os.kill(checkpointer, signal.SIGCONT)
    stopping.join(10)
    control = node.look().control
    assert control is not None and control.state is ControlState.SHUT_DOWN

    node.start()
    session, pid = client(node)
    freeze(pid)
    began = time.monotonic()
    node.stop(timeout_s=None, sessions_s=0.5)
    assert 0.5 <= time.monotonic() - began < 9  # PostgreSQL itself kills it 5 s after the immediate stop
    control = node.look().control
    assert control is not None and control.state is ControlState.IN_PRODUCTION
    session.close()


def test_an_archiver_that_hangs_after_the_shutdown_checkpoint_is_bounded(make: Callable[..., Node]) -> None:
    """(EC 63) All is on disk and was told; what is not archived stays marked ready."""
    node = make("hanging", parameters={"archive_mode": "on", "archive_command": "sleep 20"}).bootstrap()
    node.sql("SELECT pg_logical_emit_message(true, '', ''), pg_switch_wal()")
    told: list[ControlState] = []
    began = time.monotonic()
    node.stop(timeout_s=None, sessions_s=1.0, on_shut_down=lambda control: told.append(control.state))
    assert 1.0 <= time.monotonic() - began < 10
    control = node.look().control
    assert told == [ControlState.SHUT_DOWN] and control is not None and control.state is ControlState.SHUT_DOWN
    assert list(Path(node.settings.data_dir, "pg_wal/archive_status").glob("*.ready"))


def test_background_workers_and_helpers_are_not_taken_for_sessions(make: Callable[..., Node]) -> None:
    """(EC 89) Asked of the server itself: exactly its client backends are counted, on a primary with standby and archiver."""
    node = make("kinds", parameters={"archive_mode": "on", "archive_command": "true", "logging_collector": "on"})
    node.bootstrap()
    standby = make("follower").standby_of(node)
    eventually(lambda: standby.look().receiver)
    for each in (node, standby):
        session, pid = client(each)
        running = each.server.postmaster()
        assert running is not None
        rows = session.query("SELECT pid, backend_type FROM pg_stat_activity", deadline=Deadline.after(5))
        clients = {row[0] for row in rows if row[1] == "client backend"}
        others = {row[1] for row in rows if row[1] != "client backend"}
        assert pid in clients and {"checkpointer", "startup" if each is standby else "walsender"} <= others
        assert set(backends.user_backends(running.pid) or ()) == clients
        session.close()


def test_an_orderly_stop_with_a_log_collector_alarms_nobody(make: Callable[..., Node], caplog: pytest.LogCaptureFixture) -> None:
    node = make("collected", parameters={"logging_collector": "on"})
    node.bootstrap()
    for _ in range(3):
        node.stop(timeout_s=20.0)
        assert not postmaster.orphans(node.settings.data_dir)
        node.start()
    assert "whose postmaster is dead" not in caplog.text


@pytest.mark.parametrize(("title", "serves"), [
    ("postgres: demo: admin postgres 127.0.0.1(5432) idle in transaction", True),
    ("postgres: admin my db [local] SELECT", True),
    ("postgres: demo: admin postgres fe80::1(4711) authentication", True),
    ("postgres: demo: walsender replicator 127.0.0.1(4711) streaming 0/3000060", False),
    ("postgres: demo: TimescaleDB Background Worker Scheduler", False),
    ("postgres: demo: parallel worker for PID 17", False),
    ("postgres: demo: autovacuum worker postgres", False),
    ("postgres: demo: startup recovering 000000010000000000000003", False),
    ("/usr/lib/postgresql/15/bin/postgres -D /data", True),
    ("", False),
])
def test_titles_of_processes(title: str, serves: bool) -> None:
    """(EC 89, 91) A fresh child without a title of its own counts, one that has none any more is ending."""
    assert backends.serves_client(title) is serves


def test_a_zombie_is_not_waited_for() -> None:
    """(EC 91) A dead child that nobody has reaped has no command line; it is no session."""
    code = "import os, sys, time\nif os.fork() == 0: os._exit(0)\nprint('ready', flush=True)\ntime.sleep(30)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    try:
        parent.stdout.readline()
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        zombie = eventually(lambda: children.read_text().split())[0]
        eventually(lambda: re.search(r"\) Z ", Path(f"/proc/{zombie}/stat").read_text()))
        assert backends.user_backends(parent.pid) == []
        assert postmaster.Postmaster(parent.pid).children() == []
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()


def test_kept_connections_are_closed_before_a_start(make: Callable[..., Node]) -> None:
    """(EC 92) After SIGKILL and a start nothing is answered out of a connection to the old server."""
    node = make("pooled").bootstrap()
    before = node.look().postmaster_start
    assert node.server.position(2.0) is not None
    node.server.terminate()
    node.start()
    view = node.look()
    assert view.answering and view.postmaster_start != before
    assert node.server.position(2.0) is not None
    assert node.sql("SELECT count(DISTINCT backend_start) >= 2 FROM pg_stat_activity WHERE application_name LIKE 'pgcore%'") == [
        (True,)]


def test_a_smart_stop_does_not_exist() -> None:
    """(EC 98) A smart stop waits for clients and leaves WAL unsent; there is no word for it."""
    from pgcore.model.actions import StopMode

    assert {mode.value for mode in StopMode} == {"fast", "immediate"}
