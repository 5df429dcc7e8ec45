"""A standby holds the history file of a timeline that leads nowhere: a primary that is gone promoted itself there."""

from __future__ import annotations

import pytest

from pgcore.testing.simulation.machine import Machine
from pgcore.testing.simulation.wal import Branch, Commit
from sim.conftest import Simulate
from sim.scene import Diary, cast
from sim.told import Told, files, streams_from

REMOVING = {"remove_data_directory_on_diverged_timelines": True, "remove_data_directory_on_rewind_failure": True}


def dead_end(world: Told, standby: Machine, before: int) -> Branch:
    """The next timeline began so many bytes before what this standby has, and its history file has come here."""
    mine = files(standby)
    at = Commit(mine.wal.branch, mine.wal.position - before)
    found = world.fleet.wal.promoted(at, at.branch.timeline + 1, 0.0).branch
    mine.known[found.timeline] = found
    return found


@pytest.mark.parametrize("allowed", [{}, REMOVING], ids=["nothing may be removed", "new copies are allowed"])
@pytest.mark.parametrize("before", [500, 0, -500], ids=["behind", "here", "ahead"])
def test_a_standby_starts_although_it_knows_a_dead_end(simulate: Simulate, before: int, allowed: dict[str, bool]) -> None:
    world = simulate(dynamic={"postgresql": {"use_pg_rewind": True, **allowed}})
    leader, standby, _ = cast(world)
    diary, lost = Diary(world), dead_end(world, standby, before)
    standby.server.kill()
    assert world.run_until(lambda: streams_from(standby) == leader.name, 20)
    assert diary.count(standby.name, "down.set_histories_aside") == 1 and lost.timeline not in files(standby).known
    assert f"0000000{lost.timeline}.history" in diary.because(standby.name, "down.set_histories_aside")
    assert not diary.count(standby.name, "down.copy_anew") and world.leader == leader.name


def test_a_running_standby_follows_a_leader_that_gives_the_number_again(simulate: Simulate) -> None:
    """The next leader has never heard of the dead end, so its timeline gets the same number; nobody needs to be restarted."""
    world = simulate()
    old, new, standby = cast(world)
    diary, lost, pid = Diary(world), dead_end(world, standby, 500), standby.server.pid
    world.ask_switchover(old.name, new.name)
    assert world.run_until(lambda: streams_from(standby) == new.name and standby.server.timeline == lost.timeline, 40)
    assert diary.count(standby.name, "replica.set_histories_aside") == 1 and standby.server.pid == pid
    assert files(standby).wal.branch is not lost and new.server.at.contains(files(standby).wal)


def test_a_running_standby_that_may_wait_at_a_dead_end_is_started_anew(simulate: Simulate) -> None:
    """It began ahead of what the standby has replayed: nothing but a start makes PostgreSQL choose again."""
    world = simulate(write_s=0)
    old, new, standby = cast(world)
    diary, lost, pid = Diary(world), dead_end(world, standby, -5000), standby.server.pid
    world.ask_switchover(old.name, new.name)
    assert world.run_until(lambda: streams_from(standby) == new.name and standby.server.timeline == lost.timeline, 40)
    assert diary.count(standby.name, "replica.leave_dead_end") == 1 and diary.count(standby.name, "down.set_histories_aside") == 1
    assert standby.server.pid != pid
