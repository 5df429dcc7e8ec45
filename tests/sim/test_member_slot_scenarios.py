"""Replication slots of members: who keeps one for whom, for how long, and which are made anew. (HA rules 21)"""

from __future__ import annotations

from pgcore.model.actions import ChangeSlots, ServeSlots
from pgcore.model.basics import slot_name
from pgcore.testing.simulation.server_files import SlotState
from sim.conftest import Simulate
from sim.moments import UNFIT, at_once, lose_power
from sim.scene import Diary, cast, led_by
from sim.told import files, slots

FEED = {"type": "logical", "database": "shop", "plugin": "pgoutput"}


def test_the_slot_of_a_member_that_is_away_is_kept_also_across_a_failover(simulate: Simulate) -> None:
    """Its card ends while the leader changes; every node keeps its slot for the time that is set, then drops it. (EC 152)"""
    world = simulate(nodes=("a", "b", "c", "d"), dynamic={"member_slots_ttl": "2min"})
    old, new, standby, away = cast(world)
    slot = slot_name(away.name)
    world.run(10)
    lose_power(away)
    world.run(5)
    lose_power(old)
    assert world.run_until(lambda: world.writable() != [], 60)
    led = world.now
    assert away.name not in {member.name for member in world.view().members}
    world.run(100)
    assert slot in slots(new) and slot in slots(standby)
    assert world.run_until(lambda: slot not in slots(new) and slot not in slots(standby), 40)
    assert world.now - led >= 115
    away.power_on()
    assert world.run_until(lambda: slot in slots(new) and slot in slots(standby) and away.server.receiver is not None, 60)


def test_without_a_time_to_keep_it_a_slot_is_dropped_with_the_card(simulate: Simulate) -> None:
    """``member_slots_ttl`` is 0; only the leader has slots of members, and of those that are there. (EC 153)"""
    world = simulate(dynamic={"member_slots_ttl": 0})
    leader, standby, away = cast(world)
    world.run(10)
    assert slots(standby) == {} and len(slots(leader)) == 2
    leader.server.pace.notice_s = 1.0
    lose_power(away)
    at_once(world, lambda: away.name not in {member.name for member in world.view().members}, 60, 0.1)
    assert world.run_until(lambda: set(slots(leader)) == {slot_name(standby.name)}, 12)


def test_nobody_keeps_a_slot_for_itself_whatever_its_name(simulate: Simulate) -> None:
    """Names with capitals, dashes and dots become other names of slots. (EC 154)"""
    world = simulate(nodes=("Node-A", "node.b", "C_c"))
    world.run(20)
    for machine in world:
        assert set(slots(machine)) == {slot_name(each.name) for each in world if each is not machine}
    old = cast(world)[0]
    world.ask_switchover(old.name, cast(world)[1].name)
    assert world.run_until(lambda: world.leader != old.name, 30)
    world.settle()
    world.run(20)
    for machine in world:
        assert set(slots(machine)) == {slot_name(each.name) for each in world if each is not machine}


def test_a_standbys_slot_from_its_time_as_primary_loses_its_xmin(simulate: Simulate) -> None:
    """It was in use with feedback before the switchover: made anew while somebody leads, else left alone. (EC 155)"""
    world = simulate()
    leader, standby, other = cast(world)
    world.run(10)
    slot = slot_name(other.name)
    held = slots(standby)[slot]
    held.xmin = 700
    assert world.run_until(lambda: slots(standby).get(slot) not in (None, held), 20)
    assert slots(standby)[slot].xmin is None and slots(standby)[slot].restart is not None
    world.configure(pause=True)
    world.run(5)
    lose_power(leader)
    assert world.run_until(lambda: world.leader is None, 40)
    held = slots(standby)[slot]
    held.xmin = 700
    world.run(30)
    assert world.leader is None and slots(standby)[slot] is held
    leader.power_on()
    leader.server.launch()  # by hand, as maintenance goes on
    assert world.run_until(lambda: world.leader == leader.name, 30)
    assert world.run_until(lambda: slots(standby).get(slot) not in (None, held), 60)


def test_a_slot_with_xmin_stays_until_its_node_is_really_the_primary(simulate: Simulate) -> None:
    """It has the lock and is still being promoted; the slot is of one that streams from another standby. (EC 155)"""
    world = simulate(nodes=("a", "b", "c", "d"), own={"d": {"tags": {"replicatefrom": "c", "nofailover": True}}, "c": UNFIT})
    led_by(world, "a")
    world.run(10)
    new = world["b"]
    new.server.pace.promote_s = 8.0
    lose_power(world["a"])
    at_once(world, lambda: world.leader == "b", 60, 0.05)
    held = slots(new)["d"]
    held.xmin = 700
    at_once(world, lambda: new.server.writable, 30)
    assert slots(new)["d"] is held
    assert world.run_until(lambda: slots(new).get("d") not in (None, held), 20)
    assert slots(new)["d"].xmin is None


def test_a_slot_that_reserves_nothing_is_made_anew(simulate: Simulate) -> None:
    """Somebody else has made the physical slot of a member, on a standby, without reserving WAL. (EC 156)"""
    world = simulate()
    _, standby, other = cast(world)
    world.run(5)
    slot = slot_name(other.name)
    files(standby).slots[slot] = made = SlotState(slot, True, None)
    assert world.run_until(lambda: slots(standby).get(slot) not in (None, made), 20)
    assert slots(standby)[slot].restart is not None


def test_a_slot_that_lost_its_wal_is_made_anew_but_not_in_maintenance(simulate: Simulate) -> None:
    """The member was away for too long: its slot is good for nothing. (EC 157)"""
    world = simulate()
    leader, _, away = cast(world)
    leader.server.pace.notice_s = 1.0
    lose_power(away)
    world.run(5)
    world.configure(pause=True)
    world.run(5)
    lost = slots(leader)[slot_name(away.name)]
    lost.lost = True
    world.run(30)
    assert slots(leader)[slot_name(away.name)] is lost
    world.configure(pause=None)
    assert world.run_until(lambda: slots(leader).get(slot_name(away.name)) not in (None, lost), 20)
    assert not slots(leader)[slot_name(away.name)].lost


def test_a_standbys_copies_move_no_further_than_it_has_replayed(simulate: Simulate) -> None:
    """The leader's slots are far ahead of what this standby has replayed, for its replay stands still. (EC 158)"""
    world = simulate(write_s=0.2, dynamic={
        "postgresql": {"use_pg_rewind": True, "parameters": {"wal_level": "logical"}}, "slots": {"feed": FEED}})
    assert world.run_until(lambda: all("feed" in slots(machine) for machine in world), 120)
    world.settle()
    leader, standby, _ = cast(world)
    diary = Diary(world)
    standby.server.pace.replay_s = 1e6
    world.run(1)
    replayed = files(standby).replayed
    for _ in range(10):
        world.run(3)
        slots(leader)["feed"].confirmed = leader.server.at.position
    published = world.view().status.slots["feed"]
    assert published > replayed == files(standby).replayed
    asked = [lsn for action in diary.actions(standby.name, ServeSlots) for _, lsn in getattr(action, "advance", ())]
    moved = [lsn for action in diary.actions(standby.name, ChangeSlots) for lsn in getattr(action, "advance", {}).values()]
    assert asked and max(asked + moved) <= replayed
    assert (slots(standby)["feed"].confirmed or 0) <= replayed
