"""Histories that part: when a server has to be rewound, when it must not be, and on whose word."""

from __future__ import annotations

import pytest

from pgcore.model.node import ControlState
from pgcore.testing.simulation.machine import Machine
from pgcore.testing.simulation.network import Traffic
from pgcore.testing.simulation.world import World
from sim.conftest import Simulate
from sim.moments import UNFIT, Events, at_once, look, lose_power, roles, writes_alone
from sim.scene import Diary, card, cast, cut_store, despite

REWINDS = {"down.rewind", "replica.rewind", "starting.rewind"}


def test_an_orderly_hand_over_needs_no_rewind(simulate: Simulate) -> None:
    """The old primary's shutdown checkpoint ends exactly where the next timeline begins. (EC 101)"""
    world = simulate()
    old, new, _ = cast(world)
    diary, events = Diary(world), Events(world)
    world.ask_switchover(old.name, new.name)
    at_once(world, lambda: not old.server.running, 30)
    assert old.server.files is not None and old.server.files.control is not None
    end = old.server.files.control.checkpoint_end
    world.settle()
    assert world.leader == new.name and new.server.at.switch(1) == end
    assert events.of("rewound") == [] and not REWINDS & set(diary.rules())


@pytest.mark.parametrize("orderly", [True, False])
def test_a_primary_with_more_wal_than_the_switch_is_rewound(simulate: Simulate, orderly: bool) -> None:
    """It wrote alone before it was shut down, or lost power; the next leader never had that. (EC 101)"""
    world = simulate()
    old, *rest = cast(world)
    world.checker.trouble(old.name, begins=True)
    lines = world.network.cut(old.name, [machine.name for machine in rest], [Traffic.SQL])
    world.run(12)
    old.kill_agent()
    if orderly:
        old.server.stop_fast()
        world.run(2)
    old.power_off()
    world.network.mend(lines)
    control = old.server.files.control if old.server.files is not None else None
    assert control is not None and control.state is (ControlState.SHUT_DOWN if orderly else ControlState.IN_PRODUCTION)
    events = Events(world)
    assert world.run_until(lambda: world.writable() != [], 60)
    old.power_on()
    world.settle()
    assert events.of("rewound") == [old.name]


@pytest.mark.parametrize("behind", [False, True])
def test_a_standby_that_is_not_beyond_the_switch_just_follows(simulate: Simulate, behind: bool) -> None:
    """It has replayed up to where the new timeline begins, or less. (EC 102)"""
    world = simulate(own={"c": UNFIT}, write_s=0)
    old, new, standby = roles(world)
    if behind:
        writes_alone(world, old, standby)
    standby.server.pace.reconnect_s = 10.0
    away = world.network.cut(new.name, ["c"], [Traffic.SQL])
    diary, events = Diary(world), Events(world)
    lose_power(old)
    at_once(world, lambda: world.writable() == [new.name], 60)
    switch = new.server.at.switch(1)
    assert switch is not None
    assert standby.server.at.position < switch if behind else standby.server.at.position == switch
    world.network.mend(away)
    assert world.run_until(lambda: standby.server.timeline == 2, 60)
    assert "not beyond the switch point" in diary.because("c", "replica.judge")
    assert events.of("rewound") == [] and not REWINDS & set(diary.rules())


def test_a_timeline_that_the_leader_never_passed_is_left_by_rewind(simulate: Simulate) -> None:
    """A standby was promoted by hand to timeline 2; the leader went from 1 to 3. (EC 103)"""
    world = simulate(own={"c": UNFIT})
    old, new, lost = roles(world)
    world.fleet.archiving = True
    world.configure(pause=True)
    world.run(5)
    with despite(world, "tags are respected"):
        lost.server.promote()
        world.run(5)
    assert lost.server.writable and lost.server.timeline == 2
    lose_power(lost)
    world.configure(pause=None)
    world.run(5)
    lose_power(old)
    assert world.run_until(lambda: world.writable() == [new.name], 60)
    assert new.server.timeline == 3 and new.server.at.switch(1) and new.server.at.switch(2) is None
    events = Events(world)
    lost.power_on()
    assert world.run_until(lambda: lost.server.receiver is not None, 60)
    assert events.of("rewound") == ["c"] and lost.server.timeline == 3


def behind_the_other(world: World) -> tuple[Machine, Machine]:
    """The primary loses power; who will lead next has less than c, which may not."""
    old, new, ahead = roles(world)
    writes_alone(world, old, new)
    lose_power(old)
    return new, ahead


def test_nobody_judges_by_a_leader_that_is_still_promoting(simulate: Simulate) -> None:
    """The new leader replays for long: who has more than it waits, and is rewound when it is on its timeline. (EC 104)"""
    world = simulate(own={"c": UNFIT}, write_s=0)
    new, ahead = behind_the_other(world)
    new.server.pace.promote_s = 8.0
    diary, events = Diary(world), Events(world)
    at_once(world, lambda: world.writable() == [new.name], 60)
    assert world.now - diary.first(new.name, "leader.promote") > 5
    assert diary.count("c", "replica.not_streaming") > 5 and "replica.judge" not in diary.rules("c")
    assert world.run_until(lambda: ahead.server.receiver is not None and ahead.server.timeline == 2, 60)
    assert events.of("rewound") == ["c"] and events.of("mixed") == []


def test_a_rewind_waits_for_the_leaders_checkpoint_and_not_longer(simulate: Simulate) -> None:
    """pg_control of the new leader shows the old timeline for 12 s; right after that the rewind begins. (EC 105)"""
    world = simulate(own={"c": UNFIT}, write_s=0)
    new, ahead = behind_the_other(world)
    new.server.pace.checkpoint_s = 12.0
    events = Events(world)
    at_once(world, lambda: world.writable() == [new.name], 60, 0.1)

    def written() -> bool:
        files = new.server.files
        return files is not None and files.control is not None and files.control.checkpoint_timeline == 2

    assert not written()
    at_once(world, written, 30, 0.01)
    ended = world.now
    assert events.of("rewound") == []
    assert world.run_until(lambda: events.of("rewound") == ["c"], 30)
    assert events.when("rewound", "c") - ended < ahead.server.pace.rewind_s + 1.0


@pytest.mark.parametrize("takes_s", [6.0, 40.0], ids=["written", "aborted"])
def test_a_checkpoint_of_an_earlier_promotion_does_not_count(simulate: Simulate, takes_s: float) -> None:
    """A primary is demoted before it heard of its first checkpoint; promoted again, it waits for another one. (EC 106)"""
    world = simulate(own={"c": UNFIT})
    old, new, _ = roles(world)
    lose_power(old)
    again, name = new.server, new.name
    again.pace.checkpoint_s = takes_s
    assert world.run_until(lambda: world.writable() == [name], 60)
    world.run(2)
    assert card(world, name)["checkpoint_after_promote"] is False
    mend = cut_store(world, new)
    assert world.run_until(lambda: world.writable() == [] and not world.leader, 30)
    again.pace.checkpoint_s = 8.0
    mend()
    at_once(world, lambda: world.writable() == [name], 30, 0.01)
    timeline, pending = again.timeline, []

    def see() -> None:
        told = card(world, name)
        if told.get("timeline") == timeline and told.get("role") == "primary":
            assert again.files is not None and again.files.control is not None
            pending.append("checkpoint_after_promote" in told)
            assert pending[-1] or again.files.control.checkpoint_timeline == timeline

    look(world, 15, see)
    assert timeline == 3 and True in pending and not pending[-1]
