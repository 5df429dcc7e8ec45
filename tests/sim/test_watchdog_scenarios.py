"""Watchdogs: they move with the lock, reset who does not decide any more, and nobody leads without one that requires it."""

from __future__ import annotations

import pytest

from pgcore.testing.simulation.world import World
from sim.conftest import Simulate
from sim.moments import at_once
from sim.scene import Diary

REQUIRED = {"watchdog": {"mode": "required"}}


def running(world: World) -> list[str]:
    """Machines that would be reset if nobody fed."""
    return [machine.name for machine in world if machine.watchdogs.resets_at is not None]


def resets(world: World) -> dict[str, int]:
    """How often each machine was reset, if it was."""
    return {machine.name: machine.watchdogs.resets for machine in world if machine.watchdogs.resets}


def watched(simulate: Simulate, seed: int = 0, **setup: object) -> tuple[World, str]:
    """A settled cluster whose nodes require a watchdog, and its leader."""
    world = simulate(local=REQUIRED, seed=seed, **setup)
    world.run(5)
    assert world.leader is not None and running(world) == [world.leader]
    return world, world.leader


def test_a_healthy_cluster_feeds_one_and_resets_nobody(simulate: Simulate) -> None:
    world, leader = watched(simulate)
    world.run(300)
    assert running(world) == [leader] and not resets(world)


def test_the_watchdog_moves_with_the_lock(simulate: Simulate) -> None:
    world, leader = watched(simulate)
    for candidate in [name for name in world.machines if name != leader] + [leader]:
        world.ask_switchover(world.leader, candidate)
        world.run(10)
        world.settle()
        assert world.leader == candidate and running(world) == [candidate]
    assert not resets(world)


@pytest.mark.parametrize("named", [True, False])
def test_a_switchover_to_a_node_whose_watchdog_breaks_meanwhile_ends_elsewhere(simulate: Simulate, named: bool) -> None:
    """It stands back instead of taking the lock and giving it back, again and again. (EC 53)"""
    world, old = watched(simulate)
    broken = next(name for name in world.machines if name != old)
    diary = Diary(world)
    world.checker.trouble(broken, begins=True)
    world.ask_switchover(old, broken if named else None)
    at_once(world, lambda: old not in world.writable(), 20)
    world[broken].watchdogs.broken = True
    assert world.run_until(lambda: world.writable() not in ([], [old]) or world.writable() == [old], 30)
    world.run(5)
    assert broken not in world.writable() and len(world.writable()) == 1
    assert diary.count(broken, "leader.watchdog_refused") <= 1
    world[broken].watchdogs.broken = False
    world.checker.trouble(broken, begins=False)
    world.settle()
    assert not resets(world)


def test_an_outage_of_the_store_is_survived_by_an_orderly_demotion_without_a_reset(simulate: Simulate) -> None:
    world, _ = watched(simulate)
    for seconds in (2.0, 40.0):
        world.checker.trouble("", begins=True)
        world.store.serving = False
        world.run(seconds)
        world.store.serving = True
        world.checker.trouble("", begins=False)
        world.settle()
    assert not resets(world)


def test_a_frozen_agent_whose_guard_is_gone_ends_in_a_reset(simulate: Simulate) -> None:
    """The guard stops the server first; without it the watchdog is what keeps two primaries apart. (HA rules 10)"""
    world, leader = watched(simulate)
    world.checker.trouble(leader, begins=True)
    world[leader].guard_process.kill()
    thaw = world[leader].freeze_agent()
    assert world.run_until(lambda: bool(resets(world)), 15)
    thaw()
    assert resets(world) == {leader: 1} and not world[leader].server.running
    world.run(20)
    world.settle()
    assert resets(world) == {leader: 1}


def test_nobody_is_reset_in_maintenance_mode_and_afterwards_the_leader_is_watched_again(simulate: Simulate) -> None:
    """The agent of the leader ends in it and comes back. (EC 195)"""
    world, leader = watched(simulate)
    world.configure(pause=True)
    world.run(10)
    assert running(world) == []
    world[leader].wanted = False
    world[leader].end_agent()
    world.run(30)
    assert not world[leader].agent_runs and world.writable() == [leader]
    world[leader].wanted = True
    world[leader].start_agent()
    world.run(10)
    world.configure(pause=None)
    world.run(10)
    world.settle()
    assert world.leader == leader and running(world) == [leader] and not resets(world)


def test_a_node_whose_watchdog_is_broken_never_leads(simulate: Simulate) -> None:
    """Not even when it is the last one left. (EC 53)"""
    world, leader = watched(simulate)
    broken, other = (name for name in world.machines if name != leader)
    world.checker.trouble("", begins=True)
    world[broken].watchdogs.broken = True
    world.run(10)
    world[leader].power_off()
    world.run(25)
    assert world.leader == other and world.writable() == [other]
    world[other].power_off()
    world.run(60)
    assert world.writable() == [] and not world[broken].server.writable
    world[broken].watchdogs.broken = False
    world.run(30)
    assert world.writable() == [broken] and running(world) == [broken]


def test_a_primary_whose_watchdog_breaks_hands_over_to_one_that_has_one(simulate: Simulate) -> None:
    world, leader = watched(simulate)
    world.checker.trouble(leader, begins=True)
    world[leader].watchdogs.broken = True
    assert world.run_until(lambda: world.leader not in (None, leader), 30)
    world.settle()
    assert world.leader != leader and not resets(world)
