"""Switchover and failover by hand: in order, refused, scheduled, and with everything that can come between. (edge cases D)"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pgcore.dcs.store import Key
from pgcore.model.orders import RestartOrder
from pgcore.testing.simulation.network import Traffic
from pgcore.testing.simulation.scheduler import Scheduler
from pgcore.testing.simulation.server import Phase
from pgcore.testing.simulation.world import World
from sim.conftest import Simulate
from sim.moments import Events, at_once, lose_power, order
from sim.scene import Diary, always, cast, code, expect_trouble, remove

ON = {"synchronous_mode": True}
QUORUM = {"synchronous_mode": "quorum"}


def _dropped(world: World) -> bool:
    return world.run_until(lambda: world.key(Key.FAILOVER) in ("", "{}"), 15)


def _leads(world: World, name: str | None, within_s: float = 15.0) -> bool:
    return world.run_until(lambda: world.writable() == [name] and world.leader == name, within_s)


def test_a_switchover_loses_nothing_and_needs_no_rewind(simulate: Simulate) -> None:
    """All are well: checkpoint, fast stop, the candidate has the shutdown checkpoint, whose position is in the store;
    it leads, the old leader follows without a rewind (EC 61)."""
    world = simulate()
    a, b, _ = cast(world)
    world.run(5)
    diary, events = Diary(world), Events(world)
    world.ask_switchover(a.name, b.name)
    at_once(world, lambda: world.leader != a.name, 10)
    end = a.server.at.position
    assert a.server.files is not None and a.server.files.control is not None
    assert a.server.files.control.checkpoint_end == end == world.view().status.optime and b.server.at == a.server.at
    assert _leads(world, b.name, 3)
    world.settle()
    wanted = ["leader.hand_over", "demotion.checkpoint", "demotion.verified", "demotion.stop", "demotion.give_away"]
    assert [rule for rule in diary.rules(a.name) if rule in wanted] == wanted
    assert not events.of("rewound") and not events.of("crashed")
    assert events.when("writable", b.name) - events.when("stopped", a.name) < 1


def test_the_lock_waits_for_the_candidate_not_for_just_anybody(simulate: Simulate) -> None:
    """c has the shutdown checkpoint at once, the candidate b gets it a second later: the lock is not released before (EC 62)."""
    world = simulate()
    a, b, c = cast(world)
    diary = Diary(world)
    world.ask_switchover(a.name, b.name)
    at_once(world, lambda: "demotion.stop" in diary.rules(a.name), 10)
    b.server.pace.receive_s = 1.5
    at_once(world, lambda: world.leader != a.name or c.server.at.position > b.server.at.position, 5)
    assert world.leader == a.name
    at_once(world, lambda: world.leader != a.name, 8)
    assert b.server.at.contains(a.server.at)
    world.run(0.1)
    assert diary.because(a.name, "demotion.give_away").startswith(f"{b.name} has everything")
    assert _leads(world, b.name, 5)
    b.server.pace.receive_s = 0.002
    world.settle()


@pytest.mark.parametrize("heard", [True, False], ids=["a standby has all", "no standby has all"])
def test_a_slow_archiver_does_not_hold_the_lock(simulate: Simulate, heard: bool) -> None:
    """pg_control says shut down but the postmaster lives on: the lock goes to whoever has everything; if nobody has, it is kept
    alive, and the old primary comes back (EC 63)."""
    world = simulate()
    a, b, c = cast(world)
    world.ask_switchover(a.name, b.name)
    at_once(world, lambda: a.server.safe, 10)
    a.server.pace.stop_s = 600.0
    cuts = [] if heard else world.network.cut(a.name, [b.name, c.name], [Traffic.SQL])
    if heard:
        assert _leads(world, b.name, 5)
        assert a.server.running and not a.server.answers
    else:
        assert always(world, lambda: world.leader == a.name, 6)
        a.server.pace.stop_s = 0.4
        assert _leads(world, a.name, 20) and world.view().timeline <= 1
    a.server.pace.stop_s = 0.4
    world.network.mend(cuts)
    world.settle()


@pytest.mark.parametrize("nodes", [("a", "b", "c"), ("a", "b")])
@pytest.mark.parametrize("dynamic", [{}, ON], ids=["off", "on"])
def test_a_candidate_that_dies_after_the_step_down_is_replaced(
    simulate: Simulate, nodes: tuple[str, ...], dynamic: dict[str, object]
) -> None:
    """The candidate is dead when the lock is free: another one races, in synchronous mode only a synchronous one; if there
    is none the old leader comes back (EC 64)."""
    world = simulate(nodes=nodes, dynamic=dynamic)
    a, b, *rest = cast(world)
    if dynamic:
        (name,) = world.view().sync.standbys
        b, rest = world[name], []
    diary = Diary(world)
    expect_trouble(world)
    world.store.watchers.append(lambda: b.power_off() if world.leader is None and b.powered else None)
    world.ask_switchover(a.name, b.name)
    assert world.run_until(lambda: not b.powered, 10)
    world.store.watchers.pop()
    assert "demotion.give_away" in diary.rules(a.name)
    assert _leads(world, rest[0].name if rest else a.name, 25)
    b.power_on()
    world.settle()


def test_a_switchover_without_candidate_goes_to_a_synchronous_standby(simulate: Simulate) -> None:
    """The asynchronous c is as far as the synchronous b: only b takes the lock (EC 65)."""
    world = simulate(dynamic=ON)
    a, *_ = cast(world)
    (sync,) = world.view().sync.standbys
    other = next(name for name in world.machines if name not in (a.name, sync))
    diary = Diary(world)
    world.ask_switchover(a.name, None)
    at_once(world, lambda: world.leader != a.name, 10)
    assert world[other].server.at == world[sync].server.at
    assert _leads(world, sync, 5) and "race.acquire" not in diary.rules(other)
    world.settle()


@pytest.mark.parametrize("named", [True, False], ids=["switchover", "failover"])
def test_only_a_failover_by_hand_goes_to_an_asynchronous_standby(simulate: Simulate, named: bool) -> None:
    """A request for a standby that is not synchronous: dropped if it names the leader, as that is a switchover; carried out as
    a manual failover if it does not (EC 66, 79)."""
    world = simulate(dynamic=ON)
    a, *_ = cast(world)
    (sync,) = world.view().sync.standbys
    other = next(name for name in world.machines if name not in (a.name, sync))
    diary = Diary(world)
    world.ask_switchover(a.name if named else None, other)
    assert _dropped(world)
    if named:
        assert always(world, lambda: world.writable() == [a.name] and world.leader == a.name, 5)
        assert "is not synchronous" in diary.because(a.name, "leader.no_candidate")
    else:
        assert _leads(world, other)
    world.settle()


@pytest.mark.parametrize("named", [True, False], ids=["with candidate", "without"])
def test_a_quorum_is_needed_only_where_the_candidate_is_open(simulate: Simulate, named: bool) -> None:
    """One of two voters does not answer: a switchover to the other is carried out, one to just anybody is refused (EC 67)."""
    world = simulate(dynamic=QUORUM)
    a, b, c = cast(world)
    assert world.view().sync.quorum == 1
    diary = Diary(world)
    expect_trouble(world, c)
    thaw = c.freeze_agent()
    world.ask_switchover(a.name, b.name if named else None)
    assert _dropped(world)
    if named:
        assert _leads(world, b.name)
    else:
        assert always(world, lambda: world.writable() == [a.name] and world.leader == a.name, 5)
        assert "quorum + 1" in diary.because(a.name, "leader.too_few_candidates")
    thaw()
    world.settle()


def test_without_a_healthy_candidate_nobody_is_demoted(simulate: Simulate) -> None:
    """No standby answers: the request is removed with the reason, and the primary is not touched (EC 68)."""
    world = simulate()
    a, b, c = cast(world)
    diary, pid = Diary(world), a.server.pid
    thaws = [each.freeze_agent() for each in (b, c)]
    world.ask_switchover(a.name, None)
    assert _dropped(world)
    assert "no good candidate" in diary.because(a.name, "leader.unfit_candidates")
    assert a.server.pid == pid and world.writable() == [a.name] and "leader.hand_over" not in diary.rules()
    for thaw in thaws:
        thaw()
    world.settle()


@pytest.mark.parametrize("leader, candidate, rule", [(1, 2, "leader.wrong_leader"), (0, 0, "leader.candidate_is_leader")],
                         ids=["another leader", "the leader itself"])
def test_a_request_that_contradicts_the_lock_is_removed(simulate: Simulate, leader: int, candidate: int, rule: str) -> None:
    """The request moves the lock away from a node that has it not, or to the one that has it: removed, nothing else (EC 69)."""
    world = simulate()
    machines = cast(world)
    diary, pids = Diary(world), [machine.server.pid for machine in world]
    world.ask_switchover(machines[leader].name, machines[candidate].name)
    assert _dropped(world)
    assert always(world, lambda: world.writable() == [machines[0].name], 4)
    assert rule in diary.rules() and [machine.server.pid for machine in world] == pids


def _at(world: World, seconds: float) -> str:
    return datetime.fromtimestamp(Scheduler.EPOCH + world.now + seconds, UTC).isoformat()


def test_a_scheduled_switchover_happens_exactly_then_or_not_at_all(simulate: Simulate) -> None:
    """A schedule that was found 1.5 loops too late is dropped, one within the present loop happens at its moment (EC 70)."""
    world = simulate()
    a, b, _ = cast(world)
    diary = Diary(world)
    world.ask_switchover(a.name, b.name, _at(world, -4.6))
    assert _dropped(world)
    assert "leader.stale_schedule" in diary.rules(a.name) and "leader.hand_over" not in diary.rules(a.name)
    world.ask_switchover(a.name, b.name, _at(world, 2.0))
    due = world.now + 2.0
    assert _leads(world, b.name, 6)
    assert "leader.scheduled" in diary.rules(a.name) and due <= diary.first(a.name, "leader.hand_over") < due + 0.2
    world.settle()


@pytest.mark.parametrize("text", ["2027-01-15T08:00:30", "tomorrow"])
def test_a_schedule_that_cannot_be_read_is_removed(simulate: Simulate, text: str) -> None:
    """A schedule without a time zone, or garbage: the heartbeat removes the request and goes on (EC 71)."""
    world = simulate()
    a, b, _ = cast(world)
    diary = Diary(world)
    world.ask_switchover(a.name, b.name, text)
    assert _dropped(world)
    assert "leader.unreadable_schedule" in diary.rules(a.name) and world.writable() == [a.name]
    world.settle()
    assert world.leader == a.name


def test_a_failover_by_hand_does_not_wait_for_a_crash_recovery(simulate: Simulate) -> None:
    """The holder recovers from a crash for minutes: a manual failover to b is carried out at once, not at the limit (EC 72)."""
    world = simulate()
    a, b, _ = cast(world)
    a.server.pace.recovery_s = 200.0
    expect_trouble(world, a)
    a.server.kill()
    assert world.run_until(lambda: a.server.phase is Phase.STARTING, 6)
    world.run(5)
    assert world.leader == a.name
    world.ask_switchover(None, b.name)
    assert _leads(world, b.name, 6)
    a.server.pace.recovery_s = 1.0
    world.settle()


def test_maintenance_mode_wants_a_candidate_by_name(simulate: Simulate) -> None:
    """Paused: without a candidate the request is removed; with one only that takes the lock, the rest follow (EC 73)."""
    world = simulate()
    a, b, c = cast(world)
    diary = Diary(world)
    world.configure(pause=True)
    world.run(6)
    world.ask_switchover(a.name, None)
    assert _dropped(world)
    assert "leader.paused_without_candidate" in diary.rules(a.name) and world.writable() == [a.name]
    world.ask_switchover(a.name, c.name)
    assert _leads(world, c.name)
    assert not {"race.acquire", "race.asked_for_me"} & set(diary.rules(b.name))
    assert world.run_until(lambda: all(
        each.server.receiver is not None and each.server.receiver.upstream is c.server for each in (a, b)), 20)
    world.configure(pause=None)
    world.settle()


def test_maintenance_mode_does_not_wait_for_a_candidate_that_vanished(simulate: Simulate) -> None:
    """Paused, the lock is free, the request names a member that is gone: the primary drops it and takes the lock (EC 74)."""
    world = simulate()
    a, b, _ = cast(world)
    world.configure(pause=True)
    lose_power(b)
    assert world.run_until(lambda: world.view().member(b.name) is None, 15)
    world.ask_switchover(None, b.name)
    remove(world, Key.LEADER)
    assert _dropped(world)
    assert _leads(world, a.name, 5)
    b.power_on()
    world.configure(pause=None)
    world.settle()
    assert world.leader == a.name


def test_a_lock_won_by_request_is_kept_until_the_promotion(simulate: Simulate) -> None:
    """Paused, the primary is dead, a manual failover gives b the lock: it keeps it although it is no primary for long (EC 75)."""
    world = simulate()
    a, b, _ = cast(world)
    world.configure(pause=True)
    world.run(6)
    lose_power(a)
    assert world.run_until(lambda: world.leader is None, 15)
    b.server.pace.promote_s = 15.0
    world.ask_switchover(None, b.name)
    assert world.run_until(lambda: world.leader == b.name, 5)
    assert always(world, lambda: world.leader == b.name and not b.server.writable, 14, 0.25)
    assert _leads(world, b.name, 5) and code(b, "/primary") == 200
    b.server.pace.promote_s = 0.2
    a.power_on()
    world.configure(pause=None)
    world.settle()


def test_a_switchover_during_a_restart_is_refused(simulate: Simulate) -> None:
    """The leader restarts its server by order when a switchover is asked for: refused with the name of that action (EC 76)."""
    world = simulate()
    a, b, _ = cast(world)
    diary = Diary(world)
    a.server.pace.start_s = 6.0
    done = order(a, RestartOrder())
    assert world.run_until(lambda: a.server.phase is Phase.STARTING, 6)
    world.ask_switchover(a.name, b.name)
    assert _dropped(world)
    assert "restart" in diary.because(a.name, "busy.refuse_while_busy") and world.leader == a.name
    a.server.pace.start_s = 0.3
    world.settle()
    assert world.leader == a.name and done.done()


def test_a_failover_by_hand_works_without_a_leader(simulate: Simulate) -> None:
    """Nobody has the lock, as the only standby lags too far: a manual failover to it is carried out (EC 78)."""
    world = simulate(nodes=("a", "b"), dynamic={"maximum_lag_on_failover": 1000}, write_s=0.0)
    a, b = cast(world)
    diary = Diary(world)
    cuts = world.network.cut(a.name, [b.name], [Traffic.SQL])
    a.server.write(size=5000)
    world.run(5)
    lose_power(a)
    assert world.run_until(lambda: world.leader is None, 15)
    assert always(world, lambda: world.leader is None, 12, 0.5) and "race.lagging" in diary.rules(b.name)
    world.ask_switchover(None, b.name)
    assert _leads(world, b.name, 5)
    assert "race.forced_on_me" in diary.rules(b.name)
    world.network.mend(cuts)
    a.power_on()
    world.settle()
    assert world.leader == b.name
