"""Giving up the primary role, step by step: checkpoint, stop, afterwards. (HA rules 17, 27, 30.1)"""

from __future__ import annotations

from typing import Any

import pytest

from pgcore.model.actions import (
    BeginDemotion,
    CancelTask,
    Checkpoint,
    EndProcedure,
    EnterPhase,
    Exit,
    Phase,
    PollPeers,
    ReleaseLease,
    RenewLease,
    SetRole,
    StartServer,
    StopMode,
    StopServer,
    WriteFailover,
)
from pgcore.model.basics import Instant, Lsn, Role
from pgcore.model.cluster import ClusterView
from pgcore.model.decision import Then
from pgcore.model.node import ControlState, NodeView, TaskKind
from pgcore.model.world import LeaseState, World
from pgcore.testing.builders import (
    END,
    NOW,
    control,
    did,
    doing,
    down,
    peer,
    peers,
    primary,
    silent,
    standby,
)
from rules.cases import Case, case, nothing
from rules.demoting import (
    AT_ONCE,
    B_LEADS,
    DONE,
    ENDED,
    FREE,
    GRACEFUL,
    MINE,
    NOLOCK,
    OFFLINE,
    SEEN,
    SHUTDOWN,
    STOPPED,
    STOPPING,
    during,
)

WRITING = doing(TaskKind.CHECKPOINT, primary())
"""The checkpoint before the stop is being written."""


def verifying(node: NodeView | None = None, *, cluster: ClusterView | None = MINE, **facts: Any) -> World:
    """The checkpoint ended at 1100; who has received it is being asked."""
    return during(GRACEFUL, Phase.VERIFY, node or primary(), cluster, mark=Lsn(1100), **{"peers": {}} | facts)


