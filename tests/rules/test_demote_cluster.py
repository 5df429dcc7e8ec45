"""A normal cluster becomes a standby cluster: what its primary wrote last is not lost. (HA rules 17, 22.4)"""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgcore.model.actions import (
    ArchiveShutdownWal,
    BeginDemotion,
    CancelTask,
    DemoteMode,
    EndProcedure,
    EnterPhase,
    Phase,
    ReleaseLease,
    SetRole,
    StartServer,
    StopMode,
    StopServer,
    WriteFailover,
    WriteStatus,
)
from pgcore.model.basics import Instant, Lsn, Role, State
from pgcore.model.cluster import ClusterStatus
from pgcore.model.decision import Then
from pgcore.model.node import TaskKind
from pgcore.model.world import LeaseState
from pgcore.testing.builders import (
    NOW,
    did,
    doing,
    leads,
    peer,
    peers,
    primary,
    silent,
)
from rules.cases import Case, case, nothing
from rules.driver import after, play
from rules.remote import B_LEADS, CLUSTER, MINE, PRIMARY_ENDED, SOURCE, converting, of_remote

CONVERSION = (
    case(
        "the section was added, with an archive: the lock is offered to nobody (EC 201)",
        of_remote(primary(archiving=True)),
        "standby_leader.demote",
        BeginDemotion(CLUSTER, Phase.STOP, ()),
    ),
    case(
        "without an archive a replica may have everything",
        of_remote(primary()),
        "standby_leader.demote",
        BeginDemotion(CLUSTER, Phase.STOP, ("b", "c")),
    ),
    nothing("in maintenance mode nobody is demoted", of_remote(primary(), paused=True), "standby_leader.paused_primary"),
    case(
        "it stops in order, for as long as that takes (EC 201)",
        converting(Phase.STOP, primary()),
        "demotion.stop",
        StopServer(StopMode.FAST, None),
    ),
    case(
        "without the store the stop is bounded by the lease",
        converting(Phase.STOP, primary(), None, lease_until=Instant(NOW + 20)),
        "demotion.stop",
        StopServer(StopMode.FAST, 14.0),
    ),
    nothing(
        "meanwhile the lock is kept; with an archive also when the checkpoint is written (EC 201)",
        converting(Phase.STOP, doing(TaskKind.STOP, silent(primary()), shut_down_end=1200)),
        "demotion.stopping",
    ),
    case(
        "and renewed (EC 201)",
        converting(Phase.STOP, doing(TaskKind.STOP, primary()), lease=LeaseState.UNRENEWED),
        "demotion.renew",
    ),
    case(
        "stopped: the archive lacks the last file (EC 201)",
        converting(Phase.STOP, PRIMARY_ENDED, last_result=did(TaskKind.STOP)),
        "demotion.stopped_for_remote",
        EnterPhase(Phase.ARCHIVE),
    ),
    case(
        "it is archived (EC 201)",
        converting(Phase.ARCHIVE, PRIMARY_ENDED),
        "demotion.archive",
        ArchiveShutdownWal(),
        then=Then.END,
    ),
    nothing("which takes a moment", converting(Phase.ARCHIVE, doing(TaskKind.ARCHIVE, PRIMARY_ENDED)), "demotion.archiving"),
    case(
        "but not for ever",
        converting(Phase.ARCHIVE, doing(TaskKind.ARCHIVE, PRIMARY_ENDED), seconds=301),
        "demotion.archive_too_long",
        CancelTask(),
    ),
    case(
        "archived: a standby from now on, with the lock (EC 201)",
        converting(Phase.ARCHIVE, PRIMARY_ENDED, last_result=did(TaskKind.ARCHIVE)),
        "demotion.archived",
        SetRole(Role.DEMOTED),
        EndProcedure(),
    ),
    case(
        "without an archive: who has the checkpoint is asked",
        converting(Phase.STOP, doing(TaskKind.STOP, silent(primary(), state=State.STOPPING), shut_down_end=1200), MINE, "b", "c"),
        "demotion.shut_down_seen",
        EnterPhase(Phase.HANDOVER, Lsn(1200)),
    ),
    case(
        "a replica has it: it gets the lock",
        converting(Phase.HANDOVER, PRIMARY_ENDED, MINE, "b", "c", end=Lsn(1200), peers=peers(peer("b", 1200), peer("c", 1199))),
        "demotion.give_away",
        WriteFailover(leader="a", candidate="b"),
        SetRole(Role.DEMOTED),
        ReleaseLease,
        EnterPhase(Phase.AWAIT_LEADER),
    ),
    case(
        "none has it in time: the lock is kept",
        converting(Phase.HANDOVER, PRIMARY_ENDED, MINE, "b", end=Lsn(1200), peers=peers(peer("b", 1199)), seconds=3),
        "demotion.keep_the_lock",
        WriteStatus(ClusterStatus(Lsn(1200))),
        EnterPhase(Phase.ARCHIVE),
    ),
    case(
        "the lock is lost meanwhile, and a candidate was to get it: stop at once",
        converting(Phase.STOP, doing(TaskKind.STOP, primary()), B_LEADS, "b"),
        "demotion.lost_while_stopping",
        CancelTask(),
        BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP),
    ),
    case(
        "the agent is asked to end meanwhile",
        converting(Phase.STOP, doing(TaskKind.STOP, primary()), MINE, "b", stopping=True),
        "demotion.asked_to_end",
        BeginDemotion(DemoteMode.SHUTDOWN, Phase.STOP, ("b",)),
    ),
)

CASES: tuple[Case, ...] = CONVERSION


@pytest.mark.parametrize("each", CASES, ids=str)
def test_the_conversion(each: Case) -> None:
    each.check()


def test_the_guard_watches_a_primary_until_its_conversion_has_stopped_it() -> None:
    assert converting(Phase.STOP, primary()).guard_armed
    assert converting(Phase.STOP, doing(TaskKind.STOP, silent(primary(), state=State.STOPPING)), None).guard_armed
    assert not converting(Phase.ARCHIVE, PRIMARY_ENDED).guard_armed


def test_a_conversion_ends_as_a_standby_of_the_remote_with_the_lock() -> None:
    """EC 201, from the section to the standby leader; the lock is renewed in every beat and never released."""
    played = play(of_remote(primary(archiving=True)))
    assert [type(action) for action in played.did(StopServer, ReleaseLease)] == [StopServer]
    played = play(after(played, node=replace(PRIMARY_ENDED, finished=did(TaskKind.STOP)), lease=LeaseState.UNRENEWED))
    assert played.did(ArchiveShutdownWal)
    ended = replace(PRIMARY_ENDED, finished=did(TaskKind.ARCHIVE))
    played = play(after(played, node=ended), CompareTimelines=leads(1))
    assert played.did(SetRole, StartServer) == [SetRole(Role.DEMOTED), StartServer(Role.STANDBY_LEADER, SOURCE)]
    assert not played.did(ReleaseLease) and played.beat.world.holds
