"""What an agent costs: memory, threads and processor time of its processes, from /proc."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Weight:
    """The sum over some processes. ``cpu_s`` is the processor time spent so far, ended children that were waited for included."""

    processes: int
    pss_bytes: int
    rss_bytes: int
    threads: int
    cpu_s: float


def weigh(pids: Iterable[int]) -> Weight:
    """The weight of these processes; one that ended meanwhile weighs nothing. PSS shares a common page among its users."""
    processes = pss_bytes = rss_bytes = threads = ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, LookupError):
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().decode(errors="replace").rpartition(") ")[2].split()
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
                kib = {line.split()[0]: int(line.split()[1]) for line in file if line.startswith(("Rss:", "Pss:"))}
            # Fields 14 to 17 of proc(5), own and waited-for children, and 20, the number of threads.
            ticks += sum(int(field) for field in fields[11:15])
            threads += int(fields[17])
            pss_bytes += kib["Pss:"] * 1024
            rss_bytes += kib["Rss:"] * 1024
            processes += 1
    return Weight(processes, pss_bytes, rss_bytes, threads, ticks / _TICKS_PER_SECOND)
