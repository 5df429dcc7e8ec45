"""Many runs on all cores, each in a fresh world; and what came of all of them together."""

from __future__ import annotations

import gc
import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from types import FrameType

from pgcore.testing.simulation.checker import Violation
from pgcore.testing.simulation.run import Result, run
from pgcore.testing.simulation.schedule import Plan, ScheduleError

RUN_LIMIT_S = 120
"""Seconds of processor time after which a run is given up: it hangs."""
DAY_S = 86400.0


class TooLongError(BaseException):
    """A run does not end. Nothing that runs in the world may catch it."""


def work(plan: Plan, limit_s: float = RUN_LIMIT_S) -> Result:
    """One run: what it ends with is a violation. Raises ScheduleError for a schedule that does not fit its cluster."""

    def too_long(number: int, frame: FrameType | None) -> None:
        """Raised again and again: Python drops what is raised while it collects garbage."""
        raise TooLongError(f"the run has taken {limit_s:g} s of processor time")

    before = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, limit_s, min(limit_s, 1.0))
    try:
        return run(plan.profile, plan.seed, plan.faults)
    except ScheduleError:
        raise
    except (Exception, TooLongError) as error:
        bug = Violation(0.0, "no bugs", f"{type(error).__name__}: {error}")
        return Result(plan.profile, plan.seed, plan.faults or (), violations=[bug])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def begin_worker() -> None:
    """A worker ignores Ctrl-C: whoever gave it work ends it. What is imported by now is never collected again."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()


def run_all(plans: Iterable[Plan], jobs: int, on_result: Callable[[Result], None], until: float = float("inf")) -> None:
    """Run them on so many processes; nothing new is begun after ``until`` on ``time.monotonic``."""
    if jobs <= 1:
        for plan in plans:
            if time.monotonic() >= until:
                return
            on_result(work(plan))
        return
    source: Iterator[Plan] = iter(plans)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), begin_worker) as pool:
        running: set[Future[Result]] = set()
        try:
            while True:
                while len(running) < 2 * jobs and time.monotonic() < until and (following := next(source, None)) is not None:
                    running.add(pool.submit(work, following))
                if not running:
                    return
                done, running = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda each: each.result().seed):
                    on_result(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@dataclass(slots=True)
class Summary:
    """The results of many runs, added up."""

    runs: int = 0
    simulated_s: float = 0.0
    skipped_s: float = 0.0
    cycles: int = 0
    skipped_cycles: int = 0
    cpu_s: float = 0.0
    """Processor time of all runs."""
    failovers: int = 0
    switchovers: int = 0
    unnecessary: int = 0
    tended: int = 0
    acknowledged: int = 0
    slowest_settling_s: float = 0.0
    struck: Counter[str] = field(default_factory=Counter)
    gaps: list[float] = field(default_factory=list)
    by_profile: Counter[str] = field(default_factory=Counter)
    violated: list[Result] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Another one."""
        self.runs += 1
        self.by_profile[result.profile] += 1
        for name in ("simulated_s", "skipped_s", "cycles", "skipped_cycles", "cpu_s", "failovers", "switchovers", "unnecessary",
                     "tended", "acknowledged"):
            setattr(self, name, getattr(self, name) + getattr(result, name))
        self.slowest_settling_s = max(self.slowest_settling_s, result.settled_s)
        self.struck.update(result.struck)
        self.gaps += result.gaps
        if result.violations:
            self.violated.append(result)

    @property
    def total_s(self) -> float:
        """Cluster time in all runs, skipped stretches included."""
        return self.simulated_s + self.skipped_s

    @property
    def days(self) -> float:
        """The same in days."""
        return self.total_s / DAY_S

    @property
    def per_second(self) -> tuple[float, float]:
        """Node cycles in a second on one core: executed ones, and all."""
        spent = self.cpu_s or 1.0
        return self.cycles / spent, (self.cycles + self.skipped_cycles) / spent

    def gap(self, share: float) -> float:
        """The write gap that this share of all gaps does not exceed."""
        ordered = sorted(self.gaps)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
