"""The hardware watchdog: started with the lock, fed after each proof of it, stopped when nothing is to guard. (HA rules 10)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcore.model.actions import (
    AcquireLease,
    ActivateWatchdog,
    AskFailsafe,
    BeginDemotion,
    BootstrapPhase,
    DemoteMode,
    DisableWatchdog,
    DropInitialize,
    EnterBootstrap,
    Exit,
    FeedWatchdog,
    Phase,
    Promote,
    ReleaseLease,
    RenewLease,
    SetAsideDataDir,
    StartServer,
    StopServer,
    WriteConfig,
    WriteInitialize,
    WriteStatus,
)
from pgcore.model.basics import Instant, Role
from pgcore.model.cluster import ClusterView
from pgcore.model.failsafe import FailsafeAnswer, FailsafeMap
from pgcore.model.node import DataDir, NodeView, TaskKind, WatchdogState
from pgcore.model.settings import RemoteCluster
from pgcore.model.world import Bootstrapping, LeaseState, World
from pgcore.testing.builders import NOW, crashed, demotion, did, doing, down, empty, primary, silent, standby, view, world
from rules.cases import Case, case, nothing
from rules.driver import after, play

RUNS = {"watchdog": WatchdogState.ACTIVE}
NO_DEVICE = "/dev/watchdog is missing or not writable"


def holder(node: NodeView, mode: str = "automatic", **facts: Any) -> World:
    """A world of the lock's holder with a watchdog configured."""
    return world(node, view("a"), **{"watchdog": mode, "watchdog_fed": True} | facts)


def other(node: NodeView, leader: str | None = "b", **facts: Any) -> World:
    """A world of a node that does not hold the lock."""
    return world(node, view(leader), **{"watchdog": "automatic"} | facts)


def founding(node: NodeView, **facts: Any) -> World:
    """The end of the creation of a cluster: the users are made."""
    known: dict[str, Any] = {
        "procedure": Bootstrapping(BootstrapPhase.POST, NOW, "5"),
        "last_result": did(TaskKind.POST_BOOTSTRAP),
        "managed": False,
        "watchdog": "required",
    }
    cluster = ClusterView(initialize="", initialize_version="5")
    return world(node, cluster, **known | facts)


def refused(node: NodeView) -> NodeView:
    """The device could not be started a moment ago."""
    return replace(node, watchdog_failed=True, watchdog_problem=NO_DEVICE)


