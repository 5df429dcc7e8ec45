"""The loop: what the guard is told, what other threads are answered, what a reload does. A real guard process, a real loop."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgcore.clock import Deadline, now
from pgcore.daemon.agent import Agent
from pgcore.daemon.board import Board
from pgcore.daemon.guard import Guard, Prepared
from pgcore.daemon.guard_page import Duty, GuardPage, page_path
from pgcore.daemon.mailbox import CarryOut, Letter, ReloadConfig, WriteFailover
from pgcore.daemon.run import configure_log
from pgcore.daemon.watchers import PostmasterWatch
from pgcore.dcs.store import Key
from pgcore.errors import ConfigError, StoreUnavailableError
from pgcore.model import actions as a
from pgcore.model.actions import DemoteMode, Phase
from pgcore.model.basics import Instant, Role, State, Timing
from pgcore.model.node import NodeView, TaskKind, TaskView
from pgcore.model.orders import RestartOrder
from pgcore.model.world import Demotion, World
from pgcore.postgres.server import Postgres
from unit.test_daemon_kit import Bench, eventually, local, write_node_file

GUARD = "import sys; from pgcore.daemon.guard_loop import become_guard; become_guard(int(sys.argv[1]), int(sys.argv[2]))"
TTL = 30


class Signals:
    """The signals an agent got."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.reload = False

    def take_reload(self) -> bool:
        """True once after each."""
        asked, self.reload = self.reload, False
        return asked

    def reloaded(self) -> None:
        """Nobody waits for it."""


# -- guard ---------------------------------------------------------------------------------------------------------------


class Guarded:
    """An agent with a guard process of its own, and what stands in the page they share."""

    def __init__(self, folder: Path) -> None:
        (folder / "data").mkdir()
        self.member = Bench(folder)
        command, reply = os.pipe(), os.pipe()
        argv = [sys.executable, "-c", GUARD, str(command[0]), str(reply[1])]
        self.process = subprocess.Popen(argv, pass_fds=(command[0], reply[1]), start_new_session=True)
        os.close(command[0])
        os.close(reply[1])
        self.guard = Guard.start(str(folder / "data"), prepared=Prepared(command[1], reply[0]), run_dir=str(folder))
        self.page = GuardPage.open(page_path(str(folder / "data"), str(folder)))
        node = self.member.world().node
        watch = PostmasterWatch(self.member.mailbox)
        self.agent = Agent(self.member.performer, Board(), self.guard, node, Signals(), watch, lambda: None)

    def sync(self, lease_until: float | None = None, **facts: Any) -> World:
        """Show the agent a world: a running primary unless ``facts`` say otherwise."""
        here = {name: facts.pop(name) for name in ("paused", "procedure") if name in facts}
        primary: dict[str, Any] = {"role": Role.PRIMARY, "running": True, "is_primary": True}
        world = self.member.world(**primary | facts)
        until = None if lease_until is None else Instant(lease_until)
        world = replace(
            world,
            settings=replace(world.settings, timing=Timing(TTL, 10, 10), paused=here.get("paused", False)),
            memory=replace(world.memory, lease_until=until, procedure=here.get("procedure")),
        )
        self.agent._sync_guard(world)
        return world

    @property
    def duty(self) -> Duty:
        """What the agent owes, as the guard reads it."""
        found = self.page.duty.read()
        assert found is not None
        duty: Duty = found[1]
        return duty

    @property
    def until(self) -> float:
        """End of the lease the guard enforces; fails when it enforces none."""
        assert self.guard.armed and self.duty.armed
        return self.duty.until_ns / 1e9

    def close(self) -> None:
        self.guard.disarm()
        self.guard.close(stop=True)
        self.page.close()
        self.process.kill()
        self.process.wait()
        self.member.close()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    guarded = Guarded(tmp_path)
    yield guarded
    guarded.close()


def test_a_standby_has_nothing_to_guard(guarded: Guarded) -> None:
    guarded.sync(role=Role.REPLICA, is_primary=False)
    assert not guarded.guard.armed


def test_a_proven_lease_is_guarded_to_its_end_and_moves_with_it(guarded: Guarded) -> None:
    first = now() + 20
    guarded.sync(first)
    assert guarded.until == pytest.approx(first, abs=0.001) and guarded.duty.ttl_ns == TTL * 10**9
    guarded.sync(first + 5)
    assert guarded.until == pytest.approx(first + 5, abs=0.001)


