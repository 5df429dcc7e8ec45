"""Fixed and fresh seeds of one half of the profiles: nothing happens that must not."""

from __future__ import annotations

import pytest

from pgcore.testing.simulation.batch import Summary
from sim import seeds

SUMMARY = Summary()


@pytest.mark.parametrize("profile", seeds.HALVES[0])
def test_no_seed_violates_an_invariant(profile: str) -> None:
    seeds.sweep(profile, SUMMARY)


def test_the_sweep_is_as_long_as_promised() -> None:
    assert sum(map(seeds.fixed, seeds.names)) >= seeds.SEEDS
    assert SUMMARY.runs == seeds.runs(seeds.HALVES[0])
    assert SUMMARY.unnecessary <= 1 + SUMMARY.failovers * seeds.UNNECESSARY
    assert SUMMARY.per_second[1] > 5000, "node cycles a second on one core, skipped ones included"
    assert SUMMARY.days >= seeds.DAYS, f"{SUMMARY.days:.1f} days"
