"""The hand-over and the way back: no release before a candidate has everything. (HA rules 17.2, 30.2)"""

from __future__ import annotations

import pytest

from pgcore.model.actions import (
    CancelTask,
    DemoteMode,
    EnterPhase,
    Phase,
    PollPeers,
    ReleaseLease,
    SetRole,
    WriteFailover,
    WriteStatus,
)
from pgcore.model.basics import Instant, Lsn, Role
from pgcore.model.cluster import ClusterStatus
from pgcore.model.world import LeaseState
from pgcore.testing.builders import (
    END,
    NOW,
    peer,
    peers,
    primary,
    request,
    view,
)
from rules.cases import Case, case, nothing
from rules.demoting import ALL, ALONE, B_LEADS, GRACEFUL, MINE, SEEN, SHUTDOWN, STOPPED, STOPPING, during

HANDOVER = (
    case(
        "the lock was lost while stopping",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, B_LEADS),
        "demotion.lock_lost_stopped",
        SetRole(Role.DEMOTED),
        EnterPhase(Phase.AWAIT_LEADER),
    ),
    case(
        "the renewal is refused while stopping",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, lease=LeaseState.GONE),
        "demotion.lock_lost_stopped",
    ),
    nothing(
        "the store is away: nothing is released",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, None, lease_until=Instant(NOW + 1)),
        "demotion.store_away_stopped",
    ),
    case(
        "until the lease is over",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, None),
        "demotion.store_away_stopped",
        SetRole(Role.DEMOTED),
        EnterPhase(Phase.AWAIT_LEADER),
    ),
    case(
        "the candidates are asked",
        during(GRACEFUL, Phase.HANDOVER, STOPPED),
        "demotion.ask_candidates",
        PollPeers((MINE.members[1], MINE.members[2]), 1.0),
    ),
    nothing(
        "all lack a byte (EC 62)",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, peers=peers(peer("b", 1199), peer("c", 1199))),
        "demotion.wait_for_candidate",
    ),
    nothing(
        "who has everything is no candidate (EC 62)",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, peers=peers(peer("d", 1200))),
        "demotion.wait_for_candidate",
    ),
    nothing(
        "who has everything runs as a primary",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, peers=peers(peer("b", 1200, is_primary=True))),
        "demotion.wait_for_candidate",
    ),
    nothing(
        "who has everything is tagged nofailover",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, peers=peers(peer("b", 1200, nofailover=True))),
        "demotion.wait_for_candidate",
    ),
    case(
        "b has everything (EC 61)",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, peers=ALL),
        "demotion.give_away",
        WriteFailover("a", "b"),
        SetRole(Role.DEMOTED),
        ReleaseLease(ClusterStatus(Lsn(1200))),
        EnterPhase(Phase.AWAIT_LEADER),
    ),
    case(
        "b is named already",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, view("a", failover=request("a", "b")), peers=ALL),
        "demotion.give_away",
        SetRole,
        ReleaseLease,
        EnterPhase,
    ),
    case("while the postmaster still streams (EC 63)", during(GRACEFUL, Phase.HANDOVER, SEEN, peers=ALL), "demotion.give_away"),
    case(
        "both have everything: the higher priority",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, peers=peers(peer("b", 1200), peer("c", 1200, failover_priority=2))),
        "demotion.give_away",
        WriteFailover("a", "c"),
        SetRole,
        ReleaseLease,
        EnterPhase,
    ),
    case(
        "the agent ends and is alone",
        during(SHUTDOWN, Phase.HANDOVER, STOPPED, ALONE, peers={}, stopping=True),
        "demotion.nobody_else",
        SetRole,
        ReleaseLease(ClusterStatus(Lsn(1200))),
        EnterPhase,
    ),
    case(
        "nobody has everything after 2 s: resume, release nothing",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, peers={}, seconds=2.1),
        "demotion.nobody_caught_up",
        CancelTask(),
        EnterPhase(Phase.RESUME),
    ),
    nothing(
        "while it streams 5 s are given",
        during(GRACEFUL, Phase.HANDOVER, SEEN, peers={}, seconds=4.9),
        "demotion.wait_for_candidate",
    ),
    case("and no more (EC 63)", during(GRACEFUL, Phase.HANDOVER, SEEN, peers={}, seconds=5.1), "demotion.nobody_caught_up"),
    case(
        "its end is not known: nobody can be shown to have it",
        during(GRACEFUL, Phase.HANDOVER, STOPPED, peers=ALL, end=None),
        "demotion.nobody_caught_up",
        CancelTask(),
        EnterPhase(Phase.RESUME),
    ),
    case(
        "the agent ends and nobody has everything: the lock is left to its lease",
        during(SHUTDOWN, Phase.HANDOVER, STOPPED, peers={}, seconds=3, stopping=True),
        "demotion.nobody_caught_up",
        WriteStatus(ClusterStatus(Lsn(1200))),
        SetRole(Role.DEMOTED),
        EnterPhase(Phase.AWAIT_LEADER),
    ),
)

CASES: tuple[Case, ...] = HANDOVER


@pytest.mark.parametrize("each", CASES, ids=str)
def test_a_hand_over(each: Case) -> None:
    each.check()


@pytest.mark.parametrize("phase", [Phase.CHECKPOINT, Phase.VERIFY, Phase.STOP, Phase.HANDOVER, Phase.RESUME])
@pytest.mark.parametrize("mode", [GRACEFUL, SHUTDOWN])
@pytest.mark.parametrize("answers", [{}, peers(peer("b", int(END)), peer("c", 1199))], ids=["nobody answers", "all lack a byte"])
def test_no_orderly_demotion_releases_the_lock_before_a_candidate_has_everything(
    phase: Phase, mode: DemoteMode, answers: dict
) -> None:
    for node in (primary(), STOPPING, SEEN, STOPPED):
        for seconds in (0.1, 3.0, 20.0, 400.0):
            for end in (None, Lsn(1200)):
                at = during(mode, phase, node, end=end, peers=answers, seconds=seconds, stopping=mode is SHUTDOWN)
                decision = case("", at, "").decision()
                assert decision is not None
                assert not any(isinstance(action, ReleaseLease) for action in decision.actions), decision
