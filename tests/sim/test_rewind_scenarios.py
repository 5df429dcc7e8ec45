"""What a server goes by when it compares histories, what rewinding it may not do, and what comes after."""

from __future__ import annotations

import pytest

from pgcore.daemon.heartbeat import Beat
from pgcore.dcs.store import Key
from pgcore.model.actions import RewindState
from pgcore.model.node import ControlState
from pgcore.testing.simulation.network import Traffic
from pgcore.testing.simulation.server import Phase
from pgcore.testing.simulation.server_files import Followed
from sim.conftest import Simulate
from sim.moments import UNFIT, Events, lose_power, roles, writes_alone
from sim.scene import Diary, cast
from sim.told import files, memory


def test_replicas_notice_that_the_same_leader_has_a_new_timeline(simulate: Simulate) -> None:
    """The only node that may lead loses power, recovers alone and promotes itself while nobody can connect to it. (EC 107)"""
    world = simulate(local={"tags": {"nosync": True}}, dynamic={"synchronous_mode": True}, settled=False)
    assert world.run_until(lambda: any(len(each.server.senders) == 2 for each in world) and bool(world.key(Key.SYNC)), 60)
    leader, *rest = cast(world)
    followed = [each.server.followed for each in rest]
    diary, lines = Diary(world), world.network.cut(leader.name, [each.name for each in rest], [Traffic.SQL])
    lose_power(leader)
    world.run(20)
    leader.power_on()
    assert world.run_until(lambda: world.writable() == [leader.name], 60)
    assert leader.server.timeline == 2 and {each.server.timeline for each in rest} == {1}
    world.run(15)
    assert {diary.count(each.name, "replica.timeline_grew") for each in rest} == {1}
    world.network.mend(lines)
    assert world.run_until(lambda: len(leader.server.senders) == 2, 20)
    world.run(5)
    assert [each.server.followed for each in rest] == followed and {each.server.timeline for each in rest} == {2}


def test_the_timeline_that_was_replayed_counts_not_the_received_one(simulate: Simulate) -> None:
    """A cascading standby receives the new timeline while it still replays the old one. (EC 108)"""
    world = simulate(own={"c": {"tags": {"nofailover": True, "replicatefrom": "b"}}}, write_s=0.2, seed=1)
    old, new, below = roles(world)
    if old.name == "b":
        world.ask_switchover("b", "a")
        assert world.run_until(lambda: world.leader == "a", 30)
        world.settle()
        old, new = new, old
    seen = []

    def note(name: str, beat: Beat) -> None:
        node, asked = beat.world.node, beat.world.leader_timeline
        if name == "c" and asked is not None and asked.own is not None and node.receiver is not None:
            seen.append((node.receiver.timeline, asked.own.timeline))

    world.on_beat.append(note)
    diary = Diary(world)
    before = below.server.timeline
    below.server.pace.replay_s = 60.0
    world.run(3)
    lose_power(old)
    assert world.run_until(lambda: world.writable() == ["b"], 60)
    world.run(10)
    assert (before + 1, before) in seen
    assert memory(below).rewind is RewindState.NOT_NEED and below.server.timeline == before + 1
    assert "not beyond the switch point" in diary.because("c", "replica.judge")


def test_a_standby_that_is_starting_is_judged_by_pg_control(simulate: Simulate) -> None:
    """It has more than the new leader and takes very long to come up: it is rewound without waiting for that. (EC 109)"""
    world = simulate(own={"c": UNFIT}, write_s=0)
    old, new, ahead = roles(world)
    writes_alone(world, old, new)
    world.network.cut(old.name, [new.name], [Traffic.SQL])
    ahead.server.pace.start_s = 600.0
    ahead.server.stop_fast()
    assert world.run_until(lambda: ahead.server.phase is Phase.STARTING, 20)
    lose_power(old)
    ahead.kill_agent()
    ahead.start_agent()
    ahead.server.pace.start_s = 0.3  # of the next start
    diary, events = Diary(world), Events(world)
    assert world.run_until(lambda: events.of("rewound") == ["c"], 60)
    assert world.writable() == [new.name]
    assert "beyond the switch point" in diary.because("c", "starting.judge") and diary.count("c", "starting.rewind") > 0
    assert world.run_until(lambda: ahead.server.receiver is not None, 60)