SERVING = (
    case(
        "the agent is asked to end during a switchover",
        during(GRACEFUL, Phase.CHECKPOINT, primary(), stopping=True),
        "demotion.asked_to_end",
        BeginDemotion(SHUTDOWN, Phase.CHECKPOINT, ("b", "c")),
    ),
    case(
        "or while the server stops",
        during(GRACEFUL, Phase.STOP, STOPPING, stopping=True),
        "demotion.asked_to_end",
        BeginDemotion(SHUTDOWN, Phase.STOP, ("b", "c")),
    ),
    case(
        "the lock is proven before anything else",
        during(GRACEFUL, Phase.CHECKPOINT, primary(), lease=LeaseState.UNRENEWED),
        "demotion.renew",
        RenewLease(),
    ),
    case(
        "the lock still names me after a release that went unanswered: renewed, it could still be removed under me",
        during(GRACEFUL, Phase.AWAIT_LEADER, STOPPED, lease=LeaseState.UNRENEWED, release_undecided=True),
        "demotion.renew",
        ReleaseLease(),
    ),
    case(
        "the lock is refused while still serving",
        during(GRACEFUL, Phase.CHECKPOINT, primary(), lease=LeaseState.TAKEN),
        "demotion.lost_while_serving",
        BeginDemotion(NOLOCK, Phase.STOP),
    ),
    case(
        "another holds the lock while still serving",
        during(GRACEFUL, Phase.CHECKPOINT, primary(), B_LEADS),
        "demotion.lost_while_serving",
        BeginDemotion(NOLOCK, Phase.STOP),
    ),
    case(
        "the store is away and the lease runs out while still serving",
        during(GRACEFUL, Phase.CHECKPOINT, doing(TaskKind.CHECKPOINT, primary()), None, lease_until=Instant(NOW + 10)),
        "demotion.unproven_while_serving",
        BeginDemotion(OFFLINE, Phase.STOP),
    ),
    case(
        "the store is away in failsafe mode: the members are asked instead, the hand-over waits",
        during(GRACEFUL, Phase.CHECKPOINT, WRITING, None, failsafe_mode=True, lease_until=Instant(NOW + 20)),
        "demotion.store_lost_while_serving",
        CancelTask(),
        EndProcedure(),
        then=Then.AGAIN,
    ),
    case(
        "the agent ends anyway",
        during(SHUTDOWN, Phase.CHECKPOINT, WRITING, None, failsafe_mode=True, lease_until=Instant(NOW + 20)),
        "demotion.checkpointing",
    ),
    nothing(
        "the store is away for a moment while still serving (EC 21)",
        during(GRACEFUL, Phase.CHECKPOINT, doing(TaskKind.CHECKPOINT, primary()), None, lease_until=Instant(NOW + 10.1)),
        "demotion.checkpointing",
    ),
    case(
        "a checkpoint before the stop",
        during(GRACEFUL, Phase.CHECKPOINT, primary()),
        "demotion.checkpoint",
        Checkpoint(),
        then=Then.END,
    ),
    case(
        "the checkpoint does not end",
        during(GRACEFUL, Phase.CHECKPOINT, doing(TaskKind.CHECKPOINT, primary()), seconds=301),
        "demotion.checkpoint_too_long",
        CancelTask(),
        EndProcedure,
        WriteFailover(),
        then=Then.END,
    ),
    case(
        "the checkpoint is written: who receives it?",
        during(GRACEFUL, Phase.CHECKPOINT, primary(), last_result=DONE),
        "demotion.checkpoint_done",
        EnterPhase(Phase.VERIFY, mark=END),
    ),
    case(
        "the checkpoint could not be written: the stop does it",
        during(GRACEFUL, Phase.CHECKPOINT, primary(), last_result=did(TaskKind.CHECKPOINT, "no")),
        "demotion.checkpoint_done",
        EnterPhase(Phase.VERIFY, mark=END),
    ),
    case(
        "the server does not tell its position: the hand-over will show who has everything",
        during(GRACEFUL, Phase.CHECKPOINT, silent(primary()), last_result=DONE),
        "demotion.checkpoint_done",
        EnterPhase(Phase.STOP),
    ),
    case(
        "the agent ends: it stops whoever receives (HA rules 27)",
        during(SHUTDOWN, Phase.CHECKPOINT, primary(), last_result=DONE, stopping=True),
        "demotion.checkpoint_done",
        EnterPhase(Phase.STOP),
    ),
    case(
        "the candidates are asked while the server still serves",
        verifying(peers=None),
        "demotion.verify",
        PollPeers((MINE.members[1], MINE.members[2]), 1.0),
    ),
    case(
        "one candidate has received the checkpoint",
        verifying(peers=peers(peer("b", 1100), peer("c", 900))),
        "demotion.verified",
        EnterPhase(Phase.STOP),
    ),
    case("the server crashed meanwhile", verifying(STOPPED), "demotion.verified", EnterPhase(Phase.STOP)),
    nothing("both lack a byte of it", verifying(peers=peers(peer("b", 1099), peer("c", 1099))), "demotion.unverified"),
    nothing(
        "WAL of an abandoned timeline does not count",
        verifying(primary(timeline=2), last_timeline=2, peers=peers(peer("b", 5000, timeline=1))),
        "demotion.unverified",
    ),
    case(
        "nobody has received it within 3 s: the request ends, the server serves on (principles, safety 2)",
        verifying(peers=peers(peer("b", 1099)), seconds=3.1),
        "demotion.unverified",
        WriteFailover(),
        EndProcedure,
        then=Then.END,
    ),
    case(
        "the lock is lost while the candidates are asked",
        verifying(lease=LeaseState.TAKEN),
        "demotion.lost_while_serving",
        BeginDemotion(NOLOCK, Phase.STOP),
    ),
    case(
        "the store is away and the lease runs out while the candidates are asked",
        verifying(cluster=None, lease_until=Instant(NOW + 10)),
        "demotion.unproven_while_serving",
        BeginDemotion(OFFLINE, Phase.STOP),
    ),
    case(
        "the agent is asked to end while the candidates are asked",
        verifying(stopping=True),
        "demotion.asked_to_end",
        BeginDemotion(SHUTDOWN, Phase.STOP, ("b", "c")),
    ),
    nothing(
        "the checkpoint goes on",
        during(GRACEFUL, Phase.CHECKPOINT, doing(TaskKind.CHECKPOINT, primary())),
        "demotion.checkpointing",
    ),
)

