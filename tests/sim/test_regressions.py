"""What the simulator found once is found no more."""

from __future__ import annotations

import pytest

from pgcore.testing.simulation.run import run
from sim.regressions import REGRESSIONS, Regression


@pytest.mark.parametrize("regression", REGRESSIONS, ids=lambda each: each.name)
def test_it_happens_no_more(regression: Regression) -> None:
    result = run(regression.profile, regression.seed, regression.faults)
    assert not result.violations, f"{regression.found}\n" + "\n".join(map(str, result.violations))
