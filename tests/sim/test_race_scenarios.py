"""The race for the free lock: who may take it, who must not, and what comes of a promotion. (edge cases C)"""

from __future__ import annotations

import pytest

from pgcore.dcs.store import Key
from pgcore.model import actions as a_
from pgcore.testing.simulation.machine import Machine
from pgcore.testing.simulation.network import Traffic
from pgcore.testing.simulation.world import World
from sim.conftest import Simulate
from sim.moments import at_once, lose_power
from sim.scene import Diary, OddDoors, always, cast, cut_store, despite, expect_trouble, led_by, remove

TTL_S = 10.0


def _priority(**priorities: int) -> dict[str, object]:
    return {name: {"tags": {"failover_priority": value}} for name, value in priorities.items()}


def _ahead_of(world: World, leader: Machine, behind: Machine, size: int) -> None:
    """The leader writes what this standby does not receive, and its position is known in the store."""
    assert behind.server.at == leader.server.at
    world.network.cut(leader.name, [behind.name], [Traffic.SQL])
    leader.server.write(size=size)
    at = leader.server.at.position
    assert world.run_until(lambda: world.view().status.optime == at == leader.server.at.position, 8)
    assert behind.server.at.position == at - size


def _leads(world: World, machine: Machine, within_s: float = TTL_S + 5) -> bool:
    return world.run_until(lambda: world.writable() == [machine.name] and world.leader == machine.name, within_s)


@pytest.mark.parametrize("lag, may", [(1000, True), (1001, False)])
def test_the_allowed_lag_is_allowed_to_the_byte(simulate: Simulate, lag: int, may: bool) -> None:
    """A standby lacks exactly maximum_lag_on_failover: it takes the lock; with one byte more it does not (EC 41)."""
    world = simulate(nodes=("a", "b"), dynamic={"maximum_lag_on_failover": 1000}, write_s=0.0)
    a, b = cast(world)
    diary = Diary(world)
    _ahead_of(world, a, b, lag)
    lose_power(a)
    assert _leads(world, b) is may
    assert ("race.lagging" in diary.rules(b.name)) is not may
    if not may:
        assert f"{lag} bytes behind" in diary.because(b.name, "race.lagging")
    a.power_on()
    world.network.lines.clear()
    world.settle()


def test_equal_standbys_both_try_and_one_follows_the_other(simulate: Simulate) -> None:
    """Two standbys are equally far: both try, the atomic create picks one, the other follows it (EC 42)."""
    world = simulate(write_s=0.0)
    a, b, c = cast(world)
    diary = Diary(world)
    lose_power(a)
    assert world.run_until(lambda: world.writable() == [world.leader], 15)
    loser = c if world.leader == b.name else b
    assert diary.count(b.name, "race.acquire") and diary.count(c.name, "race.acquire")
    assert diary.rules(loser.name).count("race.lost") == 1
    assert world.run_until(lambda: loser.server.receiver is not None, 5)
    assert loser.server.receiver is not None and loser.server.receiver.upstream.name == world.leader
    a.power_on()
    world.settle()


@pytest.mark.parametrize("ahead, winner", [(0, "c"), (1, "b")], ids=["equal", "b is ahead by a byte"])
def test_priority_decides_between_equals_only(simulate: Simulate, ahead: int, winner: str) -> None:
    """b has priority 1, c has 2: c leads if both are as far, b if it has a single byte more (EC 43)."""
    world = led_by(simulate(own=_priority(a=1, b=1, c=2), write_s=0.0), "a")
    if ahead:
        _ahead_of(world, world["a"], world["c"], ahead)
    lose_power(world["a"])
    assert _leads(world, world[winner])
    world.network.lines.clear()
    world["a"].power_on()
    world.settle()


@pytest.mark.parametrize("dynamic", [{}, {"synchronous_mode": True, "synchronous_node_count": 2}], ids=["off", "on"])
def test_the_former_leader_is_no_rival_by_priority(simulate: Simulate, dynamic: dict[str, object]) -> None:
    """The old leader was demoted, still answers and has the highest priority: the best of the others leads at once, also among
    two synchronous ones (EC 44, 45)."""
    world = led_by(simulate(own=_priority(a=10, b=1, c=2), dynamic=dynamic, write_s=0.0), "a")
    a, b, c = (world[name] for name in "abc")
    diary = Diary(world)
    expect_trouble(world, a)
    mend = cut_store(world, a)
    assert _leads(world, c, 11.5)
    assert a.server.in_recovery and a.server.answers and b.server.at.contains(a.server.at)
    assert not diary.said("race.peer_preferred", "a is as far") and "race.peer_preferred" not in diary.rules("c")
    mend()
    world.settle()
    assert world.leader == "c"


