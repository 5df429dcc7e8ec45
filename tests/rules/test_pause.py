"""Maintenance mode as it goes on over several beats, and its end. (HA rules 23)"""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgcore.decide.publish import card
from pgcore.model.actions import (
    AcquireLease,
    BeginDemotion,
    CancelTask,
    Exit,
    FollowByReload,
    FollowByRestart,
    Promote,
    ReleaseLease,
    Rewind,
    RewindState,
    RunCheckpoint,
    StartServer,
    StopServer,
    WriteConfig,
    WriteFailover,
    WriteInitialize,
)
from pgcore.model.basics import Role, State, Tags
from pgcore.model.cluster import ClusterView, ConfigRecord
from pgcore.model.node import TaskKind
from pgcore.model.world import LeaseState, World
from pgcore.testing.builders import (
    OTHER_SYSTEM,
    SYSTEM,
    crashed,
    did,
    doing,
    down,
    empty,
    leads,
    member,
    peer,
    peers,
    primary,
    request,
    standby,
    view,
    world,
)
from rules.cases import Case, case, nothing
from rules.driver import after, play

MINE, B_LEADS, FREE = view("a"), view("b"), view(None)
WIPED = ClusterView()

CASES: tuple[Case, ...] = (
    nothing(
        "a stopped replica stays stopped whatever is known of its history (EC 191)",
        world(down(), B_LEADS, paused=True, rewind=RewindState.NEED),
        "down.paused",
    ),
    nothing(
        "also one that is tagged nofailover, or has been given other recovery settings (EC 191)",
        world(down(), B_LEADS, paused=True, tags=Tags({"nofailover": True}), server_stale=True, rewind=RewindState.CHECK),
        "down.paused",
    ),
    nothing(
        "a free lock sends no nofailover node comparing",
        world(standby(), FREE, paused=True, tags=Tags({"nofailover": True})),
        "race.paused",
    ),
    case(
        "a wiped store: the running primary takes the lock (EC 190)",
        world(primary(), WIPED, paused=True),
        "race.primary_takes_it",
    ),
    nothing("and no standby (EC 190)", world(standby(), WIPED, paused=True), "race.paused"),
    nothing(
        "a schedule that is due waits for the end of the mode",
        world(primary(), view("a", failover=request("a", "b", due=0)), paused=True, peers=peers(peer("b"))),
        "leader.keep",
    ),
    nothing(
        "and is not dropped as stale meanwhile",
        world(primary(), view("a", failover=request("a", "b", due=-999)), paused=True),
        "leader.keep",
    ),
    nothing(
        "the holder of the lock has no address: the upstream stays",
        world(standby(), view("b", member("a"), member("c")), paused=True, rewind=RewindState.NOT_NEED),
        "replica.paused_without_upstream",
    ),
    case(
        "the agent ends: a running action is cancelled first",
        world(doing(TaskKind.CLONE, empty()), B_LEADS, paused=True, stopping=True),
        "shutdown.cancel_running",
        CancelTask(),
    ),
)


@pytest.mark.parametrize("each", CASES, ids=str)
def test_maintenance_mode(each: Case) -> None:
    each.check()


def resumed(at: World, **changes: object) -> World:
    """The same world when the mode has ended, a second later."""
    return replace(at, settings=replace(at.settings, paused=False), memory=replace(at.memory, was_paused=True), **changes)


@pytest.mark.parametrize("kind", [TaskKind.PROMOTE, TaskKind.RESTART, TaskKind.START_PRIMARY])
def test_no_long_action_is_interrupted_by_a_lost_lock(kind: TaskKind) -> None:
    """EC 192"""
    for cluster in (B_LEADS, FREE):
        assert not play(world(doing(kind, primary()), cluster, paused=True)).did(CancelTask, BeginDemotion, StopServer)
    assert play(world(doing(kind, primary()), B_LEADS)).did(CancelTask)


def test_a_wiped_store_is_written_again_with_the_mode_in_it() -> None:
    """EC 189, 190: the configuration in force is the last known one, so the mode outlives its key."""
    document = {"ttl": 30, "pause": True}
    played = play(world(primary(), WIPED, paused=True, dynamic=document))
    assert played.did(AcquireLease)
    holder = replace(WIPED, leader="a")
    played = play(after(played, cluster=holder))
    assert played.did(WriteInitialize, WriteConfig) == [WriteInitialize(SYSTEM, None), WriteConfig(document, None)]
    assert card(played.beat.world)["pause"] is True


