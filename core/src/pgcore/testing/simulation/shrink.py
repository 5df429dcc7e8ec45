"""From a schedule that violates an invariant to one that a human can read: fewer faults, then shorter and simpler ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from pgcore.testing.simulation.profiles import Profile
from pgcore.testing.simulation.run import run
from pgcore.testing.simulation.schedule import Fault, Schedule

Fails = Callable[[Schedule], bool]


class Budget:
    """How many runs, and how many seconds of real time, may still be spent."""

    def __init__(self, runs: int = 300, seconds: float = 60.0) -> None:
        self.runs = runs
        self._end = time.monotonic() + seconds

    def take(self) -> bool:
        """Another run may be made."""
        self.runs -= 1
        return self.runs >= 0 and time.monotonic() < self._end


def shrink(profile: Profile | str, seed: int, faults: Schedule, invariant: str, budget: Budget | None = None) -> Schedule:
    """A smaller schedule with which this seed still violates the invariant; the same one if that needs more than the budget."""

    def fails(schedule: Schedule) -> bool:
        result = run(profile, seed, schedule, first_violation=True)
        return any(each.invariant == invariant for each in result.violations)

    return smallest(faults, fails, budget or Budget())


def smallest(faults: Schedule, fails: Fails, budget: Budget) -> Schedule:
    """The smallest schedule found that fails as ``faults`` does. Every candidate costs a run of the budget."""

    def tried(schedule: Schedule) -> bool:
        return budget.take() and fails(schedule)

    return _simplified(_fewer(faults, tried), tried)


def _fewer(faults: Schedule, fails: Fails) -> Schedule:
    """Leave out as many as possible: halves first, then ever smaller parts. (delta debugging)"""
    parts = 2
    while faults:
        size = max(1, -(-len(faults) // parts))
        for start in range(0, len(faults), size):
            less = faults[:start] + faults[start + size:]
            if fails(less):
                faults, parts = less, max(2, parts - 1)
                break
        else:
            if size == 1:
                break
            parts *= 2
    return faults


def _simplified(faults: Schedule, fails: Fails) -> Schedule:
    """Make each fault simpler as long as it still fails."""
    for place in range(len(faults)):
        again = True
        while again:
            again = False
            for simpler in _simpler(faults[place]):
                candidate = (*faults[:place], simpler, *faults[place + 1:])
                if fails(candidate):
                    faults, again = candidate, True
                    break
    return faults


def _simpler(fault: Fault) -> Iterator[Fault]:
    """At once instead of at a moment, for half as long, at a round time."""
    if fault.awaits:
        yield replace(fault, awaits="")
    if fault.lasts > 0.5:
        yield replace(fault, lasts=round(fault.lasts / 2, 2))
    if fault.at != round(fault.at):
        yield replace(fault, at=float(round(fault.at)))
