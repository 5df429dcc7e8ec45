"""Replication slots of members, of the configuration and of strangers, in a cluster of real agents. (HA rules 21)"""

from __future__ import annotations

import json
from typing import Any

import pytest

from pgcore.dcs.store import MEMBERS, Key
from pgcore.testing.simulation.server_files import SlotState
from sim.conftest import Simulate
from sim.remote import SECTION, follow, remote_primary
from sim.told import Told, agent, forget, founded_by, memory, others, primary, rules_of, slots, starts, streams_from

FEED = {"type": "logical", "database": "shop", "plugin": "pgoutput"}
LOGICAL: dict[str, Any] = {
    "postgresql": {"use_pg_rewind": True, "use_slots": True, "parameters": {"wal_level": "logical"}},
    "slots": {"feed": FEED},
}


def with_feed(simulate: Simulate, **setup: Any) -> Told:
    """A cluster whose standbys have their copies of the logical slot."""
    world = simulate(dynamic=LOGICAL, **setup)
    assert world.run_until(lambda: all("feed" in slots(machine) for machine in world), 120)
    world.settle()
    return world



def test_an_invalidated_logical_slot_of_a_standby_is_copied_once_more(simulate: Simulate) -> None:
    """The server has invalidated the copy: it is copied again, with one restart, and not again and again (EC 160).

    The agent is a new one, as a copy that was made a moment ago is not made again.
    """
    world = with_feed(simulate)
    standby = others(world)[0]
    before = starts(world, standby)
    standby.kill_agent()
    standby.start_agent()
    world.settle()
    slots(standby)["feed"].lost = True
    forget(world)
    assert world.run_until(lambda: not slots(standby)["feed"].lost, 90)
    world.run(120)
    assert rules_of(standby).count("upkeep.copy_slots") == 1 and starts(world, standby) == before + 1
    assert not slots(standby)["feed"].lost and slots(standby)["feed"].plugin == "pgoutput"


@pytest.mark.parametrize("other", [{"plugin": "wal2json"}, {"database": "hotel"}], ids=["plugin", "database"])
def test_a_slot_that_is_not_the_configured_one_is_not_copied(simulate: Simulate, other: dict[str, str]) -> None:
    """The leader's slot is in use and has another plugin or database: no copy, no restart, one warning (EC 161)."""
    world = simulate(dynamic={**LOGICAL, "slots": {}})
    at = primary(world).server.at.position
    plugin, database = other.get("plugin", "pgoutput"), other.get("database", "shop")
    slots(primary(world))["feed"] = SlotState("feed", False, at, at, plugin, database, active=True)
    before = {machine.name: starts(world, machine) for machine in others(world)}
    world.configure(slots=LOGICAL["slots"])
    world.run(75)
    assert all("feed" not in slots(machine) and starts(world, machine) == before[machine.name] for machine in others(world))
    assert slots(primary(world))["feed"].active
    assert world.said(primary(world).name, "configured is one that is of pgoutput in database shop") == 1


def test_the_temporary_slot_of_a_base_backup_is_left_alone(simulate: Simulate) -> None:
    """A session's own slot is neither dropped nor complained about (EC 162)."""
    world = simulate()
    leader = primary(world)
    at = leader.server.at.position
    slots(leader)["pg_basebackup_77"] = SlotState("pg_basebackup_77", True, at, temporary=True, active=True)
    slots(leader)["idle_session"] = SlotState("idle_session", True, at, temporary=True)
    world.run(60)
    assert {"pg_basebackup_77", "idle_session"} <= slots(leader).keys()
    assert not world.said(leader.name, "pg_basebackup_77") and not world.said(leader.name, "idle_session")


def test_protected_slots_stay_on_every_role(simulate: Simulate) -> None:
    """One entry protects by name, one by database: on the leader, on a standby, after a failover; others are dropped (EC 163)."""
    world = simulate(dynamic={"ignore_slots": [{"name": "by_name"}, {"database": "hotel"}], "member_slots_ttl": 30})
    for machine in world:
        at = machine.server.at.position
        for name, database in (("by_name", "shop"), ("by_database", "hotel"), ("nobodys", "shop")):
            slots(machine)[name] = SlotState(name, False, at, at, "pgoutput", database)
    assert world.run_until(lambda: all("nobodys" not in slots(machine) for machine in world), 120)
    old = primary(world)
    world.checker.trouble(old.name, begins=True)
    old.power_off()
    assert world.run_until(lambda: world.leader not in (None, old.name), 20)
    old.power_on()
    world.settle()
    world.run(60)
    assert world.leader != old.name
    assert all({"by_name", "by_database"} <= slots(machine).keys() for machine in world if machine is not old)


def test_failover_slots_of_version_17_are_the_servers_own_affair(simulate: Simulate) -> None:
    """Nobody configured it, and it stays; the unsynchronised copy on a former primary goes (EC 164)."""
    world = simulate(dynamic={"member_slots_ttl": 10})
    for machine in world:
        machine.server.version = 170002
    old, standby = primary(world), others(world)[0]
    at = old.server.at.position
    slots(old)["theirs"] = SlotState("theirs", False, at, at, "pgoutput", "shop", failover=True)
    slots(standby)["theirs"] = SlotState("theirs", False, at, at, "pgoutput", "shop", failover=True, synced=True)
    world.run(40)
    assert "theirs" in slots(old) and "theirs" in slots(standby)
    world.ask_switchover(old.name, standby.name)
    assert world.run_until(lambda: world.writable() == [standby.name], 30)
    slots(standby)["theirs"].synced = False
    world.settle()
    assert world.run_until(lambda: "theirs" not in slots(old), 30), "PostgreSQL could not bring its own copy"
    world.run(30)
    assert "theirs" in slots(standby)


