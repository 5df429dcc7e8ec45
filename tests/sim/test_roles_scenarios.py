"""Settings, restarts, callbacks and roles, with real agents. (config, HA rules 24 to 26)"""

from __future__ import annotations

import json
from typing import Any

import pytest

from pgcore.daemon.mailbox import CarryOut, ScheduleRestart
from pgcore.dcs.store import Key
from pgcore.model.orders import RestartOrder
from pgcore.testing.simulation.machine import Machine
from pgcore.testing.simulation.server import Phase
from sim.conftest import Simulate
from sim.remote import SECTION, follow, remote_primary
from sim.told import (
    Told,
    agent,
    at_once,
    decided,
    files,
    forget,
    founded_by,
    memory,
    others,
    primary,
    rules_of,
    slots,
    starts,
    status,
    streams_from,
)


def restart_in(machine: Machine, seconds: float, **conditions: Any) -> None:
    """An operator schedules a restart of its server."""
    world = machine.world
    world.checker.operator_acted()
    due = world.scheduler.EPOCH + world.now + seconds
    assert machine.life is not None
    answer = machine.life.mailbox.ask(ScheduleRestart(RestartOrder(**conditions), due, {"schedule": "soon"}))
    world.run(0.5)
    assert answer.result(0) is True and status(machine).scheduled_restart is not None


def with_parameters(world: Told, **parameters: Any) -> None:
    """The dynamic configuration has these server parameters."""
    world.configure(postgresql={"use_pg_rewind": True, "parameters": parameters})
    world.run(12)


def test_a_parameter_that_is_set_back_waits_for_no_restart(simulate: Simulate) -> None:
    """max_connections is changed and set back: the flag is gone, and the server is given its configuration again (EC 206)."""
    world = simulate()
    with_parameters(world, max_connections=200)
    assert all(status(machine).node.pending_restart for machine in world)
    forget(world)
    with_parameters(world, max_connections=100)
    for machine in world:
        assert not status(machine).node.pending_restart and decided(machine, "upkeep.apply_settings")
        assert "pending_restart" not in world.key("members/" + machine.name) and starts(world, machine) == 1


def test_a_restart_that_somebody_else_did_before_is_not_done_again(simulate: Simulate) -> None:
    """A restart is scheduled, and the server is restarted by hand before: the schedule is dropped (EC 207)."""
    world = simulate()
    standby = others(world)[0]
    restart_in(standby, 25)
    standby.server.stop_fast()
    assert world.run_until(lambda: starts(world, standby) == 2, 20)
    assert world.run_until(lambda: status(standby).scheduled_restart is None, 12)
    world.run(30)
    assert decided(standby, "upkeep.restarted_meanwhile") and starts(world, standby) == 2


def test_a_scheduled_restart_whose_condition_no_longer_holds_is_dropped(simulate: Simulate) -> None:
    """A standby of a standby cluster is to be restarted as a replica, and leads by then without a restart: not done (EC 208)."""
    world = simulate(settled=False, dynamic={"standby_cluster": SECTION})
    follow(world, remote_primary(world))
    candidate = others(world)[0]
    restart_in(candidate, 20, role="replica")
    world.ask_switchover(world.leader, candidate.name)
    assert world.run_until(lambda: status(candidate).node.role == "standby_leader", 15)
    world.run(25)
    assert decided(candidate, "restart.unsatisfied", "the role is standby_leader, not replica")
    assert starts(world, candidate) == 1 and status(candidate).scheduled_restart is None


def test_a_restart_that_fails_gives_the_lock_away(simulate: Simulate) -> None:
    """The leader's server does not come up again: the operator is told, another node leads (EC 209)."""
    world = simulate()
    leader = primary(world)
    world.checker.trouble(leader.name, begins=True)
    assert leader.life is not None
    answer = leader.life.mailbox.ask(CarryOut(RestartOrder()))
    at_once(world, lambda: leader.server.phase is Phase.STOPPING)
    assert memory(leader).recovering
    leader.server.pace.broken = True
    assert world.run_until(lambda: world.writable() != [] and world.leader != leader.name, 20)
    assert answer.result(0) == "restart failed" and decided(leader, "down.start_failed")
    leader.server.pace.broken = False
    world.settle()


def test_timing_that_does_not_fit_is_adjusted(simulate: Simulate) -> None:
    """ttl 20 with loop_wait 15 and retry_timeout 10: taken with a warning and made to fit, on every node alike (EC 210)."""
    world = simulate()
    world.configure(ttl=20, loop_wait=15, retry_timeout=10)
    world.run(30)
    timings = {status(machine).timing for machine in world}
    assert len(timings) == 1
    timing = timings.pop()
    assert timing.ttl == 20 and timing.loop_wait + 2 * timing.retry_timeout <= 20
    assert all(world.said(machine.name, "loop_wait") for machine in world)
    assert json.loads(world.key(Key.CONFIG))["loop_wait"] == 15 and world.unsettled() == ""


def test_a_configuration_without_sense_is_not_used(simulate: Simulate) -> None:
    """postgresql.parameters is a list: all of the new configuration is refused, the last good one stays (EC 211)."""
    world = simulate()
    before = {machine.name: status(machine).dynamic for machine in world}
    world.configure(postgresql={"parameters": ["max_connections"]}, ttl=77)
    world.run(15)
    for machine in world:
        assert status(machine).dynamic == before[machine.name] and status(machine).timing.ttl != 77
        assert world.said(machine.name, "is not used, the last good one stays in force") == 1
    world.configure(postgresql={"use_pg_rewind": True}, ttl=33)
    world.run(15)
    assert all(status(machine).timing.ttl == 33 for machine in world)


