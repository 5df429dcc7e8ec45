"""How clusters begin, how nodes are adopted, and how copies are made, with real agents. (HA rules 6, 7)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcore.daemon.mailbox import CarryOut
from pgcore.dcs.store import Key
from pgcore.model.basics import Lsn
from pgcore.model.orders import ReinitOrder
from pgcore.testing.simulation.machine import Machine
from pgcore.testing.simulation.server_files import DataFiles
from sim.conftest import Simulate
from sim.told import Told, agent, decided, files, founded_by, memory, others, primary, rules_of, status, streams_from

RESTORE: dict[str, Any] = {"postgresql": {"create_replica_methods": ["restore", "basebackup"]}}
NO_LEADER: dict[str, Any] = {"postgresql": {"create_replica_methods": ["restore", "basebackup"], "restore": {"no_leader": True}}}


def ends(machine: Machine, limit_s: float = 60) -> int:
    """Its agent comes to its end and is not started again; the exit code."""
    machine.wanted = False
    assert machine.world.run_until(lambda: not machine.agent_runs, limit_s), rules_of(machine)[-5:]
    assert machine.life is not None and machine.life.ended is not None
    return machine.life.ended.code


def backup_of(machine: Machine) -> DataFiles:
    """A backup of its data as it is now."""
    return replace(files(machine), slots={}, standby_signal=False, followed=None)


def another_cluster(world: Told, machine: Machine) -> None:
    """Its data directory becomes that of a cluster nobody here knows."""
    machine.server.files = None
    machine.server.make_cluster()


def test_of_two_empty_nodes_one_makes_the_cluster(simulate: Simulate) -> None:
    """Both start at once: one initialises; the other waits for its leader, even if it could restore a backup (EC 172)."""
    world = simulate(nodes=("a", "b"), local=NO_LEADER, settled=False)
    for machine in world:
        machine.server.pace.initdb_s = 10.0
    world.run(8)
    winner = next(machine for machine in world if decided(machine, "bootstrap.working"))
    loser = next(machine for machine in world if machine is not winner)
    assert Key.INITIALIZE in world.store.entries and world.key(Key.INITIALIZE) == ""
    assert loser.server.files is None and decided(loser, "no_data.wait", "another node is creating the cluster")
    world.settle()
    assert files(loser).system_id == files(winner).system_id == world.key(Key.INITIALIZE)


@pytest.mark.parametrize("step", ["initdb", "start", "users"])
def test_a_bootstrap_that_fails_leaves_the_way_open(simulate: Simulate, step: str) -> None:
    """A step fails: /initialize is freed, the data put aside, the agent ends with 1; another node makes the cluster (EC 173)."""
    world = simulate(nodes=("a", "b"), settled=False, write_s=0.0)
    world.checker.trouble("", begins=True)
    for machine in world:
        machine.server.pace.bootstrap_fails = step == "initdb"
        machine.server.pace.broken = step == "start"
    assert world.run_until(lambda: any(decided(machine, "bootstrap.working") for machine in world if machine.agent), 5)
    first = next(machine for machine in world if decided(machine, "bootstrap.working"))
    second = next(machine for machine in world if machine is not first)
    second.server.pace.bootstrap_fails = second.server.pace.broken = False
    if step == "users":
        assert world.run_until(lambda: first.server.running, 10)
        first.server.kill()
    assert ends(first) == 1
    assert first.server.files is None and not first.server.running
    assert world.run_until(lambda: world.writable() == [second.name], 60)
    assert world.key(Key.INITIALIZE) == files(second).system_id
    first.server.pace.bootstrap_fails = first.server.pace.broken = False
    first.start_agent()
    world.settle()


def test_a_required_watchdog_that_does_not_run_is_a_failed_bootstrap(simulate: Simulate) -> None:
    """The device is broken: no lock, no /initialize, the agent ends with 1; a node without that demand makes it (EC 174)."""
    world = simulate(nodes=("a", "b"), own={"a": {"watchdog": {"mode": "required"}}}, settled=False, write_s=0.0)
    world["a"].watchdogs.broken = True
    thaw = world["b"].freeze_agent()
    world.checker.trouble("a", begins=True)
    assert ends(world["a"]) == 1
    assert world.said("a", "bootstrap.watchdog_refused") and world["a"].server.files is None
    assert world.leader is None and Key.INITIALIZE not in world.store.entries
    thaw()
    assert world.run_until(lambda: world.writable() == ["b"], 30)


def test_a_running_replica_does_not_found_a_cluster(simulate: Simulate) -> None:
    """The store knows no cluster and this server is a replica: the agent ends with 1 and leaves the server running (EC 175)."""
    world = simulate()
    standby = others(world)[0]
    for machine in world:
        machine.wanted = False
        machine.kill_agent()
    world.store.wipe()
    pid = standby.server.pid
    standby.start_agent()
    assert ends(standby) == 1
    world.run(2)
    assert standby.server.running and standby.server.pid == pid
    assert Key.INITIALIZE not in world.store.entries and world.leader is None
    for machine in world:
        machine.wanted = True
    primary_first = next(machine for machine in world if machine.server.writable)
    primary_first.start_agent()
    assert world.run_until(lambda: world.leader == primary_first.name, 30)


def test_data_of_another_cluster_ends_the_agent(simulate: Simulate) -> None:
    """The system identifier is not the store's: exit 1, nothing removed (EC 176)."""
    world = simulate()
    standby = others(world)[0]
    standby.power_off()
    world.checker.trouble(standby.name, begins=True)
    another_cluster(world, standby)
    mine = files(standby).system_id
    standby.power_on()
    assert ends(standby) == 1
    assert standby.life is not None and standby.life.ended is not None and "mismatch" in standby.life.ended.message
    assert files(standby).system_id == mine != world.key(Key.INITIALIZE) and not standby.server.running