def test_a_standby_cluster_has_no_logical_slots(simulate: Simulate) -> None:
    """Logical slots are configured in a cluster that follows another one: nobody makes or copies them (EC 165)."""
    world = simulate(settled=False, write_s=0.0, dynamic={**LOGICAL, "standby_cluster": SECTION})
    remote = remote_primary(world)
    follow(world, remote)
    slots(remote)["feed"] = SlotState("feed", False, 1, 1, "pgoutput", "shop")
    world.run(70)
    assert all("feed" not in slots(machine) for machine in world)
    assert not any(rule == "upkeep.copy_slots" for machine in world for rule in rules_of(machine))


def test_a_node_that_does_not_stream_has_no_logical_slots_nor_anybody_below_it(simulate: Simulate) -> None:
    """b does not stream, c would stream from b: no logical slot on either, and b has no slot on the leader (EC 166)."""
    own = {"b": {"tags": {"nostream": True}}, "c": {"tags": {"replicatefrom": "b"}}}
    world = simulate(dynamic=LOGICAL, own=own, nodes=("a", "b", "c"), settled=False)
    founded_by(world, "a")
    world.run(75)
    assert world.leader == "a" and "feed" in slots(world["a"]) and world["b"].server.running
    assert "feed" not in slots(world["b"]) and "feed" not in slots(world["c"])
    assert "b" not in slots(world["a"])


def test_nodes_that_want_to_follow_each_other_do_not_hang(simulate: Simulate) -> None:
    """b from c and c from b: each decision ends, both follow the leader, and neither has logical slots (EC 167)."""
    own = {"b": {"tags": {"replicatefrom": "c"}}, "c": {"tags": {"replicatefrom": "b"}}}
    world = simulate(dynamic=LOGICAL, own=own, settled=False)
    founded_by(world, "a")
    world.settle()
    forget(world)
    world.run(60)
    assert "feed" in slots(world["a"]) and all("upkeep.copy_slots" not in rules_of(world[name]) for name in "bc")
    assert streams_from(world["b"]) == streams_from(world["c"]) == "a"


def test_an_ancient_leader_publishes_no_positions_of_members(simulate: Simulate) -> None:
    """The leader is a Patroni 3, which tells of permanent slots alone: members' own words move the slots (EC 168)."""
    world = simulate()
    leader, (standby, third) = primary(world), others(world)
    card = {**json.loads(world.key(MEMBERS + leader.name)), "version": "3.2.0"}
    del card["pgcore_version"]
    leader.kill_agent()
    leader.wanted = False
    leader.guard.disarm()
    slot = slots(standby)[third.name]
    began = slot.restart or 0
    for _ in range(25):
        with world.store.session() as server:
            server.write(MEMBERS + leader.name, json.dumps(card))
            server.write(Key.STATUS, json.dumps({"optime": leader.server.at.position}))
            server.write(Key.LEADER, leader.name)
        world.run(1)
    assert world.leader == leader.name and not world.view().status.slots
    assert (slot.restart or 0) > began
    leader.start_agent()
    leader.wanted = True


def test_slots_of_a_cascade_without_a_leader(simulate: Simulate) -> None:
    """The leader is gone and b has c below it: b goes on without an error, and keeps the slot of c (EC 169)."""
    world = simulate(own={"c": {"tags": {"replicatefrom": "b"}}, "b": {"tags": {"nofailover": True}}}, settled=False)
    founded_by(world, "a")
    world.settle()
    assert streams_from(world["c"]) == "b" and "c" in slots(world["b"])
    world.checker.trouble("a", begins=True)
    world.checker.trouble("", begins=True)
    world["c"].kill_agent()
    world["c"].wanted = False
    world["a"].power_off()
    assert world.run_until(lambda: world.leader is None, 30)
    world.run(30)
    assert world.leader is None and "c" in slots(world["b"]) and not agent(world["b"])._bugs


def test_an_unknown_slot_in_use_is_told_once(simulate: Simulate) -> None:
    """Somebody reads from a slot that nobody configured: it stays, with one warning; it goes when it is free (EC 170)."""
    world = simulate(dynamic={"member_slots_ttl": 20})
    leader = primary(world)
    slots(leader)["stranger"] = SlotState("stranger", True, leader.server.at.position, active=True)
    world.run(120)
    assert "stranger" in slots(leader) and world.said(leader.name, "the slot stranger is in use") == 1
    assert not world.said(leader.name, "slot stranger: ")
    slots(leader)["stranger"].active = False
    assert world.run_until(lambda: "stranger" not in slots(leader), 60)


def test_what_is_published_of_slots_outlives_a_server_that_does_not_answer(simulate: Simulate) -> None:
    """The primary's server starts anew and shows no slots yet: /status keeps what it said (EC 171)."""
    world = simulate()
    leader = primary(world)
    before = world.view().status
    assert set(before.slots) == set(world.machines)
    world.checker.trouble(leader.name, begins=True)
    leader.server.pace.start_s = 8.0
    leader.server.kill()
    world.run(3)
    assert not leader.server.answers and world.leader == leader.name
    for _ in range(10):
        world.run(0.5)
        assert set(world.view().status.slots) == set(before.slots)
    world.settle()
    assert world.leader == leader.name and memory(leader).promotion_failed_at is None
