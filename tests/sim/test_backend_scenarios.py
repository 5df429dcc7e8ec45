"""Stores with peculiarities of their own: a dead primary is replaced, and not before its lock is over as that store judges it."""

from __future__ import annotations

import pytest

from pgcore.dcs.store import MEMBERS, Key
from pgcore.testing.simulation.backends import LOCK_DELAYS, ConsulServer
from sim.conftest import Simulate
from sim.told import Told, primary

TTL_S = 20
TIMING = {"ttl": TTL_S, "loop_wait": 2, "retry_timeout": 5}


def failover_s(world: Told, limit_s: float) -> float:
    """Seconds from the loss of the primary's power until another accepts writes."""
    dead, began = primary(world).name, world.now
    world.checker.trouble(dead, begins=True)
    world[dead].power_off()
    assert world.run_until(lambda: bool(world.writable()), limit_s)
    assert world.writable() != [dead]
    return world.now - began


@pytest.mark.parametrize("backend", ["", "consul", "zookeeper", "kubernetes"])
def test_a_dead_primary_is_replaced_after_its_lease_and_not_before(simulate: Simulate, backend: str) -> None:
    world = simulate(backend=backend, dynamic=TIMING)
    longest = 2 * TTL_S + max(LOCK_DELAYS) if backend == "consul" else TTL_S + 2
    assert TTL_S - 3 < failover_s(world, 120) < longest + 10


def test_the_lock_of_a_lost_session_rests_for_consuls_lock_delay(simulate: Simulate) -> None:
    world = simulate(backend="consul", dynamic=TIMING)
    assert isinstance(world.store, ConsulServer)
    world.store._lock_delay_s = 15.0
    world.checker.trouble("", begins=True)
    began, leader = world.now, primary(world).name
    world.store.lose_session(leader)
    assert world.store.rests
    assert world.run_until(lambda: world.leader is not None, 60)
    assert world.now - began >= 15
    world.settle()
    assert primary(world).name == leader, "nobody is promoted beside a primary that runs"


def test_who_gives_zookeepers_lock_away_loses_its_card_for_a_moment(simulate: Simulate) -> None:
    world = simulate(backend="zookeeper", dynamic=TIMING)
    removed: list[str] = []
    world.store.listeners.append(lambda path: removed.append(path) if path not in world.store.entries else None)
    before = primary(world).name
    world.ask_switchover(before, None)
    assert world.run_until(lambda: world.leader not in (None, before), 60)
    world.settle()
    assert Key.LEADER in removed and MEMBERS + before in removed
    assert world.key(MEMBERS + before)


def test_a_late_renewal_in_kubernetes_refuses_whoever_judged_the_lock_to_be_over(simulate: Simulate) -> None:
    """Compare-and-set on what was judged: an observer whose view is old takes nothing."""
    world = simulate(backend="kubernetes", dynamic=TIMING)
    judged = str(world.store.entries[Key.LEADER].revision)
    world.run(5)
    other = next(name for name in world.machines if name != world.leader)
    assert str(world.store.entries[Key.LEADER].revision) != judged, "each renewal changes it"
    before = world.leader
    assert world[other].life is not None
    member = world.store.member(other, world[other].agent.settings.timing)  # type: ignore[union-attr]
    assert member.take(judged) is False  # type: ignore[attr-defined]
    assert world.leader == before
