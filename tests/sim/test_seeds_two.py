"""Fixed and fresh seeds of the other half of the profiles: nothing happens that must not."""

from __future__ import annotations

import pytest

from pgcore.testing.simulation.batch import Summary
from sim import seeds

SUMMARY = Summary()


@pytest.mark.parametrize("profile", seeds.HALVES[1])
def test_no_seed_violates_an_invariant(profile: str) -> None:
    seeds.sweep(profile, SUMMARY)


def test_the_sweep_is_as_long_as_promised() -> None:
    assert SUMMARY.runs == seeds.runs(seeds.HALVES[1])
    assert SUMMARY.unnecessary <= 1 + SUMMARY.failovers * seeds.UNNECESSARY
    assert sum(SUMMARY.struck.values()) > 2 * SUMMARY.runs and SUMMARY.failovers > SUMMARY.runs / 4
