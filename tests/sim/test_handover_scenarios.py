"""Hand-overs that meet trouble half way: nobody leads who lacks a byte, and nobody stops for nothing. (principles, safety 2)"""

from __future__ import annotations

import pytest

from pgcore.testing.simulation.network import Traffic
from sim.conftest import Simulate
from sim.scene import Diary, always, cast, expect_trouble


def test_a_candidate_that_does_not_stream_stops_nothing(simulate: Simulate) -> None:
    world = simulate()
    leader, candidate, _ = cast(world)
    lines = world.network.cut(candidate.name, [leader.name], [Traffic.SQL])
    world.run(15)
    diary = Diary(world)
    world.ask_switchover(leader.name, candidate.name)
    assert always(world, lambda: world.writable() == [leader.name], 25)
    world.network.mend(lines)
    world.settle()
    assert not any(rule.startswith("demotion") for rule in diary.rules(leader.name))
    assert world.leader == leader.name and leader.agent is not None and leader.agent.memory.refusal


def test_a_candidate_whose_gate_refuses_does_not_let_one_lead_that_lacks_wal(simulate: Simulate) -> None:
    """One has received nothing for a while, the other has everything but may not promote: the old leader comes back."""
    world = simulate()
    leader, candidate, behind = cast(world)
    expect_trouble(world)
    candidate.vetoes = True
    lines = world.network.cut(behind.name, [leader.name, candidate.name], [Traffic.SQL])
    world.run(15)
    diary = Diary(world)
    world.ask_switchover(leader.name, candidate.name)
    assert world.run_until(lambda: world.writable() == [], 20)
    assert world.run_until(lambda: bool(world.writable()), 60)
    assert diary.count(candidate.name, "leader.promotion_failed") and diary.count(behind.name, "race.missing_wal")
    assert world.writable() == [leader.name]
    world.network.mend(lines)
    world.settle()


def test_many_switchovers_in_a_row_lose_nothing_and_rewind_nobody(simulate: Simulate) -> None:
    world = simulate()
    diary = Diary(world)
    for candidate in ("b", "c", "a", "b", "c", "a"):
        if world.leader != candidate:
            world.ask_switchover(world.leader, candidate)
            assert world.run_until(lambda candidate=candidate: world.writable() == [candidate], 10)  # type: ignore[misc]
            world.settle()
    assert not any(rule.endswith(".rewind") for rule in diary.rules())
    assert world.clients.gaps == [] or max(world.clients.gaps) < 4


def test_a_switchover_caught_by_an_outage_that_failsafe_mode_carries_stops_nobody(simulate: Simulate) -> None:
    """The candidate receives nothing yet, so the old leader still serves when the store goes away."""
    world = simulate(dynamic={"failsafe_mode": True})
    world.run(20)
    leader, candidate, _ = cast(world)
    expect_trouble(world)
    candidate.server.pace.receive_s = 1e9
    world.ask_switchover(leader.name, candidate.name)
    assert world.run_until(lambda: leader.agent is not None and leader.agent.memory.procedure is not None, 10)
    world.store.serving = False
    assert always(world, lambda: world.writable() == [leader.name], 25)
    candidate.server.pace.receive_s = 0.002
    candidate.server.kill()
    world.store.serving = True
    world.settle()
    assert world.leader == leader.name and leader.server.timeline == 1


@pytest.mark.parametrize("moment", range(4))
def test_a_leader_that_dies_right_after_an_outage_is_replaced_in_failsafe_mode(simulate: Simulate, moment: int) -> None:
    """The lock has outlived the outage, the cards of the others have not: they are still named in /failsafe. (EC 25, 32)"""
    world = simulate(dynamic={"failsafe_mode": True})
    world.run(15 + moment)
    leader, *others = cast(world)
    expect_trouble(world)
    world.store.serving = False
    world.run(25)
    world.store.serving = True
    world.store.lapse()
    world.run(0.05 * (moment + 1))
    leader.power_off()
    assert world.run_until(lambda: len(world.writable()) == 1, 60)
    assert world.writable()[0] in [machine.name for machine in others]


def test_a_standby_that_lacks_commits_is_not_listed_before_it_has_them(simulate: Simulate) -> None:
    """The leader dies while its new standby still catches up: nobody leads until one who has everything is back. (EC 118, 123)"""
    world = simulate(dynamic={"synchronous_mode": True})
    world.run(10)
    leader, *others = cast(world)
    synchronous = world[world.view().sync.standbys[0]]
    behind = next(machine for machine in others if machine is not synchronous)
    expect_trouble(world)
    behind.server.pace.receive_s = 1e9
    world.run(3)
    synchronous.power_off()
    world.run(20)
    assert behind.name not in world.view().sync.standbys
    leader.power_off()
    assert always(world, lambda: world.writable() == [], 60)
    leader.power_on()
    behind.server.pace.receive_s = 0.002
    behind.server.kill()
    assert world.run_until(lambda: world.writable() == [leader.name], 60)
    synchronous.power_on()
    world.settle()
