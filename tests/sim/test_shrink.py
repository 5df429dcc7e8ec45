"""Shrinking: the faults that matter are left, no more, and the budget is kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgcore.testing.simulation.schedule import Fault, Schedule
from pgcore.testing.simulation.shrink import Budget, smallest

MANY = tuple(Fault(at + 0.3, "crash", "leader", 64.0, awaits="handover" if at % 3 else "") for at in range(40))


@given(st.sets(st.integers(0, 39), min_size=1, max_size=4))
def test_only_the_faults_that_matter_are_left(culprits: set[int]) -> None:
    wanted = {MANY[each].at for each in culprits}

    def fails(schedule: Schedule) -> bool:
        return wanted <= {each.at for each in schedule}

    found = smallest(MANY, fails, Budget(runs=5000))
    assert {each.at for each in found} == wanted


def test_what_is_left_is_short_and_at_once() -> None:
    def fails(schedule: Schedule) -> bool:
        return any(each.lasts > 10 for each in schedule)

    (found,) = smallest(MANY, fails, Budget(runs=5000))
    assert found.lasts == 16.0 and not found.awaits and found.at == round(found.at)


def test_no_more_runs_than_the_budget_has() -> None:
    runs = 0

    def fails(schedule: Schedule) -> bool:
        nonlocal runs
        runs += 1
        return MANY[3] in schedule and MANY[30] in schedule

    found = smallest(MANY, fails, Budget(runs=4))
    assert runs == 4 and {MANY[3], MANY[30]} <= set(found)
    assert smallest(MANY, fails, Budget(runs=50, seconds=0)) == MANY
