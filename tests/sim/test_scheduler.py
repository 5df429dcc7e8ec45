"""Virtual time: order, time-outs, clocks that differ, processes that freeze and die."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pgcore import clock, threads
from pgcore.testing.simulation.scheduler import DeadlockError, Process, Scheduler, inside


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    with inside(Scheduler()) as made:
        yield made


@pytest.fixture
def log() -> list[object]:
    return []


def sleeper(log: list[object], name: str, seconds: float, times: int = 1) -> Callable[[], None]:
    def loop() -> None:
        for _ in range(times):
            threads.sleep(seconds)
            log.append((name, round(clock.now() - 1000.0, 3)))

    return loop


def test_threads_take_turns_by_the_virtual_clock(scheduler: Scheduler, log: list[object]) -> None:
    process = Process(scheduler, "p")
    process.start(sleeper(log, "slow", 2.0))
    process.start(sleeper(log, "quick", 0.9, 3))
    scheduler.run(10.0)
    assert log == [("quick", 0.9), ("quick", 1.8), ("slow", 2.0), ("quick", 2.7)]
    assert scheduler.now == 10.0


def test_a_fast_clock_counts_more_and_sleeps_less(scheduler: Scheduler, log: list[object]) -> None:
    Process(scheduler, "fast", rate=2.0).start(sleeper(log, "fast", 4.0))
    Process(scheduler, "true").start(sleeper(log, "true", 3.0))
    scheduler.run(10.0)
    assert log == [("fast", 4.0), ("true", 3.0)]


def test_a_wait_ends_by_a_notification_or_in_time(scheduler: Scheduler, log: list[object]) -> None:
    condition = threads.condition()
    process = Process(scheduler, "p")

    def waits(name: str, timeout: float) -> Callable[[], None]:
        return lambda: log.append((name, condition.wait(timeout), scheduler.now))

    process.start(waits("first", 5.0))
    process.start(waits("second", 2.0))
    scheduler.after(1.0, condition.notify)
    scheduler.run(10.0)
    assert log == [("first", True, 1.0), ("second", False, 2.0)]


def test_a_frozen_process_goes_on_later_and_a_killed_one_never(scheduler: Scheduler, log: list[object]) -> None:
    frozen, killed = Process(scheduler, "frozen"), Process(scheduler, "killed")

    def cleans_up() -> None:
        try:
            threads.sleep(1.0)
        finally:
            log.append("cleaned up")

    frozen.start(sleeper(log, "frozen", 1.0))
    killed.start(cleans_up)
    scheduler.after(0.5, frozen.freeze)
    scheduler.after(0.5, killed.kill)
    scheduler.after(7.0, frozen.thaw)
    scheduler.run(10.0)
    assert log == [("frozen", 7.0)]


def test_events_futures_and_queues_wake_who_waits(scheduler: Scheduler, log: list[object]) -> None:
    event, future, queue = threads.event(), threads.future(), threads.Queue()
    process = Process(scheduler, "p")
    process.start(lambda: log.append(("event", event.wait(9.0), scheduler.now)))
    process.start(lambda: log.append(("future", future.result(9.0), scheduler.now)))
    process.start(lambda: log.append(("queue", queue.get(), scheduler.now)))
    scheduler.after(1.0, event.set)
    scheduler.after(2.0, lambda: future.set_result("answer"))
    scheduler.after(3.0, lambda: queue.put("item"))
    scheduler.run(10.0)
    assert log == [("event", True, 1.0), ("future", "answer", 2.0), ("queue", "item", 3.0)]


def test_what_a_thread_ends_with_reaches_the_caller(scheduler: Scheduler) -> None:
    def fails() -> None:
        raise ValueError("a bug")

    Process(scheduler, "p").start(fails)
    with pytest.raises(ValueError, match="a bug"):
        scheduler.run(1.0)


def test_the_world_itself_cannot_wait(scheduler: Scheduler) -> None:
    with pytest.raises(DeadlockError):
        threads.sleep(1.0)


def test_outside_clocks_and_threads_are_real() -> None:
    with inside(Scheduler()):
        assert clock.now() == 1000.0
    before = clock.now()
    threads.sleep(0.001)
    assert clock.now() > before
