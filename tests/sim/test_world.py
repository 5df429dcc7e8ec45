"""The world as a whole: a cluster makes itself, loses its primary in each way, and is whole again."""

from __future__ import annotations

import pytest

from pgcore.testing.simulation.network import STORE
from pgcore.testing.simulation.world import World
from sim.conftest import Simulate


def test_a_cluster_makes_itself_and_clients_write(simulate: Simulate) -> None:
    world = simulate()
    world.run(60)
    assert world.unsettled() == ""
    assert world.clients.acknowledged > 30 and world.clients.gaps == []


@pytest.mark.parametrize("dynamic", [{}, {"synchronous_mode": True}, {"synchronous_mode": "quorum"}], ids=["off", "on", "quorum"])
def test_a_primary_that_loses_power_is_replaced_and_comes_back(simulate: Simulate, dynamic: dict[str, object]) -> None:
    world = simulate(dynamic=dynamic)
    old = world.leader
    assert old is not None
    world.checker.trouble(old, begins=True)
    world[old].power_off()
    world.run(15)
    assert world.leader not in (None, old) and world.writable() == [world.leader]
    world[old].power_on()
    world.settle()
    assert world.checker.failovers == 1 and len(world.clients.gaps) == 1


def test_a_primary_cut_off_from_everybody_stops_before_another_begins(simulate: Simulate) -> None:
    world = simulate()
    old = world.leader
    assert old is not None
    world.checker.trouble(old, begins=True)
    lines = world.network.cut(old, [STORE, *world.machines])
    stopped = world.run_until(lambda: world.writable() == [], 15)
    assert stopped
    assert world.run_until(lambda: world.writable() != [], 15)
    world.network.mend(lines)
    world.settle()
    assert world.leader != old


@pytest.mark.parametrize("which", ["agent", "machine"])
def test_a_primary_that_stands_still_does_not_write_beside_the_next_one(simulate: Simulate, which: str) -> None:
    world = simulate()
    old = world.leader
    assert old is not None
    world.checker.trouble(old, begins=True)
    thaw = world[old].freeze_agent() if which == "agent" else world[old].freeze()
    assert world.run_until(lambda: world.leader not in (None, old) and len(world.writable()) > (which == "machine"), 30)
    world.run(5)
    thaw()
    world.run(1)
    assert world.writable() == [world.leader]
    world.settle()


def test_the_checker_notices_two_primaries(simulate: Simulate) -> None:
    world = simulate()
    other = next(machine for machine in world if machine.name != world.leader)
    other.server.promote()
    world.run(0.3)
    found, world.checker.violations = world.checker.violations, []
    assert any(each.invariant == "one writable primary" for each in found)


def test_the_checker_notices_a_lost_commit(simulate: Simulate) -> None:
    world: World = simulate(dynamic={"synchronous_mode": True})
    world.run(20)
    standby = next(machine for machine in world if machine.name != world.leader)
    standby.server.pace.receive_s = 1e9
    for machine in world:
        machine.wanted = False
        machine.kill_agent()
    sync = next(name for name in world.view().sync.standbys)
    if sync == standby.name:
        standby = next(machine for machine in world if machine.name not in (world.leader, sync))
        standby.server.pace.receive_s = 1e9
        world[sync].server.pace.receive_s = 0.002
    world.run(3)
    leader = world[world.leader or ""]
    leader.power_off()
    standby.server.promote()
    world.run(1)
    found, world.checker.violations = world.checker.violations, []
    assert any(each.invariant == "acknowledged commits are kept" for each in found)
