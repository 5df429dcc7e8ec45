"""The simulator catches weakened rules, half of them here: what it says of the rules as they are is worth something."""

from __future__ import annotations

import pytest

from sim.hunting import HALVES, HUNTED, Copy, most_seeds
from sim.mutants import Mutant

MINE = HALVES[0]


@pytest.mark.parametrize("mutant", MINE, ids=lambda each: each.name.replace(" ", "_"))
def test_a_weakened_rule_is_caught(mutant: Mutant, sources: Copy) -> None:
    found = sources.hunt(mutant.hunt, mutant.seeds, mutant)
    assert found is not None, f"{mutant.why}: nothing was found within {mutant.seeds} seeds of {mutant.hunt}"
    assert found.invariant in mutant.caught_by, f"caught by something else: {found}"


@pytest.mark.parametrize("hunt", HUNTED[0::2])
def test_the_rules_as_they_are_violate_nothing(hunt: str, sources: Copy) -> None:
    assert sources.hunt(hunt, most_seeds(hunt)) is None
