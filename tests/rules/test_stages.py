"""The stages around the decision: repairs before and after it, and the member card. (HA rules 4, 8, 21)"""

from __future__ import annotations

from typing import Any

import pytest

from pgcore.model.actions import (
    Adopt,
    Announce,
    ApplySettings,
    ReadHistory,
    RunCheckpoint,
    WriteConfig,
    WriteFailover,
    WriteHistory,
    WriteInitialize,
    WriteStatus,
)
from pgcore.model.basics import Lsn, Tags
from pgcore.model.cluster import ClusterStatus, ClusterView, ConfigRecord
from pgcore.model.decision import Then
from pgcore.model.node import NodeView, Slot, TaskKind
from pgcore.model.world import World
from pgcore.testing import builders
from pgcore.testing.builders import SYSTEM, doing, empty, history, primary, request, standby, view, world
from rules.cases import Case, case, silent

MINE, B_LEADS = view("a"), view("b")
SLOTS = (Slot("b", True, True, Lsn(900)), Slot("c", True, True, Lsn(800)))
TOLD = ClusterStatus(Lsn(1000), {"a": Lsn(1000), "b": Lsn(900), "c": Lsn(800)}, ("b", "c"))
SETTLED = {"written_status": TOLD, "written_timeline": 1}
KEPT = view("a", status=TOLD)


def holder(cluster: ClusterView = KEPT, node: NodeView | None = None, **facts: Any) -> World:
    """A leader for whom nothing is left to repair."""
    return world(node or primary(slots=SLOTS), cluster, **SETTLED | facts)


PREPARE = (
    case(
        "/initialize is missing (EC 15)",
        holder(view("a", initialize=None, initialize_version=None)),
        "prepare.initialize_missing",
        WriteInitialize(SYSTEM, None),
        stage="prepare",
    ),
    case(
        "/initialize is nonsense",
        holder(view("a", initialize="x")),
        "prepare.initialize_missing",
        WriteInitialize(SYSTEM, "1"),
        stage="prepare",
    ),
    case(
        "/config is missing: the last known one stays in force (EC 16)",
        holder(view("a", config=None)),
        "prepare.config_missing",
        WriteConfig({"ttl": 30}, None),
        stage="prepare",
    ),
    case(
        "/config cannot be read",
        holder(view("a", config=ConfigRecord("5", None))),
        "prepare.config_missing",
        WriteConfig({"ttl": 30}, "5"),
        stage="prepare",
    ),
    silent("a replica never restores /initialize (EC 15)", world(standby(), view("b", initialize=None)), "prepare"),
    silent("a holder without data has nothing to restore", world(empty(), view("a", initialize=None)), "prepare"),
    silent("nothing is missing", holder(), "prepare"),
    silent("the store is away: nothing is restored", world(primary(), None), "prepare"),
)

UPKEEP = (
    case("a running server is taken in charge once (EC 219)", holder(managed=False), "upkeep.adopt", Adopt(), stage="upkeep"),
    case(
        "the winner clears the request (EC 60)",
        holder(view("a", status=TOLD, failover=request("b", "a"))),
        "upkeep.request_done",
        WriteFailover(),
        stage="upkeep",
    ),
    silent("a request for later is kept", holder(view("a", status=TOLD, failover=request("a", "b", due=99))), "upkeep"),
    silent("a request not carried out yet is kept", holder(view("a", status=TOLD, failover=request("a", "b"))), "upkeep"),
    case(
        "the first checkpoint after a promotion (EC 105)",
        holder(checkpoint_needed=True),
        "upkeep.checkpoint_after_promotion",
        RunCheckpoint(1),
        stage="upkeep",
    ),
    silent("it is asked about once in a beat", holder(checkpoint_needed=True, checkpoint_asked=True), "upkeep"),
    case("the position moved", holder(written_status=None), "upkeep.status", WriteStatus(TOLD), stage="upkeep"),
    case("somebody else changed /status", holder(view("a", optime=7)), "upkeep.status", WriteStatus(TOLD), stage="upkeep"),
    silent(
        "the server does not answer: the last position is kept (EC 10, 171)",
        holder(view("a"), builders.silent(primary()), written_status=None),
        "upkeep",
    ),
    case(
        "a new timeline",
        holder(view("a", status=TOLD), primary(slots=SLOTS, timeline=2)),
        "upkeep.read_history",
        ReadHistory(2),
        stage="upkeep",
    ),
    case(
        "back on timeline 1 (EC 17)",
        holder(view("a", status=TOLD, history=history(5)), written_timeline=None),
        "upkeep.read_history",
        WriteHistory(()),
        stage="upkeep",
    ),
    case(
        "its history is published; what is stored keeps its time and name",
        holder(view("a", status=TOLD, history=history(5)), primary(slots=SLOTS, timeline=3), history=history(5, 9)),
        "upkeep.write_history",
        WriteHistory(history(5, 9)),
        stage="upkeep",
    ),
    case(
        "the newest only, if so configured",
        holder(KEPT, primary(slots=SLOTS, timeline=3), history=history(5, 9), max_timelines_history=1),
        "upkeep.write_history",
        WriteHistory(history(5, 9)[1:]),
        stage="upkeep",
    ),
    case("the configuration changed", holder(server_stale=True), "upkeep.apply_settings", ApplySettings(), stage="upkeep"),
    silent(
        "a running action is not disturbed by it",
        holder(node=doing(TaskKind.CHECKPOINT, primary(slots=SLOTS)), server_stale=True),
        "upkeep",
    ),
    silent("all is well", holder(), "upkeep"),
    silent("the store is away", world(primary(), None, managed=False), "upkeep"),
)

PUBLISH = (
    case("the card of a leader", holder(), "publish.announce", Announce, then=Then.REST, stage="publish"),
    case("the store is away: nothing is published", world(primary(), None), "publish.announce", then=Then.REST, stage="publish"),
)

CASES: tuple[Case, ...] = PREPARE + UPKEEP + PUBLISH


@pytest.mark.parametrize("each", CASES, ids=str)
def test_a_stage(each: Case) -> None:
    each.check()


def card_of(world_: World) -> dict[str, object]:
    """What is announced in this world."""
    action = case("", world_, "", stage="publish").decision().actions[0]
    return dict(action.card)


def test_the_card_of_a_leader_shows_role_position_and_timeline() -> None:
    card = card_of(
        holder(conn_url="postgres://h:1/postgres", api_url="http://h:2/patroni", tags=Tags({"clonefrom": True, "nosync": False}))
    )
    assert (card["role"], card["state"], card["xlog_location"], card["timeline"]) == ("primary", "running", 1000, 1)
    assert card["tags"] == {"clonefrom": True}
    assert not {"receive_lsn", "replay_lsn", "pause", "checkpoint_after_promote", "pending_restart"} & card.keys()


def test_the_card_says_that_the_checkpoint_is_pending_and_the_cluster_paused() -> None:
    card = card_of(holder(checkpoint_needed=True, paused=True))
    assert card["checkpoint_after_promote"] is False
    assert card["pause"] is True


def test_the_card_of_a_standby_shows_what_it_received_and_replayed() -> None:
    card = card_of(world(standby(1000), B_LEADS))
    assert (card["receive_lsn"], card["replay_lsn"], card["replication_state"]) == (1000, 1000, "streaming")


def test_the_card_shows_no_position_during_a_long_action_but_its_progress() -> None:
    card = card_of(world(doing(TaskKind.CLONE, empty(), percent=40), B_LEADS))
    assert "xlog_location" not in card
    assert card["progress"] == {"action": "clone", "percent": 40}
