"""Agents that end, hang or come back in the middle of a handover, and the watchdog's timing. (HA rules 10, 17)"""

from __future__ import annotations

import pytest

from pgcore.dcs.store import Key
from pgcore.testing.simulation.machine import Machine
from pgcore.testing.simulation.network import Line, Traffic
from pgcore.testing.simulation.server import Phase
from sim.conftest import Simulate
from sim.told import Told, at_once, decided, memory, others, primary, rules_of, starts, streams_from


def broken_off(world: Told, old: Machine, candidate: Machine) -> list[Line]:
    """A switchover to the candidate, whose stream breaks while the old leader stops: it lacks the shutdown checkpoint."""
    world.ask_switchover(old.name, candidate.name)
    at_once(world, lambda: old.server.phase is Phase.STOPPING)
    return world.network.cut(candidate.name, [old.name], [Traffic.SQL])


def test_a_candidate_without_the_shutdown_checkpoint_does_not_take_over(simulate: Simulate) -> None:
    """Its stream broke before: the lock is kept, the old leader goes on; no failing starts, no rewind, no new copy (EC 228).

    Patroni hands over to who has the WAL up to the switch record; here nobody is promoted who lacks a byte.
    """
    world = simulate(nodes=("a", "b"))
    old, candidate = primary(world), others(world)[0]
    lines = broken_off(world, old, candidate)
    held: list[bool] = []
    world.on_beat.append(lambda name, beat: held.append(world.leader == old.name))
    world.run(25)
    assert all(held) and world.writable() == [old.name] and decided(old, "demotion.nobody_caught_up")
    assert not decided(old, "demotion.give_away")
    world.network.mend(lines)
    world.settle()
    for event in ("start failed", "rewound", "removed"):
        assert not any(world.said(machine.name, f"server: {event}") for machine in world)


def test_an_old_leader_with_a_checkpoint_of_its_own_rewinds(simulate: Simulate) -> None:
    """Its lock vanishes meanwhile and the candidate leads: the old leader rewinds, nothing fails to start (EC 228)."""
    world = simulate(nodes=("a", "b"))
    old, candidate = primary(world), others(world)[0]
    lines = broken_off(world, old, candidate)
    assert world.run_until(lambda: decided(old, "demotion.wait_for_candidate"), 10)
    with world.store.session() as server:
        server.remove(Key.LEADER)
    assert world.run_until(lambda: world.writable() == [candidate.name], 30), rules_of(candidate)[-5:]
    world.network.mend(lines)
    world.settle()
    assert streams_from(old) == candidate.name and world.said(old.name, "server: rewound") == 1
    assert not world.said(old.name, "server: start failed") and not world.said(old.name, "server: cloned")


@pytest.mark.parametrize("ahead", [False, True], ids=["complete", "ahead"])
def test_nothing_is_judged_before_the_new_leader_is_a_primary(simulate: Simulate, ahead: bool) -> None:
    """The new leader promotes slowly: the comparison stays open until it is a primary, decided rightly then (EC 229)."""
    world = simulate(nodes=("a", "b"))
    old, candidate = primary(world), others(world)[0]
    candidate.server.pace.promote_s = 6.0
    world.run(5)
    if ahead:
        world.checker.trouble(old.name, begins=True)
        candidate.server.pace.receive_s = 1e9
        world.run(3)
        old.power_off()
        candidate.server.pace.receive_s = 0.002
        assert world.run_until(lambda: world.leader == candidate.name, 30)
        old.power_on()
    else:
        world.ask_switchover(old.name, candidate.name)
        assert world.run_until(lambda: world.leader == candidate.name, 30)
    assert not candidate.server.writable
    looked = 0
    while not candidate.server.writable:
        if old.agent is not None and memory(old).undecided_since is not None:
            looked += 1
            assert not old.server.running and memory(old).rewind == "check"
        world.run(0.1)
    assert looked > 5
    world.settle()
    assert world.said(old.name, "server: rewound") == int(ahead)
    assert not world.said(old.name, "server: start failed") and streams_from(old) == candidate.name


def test_an_agent_killed_in_a_handover_leaves_a_lock_that_ends(simulate: Simulate) -> None:
    """SIGKILL when the server has stopped and the lock is still held: others race after ttl, the node joins (EC 230)."""
    world = simulate()
    old, (candidate, third) = primary(world), others(world)
    old.server.pace.notice_s = 0.5
    world.ask_switchover(old.name, candidate.name)
    at_once(world, lambda: old.server.phase is Phase.STOPPING)
    lines = world.network.cut(old.name, [candidate.name, third.name], [Traffic.SQL])
    at_once(world, lambda: not old.server.running)
    assert world.leader == old.name and memory(old).procedure is not None
    old.wanted = False
    old.kill_agent()
    killed = world.now
    world.network.mend(lines)
    optime = world.view().status.optime
    assert world.run_until(lambda: world.writable() != [], 30)
    assert world.now - killed > 5 and world.leader in (candidate.name, third.name)
    assert optime is not None and primary(world).server.at.position >= optime
    old.start_agent()
    old.wanted = True
    world.settle()
    assert world.leader != old.name and streams_from(old) == world.leader


# -- the watchdog --------------------------------------------------------------------------------------------------------------


REQUIRED = {"watchdog": {"mode": "required"}}


def test_a_changed_ttl_counts_with_the_next_keepalive(simulate: Simulate) -> None:
    """ttl is changed while the watchdog runs: the new timeout is set with the next keepalive (EC 222)."""
    world = simulate(nodes=("a",), local=REQUIRED, dynamic={"ttl": 30, "loop_wait": 5, "retry_timeout": 5})
    world.run(10)
    device = world["a"].watchdogs
    assert device.timeout_s == 25 and device.resets_at is not None and 19 < device.resets_at - world.now <= 25
    world.configure(ttl=60)
    assert world.run_until(lambda: device.timeout_s == 55, 11)
    assert device.resets_at - world.now > 54, "fed at once"
    world.run(40)
    assert device.resets == 0 and world.leader == "a" and starts(world, world["a"]) == 1


def test_the_first_activation_goes_by_the_bootstrap_section(simulate: Simulate) -> None:
    """A new cluster whose ttl stands in bootstrap.dcs alone: its watchdog has that timeout before there is a lock (EC 223)."""
    world = simulate(nodes=("a",), local=REQUIRED, dynamic={"ttl": 90, "loop_wait": 5, "retry_timeout": 5}, settled=False)
    device = world["a"].watchdogs
    while device.resets_at is None:
        assert world.leader is None and world.now < 20
        world.run(0.0002)
    assert world.leader is None and device.timeout_s == 85
    world.settle()
    assert device.timeout_s == 85 and world.leader == "a"
