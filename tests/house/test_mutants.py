"""The weakened rules that the simulator is tried on follow the code: a change of a rule shows at once which it touches."""

from __future__ import annotations

import pytest

from sim.hunting import mutated
from sim.mutants import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_changes_stands_in_the_code(mutant: Mutant) -> None:
    assert mutated(mutant)
