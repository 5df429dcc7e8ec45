"""A primary that crashes, starts slowly or not at all, or is restarted by order. (edge cases E)"""

from __future__ import annotations

import pytest

from pgcore.model.node import ControlState
from pgcore.model.orders import RestartOrder
from pgcore.testing.simulation.machine import Machine
from pgcore.testing.simulation.server import Phase
from pgcore.testing.simulation.world import World
from sim.conftest import Simulate
from sim.moments import Events, order
from sim.scene import Diary, always, cast, expect_trouble


def _leads(world: World, name: str | None, within_s: float = 15.0) -> bool:
    return world.run_until(lambda: world.writable() == [name] and world.leader == name, within_s)


def _crash(world: World, machine: Machine) -> None:
    expect_trouble(world, machine)
    machine.server.kill()


@pytest.mark.parametrize("state", [ControlState.IN_PRODUCTION, ControlState.IN_CRASH_RECOVERY])
def test_a_killed_primary_is_started_as_one(simulate: Simulate, state: ControlState) -> None:
    """The postmaster of the holder is killed, also while it recovered from a crash of its own: it is started as a primary, not
    promoted, without recovery files (EC 80, 81)."""
    world = simulate()
    a, _, _ = cast(world)
    diary, events, timeline = Diary(world), Events(world), a.server.timeline
    assert a.server.files is not None
    a.server.files.note(state=state)
    _crash(world, a)
    assert always(world, lambda: world.leader == a.name and a.server.files is not None and not a.server.files.standby_signal, 5)
    assert _leads(world, a.name) and a.server.timeline == timeline
    assert "down.restart_as_primary" in diary.rules(a.name) and "leader.promote" not in diary.rules(a.name)
    assert set(events.of("writable")) == {a.name}
    world.settle()


@pytest.mark.parametrize("healthy", [True, False])
def test_without_patience_a_crash_is_a_failover(simulate: Simulate, healthy: bool) -> None:
    """primary_start_timeout is 0: a crashed primary is replaced at once, or started again if no replica is healthy (EC 82)."""
    world = simulate(dynamic={"primary_start_timeout": 0})
    a, b, c = cast(world)
    diary = Diary(world)
    thaws = [] if healthy else [each.freeze_agent() for each in (b, c)]
    crashed = world.now
    _crash(world, a)
    if healthy:
        assert world.run_until(lambda: world.writable() == [world.leader] and world.leader != a.name, 5)
        assert "down.fail_over_at_once" in diary.rules(a.name) and world.now - crashed < 3
    else:
        assert _leads(world, a.name, 8) and "down.restart_as_primary" in diary.rules(a.name)
    for thaw in thaws:
        thaw()
    world.settle()


def test_a_crashed_primary_that_cannot_start_gives_way_after_one_attempt(simulate: Simulate) -> None:
    """The configuration is broken when the primary crashes: one attempt, callbacks hear of it, the lock is released, a replica
    leads; it keeps trying as a standby (EC 83)."""
    world = simulate()
    a, _, _ = cast(world)
    diary = Diary(world)
    a.server.pace.broken = True
    a.heard.clear()
    _crash(world, a)
    assert world.run_until(lambda: world.writable() == [world.leader] and world.leader != a.name, 6)  # long before ttl
    assert diary.count(a.name, "down.restart_as_primary") == 1 and "down.start_failed" in diary.rules(a.name)
    assert [event for event in a.heard if event.startswith("on_role_change")], a.heard
    world.run(15)
    assert diary.count(a.name, "down.start_as_standby") >= 2
    a.server.pace.broken = False
    world.settle()


@pytest.mark.parametrize("healthy", [True, False])
def test_a_crash_recovery_has_its_limit_only_where_another_could_lead(simulate: Simulate, healthy: bool) -> None:
    """Crash recovery takes longer than primary_start_timeout: it is killed and the lock released if another could lead;
    else it goes on, and the lock is kept (EC 84)."""
    world = simulate(dynamic={"primary_start_timeout": 5})
    a, b, c = cast(world)
    thaws = [] if healthy else [each.freeze_agent() for each in (b, c)]
    a.server.pace.recovery_s, began = 40.0, world.now
    _crash(world, a)
    if healthy:
        assert world.run_until(lambda: world.writable() == [world.leader] and world.leader != a.name, 12)
        a.server.pace.recovery_s = 1.0
    else:
        def recovers() -> bool:
            return world.leader == a.name and (a.server.phase is not Phase.DOWN or world.now < began + 4)

        assert always(world, recovers, 35, 0.5)
        assert _leads(world, a.name, 15)
    for thaw in thaws:
        thaw()
    world.settle()


def test_a_restart_by_order_is_given_up_after_its_timeout(simulate: Simulate) -> None:
    """A restart is ordered with a timeout of 10 s and the start takes 60 s: after 10 s of starting another node leads (EC 85)."""
    world = simulate()
    a, _, _ = cast(world)
    a.server.pace.start_s = 60.0
    asked = order(a, RestartOrder(timeout_s=10.0))
    expect_trouble(world, a)
    assert world.run_until(lambda: a.server.phase is Phase.STARTING, 6)
    starting = world.now
    assert always(world, lambda: world.leader == a.name, 9.0)
    assert world.run_until(lambda: world.writable() == [world.leader] and world.leader != a.name, 8)
    assert world.now - starting < 15 and asked.done()
    a.server.pace.start_s = 0.3
    world.settle()
