"""The simulated servers behave as PostgreSQL does, as far as the agent and its rules can tell."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import pgcore.daemon
from pgcore.clock import Deadline
from pgcore.errors import ServerError, ServerUnavailableError
from pgcore.model.basics import Role, State
from pgcore.model.node import ControlData, ControlState
from pgcore.model.server import Upstream
from pgcore.postgres.programs import ProgramRunner
from pgcore.postgres.server import Postgres
from pgcore.testing.simulation.postgres import SimulatedPostgres
from pgcore.testing.simulation.replication import permits
from pgcore.testing.simulation.scheduler import Process
from pgcore.testing.simulation.server import Server
from pgcore.testing.simulation.wal import Wal, history
from sim.servers import room


def _used_by_the_daemon() -> set[str]:
    """Names that the daemon looks up on something called ``postgres``."""
    found = set()
    for path in sorted(Path(pgcore.daemon.__path__[0]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                owner = node.value
                name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
                if name == "postgres":
                    found.add(node.attr)
    return found


def test_the_model_has_every_method_of_the_real_port_that_the_daemon_uses() -> None:
    used = _used_by_the_daemon() - {"role", "state"}
    assert len(used) > 30
    for name in sorted(used):
        real, model = getattr(Postgres, name), getattr(SimulatedPostgres, name, None)
        assert model is not None, f"{name} is missing"
        if isinstance(real, property):
            assert isinstance(model, property), name
            continue
        wanted, offered = inspect.signature(real).parameters, inspect.signature(model).parameters
        assert list(wanted) == list(offered), name
        for each in wanted:
            assert (wanted[each].kind, wanted[each].default is inspect.Parameter.empty) == (
                offered[each].kind, offered[each].default is inspect.Parameter.empty), f"{name}({each})"


def test_a_cluster_begins_is_copied_and_streams() -> None:
    with room() as r:
        commit, told = r.write("a")
        assert told == [commit]
        r.passes(1.0)
        primary, standby = r.look("a"), r.look("b")
        assert primary.is_primary and primary.role is Role.PRIMARY and primary.state is State.RUNNING
        assert sorted(sender.application_name for sender in primary.senders) == ["b", "c"]
        assert not standby.is_primary and standby.receiver is not None and standby.receiver.host == "10.0.0.1"
        assert standby.position == primary.position and r["b"].at.contains(commit)


def test_an_orderly_stop_hands_the_shutdown_checkpoint_to_the_standbys() -> None:
    with room() as r:
        ends: list[ControlData] = []
        r.ask("a", lambda port: port.stop(ProgramRunner(), mode="fast", timeout_s=60.0, on_shut_down=ends.append))
        view = r.look("a")
        assert view.control is not None and view.control.state is ControlState.SHUT_DOWN
        assert [control.checkpoint_end for control in ends] == [view.control.checkpoint_end] == [r["b"].at.position]
        assert view.state is State.STOPPED and not view.running


def test_a_diverged_primary_is_refused_until_it_was_rewound() -> None:
    with room() as r:
        r["b"].pace.receive_s = r["c"].pace.receive_s = 5.0
        lost, _ = r.write("a")
        r["a"].kill()
        assert r.look("a").state is State.CRASHED
        r["c"].pace.receive_s = 0.0
        r.promote("b")
        assert r["b"].timeline == 2 and not r["b"].at.contains(lost)
        r.follow("c", "b")
        assert r["c"].receiver is not None and r["c"].timeline == 2
        assert r.start("a", "b") and r["a"].receiver is None and r["a"].at.contains(lost)
        r.ask("a", lambda port: port.rewind(ProgramRunner(), r.upstream("b")))
        assert r.start("a", "b") and r["a"].receiver is not None and not r["a"].at.contains(lost)
        assert not r.happened("mixed")


# -- WAL and timelines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "theirs", "allowed"), [
    pytest.param("behind on 1", "end of 1", True, id="the same timeline"),
    pytest.param("end of 1", "behind on 1", True, id="ahead of it on the same timeline within a segment: it waits"),
    pytest.param("behind on 1", "on 2", True, id="a newer timeline that left mine ahead of me"),
    pytest.param("fork", "on 2", True, id="a newer timeline that left mine exactly where I am"),
    pytest.param("end of 1", "on 2", False, id="a newer timeline that left mine behind me"),
    pytest.param("on 2", "end of 1", False, id="an older timeline"),
    pytest.param("on 2", "on the other 2", True, id="another timeline of the same number: PostgreSQL compares numbers only"),
    pytest.param("on 2", "on 3 of the other 2", True, id="a child of another timeline of my number, which left it ahead of me"),
    pytest.param("on 2", "on 3 of 1", False, id="a newer timeline in whose history mine is not"),
])
def test_whom_a_standby_may_follow(own: str, theirs: str, allowed: bool) -> None:
    wal = Wal()
    begin = wal.new_cluster(0.0)
    behind = wal.append(begin, 100, 0.0)
    fork = wal.append(behind, 100, 0.0)
    ahead = wal.append(fork, 100, 0.0)
    two = wal.append(wal.promoted(fork, 2, 0.0), 50, 0.0)
    other = wal.append(wal.promoted(fork, 2, 0.0), 80, 0.0)
    child = wal.append(wal.promoted(other, 3, 0.0), 80, 0.0)
    stranger = wal.append(wal.promoted(fork, 3, 0.0), 80, 0.0)
    places = {"behind on 1": behind, "fork": fork, "end of 1": ahead, "on 2": two, "on the other 2": other,
              "on 3 of the other 2": child, "on 3 of 1": stranger}
    assert permits(places[own], places[theirs]) is allowed


def test_who_has_a_commit() -> None:
    wal = Wal()
    begin = wal.new_cluster(0.0)
    early = wal.append(begin, 100, 0.0)
    late = wal.append(early, 100, 0.0)
    two = wal.append(wal.promoted(early, 2, 0.0), 500, 0.0)
    assert two.contains(early) and not two.contains(late) and not early.contains(late) and not late.contains(two)
    assert two.contains(wal.promoted(early, 2, 0.0)), "nothing was written there yet"
    assert two.shared(late) == early.position == late.shared(two)
    assert history(two.branch) == ((1, early.position, "no recovery target specified"),)
    again = wal.append(early, 70, 0.0)  # written where the timeline goes on elsewhere already
    assert again.branch.timeline == 1 and not again.contains(late) and not late.contains(again) and history(again.branch) == ()


def test_two_promotions_at_the_same_place_differ_in_their_first_record() -> None:
    with room() as r:
        r["a"].kill()
        r.promote("b")
        r.promote("c")
        assert r["b"].timeline == r["c"].timeline == 2
        found = r.ask("b", lambda port: port.leader_timeline(r.upstream("c"), Deadline.after(1.0)))
        assert found.timeline == 2 and not found.in_recovery and found.history == r.ports["b"].history(2)
        assert r.ports["b"].begins_alike(found, 2) is False
        found = r.ask("c", lambda port: port.leader_timeline(r.upstream("c"), Deadline.after(1.0)))
        assert r.ports["c"].begins_alike(found, 2) is True
        r.ask("b", lambda port: port.stop(ProgramRunner(), mode="fast", timeout_s=60.0))
        had = r["b"].at
        r.passes(5.0)
        r.ask("b", lambda port: port.rewind(ProgramRunner(), r.upstream("c")))
        assert r["b"].at is had, "pg_rewind sees the same timeline and does nothing"
        assert not r.happened("mixed")
        r.start("b", "c")
        r.write("c")
        r.passes(1.0)
        assert [name for name, _ in r.happened("mixed")] == ["b"]


def test_a_promotion_takes_a_number_that_its_server_has_not_heard_of() -> None:
    with room("abcd") as r:
        r["c"].pace.receive_s = 0.0
        r["b"].pace.receive_s = 60.0
        r.write("a")
        r.passes(1.0)
        r["a"].kill()
        r.promote("b")
        r.follow("c", "b")
        assert r["c"].receiver is None and r["c"].files is not None and sorted(r["c"].files.known) == [2]
        r.promote("c")
        r.promote("d")
        assert (r["b"].timeline, r["c"].timeline, r["d"].timeline) == (2, 3, 2)


def test_a_standby_that_knows_a_history_without_it_does_not_start() -> None:
    with room() as r:
        r["b"].pace.receive_s = 60.0
        r.write("a")
        r.passes(1.0)
        r["a"].kill()
        r.promote("b")
        r.follow("c", "b")
        r.ask("c", lambda port: port.stop(ProgramRunner(), mode="fast", timeout_s=60.0))
        with pytest.raises(ServerError, match="ended while it was starting"):
            r.start("c", "b")
        assert r.look("c").state is State.START_FAILED


# -- streams -----------------------------------------------------------------------------------------------------------


def test_a_standby_cascades_and_follows_its_upstream_through_a_promotion() -> None:
    with room("ab") as r:
        r.servers["c"] = Server(r.fleet, "c", "10.0.0.3")
        r.ports["c"] = SimulatedPostgres(r.ports["a"].settings, r["c"])
        r.agents["c"] = Process(r.scheduler, "agent c")
        r.join("c", "b")
        commit, _ = r.write("a")
        r.passes(1.0)
        assert r["c"].at.contains(commit) and [s.application_name for s in r.look("b").senders] == ["c"]
        r["a"].kill()
        r.promote("b")
        commit, _ = r.write("b")
        r.passes(1.0)
        view = r.look("c")
        assert r["c"].at.contains(commit) and view.timeline == 2 and view.receiver is not None and view.receiver.timeline == 2


def test_a_standby_needs_the_slot_it_names() -> None:
    with room("ab") as r:
        r.ask("b", lambda port: port.follow_by_reload(r.upstream("a", "b")))
        r.passes(5.0)
        assert r["b"].receiver is None
        r.ask("a", lambda port: port.create_slot("b"))
        r.passes(3.0)
        r.write("a")
        r.passes(1.0)
        slot, = r.look("a").slots
        assert slot.active and slot.restart_lsn == r["a"].at.position
        with pytest.raises(ServerError, match="active"):
            r.ask("a", lambda port: port.drop_slot("b"))


def test_each_end_of_a_cut_stream_notices_after_its_time() -> None:
    with room("ab") as r:
        r["a"].pace.notice_s, r["b"].pace.notice_s = 4.0, 8.0
        r.cut.add(frozenset("ab"))
        commit, _ = r.write("a")
        r.passes(3.0)
        assert r.look("a").senders and r.look("b").receiver and not r["b"].at.contains(commit)
        r.passes(3.0)
        assert not r.look("a").senders and r.look("b").receiver
        r.passes(4.0)
        assert not r.look("b").receiver
        r.cut.clear()
        r.passes(3.0)
        assert r["b"].at.contains(commit)


def test_a_short_cut_delays_and_loses_nothing() -> None:
    with room("ab") as r:
        r.cut.add(frozenset("ab"))
        commit, _ = r.write("a")
        r.passes(2.0)
        stream = r["b"].receiver
        r.cut.clear()
        r.passes(1.0)
        assert r["b"].at.contains(commit) and r["b"].receiver is stream


def test_a_machine_without_power_tells_nobody() -> None:
    with room("ab") as r:
        r["b"].power_off()
        r.cut.add(frozenset("ab"))
        r.passes(5.0)
        assert [s.application_name for s in r.look("a").senders] == ["b"]
        r.passes(10.0)
        assert not r.look("a").senders


def test_a_new_upstream_waits_for_the_replay() -> None:
    with room("abc") as r:
        r["c"].pace.replay_s = 8.0
        r.write("a")
        r.passes(0.1)
        r.ask("c", lambda port: port.follow_by_reload(r.upstream("b")))
        r.passes(2.0)
        view = r.look("c")
        assert view.receiver is not None and view.receiver.host == "10.0.0.1" and view.replayed < view.received  # type: ignore[operator]
        assert r.ask("c", lambda port: port.recovery_change(r.upstream("b"), role=Role.REPLICA)) == "reload"
        r.passes(10.0)
        view = r.look("c")
        assert view.receiver is not None and view.receiver.host == "10.0.0.2"
        assert r.ask("c", lambda port: port.recovery_change(r.upstream("b"), role=Role.REPLICA)) == "none"


def test_a_cluster_is_not_copied_into_another() -> None:
    with room("ab") as r:
        r.servers["c"] = Server(r.fleet, "c", "10.0.0.3")
        r.ports["c"] = SimulatedPostgres(r.ports["a"].settings, r["c"])
        r.agents["c"] = Process(r.scheduler, "agent c")
        r.bootstrap("c")
        assert r.ports["c"].system_id() != r.ports["a"].system_id()
        r.follow("b", "c")
        assert r["b"].receiver is None
        with pytest.raises(ServerUnavailableError, match="is of cluster"):
            r.ask("b", lambda port: port.leader_timeline(r.upstream("c"), Deadline.after(1.0)))


def test_an_archive_tells_every_promotion_which_numbers_are_taken() -> None:
    with room() as r:
        r.fleet.archiving = True
        r["a"].kill()
        r.promote("b")
        r.promote("c")
        assert (r["b"].timeline, r["c"].timeline) == (2, 3)


def test_an_orderly_stop_waits_for_a_standby_that_lags_and_for_one_that_is_silent_until_it_is_given_up() -> None:
    with room() as r:
        r["a"].pace.notice_s = 20.0
        r["b"].pace.receive_s = 5.0
        began = r.scheduler.now
        r.ask("a", lambda port: port.stop(ProgramRunner(), mode="fast", timeout_s=60.0))
        assert 5.0 < r.scheduler.now - began < 11.0 and r["b"].at == r["c"].at == r["a"].at
        r.start("a", None)
        r["b"].hang()
        began = r.scheduler.now
        r.ask("a", lambda port: port.stop(ProgramRunner(), mode="fast", timeout_s=60.0))
        assert 19.0 < r.scheduler.now - began < 25.0 and r["c"].at == r["a"].at != r["b"].at


def test_a_standby_cluster_streams_from_a_remote_address() -> None:
    with room("ab") as r:
        remote = Upstream("10.9.9.9,10.0.0.1", 5432)
        r.ask("b", lambda port: port.follow_by_reload(remote, role=Role.STANDBY_LEADER))
        r.passes(3.0)
        r.write("a")
        r.passes(1.0)
        assert r["b"].receiver is not None and r["b"].at == r["a"].at
        assert r.ask("b", lambda port: port.recovery_change(remote, role=Role.STANDBY_LEADER)) == "none"


def _a_day() -> list[object]:
    with room() as r:
        for second in range(30):
            r.write("a")
            r["b"].pace.receive_s = r.fleet.dice.random()
            r.passes(r.fleet.dice.random())
            if second == 15:
                r["b"].kill()
        r["a"].kill()
        r.promote("c")
        return [(kind, name, str(facts)) for kind, name, facts in r.events] + [r.look(name).control for name in "abc"]


def test_the_same_dice_give_the_same_course_of_events() -> None:
    assert _a_day() == _a_day()
