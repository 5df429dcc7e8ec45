"""Servers and agents that die, start and are stopped at bad moments."""

from __future__ import annotations

import pytest

from pgcore.dcs.store import Key
from pgcore.model.basics import State
from pgcore.model.node import ControlState
from pgcore.model.orders import ReinitOrder, RestartOrder
from pgcore.testing.simulation.server import Phase
from sim.conftest import Simulate
from sim.moments import Events, at_once, look, lose_power, order
from sim.scene import Diary, cast, despite, remove


def test_a_server_that_dies_after_each_start_is_tried_once_per_cycle(simulate: Simulate) -> None:
    """The only server has a full disk: it is started again and again, at a calm pace, and never shown as running. (EC 86)"""
    world = simulate(nodes=("a",))
    machine = world["a"]
    machine.server.pace.disk_full = True
    machine.server.kill()
    world.run(1)
    assert machine.agent is not None
    before, pace, shown = world.fleet.starts, machine.agent.settings.timing.loop_wait, set()

    def see() -> None:
        assert machine.life is not None and machine.life.board.status is not None
        shown.add(machine.life.board.status.node.state)

    look(world, 60, see, 0.1)
    assert 4 <= world.fleet.starts - before <= 60 / pace + 1
    assert State.RUNNING not in shown and State.START_FAILED in shown
    machine.server.pace.disk_full = False
    world.settle()


@pytest.mark.parametrize("phase", [Phase.STOPPING, Phase.STARTING])
def test_a_primary_that_restarts_without_the_lock_does_not_come_up(simulate: Simulate, phase: Phase) -> None:
    """Somebody removes the lock while its holder restarts its server: the restart ends before it accepts a write. (EC 93)"""
    world = simulate()
    old, *_ = cast(world)
    old.server.pace.start_s = old.server.pace.stop_s = 20.0
    diary, events = Diary(world), Events(world)
    asked = order(old, RestartOrder())
    assert world.run_until(lambda: old.server.phase is phase, 60)
    world.checker.trouble(old.name, begins=True)
    remove(world, Key.LEADER)
    assert world.run_until(lambda: world.writable() != [], 30)
    assert world.leader != old.name and world.writable() == [world.leader]
    assert diary.count(old.name, "busy.lost_lock") > 0
    world.settle()
    assert asked.result(0) == "restart failed"
    assert old.name not in events.of("writable")


def test_a_forced_new_copy_and_the_start_of_a_dead_server_never_run_together(simulate: Simulate) -> None:
    """A new copy is forced while a dead standby starts: that ends first, and no start begins while the copy runs. (EC 94)"""
    world = simulate()
    _, standby, _ = cast(world)
    standby.server.pace.start_s = 30.0
    standby.server.kill()
    assert world.run_until(lambda: standby.server.phase is Phase.STARTING, 20)
    diary, events = Diary(world), Events(world)
    asked = order(standby, ReinitOrder(force=True))
    copying = []

    def see() -> None:
        if standby.server.files is None or standby.server.files.torn:
            assert not standby.server.running
            copying.append(world.now)

    look(world, 15, see)
    assert diary.count(standby.name, "reinit.cancel_running") > 0 and copying
    assert events.of("cloned") == [standby.name] and asked.result(0) == ""
    standby.server.pace.start_s = 0.3
    world.settle()


@pytest.mark.parametrize("rewind", [True, False])
def test_a_server_that_died_as_a_primary_recovers_alone_before_it_follows(simulate: Simulate, rewind: bool) -> None:
    """pg_control says "in production" and another node leads: single-user recovery first if pg_rewind is possible. (EC 95)"""
    world = simulate(dynamic={"postgresql": {"use_pg_rewind": rewind}})
    old, *_ = cast(world)
    lose_power(old)
    assert old.server.files is not None and old.server.files.control is not None
    assert old.server.files.control.state is ControlState.IN_PRODUCTION
    assert world.run_until(lambda: world.writable() != [], 60)
    diary = Diary(world)
    old.power_on()
    world.run(20)
    assert diary.count(old.name, "down.crash_recovery") == (1 if rewind else 0)


def test_the_only_node_left_recovers_alone_where_nobody_leads(simulate: Simulate) -> None:
    """Everybody lost power, the former primary comes back first, pg_rewind is not possible: single-user recovery. (EC 95)"""
    world = simulate(dynamic={"postgresql": {"use_pg_rewind": False}})
    old, *_ = cast(world)
    for machine in world:
        lose_power(machine)
    world.run(60)
    diary = Diary(world)
    old.power_on()
    assert world.run_until(lambda: world.writable() == [old.name], 60)
    assert diary.count(old.name, "down.crash_recovery") == 1


def test_a_restored_backup_never_recovers_alone(simulate: Simulate) -> None:
    """A fresh base backup that does not come up says "in production" as well, but has a backup_label. (EC 95)"""
    world = simulate()
    new = world.add_machine("d", "10.0.0.9")
    new.server.pace.broken = True
    diary = Diary(world)
    new.start_agent()
    assert world.run_until(lambda: "down.start_as_standby" in diary.rules("d"), 60)
    world.run(30)
    files = new.server.files
    assert files is not None and files.backup_label and files.control is not None
    assert files.control.state is ControlState.IN_PRODUCTION
    new.server.pace.broken = False
    world.settle()
    assert "down.crash_recovery" not in diary.rules()


def test_a_primary_without_its_agent_is_stopped_and_replaced(simulate: Simulate) -> None:
    """Its guard stops it before the lease ends; the next one leads; the restarted agent follows. (EC 100)"""
    world = simulate()
    old, *_ = cast(world)
    world.checker.trouble(old.name, begins=True)
    old.kill_agent()
    world.run(5)
    assert world.writable() == [old.name]
    at_once(world, lambda: world.leader is None, 40)
    assert world.writable() == []
    assert world.run_until(lambda: world.writable() != [], 20) and world.writable() != [old.name]
    old.start_agent()
    world.settle()


def test_a_primary_without_agent_and_guard_demotes_when_its_agent_is_back(simulate: Simulate) -> None:
    """Nothing stops it and nobody hears of it, so others promote; its new agent sees the newer timeline. (EC 100)"""
    world = simulate()
    old, *_ = cast(world)
    world.checker.trouble(old.name, begins=True)
    with despite(world, "one writable primary"):
        old.kill_agent()
        old.guard_process.kill()
        assert world.run_until(lambda: len(world.writable()) == 2, 60)
    diary, events = Diary(world), Events(world)
    old.start_agent()
    assert world.run_until(lambda: world.writable() == [world.leader], 10)
    world.settle()
    assert diary.count(old.name, "replica.second_primary") == 1 and world.leader != old.name
    assert events.of("rewound") == [old.name]