def test_an_unreadable_pg_control_waits_for_a_reinitialisation(simulate: Simulate) -> None:
    """Data is there, but pg_control is not: the agent stays, says what to do, and carries out a reinit (EC 177)."""
    world = simulate()
    standby = others(world)[0]
    standby.power_off()
    world.checker.trouble(standby.name, begins=True)
    data = files(standby)
    data.control = None
    standby.power_on()
    world.run(25)
    assert standby.agent is not None and decided(standby, "identity.unreadable", "pgcore reinit")
    assert standby.server.files is data and not standby.server.running
    assert standby.life is not None
    standby.life.mailbox.ask(CarryOut(ReinitOrder()))
    world.settle()
    assert files(standby) is not data


def test_the_next_method_makes_the_copy_and_after_all_failed_the_next_round_begins(simulate: Simulate) -> None:
    """One method fails, the next copies; when both fail no data stays, and the next attempt begins anew (EC 180)."""
    world = simulate(local=RESTORE, nodes=("a", "b"), settled=False)
    world["b"].server.pace.clone_fails = True
    founded_by(world, "a")
    failed = "no replica could be made: restore: there is no backup; basebackup: "
    assert world.run_until(lambda: world.said("b", failed) >= 2, 60)
    assert world.run_until(lambda: world["b"].server.files is None, 10)
    world["b"].server.pace.clone_fails = False
    world.settle()
    assert streams_from(world["b"]) == "a"


def test_a_clonefrom_member_that_does_not_run_is_no_source(simulate: Simulate) -> None:
    """b is willing but its server is down: c is copied from the leader; once b runs, c is copied from b (EC 182)."""
    world = simulate(own={"b": {"tags": {"clonefrom": True}}}, settled=False)
    founded_by(world, "a")
    world.settle()
    world.checker.trouble("b", begins=True)
    world["b"].server.pace.broken = True
    world["b"].server.kill()
    assert world.run_until(lambda: not world.view().member("b").running, 30)  # type: ignore[union-attr]
    again(world, "c")
    assert decided(world["c"], "no_data.clone", "copying from a")
    world["b"].server.pace.broken = False
    world.settle()
    again(world, "c")
    assert decided(world["c"], "no_data.clone", "copying from b (leader a)")
    world.settle()


