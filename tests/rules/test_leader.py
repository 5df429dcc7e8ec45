"""I hold the lock and PostgreSQL runs; what a holder does with a request. (HA rules 8, 16.2)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcore.model.actions import (
    BeginDemotion,
    DemoteMode,
    NoteRequest,
    Phase,
    PollPeers,
    Promote,
    Refuse,
    ReleaseLease,
    RenewLease,
    RewindState,
    SetRewind,
    SetRole,
    WriteFailover,
)
from pgcore.model.basics import Instant, Role
from pgcore.model.cluster import FailoverRequest, SyncView
from pgcore.model.decision import Then
from pgcore.model.node import TaskKind, WalSender
from pgcore.model.world import LeaseState, World
from pgcore.testing.builders import NOW, did, member, peer, peers, primary, request, silent, standby, view, world
from rules.cases import Case, case, nothing

MINE = view("a")
GOOD = peers(peer("b"), peer("c"))
TO_B = view("a", failover=request("a", "b"))
TO_A = view("a", failover=request("b", "a"))


def asked(failover: FailoverRequest, **facts: Any) -> World:
    """The holder with a request and candidates that answered well."""
    return world(primary(), view("a", failover=failover), **{"peers": GOOD} | facts)


LOCK = (
    case(
        "the lock names me, not proven in this beat",
        world(primary(), MINE, lease=LeaseState.UNRENEWED),
        "leader.renew",
        RenewLease,
    ),
    nothing("all is well", world(primary(), MINE), "leader.keep"),
    nothing(
        "its pg_control cannot be read at the moment: whose data it is was settled when it was taken in charge",
        world(replace(silent(primary()), system_id=None), view("a")),
        "leader.keep",
    ),
    nothing("a slow server keeps the lock by its cached role (EC 7)", world(silent(primary()), MINE), "leader.keep"),
    case(
        "another owns the lock: the primary stops at once and releases nothing (EC 1)",
        world(primary(), MINE, lease=LeaseState.TAKEN),
        "leader.refused",
        BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP),
    ),
    case("the lock is gone (EC 1)", world(primary(), MINE, lease=LeaseState.GONE), "leader.refused", BeginDemotion),
    case(
        "the lock is lost and the server does not answer (EC 8)",
        world(silent(primary()), MINE, lease=LeaseState.TAKEN),
        "leader.refused",
        BeginDemotion,
    ),
    nothing(
        "refused before the promotion: do not promote",
        world(standby(), MINE, lease=LeaseState.GONE),
        "leader.refused_standby",
        then=Then.END,
    ),
    nothing(
        "refused in maintenance mode: the primary keeps running (EC 189)",
        world(primary(), MINE, lease=LeaseState.TAKEN, paused=True),
        "leader.refused_standby",
        then=Then.END,
    ),
    case(
        "paused, and not a primary",
        world(standby(), MINE, paused=True),
        "leader.paused_without_primary",
        ReleaseLease(),
        then=Then.END,
    ),
    case(
        "paused, not a primary, but asked for by an operator: the lock is kept and used (EC 73, 75)",
        world(standby(), view("a", failover=request(None, "a")), paused=True),
        "leader.promote",
        SetRewind(RewindState.INITIAL),
        Promote,
    ),
    case(
        "the lock is proven and this is a standby",
        world(standby(), MINE),
        "leader.promote",
        SetRewind(RewindState.INITIAL),
        Promote,
        then=Then.END,
    ),
    nothing(
        "the lock is mine, but the server does not tell whether it is a standby",
        world(silent(standby()), MINE, silent_since=Instant(NOW - 299)),
        "leader.cannot_look",
    ),
    case(
        "it has not answered for longer than primary_start_timeout: others first",
        world(silent(standby()), MINE, silent_since=Instant(NOW - 301)),
        "leader.cannot_look",
        ReleaseLease(),
        then=Then.END,
    ),
    case(
        "the promotion failed (EC 55)",
        world(standby(), MINE, last_result=did(TaskKind.PROMOTE, "pre_promote said no")),
        "leader.promotion_failed",
        SetRole(Role.REPLICA),
        ReleaseLease,
        then=Then.END,
    ),
    case(
        "the promotion failed after a hand-over: the old leader, which has everything, is asked back (EC 55, 64)",
        world(standby(), TO_A, last_result=did(TaskKind.PROMOTE, "pre_promote said no")),
        "leader.promotion_failed",
        WriteFailover("b", "b", version="7"),
        SetRole(Role.REPLICA),
        ReleaseLease(),
    ),
    case(
        "it was asked to promote and may still do so: stopped before the lock goes",
        world(standby(role=Role.PROMOTED), MINE, last_result=did(TaskKind.PROMOTE, "still in recovery")),
        "leader.promotion_failed",
        BeginDemotion(DemoteMode.IMMEDIATE, Phase.STOP),
    ),
    case("promoted by hand", world(primary(role=Role.REPLICA), MINE), "leader.become_primary", SetRole(Role.PRIMARY)),
)

REQUESTS = (
    case(
        "a schedule without a zone (EC 71)",
        asked(request("a", "b", text="noon")),
        "leader.unreadable_schedule",
        Refuse,
        WriteFailover(version="7"),
    ),
    case(
        "a schedule found 15.1 s late (EC 70)",
        asked(request("a", "b", due=-15.1)),
        "leader.stale_schedule",
        Refuse,
        WriteFailover(version="7"),
    ),
    case("a schedule found 14.9 s late is carried out (EC 70)", asked(request("a", "b", due=-14.9)), "leader.hand_over"),
    nothing(
        "in maintenance mode a scheduled switchover waits, due or overdue (HA rules 23)",
        asked(request("a", "b", due=-1), paused=True),
        "leader.keep",
    ),
    nothing("however long", asked(request("a", "b", due=-100), paused=True), "leader.keep"),
    nothing("due in 3 s: wait exactly that long (EC 70)", asked(request("a", "b", due=3)), "leader.scheduled"),
    nothing("due in an hour", asked(request("a", "b", due=3600)), "leader.keep"),
    case("it names another leader (EC 69)", asked(request("c", "b")), "leader.wrong_leader", Refuse, WriteFailover(version="7")),
    case(
        "it names me as the candidate (EC 69)",
        asked(request("a", "a")),
        "leader.candidate_is_leader",
        Refuse,
        WriteFailover(version="7"),
    ),
    nothing("a failover has brought me the lock: upkeep clears the request (EC 60)", asked(request(None, "a")), "leader.keep"),
    nothing("and so has a switchover away from another (EC 60)", asked(request("b", "a")), "leader.keep"),
    case(
        "paused, no candidate named (EC 73)",
        asked(request("a"), paused=True),
        "leader.paused_without_candidate",
        Refuse,
        WriteFailover(version="7"),
    ),
    case("an unknown candidate (EC 68)", asked(request("a", "x")), "leader.no_candidate", Refuse, WriteFailover(version="7")),
    case(
        "the only other member is tagged nofailover (EC 68)",
        world(primary(), view("a", member("a"), member("b", tags={"nofailover": True}), failover=request("a"))),
        "leader.no_candidate",
    ),
    case(
        "a member without a REST address is no candidate",
        world(primary(), view("a", member("a"), member("b", api=False), failover=request("a"))),
        "leader.no_candidate",
    ),
    case(
        "a switchover to a member that is not synchronous (EC 66)",
        world(primary(), view("a", failover=request("a", "c"), sync=SyncView("1", "a", ("b",)))),
        "leader.no_candidate",
    ),
    case(
        "a manual failover to a member that is not synchronous is allowed (EC 66)",
        world(primary(), view("a", failover=request(None, "c"), sync=SyncView("1", "a", ("b",))), peers=GOOD),
        "leader.hand_over",
    ),
    case("the candidates have not been asked", world(primary(), TO_B), "leader.ask_candidates", PollPeers((MINE.members[1],))),
    case(
        "the candidate does not answer (EC 68)",
        asked(request("a", "b"), peers=peers(peer("b", reachable=False))),
        "leader.unfit_candidates",
        Refuse,
        WriteFailover,
    ),
    case(
        "the candidate has no working watchdog (EC 53)",
        asked(request("a", "b"), peers=peers(peer("b", watchdog_failed=True))),
        "leader.unfit_candidates",
    ),
    case("the candidate lags too far", world(primary(2**21), TO_B, peers=GOOD), "leader.unfit_candidates"),
    case("the candidate lags as far as allowed (EC 41)", world(primary(1000 + 1048576), TO_B, peers=GOOD), "leader.hand_over"),
    case(
        "the candidate is just starting: note since when",
        world(primary(2**21), TO_B, peers=peers(peer("b", 0, starting=True))),
        "leader.candidate_starting",
        NoteRequest("7"),
    ),
    nothing(
        "it is still starting",
        world(primary(2**21), TO_B, peers=peers(peer("b", 0, starting=True)), request_seen=("7", Instant(NOW - 9))),
        "leader.candidate_starting",
    ),
    case(
        "it has been starting for 11 s: refused, nothing is stopped",
        world(primary(2**21), TO_B, peers=peers(peer("b", 0, starting=True)), request_seen=("7", Instant(NOW - 11))),
        "leader.unfit_candidates",
    ),
    case(
        "the candidate answers but does not stream: note since when",
        world(primary(senders=()), TO_B, peers=GOOD),
        "leader.candidate_not_streaming",
        NoteRequest("7"),
    ),
    nothing(
        "it still does not stream",
        world(primary(senders=()), TO_B, peers=GOOD, request_seen=("7", Instant(NOW - 9))),
        "leader.candidate_not_streaming",
    ),
    case(
        "it did not begin to stream within 10 s: refused, nothing is stopped",
        world(primary(senders=()), TO_B, peers=GOOD, request_seen=("7", Instant(NOW - 11))),
        "leader.candidate_not_streaming",
        Refuse,
        WriteFailover(version="7"),
    ),
    case(
        "catching up is not streaming",
        world(primary(senders=(WalSender("b", "catchup"),)), TO_B, peers=GOOD),
        "leader.candidate_not_streaming",
        NoteRequest("7"),
    ),
    case(
        "a candidate that cascades from a streaming member counts as streaming",
        world(
            primary(senders=(WalSender("c", "streaming"),)),
            view("a", member("a"), member("b", tags={"replicatefrom": "c"}), member("c"), failover=request("a", "b")),
            peers=GOOD,
        ),
        "leader.hand_over",
    ),
    case(
        "two that cascade from each other stream from nobody (EC 167)",
        world(
            primary(senders=()),
            view(
                "a",
                member("a"),
                member("b", tags={"replicatefrom": "c"}),
                member("c", tags={"replicatefrom": "b"}),
                failover=request("a"),
            ),
            peers=GOOD,
        ),
        "leader.candidate_not_streaming",
    ),
    case(
        "all is well: checkpoint first (EC 61)",
        asked(request("a", "b")),
        "leader.hand_over",
        BeginDemotion(DemoteMode.GRACEFUL, Phase.CHECKPOINT, ("b",)),
    ),
    case(
        "without a candidate: all that stream",
        asked(request("a")),
        "leader.hand_over",
        BeginDemotion(DemoteMode.GRACEFUL, Phase.CHECKPOINT, ("b", "c")),
    ),
    case(
        "a manual failover",
        asked(request(None, "b")),
        "leader.hand_over",
        BeginDemotion(DemoteMode.GRACEFUL, Phase.CHECKPOINT, ("b",)),
    ),
    nothing(
        "a request on a holder that is refused is not looked at",
        asked(request("a", "b"), lease=LeaseState.GONE, paused=True),
        "leader.refused_standby",
        then=Then.END,
    ),
    case(
        "a request on a holder that is not a primary waits for the promotion",
        world(standby(), TO_B, peers=GOOD),
        "leader.promote",
    ),
)

CASES: tuple[Case, ...] = LOCK + REQUESTS


@pytest.mark.parametrize("each", CASES, ids=str)
def test_the_holder(each: Case) -> None:
    each.check()


def test_a_scheduled_switchover_wakes_exactly_when_it_is_due() -> None:
    decision = case("", asked(request("a", "b", due=3)), "").decision()
    assert decision is not None
    assert decision.wake_after == pytest.approx(3)
