"""History files of timelines that lead nowhere: what PostgreSQL would do with them, and what is done about it. (HA rules 12.1)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcore.model.actions import CompareTimelines, RewindState, SetHistoriesAside, StartServer, StopMode, StopServer
from pgcore.model.basics import Lsn, Role
from pgcore.model.node import ControlState, NodeView
from pgcore.model.world import LeaderTimeline, OwnTimeline, Switches, World
from pgcore.testing.builders import control, down, leads, standby, upstream, view, world
from rules.cases import Case, case
from rules.driver import Script
from rules.remote import of_remote

B_LEADS = view("b")
STOPPED = down(found=control(ControlState.SHUT_DOWN_IN_RECOVERY, minimum_recovery=Lsn(1000), minimum_recovery_timeline=1))
CLONED = replace(STOPPED, control=control(ControlState.SHUT_DOWN_IN_RECOVERY, minimum_recovery=Lsn(1000),
                                          minimum_recovery_timeline=1, timeline=2))
WAITING = standby(1000, streaming=False)
LEADER = replace(WAITING, role=Role.STANDBY_LEADER)
ASKED: dict[str, Any] = {"timeline_asked": True, "rewind": RewindState.NOT_NEED, "history": (), "recovery_change": "none"}


def ended(*positions: int) -> Switches:
    """That timelines 1, 2, … ended at these positions."""
    return tuple((number, Lsn(at)) for number, at in enumerate(positions, 1))


def knows(**files: Switches) -> OwnTimeline:
    """This server is on timeline 1; ``t2`` is what the history file of timeline 2 says."""
    return OwnTimeline(1, newer=tuple((int(name[1:]), switches) for name, switches in sorted(files.items())))


def judged(node: NodeView, leader: LeaderTimeline | None, **facts: Any) -> World:
    """Found to be part of the leader's history, in this beat."""
    return world(node, B_LEADS, leader_timeline=leader, **ASKED | facts)


def aside(situation: str, *timelines: int, at: World, rule: str = "down.set_histories_aside") -> Case:
    return case(situation, at, rule, SetHistoriesAside(timelines))


DEAD = knows(t2=ended(900))
JUMPED = LeaderTimeline(3, False, ((1, Lsn(2000)),))

STOPPED_CASES = (
    aside("the leader is on timeline 1, a dead end began before the own end", 2, at=judged(STOPPED, leads(1, own=DEAD))),
    aside("it began ahead: PostgreSQL would wait for its WAL", 2, at=judged(STOPPED, leads(1, own=knows(t2=ended(5000))))),
    aside("one dead end after another", 2, 3, at=judged(STOPPED, leads(1, own=knows(t2=ended(900), t3=ended(900, 950))))),
    aside("the leader has given the number to another timeline", 2, at=judged(STOPPED, leads(2, 2000, own=DEAD))),
    aside("the file was never written to its end", 2, at=judged(STOPPED, leads(2, 2000, own=knows(t2=())))),
    aside("the leader's timeline 3 did not pass timeline 2", 2, at=judged(STOPPED, replace(JUMPED, own=DEAD))),
    aside("timeline 2 is the leader's, 3 is not", 3,
          at=judged(STOPPED, leads(2, 2000, own=knows(t2=ended(2000), t3=ended(900))))),
    case("the leader's own files are left alone", judged(STOPPED, leads(3, 2000, 3000, own=knows(
        t2=ended(2000), t3=ended(2000, 3000)))), "down.start_as_standby"),
    case("the newest is the leader's: a dead end before it misleads nobody",
         judged(STOPPED, replace(JUMPED, own=knows(t2=ended(900), t3=ended(2000)))), "down.start_as_standby"),
    case("PostgreSQL does not find timeline 3 as there is no 2", judged(STOPPED, leads(1, own=knows(t3=ended(900, 950)))),
         "down.start_as_standby"),
    case("pg_control is on timeline 2 already: it is no later one", judged(CLONED, leads(2, 2000, own=knows(t2=ended(900)))),
         "down.start_as_standby"),
    case("the leader is in recovery: its history is not final", judged(STOPPED, leads(1, own=DEAD, in_recovery=True)),
         "down.start_as_standby"),
    case("the leader did not answer", judged(STOPPED, None), "down.start_as_standby"),
    case("diverged: nothing is touched", judged(STOPPED, leads(1, own=DEAD), rewind=RewindState.FAILED), "down.start_as_standby"),
)

LATER_TWIN = leads(2, 2000, own=DEAD)

RUNNING_CASES = (
    aside("running: the leader has given the number to another timeline", 2, at=judged(WAITING, LATER_TWIN),
          rule="replica.set_histories_aside"),
    aside("running: only what lies beyond the leader's, the leader has the rest too", 4, rule="replica.set_histories_aside",
          at=judged(WAITING, replace(JUMPED, own=knows(t2=ended(900), t4=ended(900))))),
    aside("the standby leader, the number was given again in the remote cluster", 2, rule="standby_leader.set_histories_aside",
          at=of_remote(LEADER, leader_timeline=LATER_TWIN, **ASKED)),
    case("running on the leader's timeline: the file keeps the number from being given again",
         judged(standby(1000), leads(1, own=DEAD)), "replica.probe_leader"),
    case("running, and the dead end begins ahead: it may be waiting for its WAL",
         judged(WAITING, leads(1, own=knows(t2=ended(1000)))), "replica.leave_dead_end",
         StopServer(StopMode.FAST, 10.0)),
    case("the standby leader, a dead end of the remote cluster begins ahead",
         of_remote(LEADER, leader_timeline=leads(1, own=knows(t2=ended(1000))), **ASKED),
         "standby_leader.leave_dead_end", StopServer(StopMode.FAST, 10.0)),
    case("running, and the leader's own timeline begins ahead", judged(standby(1000), leads(2, 2000, own=knows(t2=ended(2000)))),
         "replica.probe_leader"),
    case("paused: a running server is left alone", judged(WAITING, LATER_TWIN, paused=True), "replica.probe_leader"),
    case("paused: nor is it stopped", judged(WAITING, leads(1, own=knows(t2=ended(1000))), paused=True), "replica.probe_leader"),
)


CASES: tuple[Case, ...] = STOPPED_CASES + RUNNING_CASES


@pytest.mark.parametrize("each", CASES, ids=str)
def test_history_files_that_are_not_the_leaders(each: Case) -> None:
    each.check()


def test_the_reason_names_the_files_and_the_leader() -> None:
    decision = STOPPED_CASES[2].decision()
    assert decision is not None
    assert "00000002.history, 00000003.history in pg_wal do not belong to the history of b (timeline 1)" in decision.because


@pytest.mark.parametrize("fails", [False, True], ids=["renamed", "not renamed"])
def test_it_is_tried_once_and_then_the_server_is_started(fails: bool) -> None:
    answers = {CompareTimelines: leads(1, own=DEAD)}
    script = Script(answers, lambda number, action: fails and isinstance(action, SetHistoriesAside))
    played = script.play(world(STOPPED, B_LEADS))
    assert played.did(SetHistoriesAside, StartServer) == [SetHistoriesAside((2,)), StartServer(Role.REPLICA, upstream("b"))]