def again(world: Told, name: str) -> None:
    """Its data is lost, and copied anew by a new agent."""
    machine = world[name]
    world.checker.trouble(name, begins=True)
    machine.power_off()
    machine.server.remove()
    machine.power_on()
    assert world.run_until(lambda: machine.server.running, 30)
    world.checker.trouble(name, begins=False)


def test_a_copy_without_a_leader_is_under_way_from_the_first_moment(simulate: Simulate) -> None:
    """Nobody leads and a backup can be restored: no look at the identity of the half-made copy, which then follows (EC 183)."""
    world = simulate(local=NO_LEADER, settled=False, own={"c": {"tags": {"nofailover": True}}})
    founded_by(world, "a")
    world.settle()
    world.run(5)
    backup = backup_of(world["a"])
    world.checker.trouble("", begins=True)
    for name in "ab":
        world[name].power_off()
    assert world.run_until(lambda: world.leader is None, 30)
    copier = world["c"]
    copier.power_off()
    copier.server.remove()
    copier.server.backup = backup
    copier.power_on()
    assert world.run_until(lambda: copier.server.files is not None, 10)
    assert decided(copier, "no_data.clone_without_leader") and status(copier).task["kind"] == "clone"
    assert world.run_until(lambda: copier.server.running, 60)
    assert not any(rule.startswith("identity.") for rule in rules_of(copier))
    for name in "ab":
        world[name].power_on()
    world.checker.trouble("", begins=False)
    world.settle()
    assert streams_from(copier) == world.leader


def test_a_reload_during_a_custom_bootstrap_waits_for_its_end(simulate: Simulate) -> None:
    """The configuration changes while a backup is restored: the server is not told before the cluster is made (EC 185)."""
    donor = backup_of(primary(simulate(nodes=("z",))))
    world = simulate(nodes=("a",), settled=False, local={"bootstrap": {"method": "restore", "dcs": {}}})
    world["a"].server.backup = donor
    world["a"].server.pace.recovery_s = 10.0
    assert world.run_until(lambda: world["a"].server.running, 20)
    assert memory(world["a"]).procedure is not None
    at = world.now
    world["a"].reconfigure(postgresql={"parameters": {"log_statement": "all"}})
    world.run(8)
    assert memory(world["a"]).procedure is not None and not decided(world["a"], "upkeep.apply_settings")
    world.settle()
    assert files(world["a"]).system_id == donor.system_id == world.key(Key.INITIALIZE)
    assert world.said("a", "the configuration of this node was read again", since=at)


def test_a_backup_with_larger_settings_starts_with_them(simulate: Simulate) -> None:
    """The primary has max_connections 300, configured is 50: a copy starts with 300, a restart is shown as due (EC 186)."""
    parameters = {"use_pg_rewind": True, "parameters": {"max_connections": 300}}
    world = simulate(dynamic={"postgresql": parameters}, nodes=("a", "b"))
    leader, standby = primary(world), others(world)[0]
    assert leader.server.parameters == standby.server.parameters == {"max_connections": 300}
    world.configure(postgresql={**parameters, "parameters": {"max_connections": 50}})
    world.run(15)
    again(world, standby.name)
    world.settle()
    world.run(11)
    assert standby.server.parameters == {"max_connections": 300}
    shown = {"max_connections": {"old_value": "300", "new_value": "50"}}
    assert status(standby).node.pending_restart == status(leader).node.pending_restart == shown
    assert files(standby).control is not None and standby.server.at.position >= Lsn(1)
    assert agent(standby).settings.name == standby.name


def test_a_restored_backup_with_larger_settings_becomes_a_cluster(simulate: Simulate) -> None:
    """A backup that was written with max_connections 300 makes a new cluster, which is configured with less (EC 186)."""
    donor = backup_of(primary(simulate(nodes=("z",), dynamic={"postgresql": {"parameters": {"max_connections": 300}}})))
    world = simulate(nodes=("a",), settled=False, local={"bootstrap": {"method": "restore", "dcs": {}}})
    world["a"].server.backup = donor
    world.settle()
    world.run(11)
    assert world["a"].server.parameters == {"max_connections": 300}
    assert status(world["a"]).node.pending_restart["max_connections"]["new_value"] == "100"
