"""What is counted, by what the real ``advance`` makes of worlds, actions and outcomes."""

from __future__ import annotations

from typing import Any

import pytest

from pgcore.daemon.tally import Tally
from pgcore.decide.advance import ClusterReading, advance
from pgcore.model import actions as a
from pgcore.model.actions import DemoteMode, Phase
from pgcore.model.basics import Instant, Role
from pgcore.model.changes import replace
from pgcore.model.cluster import ClusterView
from pgcore.model.counts import Counts
from pgcore.model.decision import act, rest
from pgcore.model.failsafe import FailsafeAnswer
from pgcore.model.node import NodeView, TaskKind, Writes
from pgcore.model.world import LeaseState, World
from pgcore.testing.builders import NOW, TTL, demotion, did, primary, request, standby, view, world


class Beats:
    """A tally, and the world that it is told of."""

    def __init__(self, start: World) -> None:
        self.tally, self.world = Tally(), start
        if start.memory.lease_until is not None:
            self.tally.became(start)  # it has led before
            self.tally.ended((), 0.0)

    def do(self, action: a.Action, value: Any = None, *, ok: bool = True, at: float = NOW) -> Beats:
        """One heartbeat with this action."""
        self.step(action, value, ok=ok, at=at)
        self.tally.ended((), 0.01)
        return self

    def step(self, action: a.Action, value: Any = None, *, ok: bool = True, at: float = NOW) -> None:
        """The action alone."""
        self.tally.became(self.world)
        outcome = a.Outcome(Instant(at), ok=ok, value=value, began=Instant(at))
        self.tally.performed(action, self.world, outcome)
        self.world = advance(self.world, action, outcome)
        self.tally.became(self.world)

    @property
    def counts(self) -> Counts:
        return self.tally.counts()


def reading(cluster: ClusterView, before: World) -> ClusterReading:
    return ClusterReading(cluster, before.settings)


FREE = view(None)
STANDBY, HOLDER = world(standby(), FREE), world(primary(), view("a"))


# -- who leads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "action", "value", "reason"), [
    (STANDBY, a.AcquireLease(), True, "failover"),
    (world(standby(), view(None, failover=request("b", "a"))), a.AcquireLease(), True, "switchover"),
    (world(standby(), view(None, failover=request("b"))), a.AcquireLease(), True, "switchover"),
    (world(standby(), view(None, failover=request(None, "a"))), a.AcquireLease(), True, "manual_failover"),
    (world(standby(), view(None, failover=request("b", "c"))), a.AcquireLease(), True, "failover"),
    (world(standby(), view(None, failover=request("b", "a", due=9000))), a.AcquireLease(), True, "failover"),
    (world(primary(), FREE), a.AcquireLease(force=True), True, "bootstrap"),
    (world(primary(), FREE), a.AcquireLease(), True, "retaken"),
    (world(primary(), view("a"), lease=LeaseState.UNRENEWED, lease_until=None), a.RenewLease(), "held", "found"),
])  # fmt: skip
def test_how_a_node_came_to_lead(start: World, action: a.Action, value: object, reason: str) -> None:
    counts = Beats(start).do(action, value).counts
    assert (counts.gained, counts.lost) == ({reason: 1}, {})


@pytest.mark.parametrize(("value", "ok"), [(False, True), (None, False)])
def test_a_race_that_was_not_won_is_not_counted(value: object, ok: bool) -> None:
    assert not Beats(STANDBY).do(a.AcquireLease(), value, ok=ok).counts.gained


def holder(mode: DemoteMode, *candidates: str) -> World:
    return replace(HOLDER, memory=replace(HOLDER.memory, procedure=demotion(mode, Phase.STOP, *candidates)))


@pytest.mark.parametrize(("start", "action", "value", "reason"), [
    (holder(DemoteMode.GRACEFUL, "b"), a.SetRole(Role.DEMOTED), None, "switchover"),
    (holder(DemoteMode.IMMEDIATE, "b"), a.SetRole(Role.DEMOTED), None, "switchover"),
    (holder(DemoteMode.SHUTDOWN, "b"), a.SetRole(Role.DEMOTED), None, "shutdown"),
    (holder(DemoteMode.OFFLINE), a.SetRole(Role.DEMOTED), None, "store_lost"),
    (holder(DemoteMode.IMMEDIATE), a.SetRole(Role.DEMOTED), None, "given_up"),
    (holder(DemoteMode.CLUSTER, "b"), a.ReleaseLease(), True, "demote_cluster"),
    (HOLDER, a.ReleaseLease(), True, "given_up"),
    (world(primary(), view("a"), stopping=True), a.ReleaseLease(), True, "shutdown"),
    (HOLDER, a.RenewLease(), "taken", "lock_lost"),
    (HOLDER, a.RenewLease(), "gone", "lock_lost"),
    (HOLDER, a.ReadCluster(), reading(view("b"), HOLDER), "lock_lost"),
])  # fmt: skip
def test_why_a_node_ceased_to_lead(start: World, action: a.Action, value: object, reason: str) -> None:
    counts = Beats(start).do(action, value).counts
    assert counts.lost == {reason: 1}
    assert sum(counts.gained.values()) == 0


