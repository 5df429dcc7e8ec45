"""What the callbacks are told by rule, and a promotion from its gate to its end. (HA rules 8.5, 14.2, 25)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcore.model.actions import (
    Adopt,
    BeginDemotion,
    CancelTask,
    DemoteMode,
    Phase,
    Promote,
    ReleaseLease,
    RenewLease,
    SetRole,
    StopServer,
    TellChange,
)
from pgcore.model.basics import Instant, Role, State
from pgcore.model.node import NodeView, TaskKind
from pgcore.model.world import LeaseState, Told, World
from pgcore.testing.builders import NOW, crashed, demotion, did, doing, primary, silent, standby, view, world
from rules.cases import Case, case
from rules.cases import silent as quiet
from rules.driver import after, play

PID = 17
"""The postmaster of every node the builders make."""


def known(node: NodeView, role: Role, leader: str = "b", *, pid: int | None = PID, **facts: Any) -> World:
    """A world whose server the callbacks know in this role."""
    cluster = view(leader)
    return world(node, cluster, **{"told": Told(role, pid), "written_status": cluster.status, "written_timeline": 1} | facts)


CASES: list[Case] = [
    case(
        "the holder's standby was promoted by hand",
        known(primary(), Role.REPLICA, "a"),
        "upkeep.changed_by_others",
        TellChange("on_role_change"),
        stage="upkeep",
    ),
    case(
        "promoted by hand in maintenance mode, without the lock",
        known(primary(), Role.REPLICA, paused=True),
        "upkeep.changed_by_others",
        TellChange("on_role_change"),
        stage="upkeep",
    ),
    case(
        "the server was restarted by hand",
        known(standby(), Role.REPLICA, pid=16),
        "upkeep.changed_by_others",
        TellChange("on_start"),
        stage="upkeep",
    ),
    case(
        "restarted by hand in another role: only the role is told",
        known(primary(), Role.REPLICA, "a", pid=16),
        "upkeep.changed_by_others",
        TellChange("on_role_change"),
        stage="upkeep",
    ),
    quiet("nothing happened", known(standby(), Role.REPLICA, slots_done=True), "upkeep"),
    quiet("a task is at it and tells it itself", known(doing(TaskKind.START, standby()), Role.DEMOTED), "upkeep"),
    quiet(
        "a second primary is being stopped: it is never told as one",
        known(primary(), Role.REPLICA, procedure=demotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP)),
        "upkeep",
    ),
    quiet(
        "what is promoted was told as a primary", known(standby(role=Role.PROMOTED), Role.PRIMARY, slots_done=True), "upkeep"
    ),
    quiet("the server does not answer", known(silent(primary()), Role.REPLICA, slots_done=True), "upkeep"),
    case(
        "asked to promote, and the lock is another's (EC 57)",
        known(standby(role=Role.PROMOTED), Role.PRIMARY),
        "replica.still_promoting",
        BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_situation_has_its_rule(case: Case) -> None:
    case.check()


def test_a_promotion_by_hand_is_told_once() -> None:
    """The next beat knows that it was told."""
    first = play(known(primary(), Role.REPLICA, "a", lease=LeaseState.UNRENEWED))
    assert first.did(TellChange) == [TellChange("on_role_change")] and not first.did(SetRole)
    assert not play(after(first, lease=LeaseState.UNRENEWED)).did(TellChange)


def test_a_server_taken_in_charge_is_told_once() -> None:
    """EC 219: on_start, and neither the next beat nor the end of a task repeats it."""
    first = play(known(standby(), Role.REPLICA, managed=False, told=None))
    assert first.did(Adopt, TellChange) == [Adopt()]
    assert first.beat.world.memory.told == Told(Role.REPLICA, PID)
    assert not play(after(first)).did(Adopt, TellChange)


@pytest.mark.parametrize("state", [State.RUNNING, State.STARTING])
@pytest.mark.parametrize("before", [Role.REPLICA, Role.DEMOTED])
def test_a_start_that_a_task_has_told_is_not_told_again(before: Role, state: State) -> None:
    """Left to tell is only the start of a server that is up later than waited for, in the role the callbacks knew (EC 218)."""
    began = known(doing(TaskKind.START, crashed()), before, pid=16)
    up = replace(standby(), finished=did(TaskKind.START))
    assert not play(replace(began, node=up)).did(TellChange)
    unanswered = replace(silent(standby()), finished=did(TaskKind.START), state=state)
    first = play(replace(began, node=unanswered))
    assert not first.did(TellChange)
    left = [TellChange("on_start")] if (before, state) == (Role.REPLICA, State.STARTING) else []
    assert play(after(first, node=standby())).did(TellChange) == left


# -- a promotion, from its gate to its end ------------------------------------------------------------------------------------


def test_a_failed_gate_gives_the_lock_away_and_keeps_this_node_out_for_ttl() -> None:
    """EC 55: the others race meanwhile; after ttl it may try again."""
    said_no = did(TaskKind.PROMOTE, "no promotion: pre_promote: it exited with 1")
    first = play(world(replace(standby(), finished=said_no), view("a"), lease=LeaseState.UNRENEWED))
    assert first.did(ReleaseLease) and not first.did(Promote)
    free = after(first, node=standby(), cluster=view(None), seconds=29.0)
    assert "race.failed_before" in play(free).rules
    assert "race.acquire" in play(after(first, node=standby(), cluster=view(None), seconds=31.0)).rules


def test_a_lock_lost_behind_the_gate_ends_in_no_promotion() -> None:
    """EC 56: the task is cancelled, which kills the script; the server goes on as a standby and is not stopped."""
    asking = doing(TaskKind.PROMOTE, standby())
    lost = play(world(asking, view("a"), lease=LeaseState.UNRENEWED), RenewLease="taken")
    assert lost.did(CancelTask) and not lost.did(BeginDemotion, StopServer)
    cancelled = replace(standby(), finished=did(TaskKind.PROMOTE, cancelled=True))
    followed = play(after(lost, node=cancelled, cluster=view("b"), lease=LeaseState.NONE))
    assert not followed.did(Promote, BeginDemotion, StopServer)


def test_a_lock_lost_after_the_command_ends_in_an_immediate_stop() -> None:
    """EC 57: whichever of its looks finds the server a primary, or on its way to be one."""
    for node in (primary(), standby(role=Role.PROMOTED)):
        found = play(known(node, Role.PRIMARY))
        assert found.did(BeginDemotion) == [BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP)]
        assert [action.mode for action in found.did(StopServer) if isinstance(action, StopServer)] == ["immediate"]


def test_a_long_promotion_keeps_its_lock_and_is_asked_for_once() -> None:
    """EC 58: replay that takes a hundred beats is waited for."""
    won = play(world(standby(), view("a"), lease=LeaseState.UNRENEWED))
    assert len(won.did(Promote)) == 1
    at = won
    for beat in range(100):
        node = doing(TaskKind.PROMOTE, standby(role=Role.PROMOTED), promoting=True)
        node = replace(node, task=replace(node.task, since=Instant(NOW)) if node.task else None)
        at = play(after(at, node=node, seconds=10.0, lease=LeaseState.UNRENEWED))
        assert at.did(RenewLease) and not at.did(Promote, BeginDemotion, ReleaseLease), beat
    done = play(after(at, node=replace(primary(timeline=2), finished=did(TaskKind.PROMOTE)), lease=LeaseState.UNRENEWED))
    assert not done.did(Promote, TellChange)
