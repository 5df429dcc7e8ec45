"""Schedules on paper: what is written is read again, what cannot be is refused with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcore.testing.simulation import operators  # noqa: F401  registers its kinds
from pgcore.testing.simulation.faults import KINDS
from pgcore.testing.simulation.moments import MOMENTS
from pgcore.testing.simulation.profiles import PROFILES
from pgcore.testing.simulation.run import check
from pgcore.testing.simulation.schedule import Fault, Plan, ScheduleError, fault, in_order, read_plan

seconds = st.floats(0, 1e6, allow_nan=False)
values = st.none() | st.booleans() | st.floats(-1e6, 1e6, allow_nan=False) | st.text(max_size=5)
targets = st.sampled_from(("all", "leader", "replica 2", "a,b"))
faults = st.builds(Fault, seconds, st.sampled_from(sorted(KINDS)), targets, seconds,
                   st.dictionaries(st.text("abc_", min_size=1, max_size=5), values, max_size=3), st.sampled_from(("", *MOMENTS)))


@given(faults)
def test_a_fault_survives_json_and_fits_on_a_line(written: Fault) -> None:
    assert fault(written.document()) == written
    assert "\n" not in str(written) and written.kind in str(written)


@given(st.lists(faults, max_size=5), st.integers(0, 2**40))
def test_a_plan_survives_its_file(found: list[Fault], seed: int) -> None:
    plan = Plan("chaos", seed, in_order(found))
    assert read_plan(plan.text()) == plan
    assert read_plan(Plan("default", seed).text()) == Plan("default", seed)


@pytest.mark.parametrize("text", [
    "not json", "[]", "{}", '{"profile": "default"}', '{"profile": "default", "seed": "1"}',
    '{"profile": "default", "seed": 1, "faults": 3}', '{"profile": "default", "seed": 1, "faults": [3]}',
    '{"profile": "default", "seed": 1, "faults": [{"kind": "crash"}]}',
    '{"profile": "default", "seed": 1, "faults": [{"at": -1, "kind": "crash"}]}',
    '{"profile": "default", "seed": 1, "faults": [{"at": 1, "kind": "crash", "whom": "a"}]}',
])
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(ScheduleError):
        read_plan(text)


def test_faults_of_no_kind_and_unknown_moments_are_refused() -> None:
    for wrong in (Fault(1.0, "earthquake"), Fault(1.0, "crash", awaits="easter")):
        with pytest.raises(ScheduleError):
            check((wrong,))


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_a_profile_draws_what_it_may_in_order(profile: object) -> None:
    chosen = PROFILES[profile.name]  # type: ignore[attr-defined]
    drawn = [each for seed in range(40) for each in chosen.draw(seed)]
    check(tuple(drawn))
    assert {each.kind for each in drawn} <= set(chosen.kinds)
    assert all(a.at <= b.at for seed in range(40) for a, b in zip(chosen.draw(seed), chosen.draw(seed)[1:], strict=False))
    assert chosen.sentence.endswith(".")


def test_every_kind_of_fault_is_drawn_by_some_profile() -> None:
    assert not set(KINDS) - {name for profile in PROFILES.values() for name in profile.kinds}
