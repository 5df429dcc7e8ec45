"""The store away, for everybody or for some: without and with failsafe mode. (edge cases B)"""

from __future__ import annotations

import json

import pytest

from pgcore.dcs.store import Key
from pgcore.model import actions as a_
from pgcore.testing.simulation.world import World
from sim.conftest import Simulate
from sim.scene import Diary, always, card, cast, code, cut_store, expect_trouble, led_by, post_failsafe, remove

FAILSAFE = {"failsafe_mode": True}


def _named(world: World) -> World:
    """Everybody is named in ``/failsafe`` and the leader knows it."""
    assert world.run_until(lambda: (world.view().failsafe or {}).keys() == world.machines.keys(), 15)
    world.run(4)
    expect_trouble(world)
    return world


def test_a_short_outage_changes_nothing(simulate: Simulate) -> None:
    """The store is away for less than retry_timeout: nobody is demoted, nobody promoted (EC 21)."""
    world = simulate()
    a, _, _ = cast(world)
    diary = Diary(world)
    world.store.serving = False
    assert always(world, lambda: world.writable() == [a.name], 2.9)
    world.store.serving = True
    assert always(world, lambda: world.writable() == [a.name] and world.leader == a.name, 15)
    assert "store_lost.primary_must_stop" not in diary.rules()


def test_a_primary_without_the_store_serves_reads_until_it_is_back(simulate: Simulate) -> None:
    """The store is away for longer without failsafe mode: the primary stops in time and is a standby of nobody; replicas wait
    (EC 22, 39)."""
    world = simulate()
    a, b, c = cast(world)
    expect_trouble(world)
    diary, streams = Diary(world), [b.server.pid, c.server.pid]
    world.store.serving = False
    assert world.run_until(lambda: world.writable() == [], 10)
    assert "store_lost.primary_must_stop" in diary.rules(a.name)
    assert world.run_until(lambda: a.server.answers and a.server.in_recovery, 5)
    assert a.server.followed is None and code(a, "/primary") == 503
    assert always(world, lambda: world.writable() == [], 20, 0.5)
    assert [b.server.pid, c.server.pid] == streams  # neither stopped nor started again
    assert {rule for each in (b, c) for rule in diary.rules(each.name, world.now - 10)} <= {
        "store_lost.standby_waits", "publish.announce"}
    world.store.serving = True
    world.settle()


def test_all_members_together_keep_a_primary_without_the_store(simulate: Simulate) -> None:
    """In failsafe mode everybody answers: the primary writes on through the outage and takes the lock back (EC 23, 29)."""
    world = _named(simulate(dynamic=FAILSAFE, local={"watchdog": {"mode": "required"}}))  # which must be fed all the time
    a, _, _ = cast(world)
    diary, timeline = Diary(world), a.server.timeline
    world.store.serving = False
    assert always(world, lambda: world.writable() == [a.name], 30, 0.25)
    assert "store_lost.members_agree" in diary.rules(a.name) and a.guard.last_action() is None
    world.store.serving = True
    world.store.lapse()
    assert world.leader is None
    assert always(world, lambda: world.writable() == [a.name], 5, 0.25) and world.leader == a.name
    assert a.server.timeline == timeline
    world.settle()


def test_one_silent_member_ends_the_primary(simulate: Simulate) -> None:
    """In failsafe mode one member does not answer: a majority says nothing about the store's, so the primary stops (EC 23)."""
    world = _named(simulate(dynamic=FAILSAFE))
    a, _, c = cast(world)
    diary = Diary(world)
    thaw = c.freeze_agent()
    world.store.serving = False
    assert world.run_until(lambda: world.writable() == [], 10)
    assert c.name in diary.because(a.name, "store_lost.primary_must_stop")
    assert always(world, lambda: world.writable() == [], 10, 0.25)
    thaw()
    world.store.serving = True
    world.settle()


def test_a_member_that_ends_during_the_outage_ends_the_primary(simulate: Simulate) -> None:
    """Failsafe mode carries the primary until one replica is shut down: it stops and stays so while the store is away (EC 30)."""
    world = _named(simulate(dynamic=FAILSAFE))
    a, _, c = cast(world)
    world.store.serving = False
    assert always(world, lambda: world.writable() == [a.name], 15, 0.25)
    c.wanted = False
    c.end_agent()
    ended = world.now
    assert world.run_until(lambda: world.writable() == [], 15) and world.now - ended < 12  # what c said last holds for ttl
    assert always(world, lambda: world.writable() == [], 10, 0.25)
    c.wanted = True
    c.start_agent()
    world.store.serving = True
    world.settle()


