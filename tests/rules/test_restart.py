"""What an operator asks of one node: a restart, now or scheduled, and a new copy. (HA rules 24, 14)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcore.decide.advance import advance
from pgcore.decide.publish import card
from pgcore.model.actions import (
    BeginDemotion,
    BootstrapPhase,
    CancelTask,
    CompareTimelines,
    DemoteMode,
    DropSchedule,
    ObserveNode,
    Outcome,
    Phase,
    PollPeers,
    RefuseOrder,
    Reinitialize,
    ReleaseLease,
    RenewLease,
    Restart,
    RewindState,
    SetRewind,
    SetRole,
    TakeSchedule,
)
from pgcore.model.basics import Instant, Role, State
from pgcore.model.decision import Then
from pgcore.model.node import DataDir, NodeView, TaskKind
from pgcore.model.orders import ReinitOrder, RestartOrder, ScheduledRestart
from pgcore.model.settings import RemoteCluster
from pgcore.model.world import Bootstrapping, LeaderTimeline, LeaseState, World
from pgcore.testing.builders import (
    NOW,
    WALL,
    crashed,
    demotion,
    did,
    doing,
    down,
    empty,
    member,
    peer,
    peers,
    primary,
    standby,
    starting,
    upstream,
    view,
    world,
)
from rules.cases import Case, case, nothing, silent
from rules.driver import play

MINE, B_LEADS, FREE = view("a"), view("b"), view(None)
UNSATISFIED = RefuseOrder("restart conditions are not satisfied")
NOLOCK = BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP)
IMMEDIATE = BeginDemotion(DemoteMode.IMMEDIATE, Phase.STOP)
PENDING = {"max_connections": {"old_value": "100", "new_value": "200"}}
RECOVERING = starting(primary(recovery_files=False))


def restart(node: NodeView, cluster: Any = MINE, order: RestartOrder = RestartOrder(), **facts: Any) -> World:
    """A restart was asked for."""
    return world(node, cluster, order=order, **facts)


def reinit(
    node: NodeView = standby(),
    cluster: Any = B_LEADS,
    *,
    force: bool = False,
    from_leader: bool = False,
    seconds: float = 1,
    **facts: Any,
) -> World:
    """A new copy was asked for, so many seconds ago."""
    return world(node, cluster, order=ReinitOrder(force, from_leader, Instant(NOW - seconds)), **facts)


def scheduled(
    due: float, node: NodeView = standby(postmaster_start="noon"), *, start: str | None = "noon", **facts: Any
) -> World:
    """A restart is scheduled in ``due`` seconds; when it was, the postmaster had started at ``start``."""
    plan = ScheduledRestart(RestartOrder(), WALL + due, {"schedule": "later"}, start)
    return world(node, B_LEADS, scheduled_restart=plan, slots_done=True, **facts)


ANSWERS = {"timeline_asked": True, "leader_timeline": LeaderTimeline(1, False)}

RESTARTS = (
    case("the primary with the lock", restart(primary()), "restart.begin", Restart(Role.PRIMARY, None, 300.0), then=Then.END),
    case(
        "a standby keeps its upstream", restart(standby(), B_LEADS), "restart.begin", Restart(Role.REPLICA, upstream("b"), 300.0)
    ),
    case(
        "a standby leader stays one",
        restart(standby(role=Role.STANDBY_LEADER)),
        "restart.begin",
        Restart(Role.STANDBY_LEADER, None, 300.0),
    ),
    case(
        "with a limit for the start",
        restart(primary(), order=RestartOrder(timeout_s=10.0)),
        "restart.begin",
        Restart(Role.PRIMARY, None, 10.0),
    ),
    case("the lock is proven first", restart(primary(), lease=LeaseState.UNRENEWED), "restart.renew", RenewLease()),
    case("a standby while nobody leads", restart(standby(), FREE), "restart.begin", Restart(Role.REPLICA, None, 300.0)),
    case(
        "another action is running: its name is the answer",
        restart(doing(TaskKind.REWIND, down()), B_LEADS),
        "restart.in_progress",
        RefuseOrder("pg_rewind already in progress"),
        then=Then.AGAIN,
    ),
    case(
        "a demotion is under way",
        restart(primary(), procedure=demotion(DemoteMode.GRACEFUL, Phase.VERIFY)),
        "restart.in_progress",
        RefuseOrder("demotion (graceful) already in progress"),
    ),
    case(
        "the cluster is being created",
        restart(primary(), procedure=Bootstrapping(BootstrapPhase.POST, NOW)),
        "restart.in_progress",
        RefuseOrder("bootstrap already in progress"),
    ),
    case("the agent ends", restart(primary(), stopping=True), "restart.in_progress"),
    case("the store is away", restart(standby(), None), "restart.without_store", RefuseOrder),
    case(
        "the server does not run: it is being started anyway",
        restart(down(), B_LEADS),
        "restart.stopped",
        RefuseOrder("postgres is not running"),
    ),
    case(
        "in maintenance mode a stopped standby is started",
        restart(down(), B_LEADS, paused=True),
        "restart.begin",
        Restart(Role.REPLICA, upstream("b"), 300.0),
    ),
    case(
        "and a stopped primary while nobody leads",
        restart(down(Role.PRIMARY), FREE, paused=True),
        "restart.begin",
        Restart(Role.PRIMARY, None, 300.0),
    ),
    case("but not while another leads", restart(down(Role.PRIMARY), B_LEADS, paused=True), "restart.not_mine", UNSATISFIED),
    case("there is nothing to start", restart(empty(), B_LEADS, paused=True), "restart.stopped", RefuseOrder),
    case("in maintenance mode a primary without the lock", restart(primary(), FREE, paused=True), "restart.begin", Restart),
    case("the renewal was refused", restart(primary(), lease=LeaseState.TAKEN), "restart.not_mine", UNSATISFIED),
    case("another leads", restart(primary(), B_LEADS), "restart.not_mine", UNSATISFIED),
    case("the role does not match", restart(standby(), B_LEADS, RestartOrder("primary")), "restart.unsatisfied", UNSATISFIED),
    case("the role matches", restart(standby(), B_LEADS, RestartOrder("replica")), "restart.begin"),
    case(
        "the server is not older",
        restart(standby(server_version=150006), B_LEADS, RestartOrder(postgres_version=150006)),
        "restart.unsatisfied",
        UNSATISFIED,
    ),
    case(
        "the server is older",
        restart(standby(server_version=150006), B_LEADS, RestartOrder(postgres_version=150007)),
        "restart.begin",
    ),
    case(
        "no parameter waits for a restart",
        restart(primary(), order=RestartOrder(restart_pending=True)),
        "restart.unsatisfied",
        UNSATISFIED,
    ),
    case(
        "a parameter waits for a restart",
        restart(primary(pending_restart=PENDING), order=RestartOrder(restart_pending=True)),
        "restart.begin",
    ),
)

RUNNING = (
    case(
        "the lock is renewed during a restart",
        world(doing(TaskKind.RESTART, primary()), MINE, lease=LeaseState.UNRENEWED),
        "busy.renew",
        RenewLease(),
    ),
    case(
        "the lock is lost during the restart of a primary (EC 93)",
        world(doing(TaskKind.RESTART, down(Role.PRIMARY, State.STARTING)), B_LEADS),
        "busy.lost_lock",
        CancelTask(),
        NOLOCK,
    ),
    nothing("a standby's restart needs no lock", world(doing(TaskKind.RESTART, down()), B_LEADS), "busy.wait"),
    nothing(
        "in maintenance mode a restart is not interrupted (EC 192)",
        world(doing(TaskKind.RESTART, primary()), B_LEADS, paused=True),
        "busy.wait",
    ),
    case(
        "the store is away and the lease runs out during the restart of a primary",
        world(doing(TaskKind.RESTART, down(Role.PRIMARY)), None, lease_until=Instant(NOW + 1)),
        "store_lost.becoming_primary_must_stop",
        CancelTask(),
        BeginDemotion,
    ),
    case(
        "crash recovery takes longer than the limit: ask who could lead (EC 84)",
        world(doing(TaskKind.CRASH_RECOVERY, crashed(), seconds=301), MINE),
        "busy.ask_others",
        PollPeers,
    ),
    case(
        "crash recovery takes longer than the limit and another could lead (EC 84)",
        world(doing(TaskKind.CRASH_RECOVERY, crashed(), seconds=301), MINE, peers=peers(peer("b"))),
        "busy.recovery_too_long",
        CancelTask(),
        IMMEDIATE,
    ),
    nothing(
        "nobody else could lead: it goes on (EC 84)",
        world(doing(TaskKind.CRASH_RECOVERY, crashed(), seconds=301), view("a", member("a"))),
        "busy.wait",
    ),
    nothing("within the limit", world(doing(TaskKind.CRASH_RECOVERY, crashed(), seconds=299), MINE), "busy.wait"),
    case(
        "asked for 10 s, starting for 11 s: fail over (EC 85)",
        world(RECOVERING, MINE, start_limit=10.0, starting_since=Instant(NOW - 11), peers=peers(peer("b"))),
        "starting.too_long",
        IMMEDIATE,
    ),
    nothing(
        "asked for 10 s, starting for 9 s (EC 85)",
        world(RECOVERING, MINE, start_limit=10.0, starting_since=Instant(NOW - 9)),
        "starting.wait",
    ),
    nothing(
        "asked for 10 s, but nobody else could lead (EC 85)",
        world(RECOVERING, view("a", member("a")), start_limit=10.0, starting_since=Instant(NOW - 60)),
        "starting.wait",
    ),
    nothing(
        "the candidate is still starting and the lock is free: it does not race (EC 50)",
        world(starting(standby()), FREE),
        "starting.wait",
    ),
    case(
        "the restart of the holder failed: it gives the lock up (EC 209)",
        world(down(Role.PRIMARY, State.RESTART_FAILED), MINE, recovering=True, last_result=did(TaskKind.RESTART, "FATAL: no")),
        "down.start_failed",
        SetRole(Role.DEMOTED),
        SetRewind(RewindState.CHECK),
        ReleaseLease(),
    ),
    case(
        "it came up and died before it could be asked (EC 209)",
        world(crashed(), MINE, recovering=True, last_result=did(TaskKind.RESTART)),
        "down.start_failed",
    ),
    case(
        "the restart of a standby leader failed",
        world(down(Role.STANDBY_LEADER), MINE, last_result=did(TaskKind.RESTART, "FATAL: no")),
        "down.start_failed",
    ),
    case(
        "a restarted primary that crashes later is started again",
        world(crashed(), MINE, last_result=did(TaskKind.RESTART)),
        "down.restart_as_primary",
    ),
)

SCHEDULED = (
    case(
        "restarted by somebody meanwhile (EC 207)",
        scheduled(60, standby(postmaster_start="one o'clock")),
        "upkeep.restarted_meanwhile",
        DropSchedule(),
        stage="upkeep",
    ),
    case(
        "also in maintenance mode (EC 207)",
        scheduled(60, standby(postmaster_start="one o'clock"), paused=True),
        "upkeep.restarted_meanwhile",
        stage="upkeep",
    ),
    case(
        "overdue by more than one and a half loop_wait",
        scheduled(-15.1),
        "upkeep.restart_overdue",
        DropSchedule(),
        stage="upkeep",
    ),
    case("overdue within the window", scheduled(-15), "upkeep.restart_due", TakeSchedule(), stage="upkeep"),
    case("still ahead", scheduled(3), "upkeep.restart_ahead", stage="upkeep"),
    silent("in maintenance mode it waits", scheduled(0, paused=True), "upkeep"),
    silent(
        "while something else runs it waits", scheduled(0, doing(TaskKind.FOLLOW, standby(postmaster_start="noon"))), "upkeep"
    ),
)

NEW_COPIES = (
    case("the leader is asked first", reinit(), "reinit.ask_leader", CompareTimelines(upstream("b"))),
    case("the leader answers", reinit(**ANSWERS), "reinit.begin", Reinitialize(upstream("b"), upstream("b")), then=Then.END),
    case(
        "a willing member is the source",
        reinit(cluster=view("b", member("b"), member("c", tags={"clonefrom": True})), **ANSWERS),
        "reinit.begin",
        Reinitialize(upstream("c"), upstream("b")),
    ),
    case(
        "unless the leader is asked for",
        reinit(cluster=view("b", member("b"), member("c", tags={"clonefrom": True})), from_leader=True, **ANSWERS),
        "reinit.begin",
        Reinitialize(upstream("b"), upstream("b"), basebackup_only=True),
    ),
    case("its pg_control cannot be read (EC 177)", reinit(standby(system_id=None), **ANSWERS), "reinit.begin"),
    case("its data directory is empty", reinit(empty(), paused=True, **ANSWERS), "reinit.begin"),
    case("the leader does not answer: nothing is removed", reinit(timeline_asked=True), "reinit.leader_silent", RefuseOrder),
    case("the leader has published no address", reinit(cluster=view("b", member("b", conn=False))), "reinit.leader_silent"),
    case(
        "the leader is not a primary yet",
        reinit(timeline_asked=True, leader_timeline=LeaderTimeline(1, True)),
        "reinit.leader_silent",
    ),
    case(
        "the leader of a standby cluster never is",
        reinit(timeline_asked=True, leader_timeline=LeaderTimeline(1, True), standby_cluster=RemoteCluster("x")),
        "reinit.begin",
    ),
    case("nobody leads", reinit(cluster=FREE), "reinit.no_leader", RefuseOrder("Cluster has no leader, can not reinitialize")),
    case(
        "I lead",
        reinit(primary(), MINE, force=True),
        "reinit.leader_itself",
        RefuseOrder("I am the leader, can not reinitialize"),
    ),
    case(
        "I lead and am being promoted: force cancels nothing",
        reinit(doing(TaskKind.PROMOTE, standby()), MINE, force=True),
        "reinit.leader_itself",
    ),
    case("the store is away", reinit(cluster=None), "reinit.without_store", RefuseOrder),
    case(
        "the start of a dead server is under way (EC 94)",
        reinit(doing(TaskKind.START, down())),
        "reinit.in_progress",
        RefuseOrder("start already in progress"),
    ),
    case(
        "with force it is cancelled first (EC 94)",
        reinit(doing(TaskKind.START, down()), force=True),
        "reinit.cancel_running",
        CancelTask(),
        then=Then.REST,
    ),
    case("what does not end is named", reinit(doing(TaskKind.START, down()), force=True, seconds=31), "reinit.in_progress"),
    case(
        "a demotion is not cancelled",
        reinit(force=True, procedure=demotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP)),
        "reinit.in_progress",
    ),
    nothing(
        "while the copy runs, nothing starts the server (EC 94)",
        world(doing(TaskKind.REINITIALIZE, empty(state=State.CREATING_REPLICA)), B_LEADS),
        "busy.wait",
    ),
)

CASES = (*RESTARTS, *RUNNING, *SCHEDULED, *NEW_COPIES)


@pytest.mark.parametrize("each", CASES, ids=str)
def test_orders(each: Case) -> None:
    each.check()


def test_the_conditions_of_a_due_restart_are_checked_again() -> None:
    """Scheduled for a primary, due when it is a replica: not run, and no longer scheduled (EC 208)."""
    plan = ScheduledRestart(RestartOrder("primary"), WALL, {}, None)
    due = play(world(standby(), B_LEADS, scheduled_restart=plan))
    assert due.beat.wake_after == 0.0
    memory = due.beat.world.memory
    assert memory.scheduled_restart is None
    assert memory.order is not None
    then = play(replace(world(standby(), B_LEADS), memory=memory))
    assert "restart.unsatisfied" in then.rules
    assert not then.did(Restart)
    assert then.beat.world.memory.order is None


def test_a_scheduled_restart_runs_at_its_moment() -> None:
    """The beat before it wakes exactly then; the next takes it, the one after begins it."""
    plan = ScheduledRestart(RestartOrder(), WALL + 3.25, {"schedule": "soon"}, None)
    before = play(world(primary(), MINE, scheduled_restart=plan))
    assert before.beat.wake_after == pytest.approx(3.25)
    due = play(replace(world(primary(), MINE, scheduled_restart=plan), wall=WALL + 3.25))
    assert due.did(TakeSchedule)
    begun = play(replace(world(primary(), MINE), memory=due.beat.world.memory))
    assert begun.did(Restart)


def test_the_card_shows_the_scheduled_restart() -> None:
    assert card(scheduled(60))["scheduled_restart"] == {"schedule": "later"}
    assert "scheduled_restart" not in card(world(standby(), B_LEADS))


def test_recovering_and_the_limit_are_set_before_the_stop() -> None:
    """So that a start that fails gives the lock up (EC 209), and one that takes long is measured by its own limit (EC 85)."""
    at = restart(primary(), order=RestartOrder(timeout_s=10.0))
    begun = advance(at, Restart(Role.PRIMARY, None, 10.0), Outcome(NOW))
    assert begun.memory.recovering
    assert begun.memory.start_limit == 10.0
    assert begun.memory.order is None
    assert begun.busy
    assert begun.guard_armed
    up = advance(begun, ObserveNode(), Outcome(NOW, value=replace(primary(), finished=did(TaskKind.RESTART))))
    assert (up.memory.recovering, up.memory.start_limit) == (False, None)
    assert up.memory.restart_result == did(TaskKind.RESTART)


def test_the_guard_stays_armed_while_a_primary_is_down_for_its_restart() -> None:
    """Between stop and start nothing is writable, but the next thing that happens is a primary (EC 93)."""
    assert world(doing(TaskKind.RESTART, down(Role.PRIMARY)), MINE).guard_armed
    assert not world(doing(TaskKind.RESTART, down()), B_LEADS).guard_armed


def test_an_action_that_cannot_begin_ends_the_order() -> None:
    at = restart(standby(), B_LEADS)
    refused = advance(at, Restart(Role.REPLICA, None, 10.0), Outcome(NOW, ok=False, error="pg_rewind is still running"))
    assert refused.memory.order is None
    assert refused.memory.order_refused == "pg_rewind is still running"
    assert not refused.busy


def test_after_a_new_copy_nothing_is_rewound() -> None:
    """A fresh copy follows its source (EC 94)."""
    node = replace(standby(), finished=did(TaskKind.REINITIALIZE), data_dir=DataDir.PRESENT)
    seen = advance(world(standby(), B_LEADS, rewind=RewindState.CHECK), ObserveNode(), Outcome(NOW, value=node))
    assert seen.memory.rewind is RewindState.NOT_NEED