STOPPING = primary(**RUNS)
CASES: list[Case] = [
    # -- started --------------------------------------------------------------------------------------------------------------
    case("a primary with the lock", holder(primary()), "watchdog.activate", ActivateWatchdog()),
    case(
        "a standby that has just won the lock: before its promotion", holder(standby()), "watchdog.activate", ActivateWatchdog()
    ),
    case(
        "maintenance mode ends during a hand-over, while still serving",
        holder(primary(), procedure=demotion(DemoteMode.GRACEFUL, Phase.VERIFY, "b")),
        "watchdog.activate",
    ),
    case(
        "the leader of a standby cluster needs none",
        holder(standby(role=Role.STANDBY_LEADER), "required", standby_cluster=RemoteCluster("10.9.0.1", 5432)),
        "standby_leader.look_for_history",
    ),
    nothing("switched off", holder(primary(), "off"), "leader.keep"),
    nothing("in maintenance mode", holder(primary(), paused=True), "leader.keep"),
    nothing("it could not be used, and automatic does without", holder(primary(watchdog=WatchdogState.GIVEN_UP)), "leader.keep"),
    nothing("asked in this beat already: automatic goes on without", holder(primary(), watchdog_tried=True), "leader.keep"),
    case(
        "automatic: the device refused, the standby is promoted all the same",
        holder(refused(standby()), watchdog_tried=True),
        "leader.promote",
    ),
    case(
        "at the end of the bootstrap, before the lock is taken (EC 223)",
        founding(primary()),
        "bootstrap.watch",
        ActivateWatchdog(),
    ),
    # -- refused --------------------------------------------------------------------------------------------------------------
    case(
        "required, and the device refuses a standby with the lock: it is given back, not promoted (EC 53)",
        holder(refused(standby()), "required", watchdog_tried=True),
        "leader.watchdog_refused",
        ReleaseLease(),
    ),
    case(
        "required, and the device of a primary is gone",
        holder(refused(primary()), "required", watchdog_tried=True),
        "leader.watchdog_refused",
        BeginDemotion(DemoteMode.IMMEDIATE, Phase.STOP),
    ),
    nothing(
        "required, refused, but in maintenance mode",
        holder(refused(primary()), "required", watchdog_tried=True, paused=True),
        "leader.keep",
    ),
    case(
        "required, refused at the end of the bootstrap: as a failed one (EC 174)",
        founding(refused(primary()), watchdog_tried=True),
        "bootstrap.watchdog_refused",
        EnterBootstrap(BootstrapPhase.FAILED),
    ),
    case(
        "automatic, refused at the end of the bootstrap: the cluster is created",
        founding(refused(primary()), watchdog_tried=True, watchdog="automatic"),
        "bootstrap.finish",
    ),
    # -- fed ------------------------------------------------------------------------------------------------------------------
    case("the lock was proven in this beat", holder(primary(**RUNS), watchdog_fed=False), "watchdog.feed", FeedWatchdog()),
    case(
        "a renewal while a long action runs counts like any other",
        holder(doing(TaskKind.PROMOTE, standby(**RUNS, role=Role.PROMOTED)), watchdog_fed=False),
        "watchdog.feed",
    ),
    case(
        "a crashed primary recovers under its lock",
        holder(doing(TaskKind.START_PRIMARY, crashed(**RUNS)), watchdog_fed=False),
        "watchdog.feed",
    ),
    nothing("fed in this beat already", holder(primary(**RUNS)), "leader.keep"),
    case("the lock is not proven yet", holder(primary(**RUNS), lease=LeaseState.UNRENEWED), "leader.renew", RenewLease()),
    case(
        "the renewal was refused: no keepalive",
        holder(primary(**RUNS), lease=LeaseState.TAKEN, watchdog_fed=False),
        "leader.refused",
    ),
    nothing(
        "the store did not answer: no keepalive",
        world(primary(**RUNS), None, watchdog="automatic", lease_until=Instant(NOW + 25)),
        "store_lost.primary_waits",
    ),
    # -- stopped --------------------------------------------------------------------------------------------------------------
    case("maintenance mode begins (EC 195)", holder(primary(**RUNS), paused=True), "watchdog.paused", DisableWatchdog()),
    case(
        "maintenance mode without the store",
        world(primary(**RUNS), None, watchdog="automatic", paused=True),
        "watchdog.paused",
        DisableWatchdog(),
    ),
    case("the file says off now", holder(primary(**RUNS), "off", watchdog_fed=False), "watchdog.switched_off", DisableWatchdog()),
    case(
        "the last session of a stopping server has ended (EC 90)",
        holder(doing(TaskKind.STOP, STOPPING, safe_point=True), procedure=demotion(DemoteMode.GRACEFUL, Phase.STOP, "b")),
        "watchdog.safe_point",
        DisableWatchdog(),
    ),
    nothing(
        "sessions still live on a stopping server, however long it takes (EC 90)",
        holder(
            doing(TaskKind.STOP, STOPPING, seconds=500.0), procedure=demotion(DemoteMode.GRACEFUL, Phase.STOP, "b", seconds=500.0)
        ),
        "demotion.stopping",
    ),
    case(
        "pg_control says shut down, so no session is left",
        holder(doing(TaskKind.STOP, STOPPING, shut_down_end=2000), procedure=demotion(DemoteMode.GRACEFUL, Phase.STOP, "b")),
        "watchdog.safe_point",
    ),
    case("the server has stopped", other(down(Role.DEMOTED, **RUNS)), "watchdog.nothing_runs", DisableWatchdog()),
    case("it is being started as a standby", other(doing(TaskKind.START, down(**RUNS))), "watchdog.nothing_runs"),
    case("the data directory is gone", holder(empty(**RUNS)), "watchdog.nothing_runs"),
    case("it cannot even be read", other(empty(DataDir.UNREADABLE, **RUNS)), "watchdog.nothing_runs"),
    case("its start as a primary failed", holder(crashed(**RUNS), recovering=True), "watchdog.nothing_runs"),
    case(
        "it crashed and is about to be started as the primary again: it stays on",
        holder(crashed(**RUNS)),
        "down.restart_as_primary",
        StartServer,
    ),
    case(
        "it crashed, and the store takes no writes: nobody starts it, so it is stopped",
        holder(crashed(**RUNS), store_lost=True),
        "watchdog.nothing_runs",
        DisableWatchdog(),
    ),
    nothing("its restart is under way: it stays on", holder(doing(TaskKind.RESTART, down(Role.PRIMARY, **RUNS))), "busy.wait"),
    case("a standby that lost the lock before its promotion", other(standby(**RUNS)), "watchdog.standby", DisableWatchdog()),
    case("the store is gone before the promotion", world(standby(**RUNS), None, watchdog="automatic"), "watchdog.standby"),
    case(
        "asked to promote, not a primary yet, and the lock is another's: it stays on",
        other(standby(**RUNS, role=Role.PROMOTED)),
        "replica.still_promoting",
    ),
    case("a second primary: it stays on until that has stopped", other(primary(**RUNS)), "replica.second_primary"),
    nothing(
        "the server does not answer, and was a primary: it stays on",
        other(silent(primary(**RUNS)), "a", watchdog_fed=True),
        "leader.keep",
    ),
    case(
        "the new cluster's lock could not be taken: stopped until the next attempt",
        founding(primary(**RUNS)),
        "watchdog.unfinished_bootstrap",
        DisableWatchdog(),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_situation_has_its_rule(case: Case) -> None:
    case.check()


def test_the_keepalive_follows_the_renewal_before_anything_else_is_written() -> None:
    """HA rules 30.13: what is written after it cannot eat into the safety margin."""
    unproven = holder(primary(2000, **RUNS), lease=LeaseState.UNRENEWED, watchdog_fed=False)
    did_this = [action for action, _ in play(unproven).steps]
    fed = next(number for number, action in enumerate(did_this) if isinstance(action, FeedWatchdog))
    assert isinstance(did_this[fed - 1], RenewLease)
    assert any(isinstance(action, WriteStatus) for action in did_this[fed:])
    assert sum(isinstance(action, FeedWatchdog) for action in did_this) == 1


@pytest.mark.parametrize("answer", ["gone", "taken"])
def test_a_refused_renewal_feeds_nothing(answer: str) -> None:
    played = play(holder(primary(**RUNS), lease=LeaseState.UNRENEWED, watchdog_fed=False), RenewLease=answer)
    assert played.did(RenewLease) and not played.did(FeedWatchdog)


def test_a_standby_is_promoted_only_with_a_running_watchdog() -> None:
    """EC 53: the device refuses in mode required, so the lock goes back in the same beat."""
    won = holder(standby(), "required", lease=LeaseState.UNRENEWED, watchdog_fed=False)
    good = play(won, ActivateWatchdog="")
    assert [type(action) for action in good.did(ActivateWatchdog, Promote)] == [ActivateWatchdog, Promote]
    bad = play(won, ActivateWatchdog=NO_DEVICE)
    assert not bad.did(Promote) and bad.did(ReleaseLease)
    assert NO_DEVICE in next(d.because for d in bad.beat.decisions if d.rule == "leader.watchdog_refused")
    assert bad.beat.world.node.watchdog_failed, "so that the others know, and it stays out of the race"


def test_a_primary_whose_watchdog_breaks_is_stopped_in_the_same_beat() -> None:
    node = primary(**RUNS)
    broken = play(holder(node, "required", lease=LeaseState.UNRENEWED, watchdog_fed=False), FeedWatchdog="it is gone")
    assert broken.did(BeginDemotion) == [BeginDemotion(DemoteMode.IMMEDIATE, Phase.STOP)] and broken.did(StopServer)
    goes_on = play(holder(node, lease=LeaseState.UNRENEWED, watchdog_fed=False), FeedWatchdog="it is gone")
    assert not goes_on.did(BeginDemotion)


def test_a_refused_watchdog_fails_the_bootstrap() -> None:
    """EC 174: /initialize is freed and the data directory set aside, as after any failed bootstrap."""
    first = play(founding(primary()), ActivateWatchdog=NO_DEVICE)
    assert not first.did(AcquireLease, WriteInitialize, WriteConfig) and first.did(StopServer)
    gone = replace(down(Role.PRIMARY), finished=did(TaskKind.STOP))
    (exit_,) = (second := play(after(first, node=gone, watchdog_tried=False))).did(Exit)
    assert second.did(DropInitialize, SetAsideDataDir) == [DropInitialize("5"), SetAsideDataDir()]
    assert isinstance(exit_, Exit) and exit_.code == 1


def test_the_bootstrap_takes_the_lock_with_a_running_watchdog() -> None:
    done = play(founding(primary()), ActivateWatchdog="")
    kinds = [type(action) for action in done.did(ActivateWatchdog, AcquireLease, FeedWatchdog)]
    assert kinds == [ActivateWatchdog, AcquireLease], "started right before, so it needs no keepalive in this beat"


def test_an_agent_that_ends_in_maintenance_mode_stops_the_watchdog_and_nothing_else() -> None:
    """EC 195: PostgreSQL and the lock stay."""
    ended = play(holder(primary(**RUNS), paused=True, stopping=True, watchdog_fed=False, lease=LeaseState.UNRENEWED))
    assert ended.did(DisableWatchdog) and not ended.did(FeedWatchdog, StopServer, ReleaseLease, BeginDemotion)
    (exit_,) = ended.did(Exit)
    assert isinstance(exit_, Exit) and exit_.leave_running


@pytest.mark.parametrize("accepted", [True, False])
def test_only_a_failsafe_check_that_everybody_accepted_feeds_it(accepted: bool) -> None:
    """EC 23: the store is away, all members agree: fed; one that does not: the device runs out."""
    lost = world(
        primary(**RUNS),
        None,
        watchdog="automatic",
        failsafe_mode=True,
        lease_until=Instant(NOW + 25),
        failsafe_map=FailsafeMap(known={"a": "http://a", "b": "http://b"}, mine=True),
    )
    played = play(lost, AskFailsafe={"b": FailsafeAnswer(accepted, problem="" if accepted else "another leads")})
    assert len(played.did(AskFailsafe)) == 1
    assert len(played.did(FeedWatchdog)) == accepted
