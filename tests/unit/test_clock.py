"""The clock that leases are judged on, and deadlines on it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from pgcore.clock import Deadline, now
from pgcore.model.basics import Instant


class HandClock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.at = Instant(100.0)

    def __call__(self) -> Instant:
        return self.at


def test_the_clock_counts_seconds_and_never_goes_back() -> None:
    before, monotonic_before = now(), time.monotonic()
    time.sleep(0.05)
    assert now() - before == pytest.approx(time.monotonic() - monotonic_before, abs=0.02)
    readings = [now() for _ in range(1000)]
    assert readings == sorted(readings)


def test_two_processes_of_a_machine_read_the_same_clock() -> None:
    before = now()
    other = float(
        subprocess.run(
            [sys.executable, "-c", "from pgcore.clock import now; print(now())"], capture_output=True, text=True, check=True
        ).stdout
    )
    assert before < other < now()


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no clock that counts during suspension")
def test_the_clock_counts_while_the_machine_is_suspended() -> None:
    assert now() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=0.05)


def test_a_deadline_tells_what_is_left_and_never_less_than_nothing() -> None:
    clock = HandClock()
    deadline = Deadline.after(10, clock)
    assert (deadline.left(), deadline.expired, deadline.at) == (10, False, 110)
    clock.at = Instant(109.5)
    assert (deadline.left(), deadline.expired) == (0.5, False)
    clock.at = Instant(110.0)
    assert (deadline.left(), deadline.expired) == (0, True)
    clock.at = Instant(500.0)
    assert (deadline.left(), deadline.expired) == (0, True)


def test_a_deadline_of_no_seconds_is_over_at_once() -> None:
    assert Deadline.after(0).expired
    assert Deadline.after(-3).left() == 0


@pytest.mark.parametrize(("seconds", "left"), [(3, 3), (10, 10), (30, 10), (0, 0)])
def test_a_deadline_within_another_is_the_earlier_one(seconds: float, left: float) -> None:
    clock = HandClock()
    inner = Deadline.after(10, clock).within(seconds)
    assert inner.left() == left
    clock.at = Instant(100.0 + left)
    assert inner.expired
