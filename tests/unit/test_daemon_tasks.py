"""The one long action beside the heartbeat: real threads, real child processes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgcore.daemon.tasks import Tasks
from pgcore.errors import ServerError, ServerUnavailableError
from pgcore.hookspecs import TaskContext
from pgcore.model.node import TaskKind, TaskResult, TaskView
from unit.test_daemon_kit import Counting, eventually, result_of, running, write_script


@pytest.fixture
def mailbox() -> Counting:
    return Counting()


@pytest.fixture
def tasks(mailbox: Counting) -> Iterator[Tasks]:
    tasks = Tasks(mailbox, lambda: None)
    yield tasks
    tasks.cancel()


class Held:
    """An action that runs until it is let go."""

    def __init__(self) -> None:
        self.began, self.let_go = threading.Event(), threading.Event()

    def __call__(self, ctx: TaskContext) -> None:
        self.began.set()
        assert self.let_go.wait(10)


def running_program(*argv: str) -> Callable[[TaskContext], None]:
    """An action that runs a program to its end."""

    def work(ctx: TaskContext) -> None:
        ctx.run(list(argv))

    return work


def done(tasks: Tasks, action: Callable[[TaskContext], None], kind: TaskKind = TaskKind.START) -> TaskResult:
    """What comes of an action."""
    assert tasks.begin(kind, action) == ""
    return result_of(tasks)


def test_an_action_that_ends_well_has_a_good_result_and_wakes_the_heartbeat(tasks: Tasks, mailbox: Counting) -> None:
    assert done(tasks, lambda ctx: None) == TaskResult(TaskKind.START)
    eventually(lambda: mailbox.woken == ["start ended"])
    assert tasks.look() == (None, None)


def test_only_one_runs_and_the_second_is_told_which(tasks: Tasks) -> None:
    held, second = Held(), Held()
    assert tasks.begin(TaskKind.CLONE, held) == ""
    assert tasks.begin(TaskKind.REWIND, second) == "clone"
    assert held.began.wait(5)
    assert tasks.begin(TaskKind.REWIND, second) == "clone"
    held.let_go.set()
    result_of(tasks)
    assert not second.began.is_set()
    second.let_go.set()
    assert done(tasks, second, TaskKind.REWIND).ok


def test_it_is_seen_as_running_from_the_moment_it_was_begun(tasks: Tasks) -> None:
    held = Held()
    tasks.begin(TaskKind.CLONE, held)
    view, result = tasks.look()
    assert view is not None and view.kind is TaskKind.CLONE and result is None
    held.let_go.set()
    assert result_of(tasks).ok


def test_a_result_is_seen_once(tasks: Tasks) -> None:
    assert done(tasks, lambda ctx: None)
    assert tasks.look()[1] is None
    assert done(tasks, lambda ctx: None, TaskKind.STOP).kind is TaskKind.STOP
    assert tasks.look()[1] is None


def test_a_new_action_forgets_a_result_nobody_asked_for(tasks: Tasks, mailbox: Counting) -> None:
    tasks.begin(TaskKind.START, lambda ctx: None)
    eventually(lambda: mailbox.woken)
    held = Held()
    tasks.begin(TaskKind.STOP, held)
    assert tasks.look()[1] is None
    held.let_go.set()
    assert result_of(tasks).kind is TaskKind.STOP


def test_an_error_becomes_the_result_and_is_logged(tasks: Tasks, caplog: pytest.LogCaptureFixture) -> None:
    def fail(ctx: TaskContext) -> None:
        raise ServerError("the disk is full")

    assert done(tasks, fail) == TaskResult(TaskKind.START, "the disk is full")
    assert "start failed: the disk is full" in caplog.text


@pytest.mark.parametrize(("error", "told"), [(KeyError("x"), "KeyError: 'x'"), (RuntimeError("bug"), "RuntimeError: bug")])
def test_a_bug_becomes_a_failed_result_and_the_next_action_runs(
    tasks: Tasks, caplog: pytest.LogCaptureFixture, error: Exception, told: str
) -> None:
    def fail(ctx: TaskContext) -> None:
        raise error

    assert done(tasks, fail) == TaskResult(TaskKind.START, told)
    assert "start failed unexpectedly" in caplog.text and "Traceback" in caplog.text
    assert done(tasks, lambda ctx: None).ok


def test_a_method_that_exits_ends_only_its_action(tasks: Tasks, mailbox: Counting) -> None:
    def leave(ctx: TaskContext) -> None:
        sys.exit(3)

    assert done(tasks, leave, TaskKind.CLONE) == TaskResult(TaskKind.CLONE, "SystemExit: 3")
    eventually(lambda: mailbox.woken == ["clone ended"])
    assert done(tasks, lambda ctx: None).ok


@pytest.mark.parametrize(("error", "retriable"), [(ServerUnavailableError("no answer"), True), (ServerError("full"), False)])
def test_what_may_go_better_the_next_time_is_said_to_be_so(tasks: Tasks, error: ServerError, retriable: bool) -> None:
    def fail(ctx: TaskContext) -> None:
        raise error

    assert done(tasks, fail) == TaskResult(TaskKind.START, str(error), retriable=retriable)


def test_running_and_ended_are_seen_at_one_moment(tasks: Tasks) -> None:
    """However the looks fall, each shows the action as running or its result, never neither and never both."""
    for _ in range(40):
        tasks.begin(TaskKind.START, lambda ctx: None)
        looks, end = [tasks.look()], time.monotonic() + 5
        while looks[-1][1] is None and time.monotonic() < end:
            looks.append(tasks.look())
        assert all((view is None) != (result is None) for view, result in looks)


def test_a_failing_program_is_told_with_its_output(tasks: Tasks) -> None:
    result = done(tasks, running_program("/bin/sh", "-c", "echo no room; exit 7"))
    assert "exited with 7: no room" in result.error


def test_cancel_ends_the_program_and_its_children(tasks: Tasks, tmp_path: Path) -> None:
    script = write_script(tmp_path / "slow", f"sleep 60 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/self; wait")
    tasks.begin(TaskKind.CLONE, running_program(script))
    pids = [int(eventually((tmp_path / name).exists) and eventually((tmp_path / name).read_text)) for name in ("self", "child")]
    began = time.monotonic()
    tasks.cancel()
    result = result_of(tasks)
    assert (result.cancelled, result.ok, result.error) == (True, False, "")
    assert time.monotonic() - began < 3
    eventually(lambda: not any(running(pid) for pid in pids))


def test_a_cancelled_action_does_not_cancel_the_next(tasks: Tasks) -> None:
    held = Held()

    def cancelled(ctx: TaskContext) -> None:
        held(ctx)
        ctx.check()

    tasks.begin(TaskKind.CLONE, cancelled)
    tasks.cancel()
    held.let_go.set()
    assert result_of(tasks).cancelled
    assert done(tasks, lambda ctx: ctx.check()).ok


def test_to_cancel_nothing_does_nothing(tasks: Tasks) -> None:
    tasks.cancel()
    assert done(tasks, lambda ctx: ctx.check()).ok


def test_progress_is_merged_and_seen_while_it_runs(tasks: Tasks) -> None:
    held = Held()

    def work(ctx: TaskContext) -> None:
        ctx.report(phase="copying", bytes_done=1)
        ctx.report(bytes_done=2)
        held(ctx)

    tasks.begin(TaskKind.CLONE, work)
    assert held.began.wait(5)
    view, _ = tasks.look()
    assert view is not None and dict(view.progress) == {"phase": "copying", "bytes_done": 2}
    held.let_go.set()
    result_of(tasks)


def test_what_a_phase_has_copied_ends_with_it_and_everything_is_shown_at_once(mailbox: Counting) -> None:
    shown: list[TaskView | None] = []
    tasks = Tasks(mailbox, lambda: None, shown.append)

    def work(ctx: TaskContext) -> None:
        ctx.report(phase="basebackup", bytes_done=1, bytes_total=2)
        ctx.report(safe_point=True)
        ctx.report(phase="starting")

    assert done(tasks, work, TaskKind.REINITIALIZE).ok
    assert [view and dict(view.progress) for view in shown] == [
        {},
        {"phase": "basebackup", "bytes_done": 1, "bytes_total": 2, "percent": 50},
        {"phase": "basebackup", "bytes_done": 1, "bytes_total": 2, "percent": 50, "safe_point": True},
        {"phase": "starting", "safe_point": True},
        None,
    ]
    assert tasks.view is None


def test_only_the_end_of_a_shutdown_wakes_the_heartbeat_before_the_action_ends(tasks: Tasks, mailbox: Counting) -> None:
    copying, stopping = Held(), Held()

    def work(ctx: TaskContext) -> None:
        ctx.report(phase="copying", bytes_done=1)
        copying(ctx)
        ctx.report(shut_down_end=1234)
        stopping(ctx)

    tasks.begin(TaskKind.STOP, work)
    assert copying.began.wait(5)
    assert mailbox.woken == []
    copying.let_go.set()
    assert stopping.began.wait(5)
    assert mailbox.woken == ["progress"]
    stopping.let_go.set()
    eventually(lambda: mailbox.woken == ["progress", "stop ended"])
