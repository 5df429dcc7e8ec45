"""The store is wiped while the primary's server is too slow to answer: nobody is promoted beside it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pgcore.dcs.store import Key
from pgcore.testing.simulation.machine import Machine
from pgcore.testing.simulation.network import STORE
from pgcore.testing.simulation.world import World
from sim.conftest import Simulate
from sim.moments import at_once, lose_power
from sim.scene import Diary, cast, expect_trouble, remove


def cut_off(world: World, machine: Machine) -> Callable[[], None]:
    """It reaches nobody, and nobody reaches it; the result mends that."""
    lines = world.network.cut(machine.name, [STORE, *world.machines])
    return lambda: world.network.mend(lines)


@pytest.mark.parametrize("wipes", [1, 2, 3])
@pytest.mark.parametrize("query_s", [0.4, 2.0])
def test_a_primary_that_does_not_answer_queries_keeps_its_place_when_the_store_is_wiped(
        simulate: Simulate, wipes: int, query_s: float) -> None:
    """Its agent says that it counts on its lock, which was removed; its card may not be back when it is removed again. (EC 17)"""
    world = simulate()
    leader, *_ = cast(world)
    expect_trouble(world)
    diary = Diary(world)
    leader.server.pace.query_s = query_s
    world.run(4)
    for _ in range(wipes):
        world.store.wipe()
        world.run(1.3)
    world.run(10)
    assert world.writable() == [leader.name] and leader.server.timeline == 1
    leader.server.pace.query_s = 0.0
    world.settle()
    assert world.leader == leader.name
    assert {"race.primary_counts_on_lock", "race.primary_alive"} & set(diary.rules())


@pytest.mark.parametrize("which", ["frozen", "cut off"])
def test_a_primary_that_cannot_be_asked_when_the_store_is_wiped_is_given_its_lease(simulate: Simulate, which: str) -> None:
    """The wipe took its lock, not its lease: nobody is promoted before that has ended. (EC 17)"""
    world = simulate()
    leader, *_ = cast(world)
    expect_trouble(world)
    mend = leader.freeze_agent() if which == "frozen" else cut_off(world, leader)
    world.store.wipe()
    wiped_at = world.now
    diary = Diary(world)
    assert world.run_until(lambda: world.writable() not in ([], [leader.name]), 40)
    assert world.now - wiped_at > 9.5 and "race.wiped" in diary.rules() and not leader.server.writable
    mend()
    world.settle()


@pytest.mark.parametrize("what", ["everything", "the lock alone"])
@pytest.mark.parametrize("synchronous", [False, True])
@pytest.mark.parametrize("promotion_s", [0.01, 0.03, 0.2])
def test_nobody_is_promoted_beside_a_node_whose_lock_vanished_during_its_promotion(
        simulate: Simulate, what: str, synchronous: bool, promotion_s: float) -> None:
    """A promotion cannot be taken back: the others wait until the server has stopped or accepts writes no more. (EC 17, 57)"""
    world = simulate(dynamic={"synchronous_mode": synchronous})
    leader, *standbys = cast(world)
    expect_trouble(world)
    diary = Diary(world)
    for machine in standbys:
        machine.server.pace.promote_s = promotion_s
    lose_power(leader)
    at_once(world, lambda: "leader.promote" in diary.rules(), 40)
    if what == "everything":
        world.store.wipe()
    else:
        remove(world, Key.LEADER)
    world.run(5)
    outside_sync = synchronous and what == "the lock alone"
    assert ("race.not_synchronous" if outside_sync else "race.peer_promoting") in diary.rules()
    leader.power_on()
    world.run(30)
    assert len(world.writable()) == 1  # one that accepted writes for a moment may be a twin, which stays apart


def test_a_primary_that_comes_back_in_time_after_a_wipe_stays(simulate: Simulate) -> None:
    world = simulate()
    leader, *_ = cast(world)
    expect_trouble(world)
    thaw = leader.freeze_agent()
    world.store.wipe()
    world.run(3.75)
    thaw()
    world.settle()
    assert world.leader == leader.name and leader.server.timeline == 1
