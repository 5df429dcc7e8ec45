"""Random walks through every kind of trouble: never two primaries, nothing that was handed over is lost, and it all settles."""

from __future__ import annotations

import pytest

from rules.faults import Trouble

WALKS, TROUBLES = 100, 15


@pytest.mark.parametrize("pauses", [False, True], ids=["", "with maintenance"])
@pytest.mark.parametrize("tens", range(WALKS // 10))
def test_whatever_happens_one_leads_nothing_handed_over_is_lost_and_it_settles(tens: int, pauses: bool) -> None:
    """Checks are made during the walk; its story is in the failure."""
    for seed in range(10 * tens, 10 * tens + 10):
        trouble = Trouble(seed, pauses=pauses)
        try:
            trouble.rage(TROUBLES)
            why = trouble.settle()
        except AssertionError as error:
            why = str(error)
        assert not why, "\n".join([f"seed {seed}", *trouble.story, why])
