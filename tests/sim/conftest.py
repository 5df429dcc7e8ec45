"""What scenarios begin with: a settled cluster of real agents in a simulated world."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pgcore.testing.simulation.world import Setup
from sim.hunting import Copy
from sim.told import Told

Simulate = Callable[..., Told]


@pytest.fixture
def simulate() -> Iterator[Simulate]:
    """``simulate(dynamic={...}, nodes=("a", "b"), seed=3)``: a world whose cluster has settled.

    With ``settled=False`` it has just begun. At the end of the test the checker must have nothing to say.
    """
    made: list[Told] = []

    def build(*, seed: int = 0, settled: bool = True, **setup: Any) -> Told:
        world = Told(Setup(**setup), seed)
        made.append(world)
        if settled:
            world.settle()
        return world

    yield build
    violations = [str(each) for world in made for each in world.checker.violations]
    for world in made:
        world.close()
        print("\n".join(f"{at:9.2f} {who:>8} {what}" for at, who, what in world.lines[-400:]))
    assert not violations, "\n".join(violations)


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy of the package for weakened rules."""
    return Copy(tmp_path_factory.mktemp("sources"))
