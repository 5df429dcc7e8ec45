"""The lock, and who may write: losing it in each way, freezing past its end, a store that forgets. (edge cases A)"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pgcore.dcs.store import Key
from pgcore.testing.simulation.machine import Machine
from pgcore.testing.simulation.world import World
from sim.conftest import Simulate
from sim.scene import Diary, always, card, cast, code, despite, expect_trouble, remove

SILENT_S = 100.0
"""A query that takes so long runs into every time limit."""


def _stolen(world: World, thief: Machine, seen: bool) -> None:
    """Somebody gives the lock away; unless it is ``seen``, reads still show the old holder for a while."""
    expect_trouble(world)
    world.store.stale = 0.0 if seen else 1.0
    world.write(Key.LEADER, thief.name)


def test_a_refused_renewal_ends_the_primary_at_once(simulate: Simulate) -> None:
    """The leader reads its own name but its renewal is refused: it stops at once, leaves the lock alone and follows (EC 1)."""
    world = simulate()
    a, b, _ = cast(world)
    diary, began = Diary(world), world.now
    _stolen(world, b, seen=False)
    assert world.run_until(lambda: not a.server.running, 5)
    assert "leader.refused" in diary.rules(a.name), diary.rules(a.name)
    assert world.now - diary.first(a.name, "leader.refused") < 0.5
    world.store.stale = 0.0
    assert always(world, lambda: world.leader == b.name and not a.server.writable, 5)
    assert world.run_until(lambda: world.writable() == [b.name], 15)
    world.settle()
    assert world.leader == b.name and a.server.receiver is not None and a.server.receiver.upstream is b.server
    assert world.view().timeline == 2 and began > 0


def test_reading_its_own_name_is_not_enough_to_stay_primary(simulate: Simulate) -> None:
    """The leader's member of the store is in a minority that still names it: it stops in time, and another leads (EC 2)."""
    world = simulate()
    a, _, _ = cast(world)
    diary = Diary(world)
    expect_trouble(world, a)
    world.store.cut_off(a.name)
    assert world.run_until(lambda: world.writable() == [], 12)
    assert "store_lost.primary_must_stop" in diary.rules(a.name), diary.rules(a.name)
    assert world.run_until(lambda: world.leader not in (None, a.name) and world.writable() == [world.leader], 15)
    status = a.life.board.status if a.life else None
    assert world.store.minority[a.name].records[Key.LEADER].value == a.name and status is not None and not a.server.writable
    world.store.minority.clear()
    world.settle()
    assert world.leader != a.name


def test_reading_its_own_name_is_not_enough_to_be_promoted(simulate: Simulate) -> None:
    """A standby reads that it has the lock, but no renewal of it is ever answered: it is not promoted (EC 2)."""
    world = simulate()
    a, b, c = cast(world)
    diary = Diary(world)
    expect_trouble(world, a)
    a.power_off()
    world.write(Key.LEADER, b.name)
    world.store.cut_off(b.name)
    remove(world, Key.LEADER)
    assert always(world, lambda: not b.server.writable, 30)
    assert world.leader == c.name and c.server.writable and "leader.promote" not in diary.rules(b.name)
    world.store.minority.clear()
    a.power_on()
    world.settle()


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "its guard is dead"])
def test_a_thawed_primary_of_an_older_timeline_leaves_the_free_lock_alone(simulate: Simulate, guarded: bool) -> None:
    """The leader freezes, the next one is promoted and dies as well; the first one thaws beside a free lock and stops (EC 3)."""
    world = simulate()
    a, b, c = cast(world)
    diary = Diary(world)
    expect_trouble(world)
    c.power_off()
    thaw = a.freeze()
    assert world.run_until(lambda: b.server.writable and '"timeline":2' in world.key("members/" + b.name), 30)
    world.run(4)  # its history is written
    assert len(world.view().history or ()) == 1
    b.power_off()
    assert world.run_until(lambda: world.leader is None, 15)
    if not guarded:
        a.guard_process.kill()
    thawed = world.now
    thaw()
    assert world.run_until(lambda: not a.server.writable, 1.0)
    assert guarded or "race.outdated_primary" in diary.rules(a.name, thawed), diary.rules(a.name, thawed)
    assert always(world, lambda: world.leader is None and not a.server.writable, 15)
    b.power_on()
    c.power_on()
    world.settle()
    assert world.leader in (b.name, c.name)


