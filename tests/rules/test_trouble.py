"""A lost store, a running action, a starting server, the end of the agent: little is decided. (HA rules 9, 14, 27)"""

from __future__ import annotations

from typing import Any

import pytest

from pgcore.model.actions import (
    BeginDemotion,
    CancelTask,
    DemoteMode,
    Exit,
    Phase,
    PollPeers,
    ReleaseLease,
    RenewLease,
    StartServer,
)
from pgcore.model.basics import Instant, Role
from pgcore.model.cluster import SyncView
from pgcore.model.decision import Then
from pgcore.model.node import NodeView, TaskKind
from pgcore.model.world import LeaseState, World
from pgcore.testing.builders import (
    NOW,
    crashed,
    did,
    doing,
    down,
    empty,
    member,
    peer,
    peers,
    primary,
    request,
    silent,
    standby,
    starting,
    view,
    world,
)
from rules.cases import Case, case, nothing

MINE, B_LEADS, FREE = view("a"), view("b"), view(None)
OFFLINE = BeginDemotion(DemoteMode.OFFLINE, Phase.STOP)
NOLOCK = BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP)
RECOVERING = starting(primary(recovery_files=False))
TO_B = view("a", failover=request(None, "b"))


def away(node: NodeView, seconds_of_lease: float = 30, **facts: Any) -> World:
    """The store does not answer; so many seconds of the lease are proven."""
    return world(node, None, lease_until=Instant(NOW + seconds_of_lease), **facts)


STORE_LOST = (
    nothing("in maintenance mode nothing changes (EC 40)", away(primary(), 0, paused=True), "store_lost.paused"),
    nothing("a short outage (EC 21)", away(primary(), 10.1), "store_lost.primary_waits"),
    case("the lease runs out: writes end first (EC 22)", away(primary(), 10), "store_lost.primary_must_stop", OFFLINE),
    case("although the server does not answer (EC 8)", away(silent(primary()), 10), "store_lost.primary_must_stop", OFFLINE),
    case("a primary whose lock was never proven", world(primary(), None), "store_lost.primary_must_stop", OFFLINE),
    case(
        "it is being promoted: it would be a primary without a lease (HA rules 30.4)",
        away(doing(TaskKind.PROMOTE, standby()), 10),
        "store_lost.becoming_primary_must_stop",
        CancelTask(),
        OFFLINE,
    ),
    case(
        "it is being started as a primary",
        away(doing(TaskKind.START_PRIMARY, crashed()), 10),
        "store_lost.becoming_primary_must_stop",
        CancelTask(),
        OFFLINE,
    ),
    nothing("a short outage during a promotion (EC 21)", away(doing(TaskKind.PROMOTE, standby()), 10.1), "store_lost.busy"),
    nothing("a long action goes on", away(doing(TaskKind.CLONE, empty())), "store_lost.busy"),
    case(
        "demoted for the outage: serve reads (EC 39)",
        away(down(Role.DEMOTED), 0),
        "store_lost.readable_standby",
        StartServer(Role.REPLICA),
        then=Then.END,
    ),
    nothing(
        "that start failed a moment ago", away(down(Role.DEMOTED), 0, failed_at=Instant(NOW - 1)), "store_lost.standby_waits"
    ),
    nothing(
        "not taken in charge before the outage: left alone",
        away(down(Role.DEMOTED), 0, managed=False),
        "store_lost.standby_waits",
    ),
    nothing("a standby does nothing (EC 22)", away(standby(), 0), "store_lost.standby_waits"),
    nothing("a crashed primary stays down while the store is away", away(crashed(), 20), "store_lost.standby_waits"),
)