def test_a_lease_cannot_end_later_than_a_ttl_from_now(guarded: Guarded) -> None:
    guarded.sync(now() + 1000)
    assert guarded.until == pytest.approx(now() + TTL, abs=0.2)


def test_an_adopted_primary_gets_one_ttl_to_prove_its_lease(guarded: Guarded) -> None:
    guarded.sync()
    first = guarded.until
    assert first == pytest.approx(now() + TTL, abs=0.2)
    time.sleep(0.05)
    guarded.sync()
    assert guarded.until == first


def test_a_lost_lock_leaves_the_end_that_was_proven(guarded: Guarded) -> None:
    end = now() + 12
    guarded.sync(end)
    guarded.sync(None)
    assert guarded.until == pytest.approx(end, abs=0.001)


@pytest.mark.parametrize("facts", [
    {"role": Role.REPLICA, "is_primary": False}, {"paused": True}, {"running": False, "is_primary": False},
    {"procedure": Demotion(DemoteMode.GRACEFUL, Phase.AWAIT_LEADER, Instant(0), Instant(0), released=True)}],
    ids=["a standby now", "paused", "stopped", "lock given away"])  # fmt: skip
def test_where_no_primary_must_end_the_guard_is_disarmed(guarded: Guarded, facts: dict[str, Any]) -> None:
    guarded.sync(now() + 20)
    assert guarded.guard.armed
    guarded.sync(now() + 20, **facts)
    assert not guarded.guard.armed
    guarded.sync(now() + 20)
    assert guarded.guard.armed


def test_a_demotion_that_still_holds_the_lock_stays_guarded(guarded: Guarded) -> None:
    stopping = Demotion(DemoteMode.GRACEFUL, Phase.STOP, Instant(0), Instant(0))
    guarded.sync(now() + 20, procedure=stopping)
    assert guarded.guard.armed


@pytest.mark.parametrize("kind", [TaskKind.PROMOTE, TaskKind.START_PRIMARY])
def test_what_is_becoming_a_primary_is_guarded(guarded: Guarded, kind: TaskKind) -> None:
    task = TaskView(kind, now())
    guarded.sync(now() + 20, role=Role.REPLICA, is_primary=False, running=kind is TaskKind.PROMOTE, task=task)
    assert guarded.guard.armed


def test_the_guard_is_told_the_postmaster(guarded: Guarded) -> None:
    guarded.sync(now() + 20, postmaster_pid=os.getpid())
    assert guarded.duty.server_pid == os.getpid() and guarded.duty.server_start > 0


def test_the_guard_is_told_a_postmaster_that_starts_while_it_is_armed(guarded: Guarded) -> None:
    guarded.sync(now() + 20, running=False, is_primary=False, task=TaskView(TaskKind.START_PRIMARY, now()))
    guarded.sync(now() + 20, postmaster_pid=os.getpid())
    assert guarded.duty.server_pid == os.getpid()


def test_the_guard_is_told_the_postmaster_of_every_restart(guarded: Guarded) -> None:
    guarded.sync(now() + 20, postmaster_pid=os.getpid())
    guarded.sync(now() + 20, running=False, is_primary=False, task=TaskView(TaskKind.START_PRIMARY, now()))
    guarded.sync(now() + 20, postmaster_pid=guarded.process.pid)
    assert guarded.duty.server_pid == guarded.process.pid


def test_a_postmaster_known_before_a_time_without_guard_is_still_named(guarded: Guarded) -> None:
    guarded.sync(now() + 20, postmaster_pid=os.getpid())
    guarded.sync(now() + 20, postmaster_pid=os.getpid(), paused=True)
    guarded.sync(now() + 20, postmaster_pid=os.getpid())
    assert guarded.guard.armed and guarded.duty.server_pid == os.getpid()


# -- the loop --------------------------------------------------------------------------------------------------------------


class Broken(Postgres):
    """A server whose every observation meets a bug."""

    def observe(self, deadline: Deadline) -> NodeView:
        raise RuntimeError("a bug")