def test_a_lost_store_or_lock_stops_no_primary_and_arms_no_guard() -> None:
    """EC 40, 189"""
    away = world(primary(), None, paused=True, lease_until=None)
    refused = world(primary(), MINE, paused=True, lease=LeaseState.UNRENEWED)
    for played in (play(away), play(refused, RenewLease="taken"), play(refused, RenewLease="gone")):
        assert not played.did(BeginDemotion, StopServer, ReleaseLease)
        assert not played.beat.world.guard_armed


def test_another_data_directory_costs_the_lock_at_once_and_the_agent_only_at_the_end() -> None:
    """EC 193"""
    replaced = primary(system_id=OTHER_SYSTEM)
    played = play(world(replaced, MINE, paused=True))
    assert played.did(ReleaseLease, Exit) == [ReleaseLease()]
    at = after(played, cluster=FREE)
    assert not play(at).did(AcquireLease, Exit)
    ended = play(resumed(at)).did(AcquireLease, Exit)
    assert [type(action) for action in ended] == [Exit] and isinstance(ended[0], Exit) and ended[0].code == 1


def test_at_its_end_everything_is_looked_at_anew() -> None:
    """EC 194: histories are compared again, a primary writes its checkpoint again, whose data it is is asked in each look."""
    at = world(primary(), MINE, paused=True, rewind=RewindState.FAILED)
    played = play(resumed(at))
    assert played.beat.world.memory.rewind is RewindState.INITIAL
    assert played.did(RunCheckpoint) and not play(at).did(RunCheckpoint)
    follower = resumed(world(standby(), B_LEADS, paused=True, rewind=RewindState.FAILED))
    assert play(follower).beat.world.memory.rewind is RewindState.INITIAL
    assert play(resumed(world(primary(system_id=OTHER_SYSTEM), B_LEADS, paused=True))).did(Exit)


def test_a_server_that_was_rewound_and_then_stopped_by_hand_stays_stopped() -> None:
    """EC 115: the rewind is over when the server has started once."""
    at = world(down(Role.DEMOTED), B_LEADS, paused=True, rewind=RewindState.SUCCESS)
    played = play(at)
    assert played.did(StartServer)
    played = play(after(played, node=standby(finished=did(TaskKind.START))))
    assert played.beat.world.memory.rewind is not RewindState.SUCCESS
    by_hand = replace(crashed(), role=Role.REPLICA, recovery_files=True)
    assert not play(after(played, node=by_hand)).did(StartServer, Rewind)


def test_a_second_primary_is_left_alone_and_rewound_when_the_mode_ends() -> None:
    """EC 116"""
    false_primary = primary(rewind_possible=True)
    at = world(false_primary, B_LEADS, paused=True, rewind=RewindState.NOT_NEED)
    assert not play(at).did(BeginDemotion, StopServer, Rewind)
    played = play(resumed(at))
    assert [type(action) for action in played.did(BeginDemotion, StopServer)] == [BeginDemotion, StopServer]
    stopped = down(Role.PRIMARY, finished=did(TaskKind.STOP))
    played = play(after(played, node=stopped), CompareTimelines=leads(2, 500))
    assert played.beat.world.memory.rewind is RewindState.NEED
    assert played.did(Rewind)


def test_a_switchover_in_maintenance_mode_ends_with_the_old_primary_rewound_and_started() -> None:
    """EC 196"""
    at = world(down(Role.DEMOTED), B_LEADS, paused=True, rewind=RewindState.CHECK)
    played = play(at, CompareTimelines=leads(2, 500))
    assert played.did(Rewind)
    played = play(after(played, node=down(Role.DEMOTED, finished=did(TaskKind.REWIND))))
    assert played.did(StartServer)


def test_a_standby_follows_another_leader_but_is_never_promoted() -> None:
    """EC 190"""
    played = play(world(standby(), B_LEADS, paused=True), CompareRecovery="reload", CompareTimelines=leads(1))
    assert played.did(FollowByReload)
    free = play(world(standby(), FREE, paused=True), CompareRecovery="reload")
    assert not free.did(AcquireLease, Promote, FollowByReload, FollowByRestart)


def test_a_server_that_is_not_up_is_shown_as_stopped() -> None:
    at = world(crashed(), MINE, paused=True)
    assert (card(at)["state"], card(replace(at, settings=replace(at.settings, paused=False)))["state"]) == ("stopped", "crashed")
    assert world(primary(), MINE, paused=True).shown_state is State.RUNNING


def test_a_request_that_waits_is_kept() -> None:
    waiting = view("a", failover=request("a", "b", due=-999), config=ConfigRecord("1", {"pause": True}))
    assert not play(world(primary(), waiting, paused=True)).did(WriteFailover, BeginDemotion)
    assert play(resumed(world(primary(), waiting, paused=True))).did(WriteFailover)