def test_a_cluster_of_one_needs_nobody(simulate: Simulate) -> None:
    """In failsafe mode the only node of a cluster keeps writing while the store is away (EC 24)."""
    world = _named(simulate(nodes=("a",), dynamic=FAILSAFE))
    world.store.serving = False
    assert always(world, lambda: world.writable() == ["a"], 30, 0.25)
    world.store.serving = True
    world.settle()


@pytest.mark.parametrize("value", ['{"x":"http://10.0.0.9:8008/patroni"}', '"a text"', "{}"], ids=["others", "text", "empty"])
def test_a_primary_that_failsafe_does_not_name_stops(simulate: Simulate, value: str) -> None:
    """``/failsafe`` lacks the primary, or is no map, and writes fail: nobody can vouch for it (EC 25)."""
    world = _named(simulate(dynamic=FAILSAFE))
    a, _, _ = cast(world)
    diary = Diary(world)
    world.write(Key.FAILSAFE, value)
    world.store.writable = False
    assert world.run_until(lambda: world.writable() == [], 12)
    assert "failsafe mode does not help" in diary.because(a.name, "store_lost.primary_must_stop") or \
        "store_lost.members_agree" not in diary.rules(a.name)
    world.store.writable = True
    world.settle()


@pytest.mark.parametrize("value, out", [("ab", True), ("b", False), ('"a text"', False), ("{}", False)],
                         ids=["others", "others that all answer", "text", "empty"])
def test_only_a_map_without_me_keeps_me_out_of_the_race(simulate: Simulate, value: str, out: bool) -> None:
    """The leader is dead: whom the map of ``/failsafe`` lacks stays out while one of it is silent; no map, an empty one or one
    whose members all say that they are no primary keeps nobody out (EC 25)."""
    world = _named(simulate(dynamic=FAILSAFE))
    a, b, c = cast(world)
    b.server.pace.receive_s = 1e9  # c has more: b would never be let go first
    world.run(2)
    diary = Diary(world)
    a.power_off()
    urls = b.life.board.status.failsafe  # type: ignore
    named = {"ab": (a.name, b.name), "b": (b.name,)}.get(value)
    world.write(Key.FAILSAFE, json.dumps({name: urls[name] for name in named}) if named else value)
    assert world.run_until(lambda: world.leader is None, 15)
    world.run(8)
    assert ("race.not_in_failsafe" in diary.rules(c.name)) is bool(named)
    assert world.writable() == ([] if out else [c.name])
    b.server.pace.receive_s = 0.002
    a.power_on()
    world.settle()


def test_a_primary_that_alone_lost_the_store_is_left_in_peace(simulate: Simulate) -> None:
    """Only the holder lost the store: its lock ends, but those it asks treat it as the leader and do not race (EC 26, 29)."""
    world = _named(simulate(dynamic=FAILSAFE))
    a, b, c = cast(world)
    diary, timeline = Diary(world), a.server.timeline
    mend = cut_store(world, a)
    assert world.run_until(lambda: world.leader is None, 15)
    assert always(world, lambda: world.writable() == [a.name] and world.leader is None, 25, 0.25)
    for each in (b, c):
        assert not [rule for rule in diary.rules(each.name) if rule.startswith("race.")]
        assert each.server.receiver is not None and code(each, "/replica") == 200
    mend()
    world.settle()
    assert world.leader == a.name and a.server.timeline == timeline


def test_a_node_that_accepted_another_gives_back_a_lock_of_its_own(simulate: Simulate) -> None:
    """The holder alone lost the store and b has accepted it; the lock then names b: it is given back, nobody promoted (EC 26)."""
    world = _named(simulate(dynamic=FAILSAFE))
    a, b, _ = cast(world)
    diary = Diary(world)
    mend = cut_store(world, a)
    assert world.run_until(lambda: "store_lost.members_agree" in diary.rules(a.name), 10)
    world.write(Key.LEADER, b.name)
    assert always(world, lambda: world.writable() == [a.name], 15, 0.25)
    assert "leader.accepted_another" in diary.rules(b.name) and world.leader is None
    mend()
    world.settle()
    assert world.leader == a.name