STOP = (
    case(
        "another action runs",
        during(NOLOCK, Phase.STOP, doing(TaskKind.PROMOTE, standby()), B_LEADS),
        "demotion.cancel_running",
        CancelTask(),
        then=Then.REST,
    ),
    case(
        "a switchover stops fast; only sessions that do not end are bounded (EC 98)",
        during(GRACEFUL, Phase.STOP, primary()),
        "demotion.stop",
        StopServer(StopMode.FAST, None, 60.0),
        then=Then.END,
    ),
    case(
        "primary_stop_timeout bounds it in synchronous mode (EC 88)",
        during(GRACEFUL, Phase.STOP, primary(), primary_stop_timeout=5, synchronous_mode="on"),
        "demotion.stop",
        StopServer(StopMode.FAST, 5.0),
    ),
    case(
        "also the end of the agent, also with quorum commit (EC 88)",
        during(SHUTDOWN, Phase.STOP, primary(), primary_stop_timeout=5, synchronous_mode="quorum"),
        "demotion.stop",
        StopServer(StopMode.FAST, 5.0),
    ),
    case(
        "without synchronous mode it bounds nothing (EC 88)",
        during(GRACEFUL, Phase.STOP, primary(), primary_stop_timeout=5),
        "demotion.stop",
        StopServer(StopMode.FAST, None, 60.0),
    ),
    case(
        "sessions may take longer when the agent ends (EC 98)",
        during(SHUTDOWN, Phase.STOP, primary()),
        "demotion.stop",
        StopServer(StopMode.FAST, None, 300.0),
    ),
    case(
        "a lost lock stops immediately",
        during(NOLOCK, Phase.STOP, primary(), B_LEADS),
        "demotion.stop",
        StopServer(StopMode.IMMEDIATE, 10.0),
    ),
    case(
        "without the store sessions end before the lease does (HA rules 30.1)",
        during(OFFLINE, Phase.STOP, primary(), None, lease_until=Instant(NOW + 11)),
        "demotion.stop",
        StopServer(StopMode.FAST, 5.0),
    ),
    case(
        "with next to nothing left of the lease",
        during(OFFLINE, Phase.STOP, primary(), None),
        "demotion.stop",
        StopServer(StopMode.FAST, 0.5),
    ),
    case(
        "the stop failed",
        during(GRACEFUL, Phase.STOP, silent(primary()), last_result=did(TaskKind.STOP, "no")),
        "demotion.stop_failed",
        StopServer(StopMode.IMMEDIATE, 10.0),
        then=Then.END,
    ),
    case(
        "pg_control says shut down while the postmaster streams (EC 63)",
        during(GRACEFUL, Phase.STOP, SEEN),
        "demotion.shut_down_seen",
        EnterPhase(Phase.HANDOVER, Lsn(1200)),
    ),
    nothing("not yet", during(GRACEFUL, Phase.STOP, STOPPING), "demotion.stopping"),
    case(
        "another took the lock during the stop: no more politeness (HA rules 8.2)",
        during(GRACEFUL, Phase.STOP, STOPPING, B_LEADS),
        "demotion.lost_while_stopping",
        CancelTask(),
        BeginDemotion(NOLOCK, Phase.STOP),
    ),
    case(
        "the renewal is refused during the stop",
        during(SHUTDOWN, Phase.STOP, STOPPING, lease=LeaseState.GONE, stopping=True),
        "demotion.lost_while_stopping",
        CancelTask(),
        BeginDemotion(NOLOCK, Phase.STOP),
    ),
    nothing(
        "it is shut down already and only streams: a lost lock changes nothing",
        during(GRACEFUL, Phase.STOP, SEEN, B_LEADS),
        "demotion.stopping",
    ),
    nothing(
        "the store is away for a moment during the stop",
        during(GRACEFUL, Phase.STOP, STOPPING, None, lease_until=Instant(NOW + 20)),
        "demotion.stopping",
    ),
    case(
        "stopped cleanly",
        during(GRACEFUL, Phase.STOP, STOPPED),
        "demotion.stopped_orderly",
        EnterPhase(Phase.HANDOVER, Lsn(1200)),
    ),
    case(
        "stopped uncleanly: its end is not known",
        during(GRACEFUL, Phase.STOP, down(Role.PRIMARY, found=control(ControlState.IN_PRODUCTION))),
        "demotion.stopped_orderly",
        EnterPhase(Phase.HANDOVER, None),
    ),
    case(
        "unsuitable: the lock goes to whoever is fit",
        during(AT_ONCE, Phase.STOP, STOPPED),
        "demotion.stopped_immediately",
        SetRole(Role.DEMOTED),
        ReleaseLease(),
        EnterPhase(Phase.AWAIT_LEADER),
    ),
    case(
        "the lock is another's: not touched (EC 1)",
        during(NOLOCK, Phase.STOP, STOPPED, B_LEADS),
        "demotion.stopped",
        SetRole(Role.DEMOTED),
        EndProcedure(),
    ),
    case(
        "the store is away (EC 22)",
        during(OFFLINE, Phase.STOP, STOPPED, None),
        "demotion.stopped",
        SetRole(Role.DEMOTED),
        EndProcedure(),
    ),
    case(
        "a stopped standby of an agent that ends",
        during(SHUTDOWN, Phase.STOP, down(), B_LEADS, stopping=True),
        "demotion.stopped",
        EnterPhase(Phase.AWAIT_LEADER),
    ),
)