def test_a_primary_that_began_to_start_as_a_standby_is_judged_as_a_primary(simulate: Simulate) -> None:
    """pg_control says "in archive recovery" and nothing recovered yet; its shutdown checkpoint is only here. (EC 110)"""
    world = simulate()
    old, new, _ = roles(world)
    world.checker.trouble(old.name, begins=True)
    others = [each.name for each in world if each is not old]
    lines = world.network.cut(old.name, others, [Traffic.SQL])
    world.run(12)
    old.kill_agent()
    old.server.stop_fast()
    world.run(2)
    mine = files(old)
    mine.standby_signal, mine.followed = True, Followed(new.host, 5432, None, False)
    old.server.launch()
    world.run(0.1)
    old.power_off()
    world.network.mend(lines)
    assert mine.control is not None and mine.control.state is ControlState.IN_ARCHIVE_RECOVERY
    assert mine.control.minimum_recovery == 0
    assert world.run_until(lambda: world.writable() != [], 60)
    diary, events = Diary(world), Events(world)
    old.power_on()
    world.settle()
    assert events.of("rewound") == [old.name] and events.of("mixed") == []
    assert diary.count(old.name, "down.recover_before_rewind") == 1


NO_REWIND = {"postgresql": {"use_pg_rewind": False, "remove_data_directory_on_diverged_timelines": True}}


def test_what_has_not_diverged_is_never_removed(simulate: Simulate) -> None:
    """pg_rewind is off, new copies are allowed: not after a switchover, a failover, a restart of everything. (EC 112)"""
    world = simulate(dynamic=NO_REWIND, write_s=0)
    events = Events(world)
    old, new, _ = cast(world)
    world.ask_switchover(old.name, new.name)
    assert world.run_until(lambda: world.leader == new.name, 30)
    world.settle()
    standby = next(each for each in world if each.name != world.leader)
    lose_power(standby)
    world.run(30)
    standby.power_on()
    world.settle()
    for machine in world:
        lose_power(machine)
    world.run(60)
    for machine in world:
        machine.power_on()
    world.settle()
    assert events.of("removed") == [] and events.of("cloned") == []


def test_what_has_diverged_is_removed_only_once_the_leader_answers(simulate: Simulate) -> None:
    """The same settings, and a former primary that wrote alone: it is copied anew, but not before that is certain. (EC 112)"""
    world = simulate(dynamic=NO_REWIND, write_s=0)
    old, *rest = cast(world)
    writes_alone(world, old, *rest)
    lose_power(old)
    assert world.run_until(lambda: world.writable() != [], 60)
    events = Events(world)
    cut = world.network.cut(old.name, [each.name for each in rest], [Traffic.SQL])
    old.power_on()
    world.run(30)
    assert events.of("removed") == []
    world.network.mend(cut)
    world.settle()
    assert events.of("removed") == [old.name] == events.of("cloned")


def test_a_server_stopped_by_hand_after_its_rewind_stays_down_in_maintenance(simulate: Simulate) -> None:
    """A diverged primary is rewound and started though the cluster is paused; then somebody stops it. (EC 115)"""
    world = simulate(write_s=0)
    old, *rest = cast(world)
    writes_alone(world, old, *rest)
    lose_power(old)
    assert world.run_until(lambda: world.writable() != [], 60)
    events = Events(world)
    old.server.pace.rewind_s = 10.0
    old.power_on()
    assert world.run_until(lambda: files(old).torn == "pg_rewind", 60)
    world.configure(pause=True)
    assert world.run_until(lambda: old.server.receiver is not None, 60)
    world.run(10)
    assert events.of("rewound") == [old.name]
    world.checker.operator_acted()
    old.server.stop_fast()
    world.run(60)
    assert not old.server.running
    world.configure(pause=None)
    world.settle()


@pytest.mark.parametrize("writes", [False, True])
def test_a_second_primary_found_after_maintenance_is_compared_and_rewound(simulate: Simulate, writes: bool) -> None:
    """A standby was promoted by hand in maintenance; when that ends it is demoted and follows again. (EC 116)"""
    world = simulate()
    leader, wrong, _ = cast(world)
    world.configure(pause=True)
    world.run(5)
    wrong.server.promote()
    world.run(10)
    assert sorted(world.writable()) == sorted([leader.name, wrong.name])
    if writes:
        wrong.server.write()
    diary, events = Diary(world), Events(world)
    world.configure(pause=None)
    assert world.run_until(lambda: world.writable() == [leader.name], 20)
    world.settle()
    assert diary.count(wrong.name, "replica.second_primary") == 1
    assert events.of("rewound") == [wrong.name] and leader.name == world.leader
