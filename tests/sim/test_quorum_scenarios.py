"""Quorum commit: any of some standbys confirms, votes decide who takes over, and both sets always meet."""

from __future__ import annotations

import pytest

from pgcore.dcs.store import Key
from pgcore.testing.simulation.agent import config_text
from pgcore.testing.simulation.machine import Machine
from pgcore.testing.simulation.network import Traffic
from pgcore.testing.simulation.server import Server
from pgcore.testing.simulation.world import World
from sim.conftest import Simulate
from sim.moments import UNFIT, at_once, lose_power
from sim.scene import Diary, cast, led_by
from sim.sync_story import SyncStory, names_of

QUORUM = {"synchronous_mode": "quorum"}
ANY_TWO = {**QUORUM, "synchronous_node_count": 2}


def voters(world: World) -> tuple[str, ...]:
    """Who is listed in ``/sync`` beside the leader."""
    return tuple(sorted(world.view().sync.standbys))


@pytest.mark.parametrize("seed", range(4))
def test_both_sets_meet_whatever_comes_and_goes(simulate: Simulate, seed: int) -> None:
    """Standbys come and go, the factor changes, the primary's agent dies after any write: looked at all the time. (EC 142)"""
    world = simulate(nodes=("a", "b", "c", "d", "e"), dynamic=QUORUM, seed=seed, write_s=0.3)
    leader, *rest = cast(world)
    leader.server.pace.notice_s = 0.5
    story, dice = SyncStory(world), world.dice
    for _ in range(12):
        chosen = dice.choice(rest)
        happening = dice.choice(("off", "on", "on", "factor", "slow"))
        if happening == "factor":
            world.configure(synchronous_node_count=dice.randint(1, 3), synchronous_mode_strict=dice.random() < 0.5)
        elif happening == "slow":
            chosen.server.pace.receive_s = dice.choice((0.002, 0.5, 2.0))
        elif happening == "on":
            chosen.power_on()
        elif sum(each.powered for each in rest) > 1:
            lose_power(chosen)
        writes = len(story.lines)
        for _ in range(dice.randint(20, 300)):
            story.watch(0.01, 0.005)
            if len(story.lines) > writes and dice.random() < 0.3:
                leader.kill_agent()
                story.watch(0.5, 0.01)
                leader.start_agent()
            writes = len(story.lines)
    for machine in rest:
        machine.server.pace.receive_s = 0.002
        machine.power_on()
    world.settle()
    assert len(story.lines) > 5 and world.leader == leader.name


def test_a_standby_that_leaves_before_it_was_proven_leaves_nothing(simulate: Simulate) -> None:
    """It streams but receives nothing more: it is asked for and not relied on; when it goes all is as before. (EC 143)"""
    world = simulate(nodes=("a", "b"), dynamic=ANY_TWO)
    leader, first = cast(world)
    assert (voters(world), world.view().sync.quorum, names_of(leader)) == ((first.name,), 0, f"ANY 1 ({first.name})")
    new = world.add_machine("c", "10.0.0.9")
    new.start_agent()
    at_once(world, lambda: new.server.receiver is not None and not new.server.receiver.catching_up, 60)
    new.server.pace.receive_s = 1e6
    story = SyncStory(world)
    both = f"{first.name},c"
    story.until(f"sync q1 {both}")
    assert story.lines == [f"names ANY 2 ({both})", f"sync q1 {both}"]
    story.watch(5)
    new.server.pace.broken = True
    new.server.kill()
    story.until(f"names ANY 1 ({first.name})")
    story.watch(5, 0.01)
    assert (voters(world), world.view().sync.quorum, names_of(leader)) == ((first.name,), 0, f"ANY 1 ({first.name})")


def first_names(world: World) -> dict[str, str]:
    """Filled with the names in force at the moment a server begins to accept writes."""
    found: dict[str, str] = {}

    def note(server: Server) -> None:
        found[server.name] = server.waiting.in_force

    world.on_writable.insert(0, note)
    return found


def test_a_new_leader_gives_its_voters_time_to_connect(simulate: Simulate) -> None:
    """A voter wins and nobody streams from it yet: it waits for all members of ``/sync``, and strikes nobody at once. (EC 144)"""
    world = simulate(dynamic=QUORUM)
    old, *rest = cast(world)
    assert voters(world) == tuple(sorted(each.name for each in rest))
    names = first_names(world)
    world.network.cut(rest[0].name, [rest[1].name], [Traffic.SQL])
    lose_power(old)
    at_once(world, lambda: world.writable() != [], 60, 0.01)
    new = cast(world)[0]
    other = next(each for each in rest if each is not new)
    both = tuple(sorted((old.name, other.name)))
    assert names == {new.name: f"ANY 1 ({','.join(both)})"}
    assert (world.view().sync.leader, voters(world), world.view().sync.quorum) == (new.name, both, 1)
    story = SyncStory(world)
    assert new.agent is not None
    story.watch(new.agent.settings.timing.loop_wait - 0.5)
    assert story.lines == [] and new.server.senders == []
    story.watch(10)
    assert voters(world) == ()


def voters_that_may_not_lead(simulate: Simulate) -> tuple[World, Machine, list[Machine], Machine]:
    """The gates of both voters are closed; d has everything but no vote of its own: it is no synchronous standby."""
    world = simulate(nodes=("a", "b", "c", "d"), dynamic=QUORUM, own={"d": {"tags": {"nosync": True}}})
    led_by(world, "a")
    world.run(15)
    assert (voters(world), world.view().sync.quorum) == (("b", "c"), 1)
    world["b"].vetoes = world["c"].vetoes = True
    return world, world["a"], [world["b"], world["c"]], world["d"]


