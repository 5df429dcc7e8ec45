"""Whether a program that prints nothing still works: its processes compute or move data, or its directories fill.

A tool may be silent for hours while it copies, so silence alone ends nothing; and a tool on another machine may push the data
here over a login of its own, so the room left in the directories counts as well. (docs/replica-creation.md)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from pgcore.hookspecs import IdleLimit

CPU_SHARE = 0.001
"""Of the limit: what a runtime uses that only waits is less."""
BYTES = 1 << 20
EVERY_S = 10.0
"""Between two looks at /proc, or a tenth of the limit if that is less."""


@dataclass(frozen=True, slots=True)
class Work:
    """What the processes have done so far, and the room left in each directory, in bytes; -1 where it cannot be told."""

    cpu_s: float
    moved: int
    room: tuple[int, ...] = ()


def went_on(before: Work, now: Work, limit_s: float) -> bool:
    """More was done than by a program that waits. What ended took its numbers along, so less counts as well."""
    moved = zip((before.moved, *before.room), (now.moved, *now.room), strict=True)
    return abs(now.cpu_s - before.cpu_s) >= limit_s * CPU_SHARE or any(abs(new - old) >= BYTES for old, new in moved)


class IdleWatch:
    """Looks at a program from time to time. ``family`` names its processes, ``now`` is monotonic, in seconds."""

    def __init__(self, limit: IdleLimit, family: Callable[[], list[int]], now: float) -> None:
        self._limit, self._family = limit, family
        self._since = self._looked = now
        self._before = self._measured()

    def heard(self, now: float) -> None:
        """It printed something."""
        self._since = now

    def over(self, now: float) -> bool:
        """It has done nothing for as long as it may."""
        if now - self._looked < min(self._limit.seconds / 10, EVERY_S):
            return False
        self._looked = now
        found = self._measured()
        if went_on(self._before, found, self._limit.seconds):
            self._before, self._since = found, now
        return now - self._since > self._limit.seconds

    def _measured(self) -> Work:
        family = self._family()
        return Work(sum(map(_cpu_s, family)), sum(map(_moved, family)), tuple(map(_room, self._limit.directories)))


def _cpu_s(pid: int) -> float:
    """Of the process and of those of its children that it has waited for."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return 0.0


def _moved(pid: int) -> int:
    """Bytes read and written, sockets and pipes included; 0 for a process of another account, whose CPU time still counts."""
    try:
        with open(f"/proc/{pid}/io", "rb") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith((b"rchar", b"wchar")))
    except (OSError, ValueError, IndexError):
        return 0


def _room(directory: str) -> int:
    try:
        found = os.statvfs(directory)
    except OSError:
        return -1
    return found.f_bfree * found.f_frsize
