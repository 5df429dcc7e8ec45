"""Seeds and schedules that once violated an invariant: each is run again by ``test_regressions``."""

from __future__ import annotations

from dataclasses import dataclass

from pgcore.testing.simulation.schedule import Schedule


@dataclass(frozen=True)
class Regression:
    """``found``: what it showed, and what was changed."""

    name: str
    profile: str
    seed: int
    found: str
    faults: Schedule | None = None


REGRESSIONS: tuple[Regression, ...] = ()