def test_who_is_no_voter_may_lead_with_one_vote_more(simulate: Simulate) -> None:
    """Both voters say that they are not ahead; it waits for one standby more than a voter would. (EC 145)"""
    world, old, _, outsider = voters_that_may_not_lead(simulate)
    names, diary = first_names(world), Diary(world)
    lose_power(old)
    assert world.run_until(lambda: world.writable() != [], 90)
    assert names == {outsider.name: "ANY 2 (a,b,c)"}
    assert "2 votes, 2 needed" in diary.because(outsider.name, "race.acquire")
    world["b"].vetoes = world["c"].vetoes = False
    old.power_on()
    world.run(30)
    assert world.leader == outsider.name and len(voters(world)) == 3


def test_who_is_no_voter_stands_back_with_as_few_votes_as_a_voter_needs(simulate: Simulate) -> None:
    """One of the two voters is gone together with the primary. (EC 146)"""
    world, old, (first, second), outsider = voters_that_may_not_lead(simulate)
    diary = Diary(world)
    lose_power(old)
    lose_power(second)
    world.run(60)
    assert world.writable() == [] and diary.count(outsider.name, "race.too_few_votes") > 0
    assert diary.count(outsider.name, "race.acquire") == 0
    first.vetoes = second.vetoes = False
    second.power_on()
    assert world.run_until(lambda: world.writable() != [], 60)


def test_the_old_leader_leads_again_alone(simulate: Simulate) -> None:
    """Everybody loses power and only the leader of ``/sync`` comes back: no votes, and nobody is ahead. (EC 147)"""
    world = simulate(dynamic=QUORUM)
    old, *rest = cast(world)
    for machine in world:
        lose_power(machine)
    world.run(40)
    assert world.leader is None and world.view().sync.quorum == 1
    diary = Diary(world)
    old.power_on()
    assert world.run_until(lambda: world.writable() == [old.name], 60)
    assert diary.count(old.name, "race.acquire") == 1
    for machine in rest:
        machine.power_on()
    world.settle()


def test_the_vote_of_one_that_may_not_lead_counts(simulate: Simulate) -> None:
    """A voter is tagged nofailover while the primary stands still: it lets the other one win and never leads itself. (EC 148)"""
    world = simulate(dynamic=QUORUM)
    old, winner, tagged = cast(world)
    assert world.view().sync.quorum == 1
    world.checker.trouble(old.name, begins=True)
    thaw = old.freeze()
    tagged.config = config_text("simulated", tagged.name, tagged.host, UNFIT, {})
    tagged.kill_agent()
    tagged.start_agent()
    diary = Diary(world)
    winner.vetoes = True
    world.run(40)
    assert diary.count(winner.name, "leader.promotion_failed") > 0 and world.writable() == [old.name]
    winner.vetoes = False
    assert world.run_until(lambda: world.leader == winner.name and winner.server.writable, 60)
    assert diary.count(tagged.name, "race.nofailover") > 0 and diary.count(tagged.name, "race.acquire") == 0
    thaw()
    world.run(20)
    assert world.writable() == [winner.name]


def test_names_come_before_the_key_where_both_have_to_be_set(simulate: Simulate) -> None:
    """A standby has no names of its own while ``/sync`` lists voters: it sets them, then the key, then it promotes. (EC 149)"""
    world = simulate(dynamic=QUORUM)
    old, *rest = cast(world)
    lose_power(old)
    at_once(world, lambda: world.leader is not None and world.leader != old.name, 60)
    new = world[world.leader or ""]
    assert new.server.waiting.shown == "" and voters(world) == tuple(sorted(each.name for each in rest))
    at_once(world, lambda: names_of(new) != "", 10)
    assert (world.view().sync.leader, new.server.in_recovery) == (old.name, True)
    at_once(world, lambda: world.view().sync.leader == new.name, 10)
    assert new.server.in_recovery and names_of(new).startswith("ANY 1 (")
    at_once(world, lambda: new.server.writable, 10)
    assert old.name in voters(world)


def test_the_mode_changes_both_ways_with_a_node_down(simulate: Simulate) -> None:
    """From quorum to priority and back: every write in an order in which nobody unfit could be promoted. (EC 150)"""
    world = simulate(nodes=("a", "b", "c", "d"), dynamic=QUORUM)
    leader, *rest = cast(world)
    lose_power(rest[2])
    two = ",".join(sorted(each.name for each in rest[:2]))
    assert world.run_until(lambda: names_of(leader) == f"ANY 1 ({two})", 40)
    world.run(3)
    story = SyncStory(world)
    world.configure(synchronous_mode=True)
    story.watch(10)
    assert len(voters(world)) == 1 and world.view().sync.quorum == 0 and names_of(leader) == voters(world)[0]
    assert story.lines[0] == "sync -"
    world.configure(synchronous_mode="quorum")
    story.watch(10)
    assert (",".join(voters(world)), world.view().sync.quorum, names_of(leader)) == (two, 1, f"ANY 1 ({two})")
    rest[2].power_on()
    world.settle()


def test_no_more_confirmations_are_wanted_than_there_are_standbys(simulate: Simulate) -> None:
    """The factor is 5 and two standbys stream. (EC 151)"""
    world = simulate(dynamic={**QUORUM, "synchronous_node_count": 5})
    leader, *rest = cast(world)
    world.run(10)
    both = ",".join(sorted(each.name for each in rest))
    assert names_of(leader) == f"ANY 2 ({both})" and ",".join(voters(world)) == both
    assert world.view().sync.quorum == 0 and world.key(Key.SYNC) != ""
    assert world.clients.last_at is not None and world.now - world.clients.last_at < 3