def test_a_store_that_is_silent_for_a_moment_ends_no_leadership() -> None:
    beats = Beats(HOLDER).do(a.RenewLease(), ok=False).do(a.RenewLease(), "held")
    assert not beats.counts.lost and not beats.counts.gained
    assert beats.counts.renewals == {"undecided": 1, "held": 1}


def test_a_beat_that_a_bug_broke_off_is_remembered_no_more_by_the_tally_than_by_the_agent() -> None:
    beats = Beats(STANDBY)
    beats.step(a.AcquireLease(), True)
    beats.tally.broke_off(0.5)
    assert not beats.counts.gained and beats.counts.bugs == 1 and beats.counts.heartbeats.total_s == 0.5
    beats.world = world(standby(), view("a"), lease=LeaseState.UNRENEWED, lease_until=None)
    assert beats.do(a.RenewLease(), "held").counts.gained == {"found": 1}


def test_rounds_of_failsafe_mode() -> None:
    start = world(primary(), None, failsafe_mode=True, lease_until=Instant(NOW + TTL))
    ask = a.AskFailsafe({"b": ""}, {}, 1.0)
    beats = Beats(start).do(ask, {"b": FailsafeAnswer(True)})
    assert (beats.counts.members_agreed, beats.counts.members_refused) == (1, 0)
    beats.do(ask, {"b": FailsafeAnswer(False)})
    assert (beats.counts.members_agreed, beats.counts.members_refused) == (1, 1)
    assert not beats.counts.lost


# -- time in which writes were accepted ----------------------------------------------------------------------------------


def look(at: float, began: float | None = None, ceased: float | None = None, **changes: Any) -> NodeView:
    writes = Writes(None if began is None else Instant(began), None if ceased is None else Instant(ceased))
    return replace(primary(writes=writes, **changes), at=Instant(at))


@pytest.mark.parametrize(("first", "second", "writable_s"), [
    (look(0, began=-5), look(10, began=-5), 10),
    (look(0), look(10), 0),
    (look(0), look(10, began=4), 6),
    (look(0, began=-5), look(10, began=-5, ceased=4), 4),
    (look(0, began=-5), look(10, began=7, ceased=4), 4 + 3),
    (look(0), look(10, began=4, ceased=9), 5),
    (look(0, began=-9, ceased=-5), look(10, began=-9, ceased=-5), 0),
    (look(0, began=-5), look(10, began=-5, answering=False), 0),
    (look(0, began=-5, answering=False), look(10, began=-5), 0),
    (look(0, began=-5, answering=False), look(10, began=7, ceased=4), 3),
])  # fmt: skip
def test_time_is_split_where_the_server_began_and_ceased_to_accept_writes(
    first: NodeView, second: NodeView, writable_s: float
) -> None:
    beats = Beats(world(primary(), view("a")))
    for seen in (first, second):
        beats.do(a.ObserveNode(), seen)
    assert (beats.counts.writable_s, beats.counts.not_writable_s) == (writable_s, 10 - writable_s)


def test_a_look_that_failed_takes_no_time_away() -> None:
    beats = Beats(HOLDER).do(a.ObserveNode(), look(0, began=-5))
    beats.tally.performed(a.ObserveNode(), beats.world, a.Outcome(Instant(5), ok=False, error="a bug"))
    assert beats.do(a.ObserveNode(), look(10, began=-5)).counts.writable_s == 10


# -- the rest ------------------------------------------------------------------------------------------------------------


def test_long_actions_are_counted_once_by_how_they_ended() -> None:
    beats = Beats(STANDBY)
    for ended in (did(TaskKind.CLONE), did(TaskKind.CLONE, "no space"), did(TaskKind.STOP, cancelled=True), None):
        beats.do(a.ObserveNode(), standby(finished=ended))
    assert beats.counts.tasks == {("clone", "ok"): 1, ("clone", "failed"): 1, ("stop", "cancelled"): 1}


def test_only_decisions_that_change_something_are_counted() -> None:
    tally = Tally()
    made = act(a.Promote(1.0), because="x").named("leader.promote")
    tally.ended([made, act(a.RenewLease(), because="x").named("leader.renew"), rest(because="x").named("leader.keep")], 0.1)
    assert tally.counts().decisions == {"leader.promote": 1}


def test_requests_and_callbacks() -> None:
    tally = Tally()
    tally.request("read", 0.1, True)
    tally.request("read", 3.0, False)
    for result in ("ok", "ok", "dropped", "some text of a plugin"):
        tally.callback("on_stop", result)
    counts = tally.counts()
    assert sum(counts.requests["read"].counts) == 2 and counts.unanswered == {"read": 1}
    assert counts.callbacks == {("on_stop", "ok"): 2, ("on_stop", "dropped"): 1, ("on_stop", "failed"): 1}


def test_what_was_published_does_not_change_any_more() -> None:
    tally = Tally()
    before = tally.counts()
    tally.request("read", 0.1, True)
    tally.callback("on_stop", "ok")
    tally.ended([act(a.Promote(1.0), because="x").named("leader.promote")], 0.1)
    assert not before.requests and not before.callbacks and not before.decisions and sum(before.heartbeats.counts) == 0