def test_a_store_that_only_reads_is_an_outage(simulate: Simulate) -> None:
    """The store answers reads and refuses writes: members keep the holder, replicas see no lock and hold off (EC 27)."""
    world = _named(simulate(dynamic=FAILSAFE))
    a, b, c = cast(world)
    diary = Diary(world)
    world.store.writable = False
    assert world.run_until(lambda: world.leader is None, 15)
    assert always(world, lambda: world.writable() == [a.name], 20, 0.25)
    assert "store_lost.members_agree" in diary.rules(a.name)
    assert not [rule for each in (b, c) for rule in diary.rules(each.name) if rule.startswith("race.acquire")]
    world.store.writable = True
    world.settle()
    assert world.leader == a.name


def test_failsafe_mode_overrides_no_refusal(simulate: Simulate) -> None:
    """In failsafe mode, in the middle of an outage of its own, the primary learns that another has the lock: it stops (EC 28)."""
    world = _named(simulate(dynamic=FAILSAFE))
    a, _, _ = cast(world)
    diary = Diary(world)
    mend = cut_store(world, a)
    assert world.run_until(lambda: "store_lost.members_agree" in diary.rules(a.name), 10)
    world.store.stale = 1.0
    world.write(Key.LEADER, "somebody")
    mend()
    assert world.run_until(lambda: not a.server.writable, 4)
    assert world.leader == "somebody" and {"leader.refused", "replica.second_primary"} & set(diary.rules(a.name))
    world.store.stale = 0.0
    remove(world, Key.LEADER)
    world.settle()


def test_nobody_races_before_the_word_given_to_a_dead_primary_has_ended(simulate: Simulate) -> None:
    """The primary dies during the outage, then the store is back: a replica leads, ttl after its last word (EC 31)."""
    world = _named(simulate(dynamic=FAILSAFE))
    a, b, c = cast(world)
    world.store.serving = False
    world.run(12)
    assert world.writable() == [a.name]
    status = b.life.board.status if b.life else None
    assert status is not None and status.failsafe_active
    given = world.now
    a.power_off()
    world.store.serving = True
    world.store.lapse()
    assert world.leader is None
    assert always(world, lambda: world.writable() == [], 7, 0.1)  # ttl is 10 s, it asked at most 2 s before
    assert world.run_until(lambda: world.leader in (b.name, c.name) and world.writable() == [world.leader], 12)
    assert world.now - given < 15
    a.power_on()
    world.settle()


def test_an_old_copy_that_failsafe_does_not_name_never_leads(simulate: Simulate) -> None:
    """A node comes up with old data while all others are dead, and ``/failsafe`` does not name it: it stays a replica (EC 32)."""
    world = _named(simulate(dynamic=FAILSAFE))
    a, b, c = cast(world)
    c.power_off()
    assert world.run_until(lambda: c.name not in (world.view().failsafe or {c.name: ""}), 40)
    for each in (a, b):
        each.power_off()
    diary = Diary(world)
    c.power_on()
    assert world.run_until(lambda: world.leader is None and c.server.answers, 20)
    assert always(world, lambda: world.leader is None and not c.server.writable, 30, 0.5)
    assert "race.not_in_failsafe" in diary.rules(c.name) and code(c, "/primary") == 503
    a.power_on()
    b.power_on()
    world.settle()
    assert world.leader in (a.name, b.name)


def test_a_new_leader_forgets_whom_it_had_accepted(simulate: Simulate) -> None:
    """A switchover to a node that just accepted the old primary waits, served by that; then the new one leads on (EC 33)."""
    world = _named(simulate(dynamic=FAILSAFE))
    a, b, _ = cast(world)
    world.store.serving = False
    assert always(world, lambda: world.writable() == [a.name], 12, 0.25)
    world.store.serving = True
    world.run(2)
    assert world.leader == a.name and card(world, b.name)
    assert b.life is not None and b.life.board.status is not None and b.life.board.status.failsafe_active
    diary = Diary(world)
    world.ask_switchover(a.name, b.name)
    assert world.run_until(lambda: "leader.hand_over" in diary.rules(a.name), 12)
    assert world.writable() == [a.name] and "leader.candidates_bound" in diary.rules(a.name)
    handed = world.now
    assert world.run_until(lambda: world.writable() == [b.name], 5) and world.now - handed < 3
    assert always(world, lambda: world.writable() == [b.name] and world.leader == b.name, 15, 0.25)
    world.settle()