def test_nobody_is_promoted_while_the_old_primary_answers_as_one(simulate: Simulate) -> None:
    """The lock vanishes while its holder is cut off from the store and still serves: nobody leads before it stopped (EC 46)."""
    world = simulate()
    a, b, c = cast(world)
    diary = Diary(world)
    expect_trouble(world, a)
    mend = cut_store(world, a)
    with despite(world, "no lease beyond the store's"):
        remove(world, Key.LEADER)
        assert world.run_until(lambda: "race.primary_alive" in diary.rules(), 2)
        assert world.run_until(lambda: world.writable() != [a.name], 12)
        assert world.writable() == [] and world.leader is None
        assert world.run_until(lambda: world.leader in (b.name, c.name), 5)
    mend()
    world.settle()


@pytest.mark.parametrize("what", ["no positions", "stopped"])
@pytest.mark.parametrize("mode", ["off", "quorum"])
def test_a_peer_without_a_position_neither_blocks_nor_votes(simulate: Simulate, what: str, mode: str) -> None:
    """A peer answers without WAL fields, or its PostgreSQL is down: it is not ahead of anybody, and gives no vote where votes are
    needed (EC 47, 48)."""
    world = simulate(dynamic={"synchronous_mode": mode == "quorum" and "quorum"})
    a, b, c = cast(world)
    diary = Diary(world)
    assert mode == "off" or world.view().sync.quorum == 1
    lose_power(a)
    if what == "stopped":
        b.server.pace.broken = True
        b.server.kill()
    else:
        thaw = b.freeze_agent()
        b.doors, real = OddDoors(world, {"role": "replica", "state": "running"}), b.doors  # type: ignore[assignment]
    if mode == "off":
        assert _leads(world, c)
    else:
        assert not _leads(world, c, 25) and world.leader is None
        assert "race.too_few_votes" in diary.rules(c.name)
    if what == "stopped":
        b.server.pace.broken = False
    else:
        b.doors = real
        thaw()
    assert world.run_until(lambda: world.leader is not None and world.writable() == [world.leader], 30)
    a.power_on()
    world.settle()


def test_an_unreachable_peer_does_not_block_the_race(simulate: Simulate) -> None:
    """The leader and one standby are gone at the same moment: the other leads as soon as the lock has ended (EC 49)."""
    world = simulate()
    a, b, c = cast(world)
    for machine in (a, b):
        lose_power(machine)
    assert world.run_until(lambda: world.leader is None, 12)
    assert _leads(world, c, 4)
    for machine in (a, b):
        machine.power_on()
    world.settle()


@pytest.mark.parametrize("again", [False, True], ids=["started by its agent", "found by a new agent"])
def test_a_server_that_is_still_starting_does_not_race(simulate: Simulate, again: bool) -> None:
    """The only candidate is starting when the lock ends: it takes it when it accepts connections, not before (EC 50)."""
    world = simulate(nodes=("a", "b"))
    a, b = cast(world)
    diary = Diary(world)
    b.server.pace.start_s = 25.0
    b.server.kill()
    assert world.run_until(lambda: b.server.running, 5)
    if again:
        b.kill_agent()
        b.start_agent()
    lose_power(a)
    assert world.run_until(lambda: world.leader is None, 15)
    assert b.server.running and not b.server.answers
    assert always(world, lambda: b.server.answers or world.leader is None, 10)
    assert ("starting.wait" if again else "busy.wait") in diary.rules(b.name) and "race.acquire" not in diary.rules(b.name)
    assert _leads(world, b, 20)
    b.server.pace.start_s = 0.3
    a.power_on()
    world.settle()