BUSY = (
    case(
        "the lock is proven while the action runs (EC 58)",
        world(doing(TaskKind.PROMOTE, standby()), MINE, lease=LeaseState.UNRENEWED),
        "busy.renew",
        RenewLease(),
    ),
    case(
        "the lock is taken after the promote command was given (EC 57)",
        world(doing(TaskKind.PROMOTE, standby(), promoting=True), MINE, lease=LeaseState.TAKEN),
        "busy.lost_lock",
        CancelTask(),
        NOLOCK,
    ),
    case(
        "the lock expired during the promotion",
        world(doing(TaskKind.PROMOTE, standby(role=Role.PROMOTED)), FREE),
        "busy.lost_lock",
        CancelTask(),
        NOLOCK,
    ),
    case(
        "another leads while this one starts as a primary (EC 93)",
        world(doing(TaskKind.START_PRIMARY, crashed()), B_LEADS),
        "busy.lost_lock",
        CancelTask(),
        NOLOCK,
    ),
    case(
        "the lock is taken while pre_promote still runs: the standby stays one (EC 56)",
        world(doing(TaskKind.PROMOTE, standby()), MINE, lease=LeaseState.TAKEN),
        "busy.lost_before_promotion",
        CancelTask(),
    ),
    case(
        "the lock expired while pre_promote still runs (EC 56)",
        world(doing(TaskKind.PROMOTE, standby()), B_LEADS),
        "busy.lost_before_promotion",
        CancelTask(),
    ),
    nothing(
        "in maintenance mode neither is interrupted (EC 192)",
        world(doing(TaskKind.PROMOTE, standby()), B_LEADS, paused=True),
        "busy.wait",
    ),
    nothing(
        "the start of a primary bounds itself; starting.too_long follows it (EC 84)",
        world(doing(TaskKind.START_PRIMARY, crashed(), seconds=299), MINE),
        "busy.wait",
    ),
    nothing(
        "a promotion that takes long is waited for, with the lock (EC 58)",
        world(doing(TaskKind.PROMOTE, standby(), seconds=60), MINE),
        "busy.wait",
    ),
    nothing("a copy goes on", world(doing(TaskKind.CLONE, empty()), B_LEADS), "busy.wait"),
    nothing(
        "a copy without a leader goes on without a look at the identity (EC 183)",
        world(doing(TaskKind.CLONE, empty()), FREE, managed=False),
        "busy.wait",
    ),
)

STARTING = (
    case("the lock names me", world(starting(primary()), MINE, lease=LeaseState.UNRENEWED), "starting.renew", RenewLease()),
    case(
        "it starts as a primary, another leads",
        world(starting(primary(recovery_files=False)), B_LEADS),
        "starting.lost_lock",
        NOLOCK,
    ),
    case(
        "it starts as a primary, the renewal is refused",
        world(starting(primary()), MINE, lease=LeaseState.GONE),
        "starting.lost_lock",
        NOLOCK,
    ),
    case(
        "it starts as a primary, the lock is free",
        world(starting(primary(recovery_files=False)), FREE),
        "starting.lost_lock",
        NOLOCK,
    ),
    nothing("recovery goes on (EC 84)", world(RECOVERING, MINE, starting_since=Instant(NOW - 299)), "starting.wait"),
    case(
        "recovery takes too long: ask who could lead (EC 84)",
        world(RECOVERING, MINE, starting_since=Instant(NOW - 301)),
        "starting.ask_others",
        PollPeers,
    ),
    case(
        "a manual failover stands: its candidate is asked with them, synchronous or not (EC 72)",
        world(
            RECOVERING,
            view("a", failover=request(None, "c"), sync=SyncView("1", "a", ("b",))),
            synchronous_mode="on",
            starting_since=Instant(NOW - 301),
        ),
        "starting.ask_others",
        PollPeers(view("a").members[1:]),
    ),
    nothing(
        "nobody answers: it goes on (EC 84)",
        world(RECOVERING, MINE, starting_since=Instant(NOW - 301), peers=peers(peer("b", reachable=False))),
        "starting.wait",
    ),
    case(
        "recovery takes too long, another could lead (EC 84)",
        world(RECOVERING, MINE, starting_since=Instant(NOW - 301), peers=peers(peer("b"))),
        "starting.too_long",
        BeginDemotion(DemoteMode.IMMEDIATE, Phase.STOP),
    ),
    nothing(
        "recovery takes too long, nobody could lead (EC 84)",
        world(RECOVERING, view("a", member("a")), starting_since=Instant(NOW - 301)),
        "starting.wait",
    ),
    nothing(
        "the start is not bounded in maintenance mode (HA rules 23)",
        world(RECOVERING, MINE, starting_since=Instant(NOW - 301), paused=True),
        "starting.wait",
    ),
    case(
        "an operator wants another leader: ask its candidate (EC 72)",
        world(RECOVERING, TO_B),
        "starting.ask_candidate",
        PollPeers((MINE.members[1],)),
    ),
    case(
        "the candidate is well: give way (EC 72)",
        world(RECOVERING, TO_B, peers=peers(peer("b"))),
        "starting.fail_over",
        BeginDemotion(DemoteMode.IMMEDIATE, Phase.STOP, ("b",)),
    ),
    nothing(
        "the candidate does not answer: recover",
        world(RECOVERING, TO_B, peers=peers(peer("b", reachable=False))),
        "starting.wait",
    ),
    nothing(
        "a switchover waits until the leader serves, it must lose nothing",
        world(RECOVERING, view("a", failover=request("a", "b"))),
        "starting.wait",
    ),
    nothing("it starts as a standby: it never races (EC 50)", world(starting(standby()), FREE), "starting.wait"),
    nothing("it starts as a standby of another", world(starting(standby()), B_LEADS, recovery_change="none"), "starting.wait"),
    nothing(
        "a starting primary in maintenance mode is left alone", world(starting(primary()), B_LEADS, paused=True), "starting.wait"
    ),
)