def test_a_starting_standby_is_pointed_to_another_leader(simulate: Simulate) -> None:
    """Its server is still starting when the leader changes: its settings are rewritten without asking it, no restart (EC 213).

    Its agent is a new one, which has not started the server itself.
    """
    world = simulate()
    old, (standby, third) = primary(world), others(world)
    world.checker.trouble(standby.name, begins=True)
    standby.server.pace.start_s = 25.0
    standby.server.kill()
    assert world.run_until(lambda: standby.server.phase is Phase.STARTING, 10)
    standby.kill_agent()
    standby.start_agent()
    world.run(1)
    world.ask_switchover(old.name, third.name)
    assert world.run_until(lambda: world.writable() == [third.name], 20)
    assert world.run_until(lambda: decided(standby, "starting.follow_by_reload"), 15), rules_of(standby)[-6:]
    assert standby.server.phase is Phase.STARTING
    pid = standby.server.pid
    assert world.run_until(lambda: streams_from(standby) == third.name, 60)
    assert standby.server.pid == pid


def test_replay_that_stands_still_goes_on_outside_maintenance(simulate: Simulate) -> None:
    """Replay is paused as the primary's settings have outgrown the standby's: resumed, but not in maintenance mode (EC 214)."""
    world = simulate()
    standby = others(world)[0]
    world.configure(pause=True)
    world.run(5)
    standby.server.replay_paused = True
    world.run(25)
    assert standby.server.replay_paused and files(standby).replayed < standby.server.at.position
    world.configure(pause=False)
    assert world.run_until(lambda: not standby.server.replay_paused, 15)
    assert starts(world, standby) == 1
    assert world.run_until(lambda: files(standby).replayed == standby.server.at.position, 5)


def test_a_promoted_server_is_a_primary_to_callbacks(simulate: Simulate) -> None:
    """A standby is promoted, which takes its time: callbacks hear of a primary, once, and of no other word (EC 217)."""
    world = simulate()
    candidate = others(world)[0]
    candidate.server.pace.promote_s = 4.0
    candidate.heard.clear()
    world.ask_switchover(world.leader, candidate.name)
    assert world.run_until(lambda: candidate.heard != [], 20)
    assert not candidate.server.writable, "told as soon as the promotion is accepted"
    world.settle()
    assert candidate.heard == ["on_role_change primary"]


def test_a_replica_that_becomes_the_standby_leader_changes_its_role_and_nothing_else(simulate: Simulate) -> None:
    """A switchover in a standby cluster follows the remote by a reload: only on_role_change is told, on both sides (EC 218)."""
    world = simulate(settled=False, dynamic={"standby_cluster": SECTION})
    follow(world, remote := remote_primary(world))
    world.run(2)
    old, candidate = primary(world), others(world)[0]
    old.heard.clear()
    candidate.heard.clear()
    world.ask_switchover(old.name, candidate.name)
    assert world.run_until(lambda: world.leader == candidate.name, 15)
    follow(world, remote)
    world.run(5)
    assert candidate.heard == ["on_role_change standby_leader"] and old.heard == ["on_role_change replica"]
    assert starts(world, candidate) == starts(world, old) == 1


@pytest.mark.parametrize("who", ["primary", "replica"])
def test_an_agent_that_finds_its_server_running_says_so_once(simulate: Simulate, who: str) -> None:
    """A new agent attaches to the running server: on_start once, no restart, and the leader keeps its lock (EC 219, 231)."""
    world = simulate()
    machine = primary(world) if who == "primary" else others(world)[0]
    world.run(1)
    machine.heard.clear()
    entry, gaps = world.store.entries[Key.LEADER], list(world.clients.gaps)
    pid = machine.server.pid
    machine.kill_agent()
    world.run(3)
    machine.start_agent()
    world.run(30)
    assert machine.heard == [f"on_start {who}"] and machine.server.pid == pid
    assert world.store.entries[Key.LEADER].value == entry.value and world.clients.gaps == gaps
    assert not any(rule.startswith(("demotion.", "race.")) for rule in rules_of(machine)) and world.unsettled() == ""


def test_an_explicit_nofailover_wins_over_the_priority(simulate: Simulate) -> None:
    """``nofailover: false`` and ``failover_priority: 0``: this node may take over, and the contradiction is told (EC 220)."""
    world = simulate(nodes=("a", "b"))
    leader, standby = primary(world), others(world)[0]
    standby.reconfigure(tags={"nofailover": False, "failover_priority": 0})
    world.run(12)
    assert world.said(standby.name, "contradicts failover_priority 0; nofailover wins") == 1
    assert status(standby).tags == {"nofailover": False, "failover_priority": 0}
    world.checker.trouble(leader.name, begins=True)
    leader.power_off()
    assert world.run_until(lambda: world.writable() == [standby.name], 30)


def test_a_replica_of_somebody_absent_follows_the_leader(simulate: Simulate) -> None:
    """``replicatefrom`` names a member there is none of: it streams from the leader, which has a slot for it (EC 221)."""
    world = simulate(settled=False, own={"c": {"tags": {"replicatefrom": "z"}}}, dynamic={"member_slots_ttl": 0})
    founded_by(world, "a")
    world.settle()
    assert streams_from(world["c"]) == "a" and set(slots(world["a"])) == {"b", "c"}
    stream = world["c"].server.receiver
    assert stream is not None and stream.followed.slot == "c" and agent(world["c"]).settings.tags.replicatefrom == "z"
