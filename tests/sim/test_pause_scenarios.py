"""Maintenance mode: whatever happens, an operator's hands are on the cluster. (HA rules 23)"""

from __future__ import annotations

import pytest

from pgcore.daemon.mailbox import CarryOut
from pgcore.dcs.store import Key
from pgcore.model.actions import RewindState
from pgcore.model.node import TaskKind
from pgcore.model.orders import RestartOrder
from pgcore.testing.simulation.machine import Machine
from pgcore.testing.simulation.network import STORE, Traffic
from pgcore.testing.simulation.server import Phase
from pgcore.testing.simulation.server_files import SlotState
from sim.conftest import Simulate
from sim.remote import SECTION, follow, remote_primary
from sim.told import (
    Told,
    agent,
    at_once,
    decided,
    files,
    forget,
    memory,
    others,
    primary,
    rules_of,
    slots,
    starts,
    status,
    streams_from,
)


def pause(world: Told) -> None:
    """Maintenance mode is on, and every agent knows it."""
    world.configure(pause=True)
    assert world.run_until(lambda: all(machine.agent is None or memory(machine).was_paused for machine in world), 20)
    forget(world)


def stop_by_hand(machine: Machine) -> None:
    """An operator stops the server."""
    machine.world.checker.operator_acted()
    machine.server.stop_fast()
    assert machine.world.run_until(lambda: not machine.server.running, 10)


def test_a_leader_stopped_by_hand_stays_down_without_a_failover(simulate: Simulate) -> None:
    """Its server is stopped by an operator: the lock is deleted, nobody is promoted, nothing is started (EC 188)."""
    world = simulate()
    leader = primary(world)
    pause(world)
    stop_by_hand(leader)
    assert world.run_until(lambda: world.leader is None, 15)
    world.run(60)
    assert world.leader is None and world.writable() == [] and leader.server.phase is Phase.DOWN
    assert all(machine.server.in_recovery for machine in world if machine is not leader)


@pytest.mark.parametrize("how", ["store away", "lock lost"])
def test_a_primary_goes_on_when_its_lock_cannot_be_renewed(simulate: Simulate, how: str) -> None:
    """The store is away for longer than ttl, or deletes the lock: the primary goes on, and has its lock again later (EC 189)."""
    world = simulate()
    leader = primary(world)
    pause(world)
    acknowledged = world.clients.acknowledged
    if how == "store away":
        lines = world.network.cut(leader.name, [STORE], [Traffic.STORE])
        world.run(40)
        assert world.leader is None and status(leader).cluster is None
        world.network.mend(lines)
    else:
        with world.store.session() as server:
            server.remove(Key.LEADER)
    assert world.writable() == [leader.name]
    assert world.run_until(lambda: world.leader == leader.name, 20)
    assert world.writable() == [leader.name] and world.clients.acknowledged > acknowledged
    assert world.clients.gaps == [] and starts(world, leader) == 1


def test_standbys_of_nobody_keep_what_they_follow(simulate: Simulate) -> None:
    """The lock is gone and the primary's agent as well: standbys neither promote nor forget their upstream (EC 190)."""
    world = simulate()
    leader, standbys = primary(world), others(world)
    pause(world)
    leader.wanted = False
    leader.kill_agent()
    assert world.run_until(lambda: world.leader is None, 30)
    world.run(30)
    assert world.leader is None and world.writable() == [leader.name]
    for standby in standbys:
        assert streams_from(standby) == leader.name and files(standby).followed is not None
        assert starts(world, standby) == 1


@pytest.mark.parametrize("why", ["nofailover", "settings"])
def test_a_stopped_replica_stays_stopped(simulate: Simulate, why: str) -> None:
    """An operator has stopped a replica: neither its tag nor changed recovery settings start it before the resume (EC 191)."""
    world = simulate()
    standby = others(world)[0]
    pause(world)
    stop_by_hand(standby)
    if why == "nofailover":
        standby.reconfigure(tags={"nofailover": True})
    else:
        standby.reconfigure(postgresql={"recovery_conf": {"restore_command": "true"}})
        world.ask_switchover(None, next(machine.name for machine in others(world) if machine is not standby))
    world.run(40)
    assert not standby.server.running and decided(standby, "down.paused")
    world.configure(pause=False)
    world.settle()
    assert standby.server.running


def test_a_promotion_goes_on_when_the_lock_is_lost(simulate: Simulate) -> None:
    """A failover by hand is under way, its promotion takes long, and the lock vanishes: it is not interrupted (EC 192)."""
    world = simulate()
    pause(world)
    candidate = others(world)[0]
    candidate.server.pace.promote_s = 6.0
    world.ask_switchover(world.leader, candidate.name)
    assert world.run_until(lambda: world.leader == candidate.name and agent(candidate).node.task is not None, 20)
    with world.store.session() as server:
        server.remove(Key.LEADER)
    world.run(3)
    task = agent(candidate).node.task
    assert task is not None and task.kind is TaskKind.PROMOTE
    assert world.run_until(lambda: world.writable() == [candidate.name] == [world.leader], 20)


