"""Standbys that are held up: starting and waiting for WAL, replay paused, a copy that failed half-way. (HA rules 6.3, 11, 14)"""

from __future__ import annotations

import pytest

from pgcore.model.actions import (
    ChangeSlots,
    CompareRecovery,
    FollowByReload,
    FollowByRestart,
    ResumeReplay,
    RewindState,
    SetRewind,
)
from pgcore.model.basics import Role
from pgcore.model.node import TaskKind
from pgcore.testing.builders import did, down, member, primary, standby, starting, upstream, view, world
from rules.cases import Case, case, nothing, silent
from rules.driver import play

B_LEADS = view("b")

CASES = (
    case(
        "a starting standby whose leader moved: compare without asking the server (EC 213)",
        world(starting(standby()), B_LEADS),
        "starting.compare_recovery",
        CompareRecovery(upstream("b"), Role.REPLICA),
    ),
    case(
        "a reload is enough (EC 213)",
        world(starting(standby()), B_LEADS, recovery_change="reload", timeline_asked=True),
        "starting.follow_by_reload",
        FollowByReload(upstream("b"), Role.REPLICA),
    ),
    case(
        "its history is compared first (HA rules 12.1)",
        world(starting(standby()), B_LEADS, recovery_change="reload"),
        "starting.compare_before_following",
        SetRewind(RewindState.CHECK),
    ),
    case(
        "only a restart helps (EC 213)",
        world(starting(standby()), B_LEADS, recovery_change="restart", timeline_asked=True),
        "starting.follow_by_restart",
        SetRewind(RewindState.CHECK),
        FollowByRestart(upstream("b"), Role.REPLICA),
    ),
    nothing("it follows the leader already", world(starting(standby()), B_LEADS, recovery_change="none"), "starting.wait"),
    nothing("in maintenance mode it is left alone", world(starting(standby()), B_LEADS, paused=True), "starting.wait"),
    case(
        "replay is paused (EC 214)",
        world(standby(server_version=150006, replay_paused=True), B_LEADS, slots_done=True),
        "upkeep.paused_replay",
        ResumeReplay(),
        stage="upkeep",
    ),
    silent(
        "in maintenance mode paused replay is left alone (EC 214)",
        world(standby(server_version=150006, replay_paused=True), B_LEADS, slots_done=True, paused=True),
        "upkeep",
    ),
    silent(
        "before version 14 the server ends by itself",
        world(standby(server_version=130006, replay_paused=True), B_LEADS, slots_done=True),
        "upkeep",
    ),
    case(
        "a copy failed and kept what it has: the next attempt goes on (EC 180)",
        world(standby(running=False, answering=False, system_id=None), B_LEADS, last_result=did(TaskKind.CLONE, "no")),
        "no_data.clone",
    ),
    nothing(
        "a new copy that was asked for ended before the old data was removed: it is not taken for a half-made one",
        world(down(system_id=None), B_LEADS, last_result=did(TaskKind.REINITIALIZE, "the leader does not answer")),
        "identity.unreadable",
    ),
    case(
        "it ended after that",
        world(down(Role.UNINITIALIZED, system_id=None), B_LEADS, last_result=did(TaskKind.REINITIALIZE, "no copy")),
        "no_data.clone",
    ),
    nothing(
        "such a directory is not made into a new cluster",
        world(
            standby(running=False, answering=False, system_id=None),
            view(None, initialize=None, initialize_version=None),
            last_result=did(TaskKind.CLONE, "no"),
            has_bootstrap=True,
        ),
        "no_data.wait",
    ),
    nothing(
        "an unreadable pg_control after anything else is left alone (EC 177)",
        world(down(system_id=None), B_LEADS, last_result=did(TaskKind.START, "no")),
        "identity.unreadable",
    ),
)


@pytest.mark.parametrize("each", CASES, ids=str)
def test_held_up(each: Case) -> None:
    each.check()


@pytest.mark.parametrize("ttl", [0, 1800])
def test_the_leader_keeps_a_slot_for_a_member_whose_upstream_is_absent(ttl: int) -> None:
    """It follows the leader instead (EC 221)."""
    cascading = member("b", tags={"replicatefrom": "x"})
    at = world(primary(), view("a", member("a"), cascading), member_slots_ttl=ttl, written_timeline=1, history=())
    changes = [action for action in play(at).did(ChangeSlots) if isinstance(action, ChangeSlots)]
    assert [change.create for change in changes] == [("b",)]
