"""The heartbeat as a generator: it always ends, always publishes, and never becomes or stays a primary without the lock."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgcore.decide import MAIN, decide
from pgcore.model.actions import (
    AcquireLease,
    Announce,
    BootstrapPhase,
    DemoteMode,
    Exit,
    Phase,
    PollPeers,
    ProbePeers,
    Promote,
    ReadCluster,
    ReleaseLease,
    RemoveDataDir,
    RenewLease,
    RewindState,
    StartServer,
    StopServer,
    WriteConfig,
    WriteStatus,
)
from pgcore.model.basics import Instant, Lsn, Role, State, Tags
from pgcore.model.cluster import ClusterView, SyncView
from pgcore.model.decision import Then
from pgcore.model.node import ControlState, DataDir, TaskKind, TaskResult
from pgcore.model.world import Bootstrapping, LeaseState, World
from pgcore.testing.builders import (
    NOW,
    OTHER_SYSTEM,
    SYSTEM,
    control,
    crashed,
    demotion,
    doing,
    down,
    empty,
    history,
    leads,
    member,
    on_timeline,
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
from rules.driver import Script, after, play


def becomes_primary(action: object) -> bool:
    """The action makes this node writable."""
    return isinstance(action, Promote) or (isinstance(action, StartServer) and action.role is Role.PRIMARY)


# -- worlds, plausible in each part and arbitrary in their combination -----------------------------------------------------

NODES = (
    primary(),
    primary(timeline=2),
    primary(senders=()),
    primary(system_id=OTHER_SYSTEM),
    silent(primary()),
    standby(),
    standby(999),
    standby(streaming=False, rewind_possible=True),
    standby(timeline=None, role=Role.PROMOTED),
    silent(standby()),
    silent(standby(role=Role.PROMOTED)),
    starting(primary(recovery_files=False)),
    starting(standby()),
    crashed(),
    crashed(ControlState.SHUT_DOWN),
    down(),
    down(Role.DEMOTED),
    down(Role.DEMOTED, found=control(ControlState.IN_PRODUCTION), rewind_possible=False),
    down(Role.PRIMARY, State.START_FAILED),
    down(Role.PRIMARY, found=control(end=1200)),
    down(system_id=None),
    empty(),
    empty(DataDir.UNREADABLE),
    empty(running=True),
)
CARDS = (member("a"), member("b"), member("c"))
MEMBERS = (
    CARDS,
    CARDS[:1],
    (CARDS[0], member("b", role="primary", timeline=2, checkpoint_pending=True), member("c", tags={"nofailover": True})),
    (CARDS[0], member("b", tags={"replicatefrom": "c", "clonefrom": True}), member("c", tags={"replicatefrom": "b"}, conn=False)),
)
REQUESTS = (
    None,
    request("a", "b"),
    request("b", "a"),
    request(None, "a"),
    request(None, "b"),
    request("a"),
    request("a", "b", due=3),
    request("a", "b", due=-3),
    request("a", text="x"),
)
ANSWERS = (
    None,
    {},
    peers(peer("b"), peer("c", 999)),
    peers(peer("b", 1200), peer("c", 1200, failover_priority=2)),
    peers(peer("b", 0, is_primary=True)),
    peers(peer("b", reachable=False), peer("c", 5000, watchdog_failed=True)),
    peers(peer("b", 0, starting=True)),
)
PROCEDURES = (
    *(Bootstrapping(phase, NOW) for phase in BootstrapPhase),
    *(
        demotion(mode, phase, "b", "c", seconds=seconds, end=end, mark=Lsn(1000) if phase is Phase.VERIFY else None)
        for mode in DemoteMode
        for phase in Phase
        for seconds in (0.1, 4.0, 400.0)
        for end in ((None, Lsn(1200)) if phase is Phase.HANDOVER else (None,))
    ),
)
RESULTS = (
    None,
    *(TaskResult(kind, error) for kind in TaskKind for error in ("", "no")),
    TaskResult(TaskKind.STOP, cancelled=True),
)
TAGS = (Tags(), Tags(), Tags({"nofailover": True}), Tags({"replicatefrom": "c", "nostream": True}))
AGO = (None, Instant(NOW - 1), Instant(NOW - 100))
SINCE = (None, Instant(NOW - 1), Instant(NOW - 400))

CLUSTERS = st.builds(
    lambda leader, cards, **about: view(leader, *cards, **about),
    st.sampled_from([None, "a", "b", "z"]),
    st.sampled_from(MEMBERS),
    optime=st.sampled_from([None, 999, 1000, 2**30]),
    failover=st.sampled_from(REQUESTS),
    history=st.sampled_from([None, (), history(900)]),
    initialize=st.sampled_from([SYSTEM] * 8 + ["", None, "x"]),
    sync=st.sampled_from([SyncView(), SyncView(), SyncView("1", "b", ("c",))]),
    config=st.sampled_from([*[view().config] * 8, None]),
)


@st.composite
def worlds(draw: Any) -> World:
    """Any node under any view with any memory; half of them with nothing under way."""
    node = draw(st.sampled_from(NODES))
    focus = draw(st.sampled_from(["plain", "plain", "plain", "task", "procedure", "end"]))
    if focus == "task" or (focus != "plain" and draw(st.booleans())):
        kind = draw(st.sampled_from(TaskKind))
        node = doing(
            kind, node, seconds=draw(st.sampled_from([1.0, 400.0])), **draw(st.sampled_from([{}, {"shut_down_end": 1200}]))
        )
    cluster = draw(st.sampled_from([None, ClusterView()])) if draw(st.integers(0, 9)) == 0 else draw(CLUSTERS)
    memory = {
        "procedure": draw(st.sampled_from(PROCEDURES)) if focus == "procedure" else None,
        "rewind": draw(st.sampled_from(list(RewindState))),
        "undecided_since": draw(st.sampled_from(AGO)),
        "recovering": draw(st.booleans()),
        "last_result": draw(st.sampled_from(RESULTS)),
        "failed_at": draw(st.sampled_from(AGO)),
        "promotion_failed_at": draw(st.sampled_from(AGO)),
        "unlocked_since": draw(st.sampled_from(AGO)),
        "starting_since": draw(st.sampled_from(SINCE)),
        "silent_since": draw(st.sampled_from(SINCE)),
        "compared_timeline": draw(st.sampled_from([None, 1, 2])),
        "managed": draw(st.sampled_from([True, True, True, False])),
        "stopping": focus == "end",
        "checkpoint_needed": draw(st.booleans()),
        "old_cluster": draw(st.sampled_from([None, view("b")])),
        "last_timeline": draw(st.sampled_from([None, 1])),
        "request_seen": draw(st.sampled_from([None, ("7", Instant(NOW - 1)), ("7", Instant(NOW - 100))])),
    }
    in_force = {
        "paused": draw(st.sampled_from([False] * 5 + [True])),
        "tags": draw(
            st.sampled_from([Tags(), Tags(), Tags({"nofailover": True}), Tags({"replicatefrom": "c", "nostream": True})])
        ),
        "has_bootstrap": draw(st.booleans()),
        "leaderless_methods": draw(st.booleans()),
        "remove_data_directory_on_rewind_failure": draw(st.booleans()),
        "remove_data_directory_on_diverged_timelines": draw(st.booleans()),
        "primary_start_timeout": draw(st.sampled_from([0, 300])),
        "check_timeline": draw(st.booleans()),
    }
    held = cluster is not None and cluster.leader == "a"
    lease_until = Instant(NOW + draw(st.sampled_from([-1, 5, 30]))) if held or (cluster is None and draw(st.booleans())) else None
    return world(node, cluster, lease_until=lease_until, **memory, **in_force)


@st.composite
def in_the_middle(draw: Any) -> World:
    """A world in the middle of a beat, with whatever has been answered so far."""
    before: World = draw(worlds())
    mine = [LeaseState.UNRENEWED, LeaseState.HELD, LeaseState.GONE, LeaseState.TAKEN]
    lease = draw(st.sampled_from(mine)) if before.is_holder else before.lease
    leader = draw(st.sampled_from([None, leads(2, 1000), leads(1, in_recovery=True), leads(2, 900, own=on_timeline(2, 1000))]))
    return replace(
        before,
        lease=lease,
        peers=draw(st.sampled_from(ANSWERS)),
        leader_timeline=leader,
        timeline_asked=leader is not None or draw(st.booleans()),
        recovery_change=draw(st.sampled_from([None, "none", "reload", "restart"])),
        race_lost=before.cluster.unlocked and draw(st.booleans()),
        probed=draw(st.booleans()),
    )


MANY = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
BEATS = settings(MANY, max_examples=150)


# -- decisions ---------------------------------------------------------------------------------------------------------------


@MANY
@given(in_the_middle())
def test_there_is_an_answer_to_every_world_and_it_is_always_the_same(at: World) -> None:
    decision = decide(MAIN, at)
    assert decision is not None
    assert decision == decide(MAIN, at)
    assert decision.because
    assert decision.then is Then.AGAIN or decision.wake_after is None or decision.wake_after > 0
    assert decision.then is not Then.AGAIN or decision.actions, f"{decision.rule} asks again without having done anything"


def _handed_over_by_another(at: World) -> bool:
    asked = at.cluster.failover
    return asked is not None and asked.is_switchover and asked.leader != at.me and not asked.scheduled_at


@MANY
@given(in_the_middle())
def test_nothing_dangerous_is_decided_without_its_proof(at: World) -> None:
    decision = decide(MAIN, at)
    assert decision is not None
    for action in decision.actions:
        if becomes_primary(action):
            assert at.lease is LeaseState.HELD and at.cluster.leader == at.me, decision
        if isinstance(action, RemoveDataDir):
            assert at.settings.remove_data_directory_on_rewind_failure or at.settings.remove_data_directory_on_diverged_timelines
            assert at.cluster.leader not in (None, at.me) and at.leader_upstream is not None and not at.node.running
            assert at.leader_timeline is not None and not at.leader_timeline.in_recovery
        if isinstance(action, AcquireLease) and not action.force:
            assert at.cluster.unlocked and not at.store_lost, decision
            assert not (at.paused and not at.node.is_primary), decision
            orderly = at.cluster.failover and at.cluster.failover.is_switchover and not at.cluster.failover.scheduled_at
            if (
                orderly
                and at.cluster.failover.leader != at.me
                and not at.node.is_primary
                and at.cluster.status.optime is not None
            ):
                assert (at.node.position or 0) >= at.cluster.status.optime, decision
        if isinstance(action, ReleaseLease) and at.demotion is not None:
            stopped = not at.node.running
            assert stopped or at.demotion.end is not None or at.demotion.mode is DemoteMode.IMMEDIATE, decision
        if isinstance(action, StopServer) and at.node.is_primary:
            assert action.timeout_s is not None and action.timeout_s > 0


@MANY
@given(in_the_middle())
def test_every_wait_of_a_procedure_is_looked_at_again(at: World) -> None:
    decision = decide(MAIN, at)
    assert decision is not None
    if decision.wake_after is not None:
        assert decision.wake_after >= 0.01, f"{decision.rule} beats too often"


# -- whole beats -------------------------------------------------------------------------------------------------------------


@BEATS
@given(worlds(), st.sets(st.integers(2, 30)), st.sampled_from(["held", "gone", "taken"]), st.booleans(), st.sampled_from(ANSWERS))
def test_whatever_fails_a_beat_ends_publishes_and_never_leads_without_the_lock(
    at: World, failing: set[int], renewal: str, acquired: bool, answers: object
) -> None:
    values = {RenewLease: renewal, AcquireLease: acquired, PollPeers: answers or {}}
    played = Script(values, lambda number, action: number in failing).play(at)
    assert played.rules[-1] == "publish.announce"
    for action, then in played.steps:
        if becomes_primary(action):
            assert then.lease is LeaseState.HELD and then.cluster.leader == then.me
        if isinstance(action, ReleaseLease) and then.demotion is not None and then.demotion.mode is not DemoteMode.IMMEDIATE:
            assert not then.node.running or then.demotion.end is not None


@BEATS
@given(worlds(), st.integers(2, 12))
def test_a_store_that_stops_answering_in_the_middle_of_a_beat_makes_nobody_lead(at: World, first_failure: int) -> None:
    store = (ReadCluster, RenewLease, AcquireLease, ReleaseLease, WriteStatus, Announce)
    played = Script(fails=lambda number, action: number >= first_failure and isinstance(action, store)).play(at)
    for number, (action, then) in enumerate(played.steps, 1):
        if becomes_primary(action):
            proof = [each for each, _ in played.steps[: number - 1] if isinstance(each, RenewLease | AcquireLease)]
            assert proof and then.lease is LeaseState.HELD


@BEATS
@given(worlds())
def test_a_beat_that_did_nothing_is_followed_by_the_same_beat(at: World) -> None:
    first = play(at)
    harmless = (ReadCluster, RenewLease, ProbePeers, Announce)
    if all(isinstance(action, harmless) for action, _ in first.steps[1:]) and first.beat.world.memory == at.memory:
        assert play(at).rules == first.rules


@BEATS
@given(worlds())
def test_no_rule_answers_twice_when_everything_succeeds(at: World) -> None:
    assert not play(at).beat.repeated


# -- single beats ------------------------------------------------------------------------------------------------------------


def test_the_looks_come_first_and_the_card_last() -> None:
    played = play(world(standby(), view("b")))
    assert [type(action).__name__ for action, _ in played.steps[:2]] == ["ObserveNode", "ReadCluster"]
    assert isinstance(played.steps[-1][0], Announce)


def test_a_race_is_won_and_promoted_in_one_beat() -> None:
    played = play(world(standby(), view(None)), PollPeers=peers(peer("b"), peer("c")))
    assert played.rules == ["race.ask_peers", "race.acquire", "leader.promote", "publish.announce"]


def test_a_lost_race_reads_again_and_follows_the_winner() -> None:
    at = world(standby(), view(None))
    readings = iter([at, replace(at, cluster=view("b"))])

    class Reads(Script):
        def _answer(self, number: int, action: Any, then: World, of: World) -> Any:
            return super()._answer(number, action, then, next(readings) if isinstance(action, ReadCluster) else of)

    played = Reads({AcquireLease: False}).play(at)
    assert played.rules[:3] == ["race.ask_peers", "race.acquire", "race.lost"]
    assert played.rules[3].startswith("replica.")


def test_an_undecided_attempt_at_the_lock_promotes_nobody() -> None:
    played = Script(fails=lambda number, action: isinstance(action, AcquireLease)).play(world(standby(), view(None)))
    assert not played.did(Promote)
    assert played.beat.world.store_lost


def test_a_renewal_that_is_not_answered_leads_to_the_rules_of_a_lost_store() -> None:
    played = Script(fails=lambda number, action: isinstance(action, RenewLease)).play(world(primary(), view("a")))
    assert played.rules[:2] == ["leader.renew", "store_lost.primary_waits"]


def test_the_lease_counts_from_before_the_request_was_sent() -> None:
    played = play(world(primary(), view("a")))
    began = next(at.now for action, at in played.steps if isinstance(action, RenewLease))
    assert played.beat.world.memory.lease_until == began + 30


@pytest.mark.parametrize("answer", ["gone", "taken"])
def test_a_refused_renewal_stops_the_primary_in_the_same_beat(answer: str) -> None:
    played = play(world(primary(), view("a")), RenewLease=answer)
    assert played.rules[:3] == ["leader.renew", "leader.refused", "demotion.stop"]
    assert played.did(StopServer)
    assert not played.did(ReleaseLease)
    assert played.beat.world.memory.lease_until is None


def test_the_same_rule_twice_ends_the_beat_but_not_the_card() -> None:
    played = Script(fails=lambda number, action: isinstance(action, StartServer)).play(world(crashed(), view("a")))
    assert len(played.did(StartServer)) == 1
    assert played.rules[-1] == "publish.announce"


def test_a_leader_that_goes_wakes_the_beat_soon_while_a_procedure_is_under_way() -> None:
    played = play(world(primary(), view("b")))
    assert played.beat.wake_after is not None
    assert played.beat.wake_after <= 0.5


def test_an_agent_that_is_asked_to_end_ends_after_handing_over() -> None:
    """SIGTERM on a primary: checkpoint, stop, hand over to who has everything, leave. (HA rules 27)"""
    at = world(primary(), view("a"), stopping=True)
    played = play(at)
    assert played.rules == ["shutdown.renew", "shutdown.hand_over", "demotion.checkpoint", "publish.announce"]
    at = after(played, node=primary(finished=TaskResult(TaskKind.CHECKPOINT)))
    played = play(at)
    assert played.rules[-2:] == ["demotion.stop", "publish.announce"]
    at = after(played, node=down(Role.PRIMARY, found=control(end=1200), finished=TaskResult(TaskKind.STOP)))
    played = play(at, PollPeers=peers(peer("b", 1200)))
    assert played.rules == [
        "demotion.renew",
        "demotion.stopped_orderly",
        "demotion.ask_candidates",
        "demotion.give_away",
        "demotion.see_off",
        "publish.announce",
    ]
    assert played.did(ReleaseLease) and not played.did(Exit)
    played = play(after(played, cluster=view("b")))
    assert played.rules == ["demotion.leave", "publish.announce"]
    assert played.did(Exit)


def test_a_thousand_beats_take_less_than_a_second() -> None:
    at = world(primary(), view("a"))
    began = time.process_time()
    for _ in range(1000):
        play(at)
    assert time.process_time() - began < 1.0


def test_config_is_written_back_by_the_holder_with_what_is_in_force() -> None:
    played = play(world(primary(), view("a", config=None)))
    assert played.did(WriteConfig) == [WriteConfig({"ttl": 30}, None)]
