"""Situations in which the rules once did something unsafe, went round in circles, or waited for ever.

Each test says what happens instead. It failed before its defect was mended, for the reason in its docstring; it judges by what is
done, not by the rule that answers.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgcore.model.actions import (
    AcquireLease,
    BeginDemotion,
    CompareRecovery,
    CompareTimelines,
    DemoteMode,
    DropInitialize,
    EndProcedure,
    FollowByRestart,
    Phase,
    Promote,
    ReleaseLease,
    RenewLease,
    RewindState,
    SetAsideDataDir,
    StartServer,
    StopServer,
    WriteConfig,
    WriteFailover,
)
from pgcore.model.actions import BootstrapPhase as Making
from pgcore.model.basics import Instant, Lsn, Role, State
from pgcore.model.decision import Decision
from pgcore.model.node import Slot, TaskKind
from pgcore.model.world import Bootstrapping, World
from pgcore.testing.builders import (
    NOW,
    control,
    crashed,
    demotion,
    did,
    doing,
    down,
    history,
    leads,
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
from rules.cases import case
from rules.driver import Script, after, play

MINE, B_LEADS, FREE = view("a"), view("b"), view(None)
ON_2 = view("b", member("a"), member("b", role="primary", timeline=2), member("c"))
STOPPED = down(Role.PRIMARY, found=control(end=1200))
HANDOVER = demotion(DemoteMode.GRACEFUL, Phase.HANDOVER, "b", "c", end=Lsn(1200))
RESUME = demotion(DemoteMode.GRACEFUL, Phase.RESUME, "b")


def decision(at: World, stage: str = "main") -> Decision:
    """What the rules answer."""
    found = case("", at, "", stage=stage).decision()
    assert found is not None
    return found


def begins(at: World, mode: DemoteMode) -> bool:
    """The answer is to begin such a demotion."""
    return any(isinstance(action, BeginDemotion) and action.mode is mode for action in decision(at).actions)


# -- two writable primaries --------------------------------------------------------------------------------------------------


def test_a_resumed_primary_stops_when_the_store_is_away_and_its_lease_runs_out() -> None:
    """It failed once: RESUME asks neither for store nor lease: demotion.resumed repeats WriteFailover for ever; only the guard
    is left.
    """
    at = world(primary(), None, procedure=RESUME, lease_until=Instant(NOW + 5), last_result=did(TaskKind.START_PRIMARY))
    assert begins(at, DemoteMode.OFFLINE)


@pytest.mark.parametrize("cluster", [B_LEADS, FREE], ids=["another leads", "the lock expired"])
def test_the_start_of_a_resuming_primary_is_cancelled_when_the_lock_is_lost(cluster: object) -> None:
    """It failed once: RESUME hides busy.lost_lock: the server goes on starting as a primary although another leads."""
    at = world(doing(TaskKind.START_PRIMARY, STOPPED), cluster, procedure=RESUME)
    assert begins(at, DemoteMode.IMMEDIATE_NOLOCK)


@pytest.mark.parametrize("kind", [TaskKind.PROMOTE, TaskKind.START_PRIMARY])
def test_becoming_a_primary_is_stopped_when_the_store_is_away_and_the_lease_runs_out(kind: TaskKind) -> None:
    """It failed once: store_lost.busy waits: the promotion or the start ends as a writable primary without a lease; only the
    guard is left.
    """
    at = world(doing(kind, standby()), None, lease_until=Instant(NOW + 5))
    assert begins(at, DemoteMode.OFFLINE)


def test_a_promotion_that_ends_after_it_was_given_up_is_stopped() -> None:
    """The promote command timed out, the lock was given away, the server became a primary after all.

    It failed once: race.failed_before comes before the rules for primaries.
    """
    at = world(primary(timeline=2), FREE, promotion_failed_at=Instant(NOW - 1))
    assert decision(at).rule != "race.failed_before"


def test_the_lock_is_not_given_away_before_a_server_asked_to_promote_is_stopped() -> None:
    """It failed once: leader.promotion_failed gives the lock away while the server may still be promoting."""
    at = world(standby(role=Role.PROMOTED), MINE, last_result=did(TaskKind.PROMOTE, "still in recovery when the time is over"))
    assert not any(isinstance(action, ReleaseLease) for action in decision(at).actions)


def test_a_primary_that_starts_without_the_lock_is_stopped() -> None:
    """It failed once: starting.lost_lock stops it only if another already holds the lock; up to a second of writes are accepted
    without one.
    """
    at = world(starting(primary(recovery_files=False)), FREE)
    assert begins(at, DemoteMode.IMMEDIATE_NOLOCK)


def test_a_primary_whose_timeline_is_unknown_does_not_take_the_lock_of_a_cluster_with_a_history() -> None:
    """It failed once: an unknown timeline counts as the newest: an old primary that does not answer takes the lock back."""
    at = world(silent(primary()), view(None, history=history(900)))
    assert not any(isinstance(action, AcquireLease) for action in decision(at).actions)


def test_a_stop_becomes_immediate_when_the_lock_is_lost_to_another() -> None:
    """It failed once: STOP has no rule for a lost lock: it goes on stopping politely for up to a minute."""
    procedure = demotion(DemoteMode.GRACEFUL, Phase.STOP, "b")
    at = world(doing(TaskKind.STOP, silent(primary(), state=State.STOPPING)), B_LEADS, procedure=procedure)
    assert begins(at, DemoteMode.IMMEDIATE_NOLOCK)


# -- acknowledged commits lost -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [DemoteMode.GRACEFUL, DemoteMode.SHUTDOWN])
def test_the_lock_is_never_handed_to_a_member_on_an_older_timeline(mode: DemoteMode) -> None:
    """It failed once: best_with compares numbers only: WAL of an abandoned timeline counts as having everything."""
    procedure = demotion(mode, Phase.HANDOVER, "c", end=Lsn(1200))
    node = down(Role.PRIMARY, found=control(end=1200, timeline=2))
    at = world(
        node,
        MINE,
        procedure=procedure,
        last_timeline=2,
        peers=peers(peer("c", 5000, timeline=1)),
        stopping=mode is DemoteMode.SHUTDOWN,
    )
    assert decision(at).rule != "demotion.give_away"


def test_a_switchover_does_not_promote_a_node_on_an_older_timeline() -> None:
    """It failed once: race.asked_for_me comes before race.old_timeline, also in a switchover."""
    at = world(standby(5000), view(None, history=history(900), failover=request("b", "a")))
    assert not any(isinstance(action, AcquireLease) for action in decision(at).actions)


def test_a_scheduled_switchover_is_as_strict_in_the_race_as_an_unscheduled_one() -> None:
    """It failed once: give_away leaves a scheduled request as it is, and the race does not look at scheduled requests."""
    at = world(STOPPED, view("a", failover=request("a", "b", due=-1)), procedure=HANDOVER, peers=peers(peer("b", 1200)))
    assert WriteFailover("a", "b") in decision(at).actions


def test_a_new_cluster_is_not_published_before_its_users_are_made() -> None:
    """It failed once: bootstrap.finish asks only for the phase: the result may be that of initdb."""
    at = world(
        primary(), view(None, initialize=""), procedure=Bootstrapping(Making.POST, NOW), last_result=did(TaskKind.BOOTSTRAP)
    )
    assert decision(at).rule != "bootstrap.finish"


def test_initialize_of_another_node_is_not_deleted_when_the_data_directory_cannot_be_set_aside() -> None:
    """It failed once: give_up frees /initialize in every attempt, whoever has claimed it meanwhile."""
    made = did(TaskKind.STOP)
    at = world(
        down(),
        view(None, initialize="", initialize_version="3"),
        procedure=Bootstrapping(Making.FAILED, NOW, "3"),
        last_result=made,
    )
    fails = Script(fails=lambda number, action: isinstance(action, SetAsideDataDir))
    first = fails.play(at)
    assert first.did(DropInitialize)
    claimed_by_another = view(None, initialize="", initialize_version="9")
    assert not fails.play(after(first, cluster=claimed_by_another)).did(DropInitialize)


# -- the lock is not renewed, or nobody takes it -----------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True], ids=["written", "not written"])
def test_the_lock_is_renewed_in_a_beat_that_restores_the_configuration(fails: bool) -> None:
    """It failed once: a repair that fails, or is not remembered, ends the whole beat before the main stage."""
    played = Script(fails=lambda number, action: fails and isinstance(action, WriteConfig)).play(
        world(primary(), view("a", config=None))
    )
    assert played.did(RenewLease)


def test_a_node_whose_promotion_failed_promotes_when_it_gets_the_lock_again() -> None:
    """EC 55: after ttl it may retry.

    It failed once: nothing forgets the failed promotion: with the lock taken again it is given up again, for ever.
    """
    at = world(standby(), FREE, promotion_failed_at=Instant(NOW - 31), last_result=did(TaskKind.PROMOTE, "pre_promote said no"))
    played = play(at)
    assert played.did(AcquireLease)
    assert played.did(Promote)


def test_given_up_locks_are_not_acquired_and_released_in_one_beat() -> None:
    """The same, seen from the store."""
    at = world(standby(), FREE, promotion_failed_at=Instant(NOW - 1), last_result=did(TaskKind.PROMOTE, "no"))
    assert not play(at).did(AcquireLease, ReleaseLease)


def test_a_crashed_primary_that_could_not_be_started_goes_on_as_a_standby() -> None:
    """EC 83: a keeps trying as a standby.

    It failed once: recovering and the result stay: start_failed answers in every beat, and the server is never started as a
    standby.
    """
    failed = did(TaskKind.START_PRIMARY, "out of disk")
    beats = [play(world(crashed(), MINE, recovering=True, last_result=failed))]
    assert beats[0].did(ReleaseLease)
    recovered = replace(beats[0].beat.world.node, task=None, finished=did(TaskKind.CRASH_RECOVERY, "out of disk"))
    for _ in range(3):
        beats.append(play(after(beats[-1], seconds=20.0, cluster=B_LEADS, node=recovered), CompareTimelines=leads(1)))
    assert any(played.did(StartServer) for played in beats)


def test_a_holder_whose_server_cannot_be_started_in_recovery_gives_the_lock_away() -> None:
    """HA rules 13.4: after a reboot within ttl, with a broken configuration.

    It failed once: start_failed looks at START_PRIMARY only: a holder whose server does not start keeps the lock for ever.
    """
    at = world(
        down(Role.REPLICA, State.START_FAILED), MINE, last_result=did(TaskKind.START, "FATAL"), failed_at=Instant(NOW - 60)
    )
    assert any(isinstance(action, ReleaseLease) for action in decision(at).actions)


def test_a_holder_that_recovers_for_longer_than_primary_start_timeout_gives_way() -> None:
    """EC 84.

    It failed once: the start task ends at primary_start_timeout, so busy.recovery_too_long never sees it, and starting.wait
    has no limit.
    """
    at = world(starting(primary(recovery_files=False)), MINE, recovering=True, last_result=did(TaskKind.START_PRIMARY))
    for _ in range(40):
        played = play(at, PollPeers=peers(peer("b")))
        at = after(played, seconds=10.0)
    assert at.demotion is not None


def test_a_manual_failover_is_honoured_while_the_holder_recovers() -> None:
    """EC 72.

    It failed once: STARTING does not look at requests.
    """
    at = world(starting(primary(recovery_files=False)), view("a", failover=request(None, "b")), peers=peers(peer("b")))
    assert decision(at).rule != "starting.wait"


def test_a_candidate_that_lacks_wal_does_not_keep_the_others_from_the_lock() -> None:
    """The leader died while the switchover to b was pending; b lacks a byte, I have everything.

    It failed once: race.candidate_first leaves the lock to a candidate that race.missing_wal keeps from taking it.
    """
    at = world(
        standby(1000), view(None, optime=1000, failover=request("c", "b")), peers=peers(peer("b", 999)), old_cluster=view("c")
    )
    assert decision(at).rule == "race.acquire"


def test_a_peer_on_an_older_timeline_is_not_ahead() -> None:
    """It failed once: race.peer_ahead counts WAL of an abandoned timeline, whose owner race.old_timeline keeps from the lock."""
    cluster = view(None, history=history(900))
    at = world(standby(1000, timeline=2), cluster, peers=peers(peer("b", 5000, timeline=1)), old_cluster=view("c"))
    assert decision(at).rule == "race.acquire"


def test_a_switchover_in_maintenance_mode_is_either_refused_or_taken_up() -> None:
    """EC 73.

    It failed once: race.paused comes before race.asked_for_me, and the holder has stopped for it already.
    """
    asked = view("a", failover=request("a", "b"))
    accepted = decision(world(primary(), asked, paused=True, peers=peers(peer("b"), peer("c")))).rule == "leader.hand_over"
    free = world(standby(), view(None, failover=request("c", "a")), paused=True, peers=peers(peer("b")))
    taken = decision(free).rule == "race.asked_for_me"
    assert accepted is taken


def test_a_candidate_whose_promotion_failed_clears_the_request() -> None:
    """It failed once: nobody clears the request: the others go on waiting for the candidate, and the old leader hands over to it
    again.
    """
    at = world(standby(), view("a", failover=request("b", "a")), last_result=did(TaskKind.PROMOTE, "pre_promote said no"))
    assert any(isinstance(action, WriteFailover) for action in play(at).did(WriteFailover))


def test_a_request_whose_leader_died_before_the_hand_over_does_not_block_the_race_for_ever() -> None:
    """It failed once: missing_wal has no end: with the old leader gone, nobody is promoted until an operator clears the key."""
    at = world(standby(999), view(None, optime=1000, failover=request("c", "b")), unlocked_since=Instant(NOW - 3600), peers={})
    assert decision(at).rule != "race.missing_wal"


# -- followers that do not follow --------------------------------------------------------------------------------------------


def test_a_replica_that_was_cut_off_during_a_failover_follows_the_new_leader() -> None:
    """EC 107: it still streams from nobody, on timeline 1; b leads on timeline 2 and this history is part of its own.

    It failed once: timeline_grew answers again after NOT_NEED: every beat ends as repeated before compare_recovery.
    """
    at = world(standby(1000, streaming=False), ON_2)
    played = play(at, CompareTimelines=leads(2, 1000), CompareRecovery="restart")
    assert played.did(CompareRecovery)
    assert played.did(FollowByRestart)


def test_a_rewind_that_fails_with_a_sound_source_ends_as_failed() -> None:
    """HA rules 12.4.6, 12.4.7: else remove_data_directory_on_rewind_failure has no effect.

    It failed once: a failed pg_rewind is repeated for ever; FAILED is reached only with a damaged pg_control.
    """
    node = down(Role.DEMOTED)
    played = play(world(node, B_LEADS, rewind=RewindState.NEED))
    for _ in range(5):
        failed = replace(node, finished=did(TaskKind.REWIND, "could not find previous WAL record"))
        played = play(after(played, seconds=20.0, node=failed))
    assert played.beat.world.memory.rewind is RewindState.FAILED


def test_a_running_replica_that_diverged_is_copied_anew_when_that_is_allowed() -> None:
    """It failed once: replica.copy_anew wants a stopped server, and nothing stops it."""
    at = world(standby(rewind_possible=False), B_LEADS, rewind=RewindState.NEED, remove_data_directory_on_diverged_timelines=True)
    assert play(at, CompareRecovery="none", CompareTimelines=leads(2, 900)).did(StopServer, BeginDemotion)


def test_a_demoted_primary_is_rewound_in_maintenance_mode() -> None:
    """EC 196, HA rules 23.

    It failed once: down.paused knows no exception.
    """
    at = world(down(Role.DEMOTED), B_LEADS, rewind=RewindState.NEED, paused=True)
    assert decision(at).rule == "down.rewind"


# -- smaller ones ------------------------------------------------------------------------------------------------------------


def test_a_resumed_primary_that_is_slow_to_answer_is_not_taken_for_failed() -> None:
    """It failed once: resume_failed takes any end of the start for a failure."""
    at = world(silent(primary()), MINE, procedure=RESUME, last_result=did(TaskKind.START_PRIMARY))
    assert not any(isinstance(action, EndProcedure) for action in decision(at).actions)


def test_a_stop_that_ends_while_the_store_is_away_for_a_moment_goes_on_with_the_hand_over() -> None:
    """It failed once: stopped takes a store that is away for a lock that is lost; the request then stops the primary a second
    time.
    """
    procedure = demotion(DemoteMode.GRACEFUL, Phase.STOP, "b")
    at = world(STOPPED, None, procedure=procedure, lease_until=Instant(NOW + 25))
    assert not any(isinstance(action, EndProcedure) for action in decision(at).actions)


def test_a_fulfilled_switchover_is_not_refused_by_the_new_leader() -> None:
    """It failed once: leader.wrong_leader comes before upkeep.request_done: each fast switchover leaves a refusal behind."""
    assert not play(world(primary(), view("a", failover=request("b", "a")))).beat.world.memory.refusal


def test_a_fulfilled_failover_is_not_refused_by_the_new_leader() -> None:
    """It failed once: leader.candidate_is_leader comes before upkeep.request_done."""
    assert not play(world(primary(), view("a", failover=request(None, "a")))).beat.world.memory.refusal


def test_the_winner_clears_a_request_that_named_another_candidate() -> None:
    """EC 60.

    It failed once: request_done keeps a request that names another candidate: the winner hands over once more.
    """
    played = play(world(standby(), view("a", failover=request(None, "b"))))
    played = play(after(played, node=doing(TaskKind.PROMOTE, standby())))
    assert played.did(WriteFailover)


def test_slots_are_made_although_the_settings_cannot_be_applied() -> None:
    """It failed once: a repair that fails ends the stage: those behind it never get their turn."""
    at = world(primary(slots=(Slot("b", True, True, Lsn(900)),)), MINE, server_stale=True)
    played = Script(fails=lambda number, action: type(action).__name__ == "ApplySettings").play(at)
    assert any(type(action).__name__ == "ChangeSlots" for action, _ in played.steps)


@pytest.mark.parametrize(
    "at",
    [
        world(primary(senders=()), view("a", failover=request("a", "b"))),
        world(standby(), view(None, failover=request("a"))),
    ],
    ids=["leader.candidate_not_streaming", "race.others_before_old_leader"],
)
def test_a_rule_that_waits_for_something_wakes_the_beat_soon(at: World) -> None:
    """It failed once: a rule that acts and then rests under its own name ends the beat as repeated, without its wake_after."""
    played = play(at, PollPeers=peers(peer("b"), peer("c")))
    assert not played.beat.repeated
    assert played.beat.wake_after is not None


@pytest.mark.parametrize("known", [RewindState.NOT_NEED, RewindState.CHECK], ids=["replica.timeline_grew", "replica.judge"])
def test_a_leader_ahead_of_its_member_key_is_compared_with_once_in_a_beat(known: RewindState) -> None:
    """It failed once: the key still says 2, the server says 3, and what was judged was opened and judged again. (EC 107)"""
    at = world(standby(900, streaming=False), replace(ON_2, history=history(1000)), rewind=known)
    played = play(at, CompareTimelines=leads(3, 1000, 1100))
    assert not played.beat.repeated and len(played.did(CompareTimelines)) == 1
    assert played.beat.world.memory.rewind is RewindState.NOT_NEED
    ahead = after(played, node=standby(1001, streaming=False))
    played = play(ahead, CompareTimelines=leads(3, 1000, 1100))
    assert not played.beat.repeated and played.beat.world.memory.rewind is RewindState.NEED


def test_a_holder_that_was_never_promoted_gives_the_lock_back_when_the_agent_ends() -> None:
    """It failed once: a standby that just won the lock leaves it to its lease when the agent ends."""
    procedure = demotion(DemoteMode.SHUTDOWN, Phase.STOP)
    assert play(world(down(), MINE, procedure=procedure, stopping=True)).did(ReleaseLease)


def test_a_lock_that_was_proven_is_not_a_defect() -> None:
    """What these tests lean on: the same worlds without their trouble."""
    assert decision(world(primary(), MINE)).rule == "leader.keep"
    assert decision(world(doing(TaskKind.PROMOTE, standby()), MINE)).rule == "busy.wait"
    assert decision(world(standby(1000, timeline=2), view(None, history=history(900)), peers={})).rule == "race.acquire"