def test_slots_of_cascading_members_follow_their_answers(simulate: Simulate) -> None:
    """c streams from b; while the store is away the primary moves the slot of c by the position that c answers (EC 34)."""
    world = simulate(dynamic=FAILSAFE, own={"c": {"tags": {"replicatefrom": "b", "nofailover": True}}})
    a, b, c = (world[name] for name in "abc")
    _named(led_by(world, "a"))
    assert world.run_until(lambda: c.server.receiver is not None and c.server.receiver.upstream is b.server, 15)
    world.run(5)
    world.store.serving = False
    world.run(2)
    assert a.server.files is not None
    before, at = a.server.files.slots["c"].restart or 0, a.server.at.position
    world.run(12)
    after = a.server.files.slots["c"].restart or 0
    assert world.writable() == ["a"] and before < after and at < after
    world.store.serving = True
    world.settle()


def test_a_primary_accepts_no_other_leader(simulate: Simulate) -> None:
    """A second node asks the primary to keep it as the leader: 500, and the primary goes on (EC 36)."""
    world = _named(simulate(dynamic=FAILSAFE))
    a, b, _ = cast(world)
    assert post_failsafe(a, b) == 500
    world.store.serving = False
    world.run(8)
    assert post_failsafe(a, b) == 500
    assert world.writable() == [a.name]
    world.store.serving = True
    world.settle()


def test_a_demotion_for_the_lost_store_is_not_begun_twice(simulate: Simulate) -> None:
    """The server stops slowly as the store was lost, it comes back and is lost again: one stop, one demotion (EC 38)."""
    world = simulate()
    a, _, _ = cast(world)
    expect_trouble(world)
    diary = Diary(world)
    a.server.pace.stop_s, a.server.pace.immediate_s = 30.0, 3.0
    world.store.serving = False
    assert world.run_until(lambda: "demotion.stop" in diary.rules(a.name), 10)
    world.store.serving = True
    world.run(0.5)
    world.store.serving = False
    world.run(8)
    assert diary.count(a.name, "demotion.stop") == 1 and diary.count(a.name, "store_lost.primary_must_stop") == 1
    assert len(diary.actions(a.name, a_.StopServer)) == 1
    a.server.pace.stop_s, a.server.pace.immediate_s = 0.4, 0.05
    world.store.serving = True
    world.settle()


def test_a_demoted_primary_is_readable_when_the_store_is_gone_as_well(simulate: Simulate) -> None:
    """The lock is lost, and the store goes away while the server stops: it comes up as a standby of nobody (EC 39)."""
    world = simulate()
    a, _, _ = cast(world)
    expect_trouble(world)
    diary = Diary(world)
    a.server.pace.immediate_s = 2.0
    world.write(Key.LEADER, "somebody")
    assert world.run_until(lambda: "demotion.stop" in diary.rules(a.name), 5)
    world.store.serving = False
    assert a.server.running
    assert world.run_until(lambda: a.server.answers and a.server.in_recovery, 15)
    assert a.server.followed is None and "store_lost.readable_standby" in diary.rules(a.name)
    world.store.serving = True
    remove(world, Key.LEADER)
    world.settle()


def test_maintenance_mode_outlives_the_store(simulate: Simulate) -> None:
    """The store is away in maintenance mode: nothing changes, and health checks go on answering by role (EC 40)."""
    world = simulate()
    a, b, c = cast(world)
    world.configure(pause=True)
    world.run(8)
    world.store.serving = False
    servers = [machine.server.pid for machine in world]

    def health() -> list[int]:
        return [code(a, "/primary"), code(b, "/replica"), code(c, "/replica"), code(b, "/primary")]

    assert always(world, lambda: world.writable() == [a.name] and health() == [200, 200, 200, 503], 40, 0.5)
    assert [machine.server.pid for machine in world] == servers
    world.store.serving = True
    world.configure(pause=None)
    world.settle()
    assert world.leader == a.name