AFTERWARDS = (
    case(
        "resume as the primary",
        during(GRACEFUL, Phase.RESUME, STOPPED),
        "demotion.resume",
        StartServer(Role.PRIMARY, timeout_s=300.0, after_crash=True),
        then=Then.END,
    ),
    nothing(
        "not without the proven lock",
        during(GRACEFUL, Phase.RESUME, STOPPED, None, lease_until=Instant(NOW + 9)),
        "demotion.resuming",
    ),
    case(
        "its old postmaster still waits",
        during(GRACEFUL, Phase.RESUME, silent(primary()), last_result=did(TaskKind.STOP, cancelled=True)),
        "demotion.finish_stop",
        StopServer(StopMode.IMMEDIATE, 10.0),
        then=Then.END,
    ),
    case(
        "it serves again",
        during(GRACEFUL, Phase.RESUME, primary(), last_result=did(TaskKind.START_PRIMARY)),
        "demotion.resumed",
        SetRole(Role.PRIMARY),
        WriteFailover(),
        EndProcedure,
    ),
    case(
        "it could not be started: down.start_failed gives the lock away (EC 83)",
        during(GRACEFUL, Phase.RESUME, STOPPED, last_result=did(TaskKind.START_PRIMARY, "no")),
        "demotion.resume_failed",
        EndProcedure,
    ),
    case(
        "another took the lock while it starts (HA rules 8.2)",
        during(GRACEFUL, Phase.RESUME, doing(TaskKind.START_PRIMARY, STOPPED), B_LEADS),
        "demotion.lost_while_resuming",
        CancelTask(),
        BeginDemotion(NOLOCK, Phase.STOP),
    ),
    case(
        "the renewal is refused although it serves again",
        during(GRACEFUL, Phase.RESUME, primary(), lease=LeaseState.GONE),
        "demotion.lost_while_resuming",
        BeginDemotion(NOLOCK, Phase.STOP),
    ),
    case(
        "the store is away and the lease runs out while it starts (HA rules 9.3)",
        during(GRACEFUL, Phase.RESUME, doing(TaskKind.START_PRIMARY, STOPPED), None, lease_until=Instant(NOW + 10)),
        "demotion.lost_while_resuming",
        CancelTask(),
        BeginDemotion(OFFLINE, Phase.STOP),
    ),
    nothing(
        "the store is away for a moment while it starts (EC 21)",
        during(GRACEFUL, Phase.RESUME, doing(TaskKind.START_PRIMARY, STOPPED), None, lease_until=Instant(NOW + 10.1)),
        "demotion.resuming",
    ),
    case(
        "it runs but never answers (HA rules 14.1.2)",
        during(GRACEFUL, Phase.RESUME, silent(primary()), last_result=did(TaskKind.START_PRIMARY), seconds=301),
        "demotion.resume_stuck",
        BeginDemotion(AT_ONCE, Phase.STOP),
    ),
    case(
        "the lock was lost before it started",
        during(GRACEFUL, Phase.RESUME, STOPPED, B_LEADS),
        "demotion.resume_failed",
        SetRole(Role.DEMOTED),
        EndProcedure,
    ),
    case(
        "it was refused before it started",
        during(GRACEFUL, Phase.RESUME, STOPPED, lease=LeaseState.GONE),
        "demotion.resume_failed",
    ),
    nothing("it is starting", during(GRACEFUL, Phase.RESUME, doing(TaskKind.START_PRIMARY, STOPPED)), "demotion.resuming"),
    case(
        "the agent ends with the server stopped",
        during(SHUTDOWN, Phase.AWAIT_LEADER, ENDED, FREE, stopping=True),
        "demotion.leave",
        Exit(0, "stopped"),
        then=Then.END,
    ),
    nothing(
        "handed over: the new leader may need this node's vote in the store to take the lock",
        during(SHUTDOWN, Phase.AWAIT_LEADER, ENDED, FREE, stopping=True, released=True),
        "demotion.see_off",
    ),
    case(
        "it has the lock",
        during(SHUTDOWN, Phase.AWAIT_LEADER, ENDED, B_LEADS, stopping=True, released=True),
        "demotion.leave",
        Exit(0, "stopped"),
    ),
    case(
        "it did not take the lock within 3 s",
        during(SHUTDOWN, Phase.AWAIT_LEADER, ENDED, FREE, stopping=True, released=True, seconds=3.0),
        "demotion.leave",
        Exit(0, "stopped"),
    ),
    case(
        "the store is away: nobody is waited for",
        during(SHUTDOWN, Phase.AWAIT_LEADER, ENDED, None, stopping=True, released=True),
        "demotion.leave",
        Exit(0, "stopped"),
    ),
    case("a leader is found", during(GRACEFUL, Phase.AWAIT_LEADER, ENDED, B_LEADS), "demotion.leader_found", EndProcedure()),
    case(
        "nobody took the lock within 3 s",
        during(GRACEFUL, Phase.AWAIT_LEADER, ENDED, FREE, seconds=3.1),
        "demotion.leader_found",
        EndProcedure(),
    ),
    case(
        "the store went away as well (EC 39)",
        during(GRACEFUL, Phase.AWAIT_LEADER, ENDED, None, seconds=3.1),
        "demotion.leader_found",
        EndProcedure(),
    ),
    nothing("a moment for the others", during(GRACEFUL, Phase.AWAIT_LEADER, ENDED, FREE), "demotion.await_leader"),
)

CASES: tuple[Case, ...] = SERVING + STOP + AFTERWARDS


@pytest.mark.parametrize("each", CASES, ids=str)
def test_a_demotion(each: Case) -> None:
    each.check()