def test_peers_whose_cards_expired_are_asked_as_well(simulate: Simulate) -> None:
    """Lock and cards expired in an outage, the better standby is not back in the store yet: it is asked all the same (EC 51)."""
    world = simulate(write_s=0.0)
    a, b, c = cast(world)
    diary = Diary(world)
    _ahead_of(world, a, b, 500)
    world.store.serving = False
    lose_power(a)
    world.run(TTL_S + 1)
    mend = cut_store(world, c)
    world.store.serving = True
    world.store.lapse()
    assert not [member.name for member in world.view().members] and world.leader is None
    assert always(world, lambda: not b.server.writable, 10)
    assert f"{c.name} is ahead" in diary.because(b.name, "race.peer_ahead")
    mend()
    assert _leads(world, c, 5)
    world.network.lines.clear()
    a.power_on()
    world.settle()


@pytest.mark.parametrize("check", [True, False])
def test_an_unknown_timeline_counts_only_where_it_is_checked(simulate: Simulate, check: bool) -> None:
    """A standby cannot find out its timeline: with check_timeline it stands back, without it races (EC 52)."""
    world = simulate(nodes=("a", "b"), dynamic={"check_timeline": check})
    a, b = cast(world)
    diary = Diary(world)
    for machine in (a, b):
        lose_power(machine)
    b.server.pace.identifies = False
    world.run(TTL_S + 1)
    b.power_on()
    assert _leads(world, b) is not check
    assert b.agent is not None and ("race.old_timeline" in diary.rules(b.name)) is check
    b.server.pace.identifies = True
    a.power_on()
    world.settle()


def test_a_node_whose_required_watchdog_is_broken_never_leads(simulate: Simulate) -> None:
    """Mode required and no usable device on b: it does not race, is no candidate, says so, and holds nobody up (EC 53)."""
    world = led_by(simulate(own={"b": {"watchdog": {"mode": "required"}}}, write_s=0.0), "a")
    world["b"].watchdogs.broken = True
    world.run(4)
    diary = Diary(world)
    world.ask_switchover("a", "b")
    assert world.run_until(lambda: world.key(Key.FAILOVER) in ("", "{}"), 15)
    assert world.leader == "a" and "watchdog" in diary.because("a", "leader.unfit_candidates")
    _ahead_of(world, world["a"], world["c"], 100)
    lose_power(world["a"])
    assert _leads(world, world["c"])  # although b has more
    assert "watchdog is required" in diary.because("b", "race.watchdog_failed")
    world.network.lines.clear()
    world["a"].power_on()
    world.settle()


def test_a_node_that_must_not_lead_is_rewound_to_the_new_leader(simulate: Simulate) -> None:
    """A node tagged nofailover has more than all others: it does not race, holds nobody up, and is rewound afterwards (EC 54)."""
    world = led_by(simulate(own={"b": {"tags": {"nofailover": True}}}, write_s=0.0), "a")
    diary = Diary(world)
    _ahead_of(world, world["a"], world["c"], 500)
    lose_power(world["a"])
    assert _leads(world, world["c"])
    assert "race.nofailover" in diary.rules("b")
    world.network.lines.clear()
    assert world.run_until(lambda: world["b"].server.receiver is not None, 20)
    assert {"replica.rewind", "down.rewind"} & set(diary.rules("b"))
    assert world["c"].server.at.contains(world["b"].server.at)
    world["a"].power_on()
    world.settle()


def test_a_veto_gives_the_lock_to_the_others(simulate: Simulate) -> None:
    """The gate of promotions says no on the preferred standby: it releases the lock and stays out, another one leads (EC 55)."""
    world = led_by(simulate(own=_priority(a=1, b=2, c=1)), "a")
    diary = Diary(world)
    world["b"].vetoes = True
    lose_power(world["a"])
    assert world.run_until(lambda: "leader.promotion_failed" in diary.rules("b"), 15)
    assert _leads(world, world["c"], 5)
    world["b"].vetoes = False
    world["a"].power_on()
    world.settle()


def test_after_a_veto_the_only_candidate_waits_for_ttl(simulate: Simulate) -> None:
    """The gate says no on the only standby, then would say yes: it tries again after ttl, not before (EC 55)."""
    world = simulate(nodes=("a", "b"))
    a, b = cast(world)
    diary = Diary(world)
    b.vetoes = True
    lose_power(a)
    assert world.run_until(lambda: "leader.promotion_failed" in diary.rules(b.name), 15)
    failed = diary.first(b.name, "leader.promotion_failed")
    b.vetoes = False
    assert _leads(world, b, 15)
    assert "race.failed_before" in diary.rules(b.name) and world.now - failed >= TTL_S
    a.power_on()
    world.settle()


