"""The guard against a real PostgreSQL and real agents that freeze, die and come back.

Everything runs as the user postgres, agents under an interpreter that user may read; times are seconds on pgcore's clock.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest

import pgcore
from harness.processes import MARKER, marked
from pgcore.clock import now
from pgcore.daemon.guard_page import GuardPage, Stage, live_duty, page_path
from pgcore.daemon.guard_server import Process, status_of

BIN = Path("/usr/lib/postgresql/15/bin")
ROOT = os.geteuid() == 0
USER = "postgres" if ROOT else None
PYTHON = shutil.which("python3", path="/usr/bin") if ROOT else sys.executable

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not BIN.is_dir(), reason="PostgreSQL 15 is not installed"),
    pytest.mark.skipif(PYTHON is None, reason="no interpreter that the user postgres may read"),
]

AGENT = """
import json, os, sys
from pgcore.daemon.guard import Guard, GuardError, Stage, prefork
prepared = prefork()
if sys.argv[3:]: import dataclasses, decimal, email, http.client, logging, socket, ssl, subprocess, threading
from pgcore.clock import now
try:
    guard = Guard.start(sys.argv[1], prepared=prepared, run_dir=sys.argv[2])
    print(json.dumps({"guard": guard.pid}), flush=True)
except GuardError as error:
    print(json.dumps({"error": str(error)}), flush=True)
    sys.exit(3)
for line in sys.stdin:
    verb, *rest = line.split()
    answer = {}
    if verb == "arm":
        guard.arm(now() + float(rest[0]), float(rest[0]))
    elif verb == "extend":
        guard.extend(now() + float(rest[0]))
    elif verb == "close":
        guard.close(stop=rest[0] == "stop")
        print("{}", flush=True)
        break
    elif verb == "watch":
        guard.watch(int(rest[0]))
    elif verb == "disarm":
        guard.disarm()
    action = guard.last_action()
    print(json.dumps({"armed": guard.armed, "until": guard.until, "alive": guard.alive(),
                      "stage": action and action.stage, "text": action and action.text}), flush=True)
