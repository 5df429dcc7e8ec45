"""Synchronous standbys come and go, agents die in between, and nobody without a confirmed commit is promoted."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from pgcore.model.basics import Lsn
from pgcore.model.synchronous import PLACEHOLDER_NAME
from pgcore.testing.simulation.network import STORE, Traffic
from pgcore.testing.simulation.server import Server
from sim.conftest import Simulate
from sim.moments import at_once, lose_power
from sim.scene import Diary, cast, despite
from sim.sync_story import SyncStory, names_of
from sim.told import files

SYNC = {"synchronous_mode": True}
TWO = {**SYNC, "synchronous_node_count": 2}
STRICT = {**SYNC, "synchronous_mode_strict": True}


def test_a_new_standby_is_named_first_and_listed_once_it_caught_up(simulate: Simulate) -> None:
    """It is slow to receive; until it has what was committed when it was named, it is not to be promoted. (EC 118)"""
    world = simulate(dynamic=TWO, nodes=("a", "b"))
    leader, first = cast(world)
    new = world.add_machine("c", "10.0.0.9")
    new.server.pace.receive_s = 2.0
    new.start_agent()
    assert world.run_until(lambda: any(stream.standby is new.server for stream in leader.server.senders), 60)
    story = SyncStory(world)
    both = ",".join(sorted((first.name, "c")))
    story.until(f"sync {both}")
    assert story.lines == [f"names 2 ({both})", f"sync {both}"]
    assert new.server.at.position >= story.position(f"names 2 ({both})")


def test_a_standby_that_leaves_is_struck_from_the_list_first(simulate: Simulate) -> None:
    """Its power is gone; commits wait for it until it may not be promoted any more. (EC 119)"""
    world = simulate(dynamic=TWO)
    leader, stays, leaves = cast(world)
    leader.server.pace.notice_s = 1.0
    story = SyncStory(world)
    lose_power(leaves)
    story.until(f"names {stays.name}")
    assert story.lines == [f"sync {stays.name}", f"names {stays.name}"]


@pytest.mark.parametrize("joins", [True, False])
def test_an_agent_that_dies_between_the_two_writes_is_succeeded_by_one_that_goes_on(simulate: Simulate, joins: bool) -> None:
    """The names are set and the key is not, or the other way about; the next agent finishes or takes back. (EC 120)"""
    world = simulate(dynamic=TWO)
    leader, stays, moves = cast(world)
    leader.server.pace.notice_s = 1.0
    both = ",".join(sorted((stays.name, moves.name)))
    lose_power(moves)
    story = SyncStory(world)
    if joins:
        story.until(f"names {stays.name}")
        moves.power_on()
        story.until(f"names 2 ({both})")
    else:
        story.until(f"sync {stays.name}")
    leader.kill_agent()
    before = len(story.lines)
    assert (len(world.view().sync.standbys), names_of(leader)) == (1, f"2 ({both})")
    story.watch(1)
    leader.start_agent()
    story.until(f"sync {both}" if joins else f"names {stays.name}")
    assert len(story.lines) == before + 1
    story.watch(3)
    assert len(story.lines) == before + 1


@pytest.mark.parametrize("edited", ["stranger", ""])
def test_names_edited_by_hand_are_believed_before_they_are_corrected(simulate: Simulate, edited: str) -> None:
    """Commits wait for somebody else, or nobody: whoever is listed is struck at once, then the names are set again. (EC 121)"""
    world = simulate(dynamic=SYNC)
    leader, *_ = cast(world)
    story = SyncStory(world, careful=False)
    files(leader).names = edited
    leader.server.reload()
    with nullcontext() if edited else despite(world, "/sync lists who has every commit"):
        story.watch(8)
    assert story.lines[:2] == [f"names {edited or '-'}", "sync -"]
    named, listed = story.lines[2:]
    assert named.replace("names", "sync") == listed and listed[-1] in "abc"
    world.settle()


def test_without_any_standby_only_the_leader_may_be_promoted(simulate: Simulate) -> None:
    """The mode is switched on while nobody else runs; the leader dies; those who come back do not take over. (EC 122)"""
    world = simulate()
    leader, *rest = cast(world)
    for machine in rest:
        lose_power(machine)
    world.run(12)
    world.configure(synchronous_mode=True)
    world.run(10)
    assert (world.view().sync.leader, world.view().sync.standbys) == (leader.name, ())
    world.run(5)
    lose_power(leader)
    for machine in rest:
        machine.power_on()
    world.run(60)
    assert world.leader is None and world.writable() == []
    leader.power_on()
    assert world.run_until(lambda: world.writable() == [leader.name], 60)
    world.settle()


def test_commits_go_on_without_the_last_standby_and_then_only_the_leader_leads(simulate: Simulate) -> None:
    """It goes away, not strict: one cycle later writes wait for nobody; after a crash only the old primary returns. (EC 123)"""
    world = simulate(dynamic=SYNC, nodes=("a", "b"), write_s=0.2)
    leader, standby = cast(world)
    assert leader.agent is not None
    cycle = leader.agent.settings.timing.loop_wait
    world.run(5)
    standby.server.pace.broken = True
    standby.server.kill()
    world.run(15)
    assert world.view().sync.standbys == () and names_of(leader) == ""
    assert world.clients.last_at is not None and world.now - world.clients.last_at < 1
    assert max(world.clients.gaps, default=0.0) < cycle + 1
    lose_power(leader)
    standby.server.pace.broken = False
    world.run(60)
    assert standby.server.in_recovery and world.leader is None
    leader.power_on()
    assert world.run_until(lambda: world.writable() == [leader.name], 60)
    world.settle()


def test_strict_commits_wait_for_the_last_known_standby(simulate: Simulate) -> None:
    """The only standby is gone: nobody is told that a commit is durable, and the names stay as they are. (EC 124)"""
    world = simulate(dynamic=STRICT, nodes=("a", "b"))
    leader, standby = cast(world)
    standby.server.pace.broken = True
    standby.server.kill()
    world.run(1)
    done = world.clients.acknowledged
    story = SyncStory(world)
    story.watch(30, 0.02)
    assert world.clients.acknowledged == done and story.lines == []
    assert names_of(leader) == standby.name and world.view().sync.standbys == (standby.name,)
    standby.server.pace.broken = False
    world.settle()
    world.run(5)
    assert world.clients.acknowledged > done


def test_strict_commits_wait_for_nobody_known_by_a_name_that_nobody_has(simulate: Simulate) -> None:
    """The strict mode is switched on while nobody else runs. (EC 124)"""
    world = simulate(nodes=("a", "b"))
    leader, standby = cast(world)
    lose_power(standby)
    world.run(12)
    world.configure(**STRICT)
    assert world.run_until(lambda: names_of(leader) == PLACEHOLDER_NAME, 30)
    world.run(1)
    done = world.clients.acknowledged
    world.run(30)
    assert world.clients.acknowledged == done and names_of(leader) == PLACEHOLDER_NAME
    standby.power_on()
    world.settle()
    world.run(5)
    assert world.clients.acknowledged > done


def test_strict_names_are_set_before_a_standby_accepts_writes(simulate: Simulate) -> None:
    """From its first moment as a primary it waits for the former leader or another member of ``/sync``. (EC 125)"""
    world = simulate(dynamic={**STRICT, "synchronous_node_count": 2})
    old, *rest = cast(world)
    at_first: dict[str, str] = {}

    def note(server: Server) -> None:
        at_first[server.name] = server.waiting.in_force

    world.on_writable.insert(0, note)
    lose_power(old)
    assert world.run_until(lambda: world.writable() != [], 60)
    new = next(iter(at_first))
    other = next(machine.name for machine in rest if machine.name != new)
    assert at_first == {new: f"2 ({','.join(sorted((old.name, other)))})"}
    story = SyncStory(world)
    story.watch(20)
    assert "names -" not in story.lines
    old.power_on()
    world.settle()


def test_what_the_former_leader_has_more_holds_nobody_back(simulate: Simulate) -> None:
    """It has lost the store and the standbys, writes on for a while and stops; over REST everybody sees it ahead. (EC 126)"""
    world = simulate(dynamic=SYNC)
    old, *rest = cast(world)
    listed = world.view().sync.standbys[0]
    world.checker.trouble(old.name, begins=True)
    diary = Diary(world)
    world.network.cut(old.name, [STORE], [Traffic.STORE])
    world.network.cut(old.name, [machine.name for machine in rest], [Traffic.SQL])
    assert world.run_until(lambda: world.writable() == [], 60)
    thaws = [machine.freeze_agent() for machine in rest]
    assert world.run_until(lambda: old.server.answers and old.server.in_recovery, 20)
    world.run(8)
    for thaw in thaws:
        thaw()
    at_once(world, lambda: world.writable() == [listed], 20)
    begun = world[listed].server.at.switch(1)
    assert begun is not None and old.server.at.position > begun
    assert f"{old.name} at {Lsn(old.server.at.position)}" in diary.because(listed, "race.acquire")