def test_a_restart_goes_on_when_the_lock_is_lost(simulate: Simulate) -> None:
    """An operator restarts the primary, and the lock vanishes meanwhile: the restart goes on (EC 192)."""
    world = simulate()
    leader = primary(world)
    pause(world)
    leader.server.pace.start_s = 5.0
    assert leader.life is not None
    answer = leader.life.mailbox.ask(CarryOut(RestartOrder()))
    assert world.run_until(lambda: leader.server.phase is Phase.STARTING, 10)
    with world.store.session() as server:
        server.remove(Key.LEADER)
    assert world.run_until(lambda: world.writable() == [leader.name] == [world.leader], 20)
    assert starts(world, leader) == 2 and answer.result(0) == ""


def test_data_that_was_replaced_is_warned_of_and_ends_the_agent_after_the_resume(simulate: Simulate) -> None:
    """pg_upgrade made another cluster: the lock goes, and nobody takes it for that data; exit after resume (EC 193)."""
    world = simulate(nodes=("a", "b"))
    leader, standby = primary(world), others(world)[0]
    pause(world)
    stop_by_hand(leader)
    world.checker.trouble("", begins=True)
    before = files(leader)
    leader.server.files = None
    leader.server.make_cluster()
    leader.server.launch()
    assert world.run_until(lambda: world.leader is None and leader.server.writable, 20)
    world.run(20)
    assert world.leader is None and leader.agent is not None
    assert decided(leader, "identity.foreign_paused", before.system_id or "") and "race.acquire" not in rules_of(leader)
    leader.wanted = False
    world.configure(pause=False)
    assert world.run_until(lambda: not leader.agent_runs, 20)
    assert leader.life is not None and leader.life.ended is not None and leader.life.ended.code == 1
    assert world.run_until(lambda: world.leader == standby.name, 60)


def test_after_the_resume_the_node_is_looked_at_anew(simulate: Simulate) -> None:
    """Unknown slots and a standby with a history of its own wait for the end of maintenance: both are mended then (EC 194)."""
    world = simulate(dynamic={"member_slots_ttl": 0})
    leader, standby = primary(world), others(world)[0]
    pause(world)
    at = leader.server.at.position
    slots(leader)["left_over"] = SlotState("left_over", True, at)
    assert memory(standby).rewind is RewindState.NOT_NEED
    stop_by_hand(standby)
    world.checker.trouble("", begins=True)
    standby.server.launch()
    world.run(2)
    standby.server.promote()
    world.run(1)
    standby.server.write()
    stop_by_hand(standby)
    world.run(5)
    assert standby.server.at.branch.timeline == 2 and not standby.server.running
    world.run(20)
    assert "left_over" in slots(leader)
    world.configure(pause=False)
    world.settle()
    assert world.leader == leader.name and standby.server.at.contains(leader.server.at.cut(at))
    assert streams_from(standby) == leader.name and world.said(standby.name, "server: rewound") == 1
    assert world.run_until(lambda: "left_over" not in slots(leader), 30)


def test_an_agent_that_ends_leaves_server_and_lock(simulate: Simulate) -> None:
    """SIGTERM to the leader's agent: its server goes on, the lock is not released, the guard is off (EC 195)."""
    world = simulate()
    leader = primary(world)
    pause(world)
    leader.wanted = False
    pid = leader.server.pid
    leader.end_agent()
    assert world.run_until(lambda: not leader.agent_runs, 20)
    assert world.leader == leader.name and leader.server.writable and not leader.guard.armed
    world.run(40)
    assert leader.server.writable and leader.server.pid == pid and world.writable() == [leader.name]
    leader.wanted = True
    leader.start_agent()
    assert world.run_until(lambda: world.leader == leader.name, 20)
    world.configure(pause=False)
    world.settle()


def test_an_old_primary_that_needs_a_rewind_gets_it(simulate: Simulate) -> None:
    """The candidate lacks the end of the old primary, which is rewound and started in maintenance (EC 196).

    The stream broke while the old primary stopped, the lock vanished, and the operator insists on the candidate.
    """
    world = simulate(nodes=("a", "b"))
    old, candidate = primary(world), others(world)[0]
    pause(world)
    world.ask_switchover(old.name, candidate.name)
    at_once(world, lambda: old.server.phase is Phase.STOPPING)
    lines = world.network.cut(candidate.name, [old.name], [Traffic.SQL])
    assert world.run_until(lambda: decided(old, "demotion.wait_for_candidate"), 10)
    with world.store.session() as server:
        server.remove(Key.LEADER)
    assert world.run_until(lambda: not old.server.running, 20)
    world.ask_switchover(None, candidate.name)
    assert world.run_until(lambda: world.writable() == [candidate.name], 60)
    world.network.mend(lines)
    assert world.run_until(lambda: streams_from(old) == candidate.name, 60), rules_of(old)[-8:]
    assert world.said(old.name, "server: rewound") == 1 and world.paused


def test_a_standby_leader_keeps_its_lock_and_without_one_nobody_moves(simulate: Simulate) -> None:
    """A standby cluster in maintenance: the holder, a standby, keeps the lock; when that expires upstreams stay (EC 197)."""
    world = simulate(settled=False, dynamic={"standby_cluster": SECTION})
    follow(world, remote_primary(world))
    holder = primary(world)
    pause(world)
    world.run(40)
    assert world.leader == holder.name and holder.server.in_recovery
    above = {machine.name: streams_from(machine) for machine in world}
    holder.wanted = False
    holder.kill_agent()
    assert world.run_until(lambda: world.leader is None, 30)
    world.run(30)
    assert {machine.name: streams_from(machine) for machine in world} == above and world.writable() == []
    assert all(starts(world, machine) == 1 for machine in world)
