"""Simulated servers under failure: commits that wait, servers that die or hang, copies that are half made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from pgcore.clock import Deadline
from pgcore.errors import CancelledError, ServerError, ServerUnavailableError
from pgcore.model.basics import Json, Role, State
from pgcore.model.node import ControlState, DataDir
from pgcore.model.settings import PermanentSlot
from pgcore.postgres.programs import ProgramRunner
from pgcore.testing.simulation.postgres import SimulatedPostgres
from pgcore.testing.simulation.server import Phase
from sim.servers import METHODS, Room, room


def name_standbys(r: Room, text: str | None) -> bool:
    """As the agent of ``a`` sets them."""
    return r.ask("a", lambda port: port.set_standby_names(text, Deadline.after(1.0)))


# -- acknowledgement ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("names", "told_without_b", "told_without_both"), [
    pytest.param("", True, True, id="off"),
    pytest.param("b", False, False, id="one name"),
    pytest.param('2 ("B","c")', False, False, id="both, compared without case"),
    pytest.param("ANY 1 (b,c)", True, False, id="any of two"),
    pytest.param("ANY 2 (b,c)", False, False, id="any two of two"),
    pytest.param("*", False, False, id="everybody: the first that streams counts"),
    pytest.param("__patroni_strict_sync_replica_placeholder__", False, False, id="nobody"),
])
def test_a_commit_waits_for_the_names_in_force(names: str, told_without_b: bool, told_without_both: bool) -> None:
    with room() as r:
        assert name_standbys(r, names)
        r["b"].pace.receive_s = 30.0
        _, told = r.write("a")
        r.passes(1.0)
        assert bool(told) is told_without_b
        r["c"].pace.receive_s = 30.0
        _, told = r.write("a")
        r.passes(1.0)
        assert bool(told) is told_without_both
        r.passes(100.0)
        assert bool(told) is ("placeholder" not in names)


def test_names_that_change_judge_again_who_waits() -> None:
    with room() as r:
        name_standbys(r, "b")
        r["b"].kill()
        _, told = r.write("a")
        r.passes(1.0)
        assert not told
        name_standbys(r, "c")
        assert told


def test_names_are_shown_before_they_are_in_force() -> None:
    with room() as r:
        r["a"].pace.in_force_s = 5.0
        assert name_standbys(r, "b") is False
        r["b"].pace.receive_s = 60.0
        _, told = r.write("a")
        assert told, "the old value still counts"
        names = r.look("a").names
        assert (names.text, names.in_force, names.settled, names.ours) == ("b", False, True, True)
        r.passes(6.0)
        assert r.look("a").names.in_force
        _, told = r.write("a")
        r.passes(1.0)
        assert not told


def test_a_server_that_does_not_show_the_names_in_time_is_an_error() -> None:
    with room() as r:
        r["a"].pace.shown_s = 5.0
        with pytest.raises(ServerError, match="the server shows ''"):
            name_standbys(r, "b")
        assert not r.look("a").names.settled
        r.passes(6.0)
        assert r.look("a").names.settled


def test_who_waits_when_the_server_ends_is_never_told_although_it_may_have_committed() -> None:
    with room() as r:
        name_standbys(r, "b")
        r["b"].pace.receive_s = 0.5
        commit, told = r.write("a")
        r.ask("a", lambda port: port.stop(ProgramRunner(), mode="fast", timeout_s=60.0))
        r.passes(10.0)
        assert not told and r["b"].at.contains(commit)
        assert commit not in [facts["commit"] for _, facts in r.happened("acknowledged")]


def test_names_found_on_disk_stay_in_force_for_a_new_agent_and_end_with_the_role() -> None:
    with room() as r:
        name_standbys(r, "b")
        r.ports["a"] = SimulatedPostgres(r.ports["a"].settings, r["a"])
        assert r.ask("a", lambda port: port.attach()) is True
        names = r.look("a").names
        assert r.ports["a"].role is Role.PRIMARY and names.ours and names.text == "b"
        r.ask("a", lambda port: port.stop(ProgramRunner(), mode="fast", timeout_s=60.0))
        r.promote("b")
        r.start("a", "b")
        assert r.look("a").names.text == ""


# -- death and hanging -------------------------------------------------------------------------------------------------


def test_a_crashed_primary_recovers_on_its_timeline_with_all_it_had() -> None:
    with room() as r:
        commit, _ = r.write("a")
        r["a"].kill()
        view = r.look("a")
        assert view.state is State.CRASHED and view.control is not None and view.control.state is ControlState.IN_PRODUCTION
        assert r["a"].write() is None
        r["a"].pace.recovery_s = 20.0
        began = r.scheduler.now
        r.start("a", None)
        assert r.scheduler.now - began > 20.0 and r["a"].timeline == 1 and r["a"].at.contains(commit)
        assert [facts["how"] for _, facts in r.happened("writable")] == ["start", "start"]


def test_a_start_that_takes_longer_than_its_limit_goes_on() -> None:
    with room() as r:
        r["a"].kill()
        r["a"].pace.recovery_s = 100.0
        assert r.ask("a", lambda port: port.start(ProgramRunner(), role=Role.PRIMARY, upstream=None, timeout_s=10.0)) is False
        view = r.look("a")
        assert view.running and not view.accepting and view.state is State.STARTING and view.is_primary
        assert view.control is not None and view.control.state is ControlState.IN_CRASH_RECOVERY
        r.passes(100.0)
        assert r.look("a").answering


def test_a_broken_server_and_a_full_disk_do_not_come_up() -> None:
    with room() as r:
        for fault in ("broken", "disk_full"):
            r["b"].kill()
            setattr(r["b"].pace, fault, True)
            with pytest.raises(ServerError):
                r.start("b", "a")
            assert r.ports["b"].state is State.START_FAILED
            setattr(r["b"].pace, fault, False)
            assert r.start("b", "a")


def test_a_stop_that_hangs_becomes_an_immediate_one() -> None:
    with room() as r:
        r["a"].pace.hung_stop = True
        began = r.scheduler.now
        assert r.ask("a", lambda port: port.stop(ProgramRunner(), mode="fast", timeout_s=10.0)) is True
        assert 10.0 <= r.scheduler.now - began < 11.0
        view = r.look("a")
        assert not view.running and view.control is not None and view.control.state is ControlState.IN_PRODUCTION


def test_sessions_are_waited_for_as_long_as_they_may_take() -> None:
    with room() as r:
        r["a"].pace.hung_stop = True
        began = r.scheduler.now
        r.ask("a", lambda port: port.stop(ProgramRunner(), mode="fast", timeout_s=None, sessions_s=3.0))
        assert 3.0 <= r.scheduler.now - began < 4.0


def test_a_stop_tells_of_its_safe_point_before_the_end() -> None:
    with room() as r:
        told: list[tuple[float, bool]] = []

        def report(progress: object) -> None:
            told.append((r.scheduler.now, r["a"].running))

        r["a"].pace.stop_s = 30.0
        began = r.scheduler.now
        r.ask("a", lambda port: port.stop(ProgramRunner(report=report), mode="fast", timeout_s=None))
        assert [(round(at - began), running) for at, running in told] == [(10, True)]


def test_a_server_that_hangs_survives_sigkill_and_dies_when_it_goes_on() -> None:
    with room() as r:
        r["a"].hang()
        view = r.look("a")
        assert view.running and view.accepting and not view.answering and view.is_primary
        assert r["a"].write() is None
        with pytest.raises(ServerError, match="survived SIGKILL"):
            r.ask("a", lambda port: port.stop(ProgramRunner(), mode="fast", timeout_s=5.0))
        assert r.ports["a"].state is State.STOP_FAILED and r["a"].running
        r["a"].resume()
        assert not r["a"].running


def test_what_was_told_to_a_server_happens_without_its_agent() -> None:
    with room() as r:
        r["a"].kill()
        r["b"].pace.promote_s = 5.0
        r.agents["b"].start(lambda: r.ports["b"].promote(ProgramRunner(), timeout_s=60.0))
        r.passes(1.0)
        r.agents["b"].kill()
        r.passes(5.0)
        assert r["b"].writable and r["b"].timeline == 2


def test_a_server_that_dies_in_its_promotion_comes_back_as_a_standby() -> None:
    with room() as r:
        r["a"].kill()
        r["b"].pace.promote_s = 5.0
        r.scheduler.after(2.0, partial(r.kill, "b"))
        with pytest.raises(ServerError, match="died during its promotion"):
            r.promote("b")
        r.start("b", "a")
        r.passes(10.0)
        assert r["b"].phase is Phase.UP and r["b"].in_recovery and r["b"].timeline == 1


def test_a_promotion_is_given_up_by_whoever_waits_but_not_by_the_server() -> None:
    with room() as r:
        r["b"].pace.promote_s = 20.0
        with pytest.raises(ServerError, match="still in recovery"):
            r.ask("b", lambda port: port.promote(ProgramRunner(), timeout_s=5.0))
        assert r.ports["b"].role is Role.PROMOTED
        r.passes(20.0)
        assert r.look("b").role is Role.PRIMARY


def test_a_cancelled_start_stops_the_server_again() -> None:
    with room() as r:
        r["b"].kill()
        r["b"].pace.start_s = 50.0
        ctx = ProgramRunner()
        r.scheduler.after(5.0, ctx.cancelled.set, r.agents["b"])
        with pytest.raises(CancelledError):
            r.ask("b", lambda port: port.start(ctx, role=Role.REPLICA, upstream=r.upstream("a"), timeout_s=100.0))
        assert not r["b"].running and r.ports["b"].state is State.STOPPED


def test_an_exit_is_told_with_its_process_id() -> None:
    with room() as r:
        ended: list[int] = []
        r["a"].on_exit.append(ended.append)
        pid = r.look("a").postmaster_pid
        r["a"].kill()
        assert ended == [pid]


# -- copies and mending ------------------------------------------------------------------------------------------------


def test_a_copy_whose_agent_dies_is_half_made_and_starts_nothing() -> None:
    with room() as r:
        r["b"].kill()
        r.agents["b"].start(lambda: r.ports["b"].clone(ProgramRunner(), METHODS, r.upstream("a")))
        r.passes(2.0)
        assert r.ports["b"].state is State.CREATING_REPLICA and r.look("b").control is None
        r.agents["b"].kill()
        r.agents["b"] = type(r.agents["b"])(r.scheduler, "agent b")
        r.ports["b"] = SimulatedPostgres(r.ports["b"].settings, r["b"])
        assert r.ask("b", lambda port: port.attach()) is False
        view = r.look("b")
        assert view.data_dir is DataDir.PRESENT and view.control is None and view.role is Role.UNINITIALIZED
        with pytest.raises(ServerError):
            r.start("b", "a")
        r.join("b")
        assert r["b"].receiver is not None


@pytest.mark.parametrize("failure", ["source dies", "link is cut", "cancelled", "fails"])
def test_a_copy_that_fails_leaves_nothing(failure: str) -> None:
    with room() as r:
        r["b"].kill()
        ctx = ProgramRunner()
        events: dict[str, Callable[[], None]] = {
            "source dies": partial(r.kill, "a"), "link is cut": lambda: r.cut.add(frozenset("ab")),
            "cancelled": ctx.cancelled.set, "fails": lambda: setattr(r["b"].pace, "clone_fails", True)}
        r.scheduler.after(2.0, events[failure], r.agents["b"])
        with pytest.raises((ServerError, CancelledError)):
            r.ask("b", lambda port: port.clone(ctx, METHODS, r.upstream("a")))
        assert r["b"].files is None and r.look("b").data_dir is DataDir.EMPTY
        assert [name for name, _ in r.happened("removed")][:1] == ["b"]


def diverged(r: Room) -> None:
    """``b`` is the primary, ``a`` has a tail of its own and is down."""
    r["b"].pace.receive_s = 60.0
    r.write("a")
    r["a"].kill()
    r.promote("b")


def test_a_rewound_server_has_what_its_source_has() -> None:
    with room() as r:
        diverged(r)
        r.ask("a", lambda port: port.ready_for_rewind(r.upstream("b"), Deadline.after(5.0)))
        r.ask("a", lambda port: port.rewind(ProgramRunner(), r.upstream("b")))
        (name, facts), = r.happened("rewound")
        assert name == "a" and facts["commit"] == r["b"].at and not facts["commit"].contains(facts["had"])
        view = r.look("a")
        assert view.control is not None and view.control.state is ControlState.IN_ARCHIVE_RECOVERY and view.restored_backup
        assert view.control.minimum_recovery_timeline == 2


def test_before_the_first_checkpoint_of_its_source_a_rewind_sees_nothing_to_do() -> None:
    with room() as r:
        r["b"].pace.checkpoint_s = 100.0
        diverged(r)
        had = r["a"].at
        r.ask("a", lambda port: port.crash_recover(ProgramRunner()))
        assert r["a"].at.contains(had)
        r.ask("a", lambda port: port.rewind(ProgramRunner(), r.upstream("b")))
        assert not r.happened("rewound")
        with pytest.raises(ServerUnavailableError, match="checkpoint"):
            r.ask("a", lambda port: port.ready_for_rewind(r.upstream("b"), Deadline.after(5.0)))


def test_a_rewind_without_its_source_fails_and_can_be_tried_again() -> None:
    with room() as r:
        diverged(r)
        r.passes(5.0)
        r.scheduler.after(2.0, partial(r.kill, "b"))
        with pytest.raises(ServerError, match="could not receive"):
            r.ask("a", lambda port: port.rewind(ProgramRunner(), r.upstream("b")))
        with pytest.raises(ServerUnavailableError):
            r.ask("a", lambda port: port.leader_timeline(r.upstream("b"), Deadline.after(1.0)))
        with pytest.raises(ServerError, match="while it was starting"):
            r.start("a", "b")
        r.start("b", None)
        r.ask("a", lambda port: port.rewind(ProgramRunner(), r.upstream("b")))
        assert r.start("a", "b") and r["a"].receiver is not None


def test_a_rewind_that_dies_half_way_leaves_what_only_a_new_copy_mends() -> None:
    with room() as r:
        diverged(r)
        r.passes(5.0)
        r["a"].pace.rewind_tears = True
        for _ in range(2):
            with pytest.raises(ServerError):
                r.ask("a", lambda port: port.rewind(ProgramRunner(), r.upstream("b")))
        with pytest.raises(ServerError):
            r.start("a", "b")
        r.join("a", "b")
        assert r["a"].receiver is not None


def test_a_standby_that_was_killed_says_less_than_it_replayed() -> None:
    with room() as r:
        for _ in range(20):
            r.write("a")
        r.passes(1.0)
        r["b"].kill()
        control, files = r.look("b").control, r["b"].files
        assert control is not None and control.state is ControlState.IN_ARCHIVE_RECOVERY and files is not None
        assert control.minimum_recovery < files.replayed and control.minimum_recovery_timeline == 1


def test_logical_slots_are_made_on_the_primary_and_copied() -> None:
    with room() as r:
        slot = PermanentSlot("feed", "postgres", "pgoutput")
        assert r.ask("a", lambda port: port.create_logical_slot(slot)) is True
        assert r.ask("a", lambda port: port.create_logical_slot(slot)) is False
        values: dict[str, Json] = {"wal_level": "logical"}
        r.ports["b"].configure(replace(r.ports["b"].settings, parameters=values))
        assert r.ask("b", lambda p: p.leader_slots(r.upstream("a"), ["feed", "other"], 1.0)) == {"feed": r["a"].at.position}
        r.ask("b", lambda p: p.copy_slots(ProgramRunner(), r.upstream("a"), [slot], r.upstream("a"), timeout_s=60.0))
        r.passes(3.0)
        found, = r.look("b").slots
        assert (found.name, found.physical, found.database, found.plugin) == ("feed", False, "postgres", "pgoutput")
        r.write("a")
        r.passes(1.0)
        assert r.ask("b", lambda p: p.advance_logical_slot(slot, found.confirmed_flush)) is True  # type: ignore[arg-type]


def test_a_question_to_a_server_behind_a_cut_takes_until_its_deadline() -> None:
    with room() as r:
        r.cut.add(frozenset("ab"))
        began = r.scheduler.now
        with pytest.raises(ServerUnavailableError, match="no answer"):
            r.ask("b", lambda port: port.leader_timeline(r.upstream("a"), Deadline.after(3.0)))
        assert r.scheduler.now - began == pytest.approx(3.0)
        r.cut.clear()
        r["a"].kill()
        began = r.scheduler.now
        with pytest.raises(ServerUnavailableError, match="refused"):
            r.ask("b", lambda port: port.leader_timeline(r.upstream("a"), Deadline.after(3.0)))
        assert r.scheduler.now == began


def test_a_slow_answer_is_waited_for_until_the_deadline() -> None:
    with room() as r:
        r["a"].pace.query_s = 0.4
        assert r.look("a").answering
        r["a"].pace.slow = 3.0
        view = r.look("a")
        assert view.accepting and not view.answering and view.is_primary and view.position is None
        assert r.ask("a", lambda port: port.position(0.5)) is None
        assert r.ask("a", lambda port: port.position(2.0)) == (r["a"].at.position, r["a"].at.position, True)
