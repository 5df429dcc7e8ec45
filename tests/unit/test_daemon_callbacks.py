"""The callback lane with real plugins, the operator's scripts behind it, and the gates that long actions ask. (HA rules 25)"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgcore.clock import now
from pgcore.daemon.callbacks import QUEUE_LIMIT, CallbackLane
from pgcore.hookspecs import CallbackEvent, GateRequest
from pgcore.model import actions as a
from pgcore.model.basics import Instant, Role
from pgcore.model.node import TaskKind, TaskResult
from pgcore.model.world import Memory
from pgcore.registry import GATE_GRACE_S
from unit.test_daemon_kit import Bench, Plugins, eventually, plugins_on_path, result_of, running, write_script

LISTENER = """
import threading
HEARD, GATE = [], threading.Event()
GATE.set()
@hookimpl
def pgcore_callback(event):
    HEARD.append(event.action)
    assert GATE.wait(10)
"""
RAISING = "@hookimpl\ndef pgcore_callback(event): raise RuntimeError('no network')\n"
EXITING = """
import sys
@hookimpl
def pgcore_callback(event): sys.exit("no more")
@hookimpl
def pgcore_started(facts): sys.exit("no more")
"""
EXITS = {"pgcore_callback": 2, "pgcore_started": 1}


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins]:
    with plugins_on_path(tmp_path / "plugins", monkeypatch) as plugins:
        yield plugins


def event(action: str) -> CallbackEvent:
    return CallbackEvent(action, Role.PRIMARY, "demo", "a")


# -- the lane ------------------------------------------------------------------------------------------------------------


def test_events_and_calls_are_told_in_the_order_they_were_queued(plugins: Plugins) -> None:
    lane = CallbackLane(plugins.registry(listener=LISTENER))
    heard = plugins.module("listener").HEARD
    lane.run(lambda: heard.append("started"))
    for number in range(5):
        lane.tell(event(f"e{number}"))
    lane.run(lambda: heard.append("stopping"))
    assert lane.drain(5)
    assert heard == ["started", "e0", "e1", "e2", "e3", "e4", "stopping"]


def test_a_slow_callback_never_holds_up_who_tells(plugins: Plugins) -> None:
    lane = CallbackLane(plugins.registry(listener=LISTENER))
    plugins.module("listener").GATE.clear()
    began = time.monotonic()
    for number in range(QUEUE_LIMIT):
        lane.tell(event(f"e{number}"))
    assert time.monotonic() - began < 0.5
    assert not lane.drain(0.1)
    plugins.module("listener").GATE.set()
    assert lane.drain(5)


def test_behind_a_slow_callback_the_oldest_events_are_dropped_and_the_last_is_delivered(
    plugins: Plugins, caplog: pytest.LogCaptureFixture
) -> None:
    noted: list[tuple[str, str]] = []
    lane = CallbackLane(plugins.registry(listener=LISTENER), lambda event, result: noted.append((event, result)))
    listener = plugins.module("listener")
    listener.GATE.clear()
    lane.tell(event("slow"))
    eventually(lambda: listener.HEARD == ["slow"])
    for number in range(QUEUE_LIMIT + 3):
        lane.tell(event(f"e{number}"))
    listener.GATE.set()
    assert lane.drain(5)
    assert ["slow", *(f"e{number}" for number in range(3, QUEUE_LIMIT + 3))] == listener.HEARD
    assert caplog.text.count("dropped, as 16 newer events wait behind a slow callback") == 3
    assert "action='e0'" in caplog.text
    assert noted == [(f"e{number}", "dropped") for number in range(3)]


REPORTING = """
@hookimpl
def pgcore_callback(event):
    if event.action != "quiet":
        event.report("ok")
        raise RuntimeError("afterwards")
