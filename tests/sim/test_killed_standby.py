"""What a standby that lost power has on disk is more than its pg_control tells."""

from __future__ import annotations

from pgcore.model.basics import Lsn
from pgcore.testing.simulation.network import Traffic
from sim.conftest import Simulate
from sim.scene import cast


def test_a_killed_standby_beyond_the_switch_is_compared_again_when_it_runs(simulate: Simulate) -> None:
    """Its minimum recovery point lies before the switch point, its WAL ends behind it. (EC 102)"""
    world = simulate(seed=1)
    old, behind, ahead = cast(world)
    before = ahead.server.at.position
    lines = world.network.cut(old.name, [behind.name], [Traffic.SQL])
    world.run(5)
    for machine in (old, ahead):
        world.checker.trouble(machine.name, begins=True)
        machine.power_off()
    files = ahead.server.files
    assert files is not None
    files.note(minimum_recovery=Lsn(before))
    assert world.run_until(lambda: behind.server.writable, 60)
    switch = behind.server.at.switch(1)
    assert switch is not None and before <= switch < files.wal.position
    world.network.mend(lines)
    ahead.power_on()
    old.power_on()
    world.settle()
    assert world.leader == behind.name
