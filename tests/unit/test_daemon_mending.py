"""Comparing and mending as tasks of the agent, on a real PostgreSQL: what the rules are told of it. (HA rules 12, 13.3)"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from contract.postgres_node import BIN_DIR, Node, eventually, make, root  # noqa: F401 - fixtures
from contract.test_divergence import diverged, follows, promoted, streams
from pgcore.decide.histories import verdict
from pgcore.model import actions as a
from pgcore.model.actions import RewindState
from pgcore.model.basics import Role
from pgcore.model.node import ControlState, TaskKind
from pgcore.model.world import LeaderTimeline
from unit.test_daemon_kit import Bench, result_of

pytestmark = [pytest.mark.server, pytest.mark.skipif(not BIN_DIR, reason="no PostgreSQL programs on this machine")]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    member = Bench(tmp_path)
    yield member
    member.close()


def compared(bench: Bench, node: Node, leader: Node) -> tuple[RewindState | None, str]:
    """What ``node`` finds out when it compares itself with ``leader``."""
    bench.ports.postgres = node.server
    at = replace(bench.world(), node=node.look())
    outcome = bench.performer.perform(a.CompareTimelines(leader.upstream), at)
    assert isinstance(outcome.value, LeaderTimeline), outcome.error
    return verdict(replace(at, leader_timeline=outcome.value))


def test_two_primaries_that_gave_the_same_number_to_their_timelines_are_told_apart(
        make: Callable[..., Node], bench: Bench) -> None:  # noqa: F811
    """Both are on timeline 2 and their histories differ: pg_rewind would find nothing to do, so it must not be asked."""
    first = make("first").bootstrap()
    behind, ahead = make("behind").standby_of(first), make("ahead").standby_of(first)
    streams(behind)
    behind.stop()
    first.sql("CREATE TABLE public.more AS SELECT generate_series(1, 1000) AS i")
    streams(ahead)
    eventually(lambda: ahead.look().position == first.look().position)
    first.server.terminate()
    ahead.server.promote(ahead.ctx, timeout_s=10)
    promoted(behind)
    assert (ahead.look().timeline, behind.look().timeline) == (2, 2)
    behind.server.checkpoint(behind.ctx)
    ahead.stop()
    assert compared(bench, ahead, behind)[0] is RewindState.TWIN
    ahead.server.rewind(ahead.ctx, behind.upstream)
    assert compared(bench, ahead, behind)[0] is RewindState.TWIN  # it did nothing, and says it was right

    follower = make("follower").standby_of(behind)
    streams(follower)
    assert compared(bench, follower, behind) == (RewindState.NOT_NEED, "both are on timeline 2")


def test_two_promotions_at_the_same_position_are_told_apart_by_their_first_record(
        make: Callable[..., Node], bench: Bench) -> None:  # noqa: F811
    """An idle cluster: two standbys have the same WAL, and both are promoted to timeline 2 without knowing of each other."""
    first = make("first").bootstrap()
    second, third = make("second").standby_of(first), make("third").standby_of(first)
    for each in (second, third):
        eventually(lambda each=each: each.look().position == first.look().position)
    first.stop()
    for each in (second, third):
        each.server.promote(each.ctx, timeout_s=10)
        each.server.checkpoint(each.ctx)
    assert second.server.history(2) == third.server.history(2)
    follower = make("follower").standby_of(third)
    streams(follower)
    second.stop()
    assert compared(bench, second, third)[0] is RewindState.TWIN
    assert compared(bench, follower, third)[0] is RewindState.NOT_NEED
    for path in Path(second.settings.data_dir, "pg_wal").glob("0" * 7 + "2" + "0" * 8 + "*"):
        path.unlink()  # recycled: then the histories are all there is
    assert compared(bench, second, third)[0] is RewindState.NOT_NEED


def test_the_replayed_timeline_counts_and_not_the_one_the_receiver_has_seen(
        make: Callable[..., Node], bench: Bench) -> None:  # noqa: F811
    """(EC 102, 108) A standby that is held back on timeline 1 while its receiver streams timeline 2."""
    first = make("first").bootstrap()
    second, third = make("second").standby_of(first), make("third").standby_of(first)
    streams(second)
    streams(third)
    eventually(lambda: third.look().replayed == first.look().position)
    third.sql("SELECT pg_wal_replay_pause()")
    eventually(lambda: third.look().replay_paused)
    first.sql("CREATE TABLE public.held AS SELECT 1 AS i")
    eventually(lambda: second.look().position == first.look().position == third.look().position)
    first.server.terminate()
    second.server.promote(second.ctx, timeout_s=10)
    second.server.checkpoint(second.ctx)
    third.server.follow_by_reload(second.upstream, role=Role.REPLICA)
    bench.ports.postgres = third.server
    at = replace(bench.world(), node=third.look())
    found = bench.performer.perform(a.CompareTimelines(second.upstream), at).value
    assert isinstance(found, LeaderTimeline) and found.own is not None and found.own.timeline == 1
    assert verdict(replace(at, leader_timeline=found))[0] is RewindState.NOT_NEED


def test_a_checkpoint_of_an_earlier_leadership_does_not_count(make: Callable[..., Node], bench: Bench) -> None:  # noqa: F811
    """(EC 106) It was begun on timeline 1 and ended after the demotion; on timeline 2 another one is written."""
    node = make("again").bootstrap()
    bench.ports.postgres = node.server

    def written(timeline: int) -> object:
        return bench.performer.perform(a.RunCheckpoint(timeline), bench.world()).value

    assert written(1) is False
    eventually(lambda: "checkpoint after the promotion written" in bench.mailbox.woken)
    bench.mailbox.woken.clear()
    assert written(2) is False
    eventually(lambda: "checkpoint after the promotion written" in bench.mailbox.woken)
    assert written(2) is True
    assert written(2) is False  # once


def test_a_source_that_dies_during_pg_rewind_is_asked_again_later(make: Callable[..., Node], bench: Bench) -> None:  # noqa: F811
    """(EC 111) The first failure says that it may work later; with the source back it works, or has failed for good."""
    old, new = diverged(make)
    new.sql("CREATE TABLE public.big AS SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 150000) AS i")
    old.server.crash_recover(old.ctx)
    bench.ports.postgres = old.server
    assert bench.performer.perform(a.Rewind(new.upstream), bench.world()).ok
    eventually(lambda: new.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_read_binary_file%' AND pid <> "
                               "pg_backend_pid()") != [(0,)])
    running = new.server.postmaster()
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    result = result_of(bench.tasks, 20)
    assert result.kind is TaskKind.REWIND and result.error and result.retriable
    assert old.look().rewind_possible  # pg_control is sound, so it stays "needed"
    assert bench.performer.perform(a.Rewind(new.upstream), bench.world()).ok
    assert result_of(bench.tasks, 20).retriable  # the source is still gone
    new.start()
    assert bench.performer.perform(a.Rewind(new.upstream), bench.world()).ok
    result = result_of(bench.tasks, 30)
    assert not result.retriable
    if result.ok:
        follows(old, new)


def test_crash_recovery_that_fails_says_why_and_the_node_goes_on(
        make: Callable[..., Node], bench: Bench, caplog: pytest.LogCaptureFixture) -> None:  # noqa: F811
    """(EC 96) Its WAL is damaged: the output of the single-user server is in the log and in the result."""
    node = make("torn").bootstrap()
    node.server.terminate()
    for segment in Path(node.settings.data_dir, "pg_wal").glob("0000000100000000*"):
        segment.write_bytes(b"\0" * segment.stat().st_size)
    bench.ports.postgres = node.server
    assert bench.performer.perform(a.CrashRecover(), bench.world()).ok
    result = result_of(bench.tasks, 20)
    assert "could not locate a valid checkpoint record" in result.error
    assert "could not locate a valid checkpoint record" in caplog.text
    view = node.look()
    assert not view.running and view.control is not None and view.control.state is ControlState.IN_PRODUCTION