"""


class Agent:
    """A process that holds a Guard and obeys lines."""

    def __init__(
        self, home: Path, run_dir: Path, *, user: str | None = USER, python: str | None = PYTHON, heavy: str = ""
    ) -> None:
        source = str(Path(pgcore.__file__).parent.parent)
        argv = [str(python), "-c", AGENT, str(home), str(run_dir), *([heavy] if heavy else [])]
        environment = {"PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin"}
        self.process = subprocess.Popen(
            argv, user=user, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
        )
        self.started = self._answer()
        self.guard = self.started.get("guard", 0)

    def __call__(self, command: str) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def signal(self, number: int) -> None:
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        guard = Process.find(self.guard) if self.guard else None
        status = status_of(self.guard) if guard else None
        if guard and status and status.name == "pgcore-guard":
            guard.send(signal.SIGKILL)
            guard.wait(2)


class Place:
    """A directory for pages, a cluster, and everything started in a test."""

    def __init__(self, base: Path) -> None:
        self.base, self.run, self.home = base, base / "run", base / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.agents: list[Agent] = []
        self.frozen: list[Process] = []

    def agent(self, **options: Any) -> Agent:
        agent = Agent(self.home, self.run, **options)
        self.agents.append(agent)
        return agent

    def start(self) -> int:
        """Start the server and return the postmaster's pid."""
        log = str(self.base / "log")
        argv = [str(BIN / "pg_ctl"), "start", "-w", "-s", "-D", str(self.home), "-l", log, "-o", f"-p {self.port}"]
        with suppress(FileNotFoundError):
            # PostgreSQL takes a killed postmaster for a running one until init has reaped it, which some inits do lazily.
            former = self.pid()
            eventually(lambda: status_of(former) is None, 10)
        subprocess.run(argv, user=USER, cwd="/", check=True, stdout=subprocess.DEVNULL)
        return self.pid()

    def pid(self) -> int:
        return int((self.home / "postmaster.pid").read_text().splitlines()[0])

    def connect(self) -> Any:
        connection = psycopg2.connect(host="127.0.0.1", port=self.port, user="postgres", dbname="postgres")
        connection.autocommit = True
        return connection

    def processes(self) -> list[int]:
        """Every process that has the data directory as its working directory, zombies aside."""
        found = []
        for name in os.listdir("/proc"):
            with suppress(OSError):
                if name.isdigit() and os.readlink(f"/proc/{name}/cwd").startswith(str(self.home)):
                    found.append(int(name))
        return found

    def freeze(self, pid: int) -> None:
        process = Process.find(pid)
        assert process
        self.frozen.append(process)
        process.send(signal.SIGSTOP)

    def page(self) -> GuardPage:
        """The page as its owner sees it."""
        page = GuardPage.__new__(GuardPage)
        path = page_path(str(self.home), str(self.run)).replace(f"-{os.geteuid()}-", f"-{os.stat(self.home).st_uid}-")
        import mmap

        fd = os.open(path, os.O_RDWR)
        page.__init__(path, fd, mmap.mmap(fd, 4096))  # type: ignore[misc]
        return page

    def clean(self) -> None:
        for agent in self.agents:
            agent.end()
        for page in self.run.iterdir():
            page.unlink()  # the next guard would inherit the lease
        for process in self.frozen:
            process.send(signal.SIGCONT)
        if self.processes():
            argv = [str(BIN / "pg_ctl"), "stop", "-m", "immediate", "-s", "-D", str(self.home)]
            subprocess.run(argv, user=USER, cwd="/", stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """A directory that the user postgres owns, with one small cluster for all tests."""
    base = Path(tempfile.mkdtemp(prefix="pgcore-guard-test-")).resolve()
    (base / "run").mkdir()
    if USER:
        for path in (base, base / "run"):
            shutil.chown(path, USER)
    argv = [str(BIN / "initdb"), "-D", str(base / "data"), "-A", "trust", "-N", "-U", "postgres"]
    subprocess.run(argv, user=USER, cwd="/", check=True, stdout=subprocess.DEVNULL)
    settings = f"listen_addresses = '127.0.0.1'\nunix_socket_directories = '{base}'\nfsync = off\n"
    with open(base / "data" / "postgresql.conf", "a") as file:
        file.write(settings + "dynamic_shared_memory_type = mmap\n")
    yield base
    shutil.rmtree(base)


@pytest.fixture
def place(base: Path) -> Iterator[Place]:
    place = Place(base)
    yield place
    place.clean()


@pytest.fixture
def primary(place: Place) -> Place:
    place.start()
    return place


def eventually(condition: Callable[[], Any], within_s: float) -> Any:
    deadline = now() + within_s
    while not (value := condition()):
        assert now() < deadline, "did not happen in time"
        time.sleep(0.01)
    return value


class Writer(threading.Thread):
    """Commits without pause and remembers when the last acknowledgement came."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.connection = place.connect()
        self.connection.cursor().execute("CREATE TABLE IF NOT EXISTS written (at float8)")
        self.last_acknowledged = 0.0
        self.start()

    def run(self) -> None:
        cursor = self.connection.cursor()
        with suppress(psycopg2.Error):
            while True:
                cursor.execute("INSERT INTO written VALUES (%s)", (now(),))
                self.last_acknowledged = now()


def stopped_before(place: Place, until: float) -> float:
    """Wait for the last process of the server to go; how long before the end of the lease that was."""
    eventually(lambda: not place.processes(), until + 2 - now())
    return until - now()


@pytest.mark.parametrize("fate", [signal.SIGSTOP, signal.SIGKILL])
def test_an_agent_that_freezes_or_dies_leaves_no_primary_behind(primary: Place, fate: int) -> None:
    agent, writer = primary.agent(), Writer(primary)
    until = agent("arm 3")["until"]
    agent.signal(fate)
    left = stopped_before(primary, until)
    assert 0.3 < left < 0.95, "gone by a fast shutdown, which starts 0.9 s before the end"
    writer.join(2)
    assert until - 1.2 < writer.last_acknowledged < until - left, "writes went on until the shutdown and not beyond"
    agent.signal(signal.SIGCONT) if fate == signal.SIGSTOP else None
    agent = agent if fate == signal.SIGSTOP else primary.agent()
    seen = eventually(lambda: (answer := agent("show"))["stage"] == Stage.STOPPED and answer, 2)
    assert not seen["armed"] and seen["alive"]
    assert "stopped by a fast shutdown" in seen["text"]
    primary.start()
    time.sleep(0.5)
    assert primary.processes(), "the guard has done its duty: a server started later is not its business"


def test_a_frozen_postmaster_and_a_busy_backend_are_killed_before_the_end(primary: Place) -> None:
    agent, writer, busy = primary.agent(), Writer(primary), primary.connect()
    primary.freeze(primary.pid())
    primary.freeze(busy.info.backend_pid)
    until = agent("arm 3")["until"]
    agent.signal(signal.SIGKILL)
    left = stopped_before(primary, until)
    assert 0.05 < left < 0.25
    writer.join(2)
    assert until - 0.6 < writer.last_acknowledged < until - left + 0.05, "a frozen postmaster passes no shutdown on"
    assert "stopped by SIGKILL" in eventually(lambda: reported(primary, Stage.STOPPED), 1)


def reported(place: Place, stage: Stage) -> str | None:
    """What the guard says it did, if that is this stage."""
    from pgcore.daemon.guard import _describe

    report = place.page().report.read()
    return _describe(report[1]) if report and report[1].stage == stage else None


def test_backends_that_outlive_their_postmaster_are_killed(primary: Place) -> None:
    agent, orphan = primary.agent(), primary.connect()
    primary.freeze(orphan.info.backend_pid)
    until = agent("arm 2")["until"]
    postmaster = Process.find(primary.pid())
    assert postmaster
    postmaster.send(signal.SIGKILL)
    time.sleep(0.5)
    assert orphan.info.backend_pid in primary.processes()
    assert stopped_before(primary, until) > 0


def test_an_agent_that_restarts_takes_the_armed_guard_over_and_renews(primary: Place) -> None:
    first = primary.agent()
    until = first("arm 2")["until"]
    first.signal(signal.SIGKILL)
    second = primary.agent()
    assert second.guard == first.guard
    shown = second("show")
    assert shown["armed"] and shown["until"] == until, "the lease of the dead agent stays in force"
    while now() < until + 0.4:
        second("extend 2")
        time.sleep(0.2)
    assert primary.processes()
    assert second("show")["stage"] is None


def test_a_second_agent_is_refused_while_the_first_one_lives(primary: Place) -> None:
    first = primary.agent()
    assert f"another agent (pid {first.process.pid})" in primary.agent().started["error"]


def test_a_disarmed_guard_does_nothing(primary: Place) -> None:
    agent = primary.agent()
    agent("arm 1")
    assert not agent("disarm")["armed"]
    agent.signal(signal.SIGSTOP)
    time.sleep(1.5)
    assert primary.processes()
    assert not reported(primary, Stage.FAST)


def test_a_server_restarted_while_armed_is_stopped_like_the_one_before(primary: Place) -> None:
    agent = primary.agent()
    first = primary.pid()
    until = agent("arm 2")["until"]
    time.sleep(0.3)
    subprocess.run([str(BIN / "pg_ctl"), "restart", "-s", "-w", "-D", str(primary.home)], user=USER, cwd="/", check=True)
    second = primary.pid()
    assert second != first
    assert stopped_before(primary, until) > 0
    assert eventually(lambda: reported(primary, Stage.STOPPED), 1).startswith(f"guard: the server (postmaster {second})")


def test_a_server_that_appears_after_the_lease_ended_is_stopped(place: Place) -> None:
    agent = place.agent()
    agent("arm 3")
    agent("extend -0.5")
    place.start()
    eventually(lambda: not place.processes(), 1.5)
    assert eventually(lambda: reported(place, Stage.STOPPED), 1)


def test_a_lease_that_ends_without_a_server_is_forgotten_after_another_ttl(place: Place) -> None:
    agent = place.agent()
    agent("arm 0.5")
    assert "no server ran" in eventually(lambda: reported(place, Stage.NOTHING), 2)
    assert not agent("show")["armed"]


def test_a_server_whose_data_directory_was_moved_away_is_still_stopped(primary: Place) -> None:
    agent = primary.agent()
    until = agent("arm 2")["until"]
    time.sleep(1.2)
    away = primary.base / "away"
    postmaster = Process.find(primary.pid())
    primary.home.rename(away)
    try:
        agent.signal(signal.SIGKILL)
        assert postmaster and postmaster.wait(until - now())
    finally:
        away.rename(primary.home)


def test_a_renewal_during_the_fast_shutdown_stops_the_escalation(primary: Place) -> None:
    agent, busy = primary.agent(), primary.connect()
    primary.freeze(busy.info.backend_pid)
    agent("arm 2")
    eventually(lambda: agent("show")["stage"] == Stage.FAST, 2)
    agent("extend 2")
    assert "can't be taken back" in eventually(lambda: reported(primary, Stage.RENEWED), 1)
    time.sleep(0.7)
    assert busy.info.backend_pid in primary.processes(), "not killed: the lease is proven again"


def test_termination_waits_while_armed_and_ends_a_disarmed_guard(primary: Place) -> None:
    agent = primary.agent()
    guard = Process.find(agent.guard)
    agent("arm 3")
    assert guard
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        guard.send(number)
    assert not guard.wait(0.3)
    assert agent("show")["alive"]
    agent("disarm")
    assert guard.wait(1.5)
    assert list(primary.run.iterdir()) == []
    assert not agent("show")["alive"]
    assert primary.processes()


def test_an_agent_that_closes_an_armed_guard_leaves_it_and_a_disarmed_one_ends(place: Place) -> None:
    for first, last, ends in (("arm 5", "close stop", False), ("disarm", "close keep", False), ("disarm", "close stop", True)):
        agent = place.agent()
        guard = Process.find(agent.guard)
        assert guard
        agent(first)
        agent(last)
        assert guard.wait(0.2) is ends
    assert list(place.run.iterdir()) == []


def test_a_guard_that_was_killed_is_replaced_and_the_lease_stays_in_force(primary: Place) -> None:
    first = primary.agent()
    until = first("arm 2")["until"]
    guard = Process.find(first.guard)
    assert guard
    guard.send(signal.SIGKILL)
    guard.wait(1)
    assert not first("show")["alive"]
    first.signal(signal.SIGKILL)
    second = primary.agent()
    assert second.guard != first.guard
    second.signal(signal.SIGKILL)
    assert stopped_before(primary, until) > 0


def test_a_guard_whose_page_was_swept_away_steps_back_for_its_successor(primary: Place) -> None:
    first = primary.agent()
    first("arm 2")
    for path in primary.run.iterdir():
        path.unlink()
    first.signal(signal.SIGKILL)
    second = primary.agent()
    second("arm 6")
    old = Process.find(first.guard)
    assert old and old.wait(3)
    assert second("show")["armed"] and primary.processes()


def test_the_guard_keeps_nothing_of_the_agent_open(place: Place) -> None:
    agent = place.agent()
    links = [os.readlink(f"/proc/{agent.guard}/fd/{name}") for name in os.listdir(f"/proc/{agent.guard}/fd")]
    pages = [link for link in links if "pgcore-guard-" in link]
    pipes = {link for link in links if link.startswith("pipe:")}
    assert len(pages) == 2, "the file, and the mapping's own descriptor of it"
    assert len(pipes) == 1, "its own, for signals"
    assert set(links) - set(pages) - pipes == {"/dev/null", "anon_inode:[pidfd]"}, "the pidfd is the agent's, to see it end"
    assert os.readlink(f"/proc/{agent.guard}/cwd") == "/"
    agent.signal(signal.SIGKILL)
    assert agent.process.stdout and agent.process.stdout.read() == "", "a supervisor's pipe sees its end"
    assert Process.find(agent.guard)


def test_a_forked_guard_that_is_never_told_what_to_guard_ends_with_its_agent(place: Place) -> None:
    mark = uuid.uuid4().hex
    script = "from pgcore.daemon.guard import prefork; import time; p = prefork(); print('up', flush=True); time.sleep(60)"
    source = str(Path(pgcore.__file__).parent.parent)
    idle = subprocess.Popen([str(PYTHON), "-c", script], user=USER, stdout=subprocess.PIPE, cwd="/",
                            env={"PYTHONPATH": source, MARKER: mark})
    assert idle.stdout and idle.stdout.readline()

    def waiting() -> list[int]:
        return [pid for pid in marked(mark) if (status := status_of(pid)) and status.name == "pgcore-guard"]

    assert len(eventually(waiting, 2)) == 1
    idle.kill()
    idle.wait()
    eventually(lambda: not waiting(), 2)


@pytest.mark.skipif(not ROOT, reason="needs two users")
def test_a_guard_of_root_stops_a_server_of_another_user(primary: Place) -> None:
    agent = primary.agent(user=None, python=sys.executable)
    until = agent("arm 2")["until"]
    agent.signal(signal.SIGKILL)
    assert stopped_before(primary, until) > 0


@pytest.mark.skipif(not ROOT, reason="needs two users")
def test_a_guard_that_may_not_signal_the_server_says_so(primary: Place) -> None:
    primary.base.chmod(0o711)
    primary.run.chmod(0o777)
    agent = primary.agent(user="nobody")
    agent(f"watch {primary.pid()}")
    agent("arm 1")
    seen = eventually(lambda: (answer := agent("show"))["stage"] == Stage.REFUSED and answer, 2)
    assert f"may not signal the server (postmaster {primary.pid()})" in seen["text"]
    assert seen["armed"], "the duty is not done"


def test_the_guard_is_small(place: Place) -> None:
    agent = place.agent(heavy="heavy")
    agent("arm 5")
    eventually(lambda: live_duty(place.page())[1], 2)
    rollup = Path(f"/proc/{agent.guard}/smaps_rollup").read_text()
    pss = int(next(line for line in rollup.splitlines() if line.startswith("Pss:")).split()[1])
    assert pss < 8500, f"{pss} kB: an interpreter's own 6 to 7 MiB and no more; what was imported before the fork?"