def test_a_lock_lost_before_the_promotion_ends_it(simulate: Simulate) -> None:
    """The lock goes to another while the gate is still asked: that is broken off and the standby stays one (EC 56)."""
    world = led_by(simulate(own=_priority(a=1, b=2, c=1)), "a")
    b, diary = world["b"], Diary(world)
    b.gate_s = 5.0
    lose_power(world["a"])
    assert world.run_until(lambda: "leader.promote" in diary.rules("b"), 15)
    expect_trouble(world)
    world.write(Key.LEADER, "somebody")
    assert always(world, lambda: b.server.in_recovery, 12)
    assert "busy.lost_before_promotion" in diary.rules("b")
    b.gate_s = 0.0
    remove(world, Key.LEADER)
    world["a"].power_on()
    world.settle()


def test_a_lock_lost_during_the_promotion_ends_the_primary_at_once(simulate: Simulate) -> None:
    """The lock goes to another when the server was already told to promote: it is stopped, primary or not yet (EC 57)."""
    world = led_by(simulate(own=_priority(a=1, b=2, c=1)), "a")
    b, diary = world["b"], Diary(world)
    b.server.pace.promote_s = 2.0
    lose_power(world["a"])
    at_once(world, lambda: b.agent is not None and b.agent.node.role == "promoted", 20, 0.01)
    expect_trouble(world)
    told = b.server.pid
    world.write(Key.LEADER, "somebody")
    assert world.run_until(lambda: b.server.pid != told or not b.server.running, 4)
    assert "busy.lost_lock" in diary.rules("b") or "replica.still_promoting" in diary.rules("b")
    assert always(world, lambda: not b.server.writable, 6)
    b.server.pace.promote_s = 0.2
    remove(world, Key.LEADER)
    world["a"].power_on()
    world.settle()


def test_a_long_promotion_keeps_the_lock(simulate: Simulate) -> None:
    """The promotion takes longer than ttl: the lock goes on being renewed, and the server is told once (EC 58)."""
    world = simulate(nodes=("a", "b"))
    a, b = cast(world)
    diary = Diary(world)
    b.server.pace.promote_s = 25.0
    lose_power(a)
    assert world.run_until(lambda: world.leader == b.name, 15)
    assert always(world, lambda: world.leader == b.name and not b.server.writable, 20, 0.5)
    assert _leads(world, b, 10)
    assert len(diary.actions(b.name, a_.Promote)) == 1 and "busy.wait" in diary.rules(b.name)
    b.server.pace.promote_s = 0.2
    a.power_on()
    world.settle()


def test_a_frozen_agent_is_waited_for_while_its_wal_arrives(simulate: Simulate) -> None:
    """The primary's agent is frozen, its guard dead, its WAL still arrives: with a backoff of 6 s nobody races sooner (EC 59)."""
    world = simulate(dynamic={"primary_race_backoff": 6}, write_s=0.5)
    a, _, _ = cast(world)
    diary = Diary(world)
    expect_trouble(world)
    a.guard_process.kill()
    thaw = a.freeze_agent()
    assert world.run_until(lambda: world.leader is None, 15)
    free = world.now
    with despite(world, "one writable primary"):
        assert world.run_until(lambda: world.leader is not None, 9)
        assert 5.5 <= world.now - free <= 7.5
        assert diary.said("race.backoff", "its WAL still arrived")
        world.run(1)
        thaw()
        assert world.run_until(lambda: world.writable() == [world.leader], 5)
    world.settle()


def test_a_winner_clears_the_request_that_names_another(simulate: Simulate) -> None:
    """The lock is won while a request names a dead candidate: the winner clears it, so that it blocks nothing later (EC 60)."""
    world = simulate()
    a, b, c = cast(world)
    for machine in (a, c):
        lose_power(machine)
    assert world.run_until(lambda: world.leader is None, 15)
    world.ask_switchover(None, c.name)
    assert c.name in world.key(Key.FAILOVER)
    assert _leads(world, b)
    assert world.run_until(lambda: world.key(Key.FAILOVER) in ("", "{}"), 4)
    for machine in (a, c):
        machine.power_on()
    world.settle()
    assert world.leader == b.name