"""


def test_a_plugin_says_how_an_event_ended_and_who_says_nothing_is_not_counted(plugins: Plugins) -> None:
    noted: list[tuple[str, str]] = []
    lane = CallbackLane(plugins.registry(reporting=REPORTING), lambda event, result: noted.append((event, result)))
    for action in ("on_start", "quiet", "on_reload"):
        lane.tell(event(action))
    assert lane.drain(5)
    assert sorted(noted) == [("on_reload", "ok"), ("on_start", "ok")]


def test_a_plugin_that_fails_stops_neither_the_others_nor_the_lane(plugins: Plugins, caplog: pytest.LogCaptureFixture) -> None:
    registry = plugins.registry(a_raising=RAISING, listener=LISTENER, z_raising=RAISING)
    lane = CallbackLane(registry)
    for number in range(3):
        lane.tell(event(f"e{number}"))
    assert lane.drain(5)
    assert plugins.module("listener").HEARD == ["e0", "e1", "e2"]
    assert registry.failures == {(name, "pgcore_callback"): 3 for name in ("a_raising", "z_raising")}
    assert "plugin a_raising failed in pgcore_callback (failure 1): RuntimeError: no network" in caplog.text


def test_a_plugin_that_exits_stops_neither_the_others_nor_the_lane(
    plugins: Plugins, caplog: pytest.LogCaptureFixture
) -> None:
    registry = plugins.registry(a_exiting=EXITING, listener=LISTENER, z_exiting=EXITING)
    lane = CallbackLane(registry)
    lane.tell(event("first"))
    lane.run(lambda: registry.tell("pgcore_started", facts=None))
    lane.tell(event("second"))
    assert lane.drain(5)
    assert plugins.module("listener").HEARD == ["first", "second"]
    calls = {(name, hook): times for name in ("a_exiting", "z_exiting") for hook, times in EXITS.items()}
    assert registry.failures == calls
    assert "plugin z_exiting failed in pgcore_callback (failure 1): SystemExit: no more" in caplog.text


def test_an_idle_lane_is_drained_at_once(plugins: Plugins) -> None:
    assert CallbackLane(plugins.registry()).drain(0)


def test_draining_waits_for_the_event_being_told(plugins: Plugins) -> None:
    lane = CallbackLane(plugins.registry(listener=LISTENER))
    listener = plugins.module("listener")
    listener.GATE.clear()
    lane.tell(event("slow"))
    eventually(lambda: listener.HEARD)
    threading.Timer(0.2, listener.GATE.set).start()
    began = time.monotonic()
    assert lane.drain(5)
    assert time.monotonic() - began > 0.1


# -- the operator's scripts ----------------------------------------------------------------------------------------------


def bench(tmp_path: Path, plugins: Plugins, **postgresql: Any) -> Bench:
    """A member whose only plugin is the built-in one."""
    return Bench(tmp_path, registry=plugins.registry(), changes={"postgresql": postgresql})


def words(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def told(tmp_path: Path, plugins: Plugins) -> Iterator[tuple[Bench, Path]]:
    """A member with one script for every event, and the file it writes its arguments to."""
    script = write_script(tmp_path / "callback", f'echo "$@" >> {tmp_path}/told\n')
    events = ("on_start", "on_stop", "on_restart", "on_reload", "on_role_change")
    made = bench(tmp_path, plugins, callbacks={name: f"{script} --quiet" for name in events})
    yield made, tmp_path / "told"
    made.close()


def test_a_role_change_is_told_with_action_role_and_scope(told: tuple[Bench, Path]) -> None:
    member, output = told
    member.performer.perform(a.SetRole(Role.DEMOTED), member.world(role=Role.PRIMARY))
    assert member.callbacks.drain(5)
    assert words(output) == ["--quiet on_role_change demoted demo"]
    assert member.postgres.role is Role.DEMOTED


def test_a_promotion_is_told_once_and_as_primary(told: tuple[Bench, Path]) -> None:
    member, output = told
    member.performer.perform(a.SetRole(Role.PROMOTED), member.world(role=Role.REPLICA))
    member.performer.perform(a.SetRole(Role.PRIMARY), member.world(role=Role.PROMOTED))
    assert member.callbacks.drain(5)
    assert words(output) == ["--quiet on_role_change primary demo"]


@pytest.mark.parametrize(
    ("before", "after", "managed"),
    [(Role.REPLICA, Role.REPLICA, True), (Role.PRIMARY, Role.UNINITIALIZED, True), (Role.REPLICA, Role.PRIMARY, False)],
)
def test_what_is_no_change_under_management_is_not_told(
    told: tuple[Bench, Path], before: Role, after: Role, managed: bool
) -> None:
    member, output = told
    member.performer.perform(a.SetRole(after), member.world(memory=Memory(managed=managed), role=before))
    assert member.callbacks.drain(5)
    assert words(output) == []


def test_an_adopted_server_is_told_as_started(told: tuple[Bench, Path]) -> None:
    member, output = told
    member.performer.perform(a.Adopt(), member.world(role=Role.PRIMARY))
    assert member.callbacks.drain(5)
    assert words(output) == ["--quiet on_start primary demo"]


def test_an_event_without_a_command_runs_nothing(tmp_path: Path, plugins: Plugins) -> None:
    script = write_script(tmp_path / "callback", f'echo "$@" >> {tmp_path}/told\n')
    member = bench(tmp_path, plugins, callbacks={"on_start": script})
    member.performer.perform(a.SetRole(Role.PRIMARY), member.world(role=Role.REPLICA))
    member.performer.perform(a.Adopt(), member.world(role=Role.PRIMARY))
    assert member.callbacks.drain(5)
    assert words(tmp_path / "told") == ["on_start primary demo"]
    member.close()


def test_a_script_over_its_time_is_killed_and_the_next_event_is_told(
    tmp_path: Path, plugins: Plugins, caplog: pytest.LogCaptureFixture
) -> None:
    slow = write_script(tmp_path / "slow", f"echo $$ > {tmp_path}/pid; exec sleep 60\n")
    quick = write_script(tmp_path / "quick", f'echo "$@" >> {tmp_path}/told\n')
    member = bench(tmp_path, plugins, callbacks={"on_start": slow, "on_role_change": quick}, callback_timeout=0.3)
    member.performer.perform(a.Adopt(), member.world(role=Role.PRIMARY))
    member.performer.perform(a.SetRole(Role.DEMOTED), member.world(role=Role.PRIMARY))
    began = time.monotonic()
    assert member.callbacks.drain(5) and time.monotonic() - began < 2
    assert "callback on_start: " in caplog.text and "did not end within 0.3 s" in caplog.text
    assert not running(int((tmp_path / "pid").read_text()))
    assert words(tmp_path / "told") == ["on_role_change demoted demo"]
    member.close()


# -- gates -----------------------------------------------------------------------------------------------------------------


def promote(member: Bench, lease_s: float = 30.0) -> TaskResult:
    world = member.world(memory=Memory(managed=True, lease_until=Instant(now() + lease_s)))
    assert member.performer.perform(a.Promote(), world).ok
    return result_of(member.tasks)


@pytest.mark.parametrize(
    ("body", "why"), [("echo not ready; exit 1", "exited with 1: not ready"), ("kill -9 $$", "exited with -9")]
)
def test_a_pre_promote_script_that_fails_prevents_the_promotion(tmp_path: Path, plugins: Plugins, body: str, why: str) -> None:
    member = bench(tmp_path, plugins, pre_promote=write_script(tmp_path / "gate", body))
    result = promote(member)
    assert (result.kind, result.ok) == (TaskKind.PROMOTE, False)
    assert result.error.startswith("no promotion: pre_promote: ") and why in result.error
    member.close()


def test_a_pre_promote_script_that_is_missing_prevents_the_promotion(tmp_path: Path, plugins: Plugins) -> None:
    member = bench(tmp_path, plugins, pre_promote=str(tmp_path / "missing"))
    assert "could not be started" in promote(member).error
    member.close()


@pytest.mark.parametrize("script", [True, False], ids=["a script that agrees", "no script"])
def test_a_promotion_nobody_objects_to_reaches_the_server(tmp_path: Path, plugins: Plugins, script: bool) -> None:
    gate = {"pre_promote": write_script(tmp_path / "gate", f"touch {tmp_path}/asked")} if script else {}
    member = bench(tmp_path, plugins, **gate)
    assert promote(member).error == "PostgreSQL is not running, it can't be promoted"
    assert (tmp_path / "asked").exists() is script
    member.close()


def test_a_lease_that_ends_while_the_gates_are_asked_prevents_the_promotion(tmp_path: Path, plugins: Plugins) -> None:
    member = bench(tmp_path, plugins, pre_promote=write_script(tmp_path / "gate", "sleep 0.3"))
    assert promote(member, lease_s=0.7).error == "no promotion: the lock is not proven to be ours any more"
    member.close()


def test_a_lease_renewed_while_the_gates_are_asked_counts(tmp_path: Path, plugins: Plugins) -> None:
    member = bench(tmp_path, plugins, pre_promote=write_script(tmp_path / "gate", "sleep 0.3"))
    world = member.world(memory=Memory(managed=True, lease_until=Instant(now() + 0.7)))
    member.performer.perform(a.Promote(), world)
    later = member.world(memory=Memory(managed=True, lease_until=Instant(now() + 30)))
    member.performer.perform(a.ProbePeers(()), later)
    assert result_of(member.tasks).error == "PostgreSQL is not running, it can't be promoted"
    member.close()


def test_without_a_proven_lease_nothing_is_promoted(tmp_path: Path, plugins: Plugins) -> None:
    member = bench(tmp_path, plugins)
    member.performer.perform(a.Promote(), member.world(memory=Memory(managed=True)))
    assert result_of(member.tasks).error == "no promotion: the lock is not proven to be ours any more"
    member.close()


def slow_script(folder: Path) -> str:
    """A script that waits for its child and names both in the file ``pids``."""
    return write_script(folder / "slow", f"sleep 5 & echo $$ $! > {folder}/pids.new; mv {folder}/pids.new {folder}/pids; wait\n")


def cancelled_in_the_script(member: Bench, folder: Path) -> TaskResult:
    """What becomes of the action that is cancelled while its script runs; the script and its child must be gone at once."""
    eventually((folder / "pids").exists)
    began = time.monotonic()
    member.performer.perform(a.CancelTask(), member.world())
    result = result_of(member.tasks, 0.6)
    assert time.monotonic() - began < 0.6
    eventually(lambda: not any(running(int(pid)) for pid in (folder / "pids").read_text().split()), 0.3)
    return result


def test_a_pre_promote_script_is_killed_when_the_promotion_is_cancelled(tmp_path: Path, plugins: Plugins) -> None:
    """EC 56: the rules cancel it when the lock is lost."""
    member = bench(tmp_path, plugins, pre_promote=slow_script(tmp_path))
    member.performer.perform(a.Promote(), member.world(memory=Memory(managed=True, lease_until=Instant(now() + 30))))
    assert cancelled_in_the_script(member, tmp_path) == TaskResult(TaskKind.PROMOTE, cancelled=True)
    member.close()


def test_a_before_stop_script_is_killed_when_the_stop_is_cancelled(tmp_path: Path, plugins: Plugins) -> None:
    member = bench(tmp_path, plugins, before_stop=slow_script(tmp_path))
    member.performer.perform(a.StopServer(a.StopMode.FAST, 60), member.world(role=Role.PRIMARY))
    try:
        assert cancelled_in_the_script(member, tmp_path).kind is TaskKind.STOP
    finally:
        member.close()


def test_a_gate_that_ignores_the_cancellation_is_abandoned(plugins: Plugins) -> None:
    deaf = "import threading\n@hookimpl\ndef pgcore_before_promote(request): threading.Event().wait(10)\n"
    registry, cancelled = plugins.registry(deaf=deaf), threading.Event()
    threading.Timer(0.2, cancelled.set).start()
    began = time.monotonic()
    (veto,) = registry.ask("pgcore_before_promote", request=GateRequest("demo", "a", 60, None, cancelled.is_set))
    assert 0.2 < time.monotonic() - began < 0.2 + GATE_GRACE_S + 0.5
    assert veto.reason == "plugin deaf was still asked when the question became pointless"


@pytest.mark.parametrize("veto", [True, False], ids=["vetoed", "not running"])
def test_a_promotion_that_was_not_begun_is_not_told(tmp_path: Path, plugins: Plugins, veto: bool) -> None:
    script = write_script(tmp_path / "callback", f'echo "$@" >> {tmp_path}/told\n')
    gate = {"pre_promote": "/bin/false"} if veto else {}
    member = bench(tmp_path, plugins, callbacks={"on_role_change": script}, **gate)
    try:
        assert not promote(member).ok
        assert member.callbacks.drain(5)
        assert words(tmp_path / "told") == []
    finally:
        member.close()


def test_a_script_over_its_time_and_a_plugin_that_never_answers_say_no(tmp_path: Path, plugins: Plugins) -> None:
    hanging = "import threading\n@hookimpl\ndef pgcore_before_promote(request): threading.Event().wait(10)\n"
    registry = plugins.registry(hanging=hanging)
    began = time.monotonic()
    vetoes = registry.ask("pgcore_before_promote", request=GateRequest("demo", "a", 0.2, "/bin/sleep 60"))
    assert time.monotonic() - began < 3
    reasons = sorted(veto.reason for veto in vetoes)
    assert "plugin hanging gave no answer to pgcore_before_promote within 1.2 s" in reasons[0]
    assert "did not end within 0.2 s and was killed" in reasons[1]