def test_a_bug_in_every_heartbeat_does_not_prolong_the_lease_and_the_guard_ends_it(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    """(EC 20): the beats end early, the guard keeps the last proven end and acts on it (see test_guard)."""
    world = guarded.sync(now() + 4)
    guarded.agent.memory, guarded.agent.settings, guarded.agent.node = world.memory, world.settings, world.node
    before = guarded.until
    broken = Broken(guarded.member.configuration.server)
    guarded.member.ports.postgres = broken
    for _ in range(5):
        assert guarded.agent._beat(("timer",)) is None
    assert guarded.until == before
    assert "bug 5 in a heartbeat" in caplog.text
    broken.close()


def test_an_order_that_meets_a_bug_is_given_up_and_cannot_end_every_heartbeat_from_now_on(guarded: Guarded) -> None:
    """Else one request over REST would cost the leader its lease."""
    agent, letter = guarded.agent, Letter(CarryOut(RestartOrder()))
    agent._answer(letter, Deadline.after(1))
    broken, works = Broken(guarded.member.configuration.server), guarded.member.ports.postgres
    guarded.member.ports.postgres = broken
    assert agent.memory.order is not None and agent._beat(("timer",)) is None
    guarded.member.ports.postgres = works
    assert agent.memory.order is None and agent._beat(("timer",)) is not None
    assert "bug" in str(letter.reply.result(0))
    broken.close()


class Looping:
    """An agent on an empty data directory that waits for a cluster to join, looping on a thread of its own."""

    def __init__(self, folder: Path, reloaded: Callable[[Bench], None]) -> None:
        self.member = Bench(folder)
        short = a.WriteConfig({"ttl": 5, "loop_wait": 1, "retry_timeout": 1})
        self.member.performer.perform(short, self.member.world())
        self.board, self.signals = Board(), Signals()
        node = self.member.postgres.observe(Deadline.after(1))
        self.agent = Agent(
            self.member.performer, self.board, None, node, self.signals, PostmasterWatch(self.member.mailbox),
            lambda: reloaded(self.member))
        self.exit: a.Exit | BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.exit = self.agent.run()
        except BaseException as error:
            self.exit = error

    def ask(self, request: Any) -> Any:
        """What the heartbeat answers."""
        return self.member.mailbox.ask(request).result(5)

    def hang_up(self) -> None:
        """As SIGHUP does."""
        self.signals.reload = True
        self.member.mailbox.wake("SIGHUP")

    def ended(self, seconds: float) -> None:
        """Wait for the end, raise what ended it. TimeoutError while it goes on."""
        self.thread.join(seconds)
        if self.thread.is_alive():
            raise TimeoutError
        if isinstance(self.exit, BaseException):
            raise self.exit

    def close(self) -> None:
        self.signals.asked.set()
        self.member.mailbox.wake("signal SIGTERM")
        self.thread.join(5)
        self.member.close()


@pytest.fixture
def looping(tmp_path: Path) -> Iterator[Looping]:
    looping = Looping(tmp_path, lambda member: None)
    yield looping
    looping.close()


def test_a_beat_publishes_what_it_saw_and_decided(looping: Looping) -> None:
    status = looping.board.wait(None, 5)
    assert status is not None
    assert (status.scope, status.name, status.node.state, status.is_leader) == ("demo", "a", State.STOPPED, False)
    assert status.cluster is not None and status.rule and status.reason
    assert status.dcs_last_seen >= int(time.time()) - 5


def test_an_agent_asked_to_end_ends(looping: Looping) -> None:
    looping.board.wait(None, 5)
    looping.signals.asked.set()
    looping.member.mailbox.wake("signal SIGTERM")
    assert eventually(lambda: looping.exit) == a.Exit(0, "stopped")


def test_a_request_of_another_thread_is_written_and_answered(looping: Looping) -> None:
    assert looping.ask(WriteFailover(leader="a", candidate="b", scheduled_at="2030-01-01T00:00:00+00:00")) is True
    found = looping.member.store.read(fresh=True, deadline=Deadline.after(1)).records[Key.FAILOVER]
    assert found.value == '{"leader":"a","member":"b","scheduled_at":"2030-01-01T00:00:00+00:00"}'
    assert looping.ask(WriteFailover(version="0")) is False
    assert looping.ask(WriteFailover(version=found.version)) is True


def test_a_request_in_an_outage_is_answered_with_the_reason(looping: Looping) -> None:
    looping.board.wait(None, 5)
    with looping.member.server.outage(), pytest.raises(StoreUnavailableError):
        looping.ask(WriteFailover(candidate="b"))
    assert looping.ask(WriteFailover(candidate="b")) is True


class SilentStore:
    """A store that takes each write and never answers."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, *args: Any, deadline: Deadline, **options: Any) -> Any:
        time.sleep(max(0.0, deadline.left()))
        raise StoreUnavailableError("no answer")


def test_many_requests_while_the_store_is_silent_do_not_keep_the_heartbeat_from_its_lease(looping: Looping) -> None:
    """They share half a retry_timeout (1 s here, ttl is 5 s)."""
    looping.board.wait(None, 5)
    looping.member.ports.store = SilentStore(looping.member.store)
    asked = [looping.member.mailbox.ask(WriteFailover(candidate="b")) for _ in range(12)]
    began = time.monotonic()
    for each in asked:
        with pytest.raises(StoreUnavailableError):
            each.result(10)
    assert time.monotonic() - began < 3.0


def test_an_outage_is_published_and_its_end_too(looping: Looping) -> None:
    looping.board.wait(None, 5)
    with looping.member.server.outage():
        looping.member.mailbox.wake("now")
        eventually(lambda: looping.board.status is not None and looping.board.status.cluster is None, 20)
    looping.member.mailbox.wake("now")
    eventually(lambda: looping.board.status is not None and looping.board.status.cluster is not None)


def test_a_reload_of_a_changed_file_is_in_force_and_published(looping: Looping, tmp_path: Path) -> None:
    looping.board.wait(None, 5)
    write_node_file(tmp_path, {"tags": {"nofailover": True}})
    assert looping.ask(ReloadConfig()) is True
    eventually(lambda: looping.board.status is not None and looping.board.status.tags == {"nofailover": True})
    assert looping.ask(ReloadConfig()) is False


def test_a_reload_of_a_broken_file_changes_nothing(looping: Looping, tmp_path: Path) -> None:
    looping.board.wait(None, 5)
    (tmp_path / "node.yml").write_text("{")
    assert looping.ask(ReloadConfig()) is False
    assert looping.exit is None


@pytest.fixture
def logging_agent(tmp_path: Path) -> Iterator[Looping]:
    """An agent that puts the section ``log`` in force when it reloads."""
    looping = Looping(tmp_path, lambda member: configure_log(member.configuration.local))
    looping.board.wait(None, 5)
    yield looping
    looping.close()


def into_a_missing_directory(folder: Path) -> dict[str, Any]:
    return {"log": {"dir": str(folder / "missing")}, "tags": {"nofailover": True}}


def test_a_reload_that_fails_half_way_is_logged_and_the_rest_is_in_force(
    logging_agent: Looping, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_node_file(tmp_path, into_a_missing_directory(tmp_path))
    assert logging_agent.ask(ReloadConfig()) is True
    assert "the reload is incomplete" in caplog.text and "log.dir" in caplog.text
    eventually(lambda: logging_agent.board.status is not None and logging_agent.board.status.tags == {"nofailover": True})
    assert logging_agent.exit is None


def hang_up(agent: Looping) -> None:
    """As SIGHUP does; the agent must go on."""
    agent.hang_up()
    eventually(lambda: not agent.signals.reload)
    with pytest.raises(TimeoutError):
        agent.ended(0.2)


def test_a_hang_up_whose_reload_fails_half_way_does_not_end_the_agent(logging_agent: Looping, tmp_path: Path) -> None:
    write_node_file(tmp_path, into_a_missing_directory(tmp_path))
    hang_up(logging_agent)
    assert logging_agent.ask(WriteFailover(candidate="b")) is True


@pytest.mark.parametrize("section", [{"format": "no fields"}, {"format": "%(message"}], ids=str)
def test_a_log_format_that_makes_no_sense_does_not_end_the_agent(
    logging_agent: Looping, tmp_path: Path, section: dict[str, Any]
) -> None:
    write_node_file(tmp_path, {"log": section})
    hang_up(logging_agent)


def test_a_start_with_a_log_format_that_makes_no_sense_is_refused_by_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"log\.format"):
        configure_log(local(tmp_path, {"log": {"format": "no fields"}}))