def test_a_wiped_store_without_history_is_taken_by_its_primary(simulate: Simulate) -> None:
    """Lock and history are gone; the primary, on its second timeline, takes the lock and nobody is promoted (EC 4)."""
    world = simulate()
    a, b, _ = cast(world)
    world.ask_switchover(a.name, b.name)
    assert world.run_until(lambda: world.writable() == [b.name], 15)
    world.settle()
    world.run(5)
    assert world.view().timeline == 2
    diary, timeline = Diary(world), b.server.timeline
    world.store.wipe()
    assert world.view().history is None
    assert always(world, lambda: world.writable() == [b.name], 20)
    world.settle()
    assert world.leader == b.name and b.server.timeline == timeline and "race.primary_takes_it" in diary.rules(b.name)


def test_a_second_primary_stops_at_once(simulate: Simulate) -> None:
    """A standby is promoted by hand while another has the lock: its agent stops it immediately, and it follows again (EC 5)."""
    world = simulate()
    a, b, _ = cast(world)
    diary = Diary(world)
    expect_trouble(world)
    with despite(world, "one writable primary"):
        b.server.promote()
        assert world.run_until(lambda: b.server.writable, 2)
        assert world.run_until(lambda: world.writable() == [a.name], 5)
    assert "replica.second_primary" in diary.rules(b.name)
    assert world.now - diary.first(b.name, "replica.second_primary") < 1.0
    world.settle()
    assert world.leader == a.name


def _switchover(world: World) -> None:
    world.ask_switchover(world.leader, cast(world)[1].name)


@pytest.mark.parametrize("how", [
    lambda world: _stolen(world, cast(world)[1], seen=False),
    lambda world: _stolen(world, cast(world)[1], seen=True),
    _switchover,
], ids=["refused", "seen", "released"])
def test_nobody_is_sent_to_a_former_leader(simulate: Simulate, how: Callable[[World], None]) -> None:
    """However the lock is lost, ``/primary`` answers 503 from the heartbeat on that knows of it, not ttl later (EC 6)."""
    world = simulate()
    a, b, _ = cast(world)
    answers: list[tuple[int, bool]] = []
    assert code(a, "/primary") == 200
    how(world)
    lost = world.run_until(lambda: world.leader != a.name, 10)
    assert lost
    world.on_beat.append(lambda name, beat: answers.append((code(a, "/primary"), beat.world.refused)) if name == a.name else None)
    assert world.run_until(lambda: bool(answers), 4)
    assert always(world, lambda: code(a, "/primary") == 503, 10)
    assert world.run_until(lambda: code(b, "/primary") == 200, 10)
    world.store.stale = 0.0
    world.settle()


def test_a_primary_that_is_too_busy_to_answer_keeps_leading(simulate: Simulate) -> None:
    """The monitoring query runs into its time limit again and again: the cached role counts, lock, role and state stay (EC 7)."""
    world = simulate()
    a, _, _ = cast(world)
    world.run(4)
    diary = Diary(world)
    a.server.pace.query_s = SILENT_S

    def shown() -> tuple[object, ...]:
        return world.leader, a.server.writable, card(world, a.name)["role"], card(world, a.name)["state"], code(a, "/primary")

    assert always(world, lambda: shown() == (a.name, True, "primary", "running", 200), 25, 0.5)
    assert a.agent is not None and not a.agent.node.answering and "leader.keep" in diary.rules(a.name)
    a.server.pace.query_s = 0.0
    world.settle()
    assert world.leader == a.name and world.view().timeline <= 1


def test_a_primary_that_does_not_answer_is_stopped_all_the_same(simulate: Simulate) -> None:
    """The lock goes to another while the monitoring query hangs: the server stops although nobody can ask it anything (EC 8)."""
    world = simulate()
    a, _, _ = cast(world)
    a.server.pace.query_s = SILENT_S
    world.run(8)
    assert a.agent is not None and not a.agent.node.answering and world.leader == a.name
    expect_trouble(world)
    world.write(Key.LEADER, "somebody")
    assert world.run_until(lambda: not a.server.writable, 4)
    a.server.pace.query_s = 0.0
    remove(world, Key.LEADER)
    world.settle()


