"""The sweep of CI: fixed seeds of every profile, and fresh ones each time. Two files share the profiles, so that two cores do."""

from __future__ import annotations

import warnings
from random import SystemRandom

from pgcore.testing.simulation.batch import Summary, work
from pgcore.testing.simulation.profiles import PROFILES
from pgcore.testing.simulation.schedule import Plan

FIXED = 30
"""Seeds of a profile that are the same in every run of CI."""
FRESH = 6
"""Seeds of a profile that are new in every run."""
FEW = {"consul": 8, "zookeeper": 8, "kubernetes": 12}
"""Fixed seeds of profiles that differ in their store alone; each has half as many fresh ones."""
SEEDS, DAYS = 500, 20.0
"""What CI promises: so many fixed seeds and days of cluster time in both files together."""

UNNECESSARY = 0.05
"""The share of failovers that may have had no reason that the checker knows of."""

FIRST_FRESH = SystemRandom().randrange(10**6, 10**9)

names = list(PROFILES)
HALVES = (names[0::2], names[1::2])
"""The default profile, whose runs are days long, is in the first."""


def fixed(name: str) -> int:
    """How many fixed seeds a profile has."""
    return FEW.get(name, FIXED)


def fresh(name: str) -> int:
    """How many new ones."""
    return FEW[name] // 2 if name in FEW else FRESH


def runs(profiles: list[str]) -> int:
    """How many runs these profiles have."""
    return sum(fixed(name) + fresh(name) for name in profiles)


def sweep(name: str, summary: Summary) -> None:
    """Run this profile's seeds; a violation says how to see it again.

    Figures and the first fresh seed stand among pytest's warnings, also when all is well.
    """
    mine = Summary()
    for seed in (*range(1, fixed(name) + 1), *range(FIRST_FRESH, FIRST_FRESH + fresh(name))):
        result = work(Plan(name, seed))
        summary.add(result)
        mine.add(result)
    executed, everything = mine.per_second
    warnings.warn(f"{name}: fresh seeds from {FIRST_FRESH}; {mine.days:.2f} days, {mine.failovers} failovers, {mine.unnecessary} "
                  f"of them unnecessary, {executed:.0f} heartbeats a second, {everything:.0f} with skipped ones", stacklevel=1)
    found = [f"pgcore simulate --profile {name} --seeds {each.seed}..{each.seed} -v: {each.violations[0]}"
             for each in mine.violated]
    assert not found, "\n".join(found)
