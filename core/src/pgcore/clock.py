"""Time for the shell: one clock that keeps counting while the machine is suspended, and deadlines on it.

Leases are judged on this clock. CLOCK_BOOTTIME is used where it exists: CLOCK_MONOTONIC stands still while a virtual
machine is suspended, and a primary that slept through its lease would believe it still holds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pgcore.model.basics import Instant

_CLOCK_ID = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _boot_time() -> float:
    return time.clock_gettime(_CLOCK_ID)


_steady: Callable[[], float] = _boot_time
_wall: Callable[[], float] = time.time


def use(steady: Callable[[], float] = _boot_time, wall: Callable[[], float] = time.time) -> None:
    """Read other clocks from now on; for simulations. Without arguments: the system's again."""
    global _steady, _wall
    _steady, _wall = steady, wall


def now() -> Instant:
    """Seconds on the system-wide clock that never jumps and never stops; equal in all processes of a machine."""
    return Instant(_steady())


def wall() -> float:
    """Seconds since 1970 by the clock on the wall, which may jump: for people and for appointments, never for leases."""
    return _wall()


class Deadline:
    """A moment after which an operation must have returned. All attempts of one operation share one."""

    __slots__ = ("_clock", "at")

    def __init__(self, at: Instant, clock: Callable[[], Instant] = now) -> None:
        self.at = at
        self._clock = clock

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], Instant] = now) -> Deadline:
        """The deadline that lies this many seconds ahead."""
        return cls(Instant(clock() + seconds), clock)

    def left(self) -> float:
        """Seconds that remain, never below 0."""
        return max(0.0, self.at - self._clock())

    @property
    def expired(self) -> bool:
        """Whether nothing is left."""
        return self.left() <= 0.0

    def within(self, seconds: float) -> Deadline:
        """The earlier of this deadline and one that many seconds ahead."""
        return Deadline(Instant(min(self.at, self._clock() + seconds)), self._clock)