def test_no_position_is_written_that_nobody_has_read(simulate: Simulate) -> None:
    """The position of the primary cannot be read: the last known one stays in the store, and moves on when it can (EC 10)."""
    world = simulate()
    a, _, _ = cast(world)
    world.run(4)
    a.server.pace.query_s = SILENT_S
    world.run(4)
    before = world.view().status.optime
    at = a.server.at.position
    assert before and always(world, lambda: world.view().status.optime == before, 12, 0.5)
    assert a.server.at.position > at  # clients have written meanwhile
    a.server.pace.query_s = 0.0
    assert world.run_until(lambda: (world.view().status.optime or 0) > before, 7)


def test_a_leader_without_data_gives_the_lock_back_before_it_copies(simulate: Simulate) -> None:
    """A machine restarts with an empty disk and the lock still names it: it releases that, then copies in a later one (EC 14)."""
    world = simulate()
    a, b, c = cast(world)
    diary = Diary(world)
    expect_trouble(world, a)
    a.power_off()
    a.server.remove()
    a.power_on()
    assert world.leader == a.name
    assert world.run_until(lambda: world.leader != a.name, 3)
    assert world.run_until(lambda: world.leader in (b.name, c.name), 5)
    world.settle()
    assert diary.first(a.name, "no_data.clone") > diary.first(a.name, "no_data.give_lock_back")
    assert a.server.at.branch.system_id == b.server.at.branch.system_id


def test_a_deleted_configuration_does_not_end_maintenance_mode(simulate: Simulate) -> None:
    """``/config`` is deleted in maintenance mode: the mode stays on, and the holder writes the last known one back (EC 16)."""
    world = simulate()
    a, _, _ = cast(world)
    world.configure(pause=True)
    world.run(8)
    before = world.key(Key.CONFIG)
    remove(world, Key.CONFIG)
    assert world.run_until(lambda: world.paused, 4) and world.key(Key.CONFIG) == before
    assert always(world, lambda: world.leader == a.name and world.writable() == [a.name], 10)


def test_a_deleted_configuration_promotes_nobody_in_maintenance_mode(simulate: Simulate) -> None:
    """``/config`` is deleted in maintenance mode while the primary is dead: no standby races, in no heartbeat (EC 16)."""
    world = simulate()
    a, b, c = cast(world)
    world.configure(pause=True)
    world.run(8)
    config = world.view().config
    a.power_off()
    remove(world, Key.CONFIG)
    diary = Diary(world)
    assert always(world, lambda: world.writable() == [], 30, 0.5) and world.leader is None
    for each in (b, c):
        assert {rule for rule in diary.rules(each.name, world.now - 10) if rule.startswith("race.")} == {"race.paused"}
    a.power_on()
    assert config is not None and config.document is not None
    world.configure(**{**config.document, "pause": None})
    world.settle()


@pytest.mark.parametrize("mode", [True, "quorum"], ids=["on", "quorum"])
def test_a_wiped_store_gets_its_synchronous_standbys_back(simulate: Simulate, mode: object) -> None:
    """Everything is deleted from the store of a synchronous cluster: the primary goes on and makes ``/sync`` again (EC 18)."""
    world = simulate(dynamic={"synchronous_mode": mode})
    a, _, _ = cast(world)
    world.store.wipe()
    assert world.view().sync.leader is None
    assert always(world, lambda: world.writable() == [a.name], 10)
    world.settle()
    assert world.leader == a.name and world.view().sync.leader == a.name and world.view().sync.standbys


def test_a_leader_whose_every_heartbeat_fails_stops_when_its_lease_ends(simulate: Simulate) -> None:
    """Each heartbeat of the leader ends with an unforeseen error: its guard stops the server in time, another leads (EC 20)."""
    world = simulate()
    a, _, _ = cast(world)
    expect_trouble(world, a)
    a.bug, began = True, world.now
    assert world.run_until(lambda: world.writable() == [], 10.1)
    assert a.guard.last_action() is not None and world.leader == a.name
    assert world.run_until(lambda: world.writable() == [world.leader], 10) and world.now - began < 16
    a.bug = False
    world.settle()
    assert world.leader != a.name