SHUTDOWN = (
    case(
        "the lock is proven first",
        world(primary(), MINE, lease=LeaseState.UNRENEWED, stopping=True),
        "shutdown.renew",
        RenewLease(),
    ),
    case(
        "in maintenance mode everything stays as it is (EC 195)",
        world(primary(), MINE, stopping=True, paused=True),
        "shutdown.paused",
        Exit(0, "paused: PostgreSQL is left as it is", leave_running=True),
        then=Then.END,
    ),
    case(
        "a running action is cancelled (EC 181)",
        world(doing(TaskKind.CLONE, empty()), B_LEADS, stopping=True),
        "shutdown.cancel_running",
        CancelTask(),
    ),
    case(
        "a primary hands over",
        world(primary(), MINE, stopping=True),
        "shutdown.hand_over",
        BeginDemotion(DemoteMode.SHUTDOWN, Phase.CHECKPOINT, ("b", "c")),
    ),
    case(
        "a primary without other members just stops",
        world(primary(), view("a", member("a")), stopping=True),
        "shutdown.hand_over",
        BeginDemotion(DemoteMode.SHUTDOWN, Phase.STOP, ()),
    ),
    case(
        "a primary that has written its checkpoint",
        world(primary(), MINE, stopping=True, last_result=did(TaskKind.CHECKPOINT)),
        "shutdown.hand_over",
        BeginDemotion(DemoteMode.SHUTDOWN, Phase.STOP, ("b", "c")),
    ),
    case(
        "a standby stops",
        world(standby(), B_LEADS, stopping=True),
        "shutdown.stop",
        BeginDemotion(DemoteMode.SHUTDOWN, Phase.STOP),
    ),
    case(
        "a primary stops while the store is away",
        away(primary(), stopping=True),
        "shutdown.stop",
        BeginDemotion(DemoteMode.SHUTDOWN, Phase.STOP),
    ),
    case("nothing runs, the lock is mine", world(down(Role.PRIMARY), MINE, stopping=True), "shutdown.release", ReleaseLease()),
    case("nothing runs", world(down(), B_LEADS, stopping=True), "shutdown.leave", Exit(0, "stopped"), then=Then.END),
    case(
        "nothing runs and the store is away", away(down(), 0, stopping=True), "shutdown.leave", Exit(0, "stopped"), then=Then.END
    ),
)

CASES: tuple[Case, ...] = STORE_LOST + BUSY + STARTING + SHUTDOWN


@pytest.mark.parametrize("each", CASES, ids=str)
def test_trouble(each: Case) -> None:
    each.check()


def test_a_primary_demotes_before_the_guard_has_to_act() -> None:
    least = min(
        left for left in range(1, 31) if case("", away(primary(), left), "").decision().rule == "store_lost.primary_waits"
    )
    assert least > 0.30 * 30
