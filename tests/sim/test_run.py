"""A run strikes what its schedule says, when it says so, skips what only rests, and notices what does not end."""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from typing import Any

import pytest

from pgcore.testing.simulation.batch import work
from pgcore.testing.simulation.profiles import PROFILES
from pgcore.testing.simulation.run import LIVELOCK_STEPS, Drive, LivelockError, run
from pgcore.testing.simulation.schedule import Fault, Plan
from pgcore.testing.simulation.story import tell
from pgcore.testing.simulation.world import World

HOUR = 3600.0


def moments_of(plan: tuple[Fault, ...], profile: str = "failsafe", seed: int = 3) -> list[tuple[float, str]]:
    _, story = tell(profile, seed, plan)
    return [(at, what) for at, who, what in story.lines if who == "fault"]


def test_faults_begin_and_end_when_the_schedule_says() -> None:
    told = moments_of((Fault(5.0, "freeze-agent", "replica 1", 4.0), Fault(7.0, "lag", "leader", 6.5)))
    began = told[0][0]
    assert [round(at - began, 3) for at, _ in told] == [0, 2, 4, 8.5, 8.5]
    assert [what.split()[0] for _, what in told] == ["begins:", "begins:", "ends:", "ends:", "calm:"]


def test_hours_of_rest_are_skipped_and_counted() -> None:
    plan = (Fault(0.0, "crash", "leader"), Fault(20 * HOUR, "crash", "leader"))
    result = run("failsafe", 3, plan)
    assert not result.violations and result.struck == {"crash": 2}
    assert result.skipped_s > 19.9 * HOUR and result.total_s > 20 * HOUR and result.simulated_s < 300
    assert result.cycles < 1000 < 19 * HOUR / 10 < result.skipped_cycles


def test_nothing_is_skipped_while_a_fault_lasts() -> None:
    assert run("failsafe", 3, (Fault(0.0, "lag", "leader", 400.0), Fault(390.0, "reload", "leader"))).skipped_s == 0


def test_a_fault_waits_for_its_moment_but_not_for_ever() -> None:
    plan = (Fault(5.0, "switchover"), Fault(5.0, "veto", "leader", 1.0, awaits="promoting"),
            Fault(5.0, "reload", awaits="rewinding"))
    told = moments_of(plan)
    asked, veto, reload = (next(at for at, what in told if name in what) for name in ("switchover", "begins: veto", "reload"))
    assert 0.1 < veto - asked < 5
    assert reload - asked == pytest.approx(20.0, abs=0.1)


def test_a_cluster_that_is_not_well_in_time_is_a_violation() -> None:
    impatient = replace(PROFILES["sync"], bound_s=1.0)
    result = run(impatient, 3, (Fault(5.0, "power-loss", "all", 1.0),))
    assert [each.invariant for each in result.violations] == ["it settles once faults stop"]


def test_time_that_stands_still_is_noticed() -> None:
    with World() as world:
        world.settle()

        def again() -> None:
            world.scheduler.after(0.0, again)

        again()
        with pytest.raises(LivelockError, match=str(LIVELOCK_STEPS)):
            Drive(world, PROFILES["default"]).strike_all((Fault(1.0, "reload"),))


def test_a_run_without_end_is_given_up() -> None:
    (violation,) = work(Plan("chaos", 1), 0.05).violations
    assert "TooLongError" in violation.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_it_is_given_up_though_the_first_word_is_lost() -> None:
    """What a signal raises while garbage is collected goes no further."""
    lost = []

    def slow_once(phase: str, info: dict[str, Any]) -> None:
        began = time.process_time()
        while not lost and time.process_time() < began + 0.2:
            try:
                sum(range(1000))
            except BaseException:
                lost.append(phase)
                raise

    gc.callbacks.append(slow_once)
    try:
        (violation,) = work(Plan("chaos", 1), 0.05).violations
    finally:
        gc.callbacks.remove(slow_once)
    assert lost and "TooLongError" in violation.text
