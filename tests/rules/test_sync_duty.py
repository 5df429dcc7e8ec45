"""A synchronous standby leaves its duty before its server stops. (HA rules 19.9)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcore.decide.publish import card
from pgcore.decide.sync_duty import effective_tags
from pgcore.model.actions import Announce, BeginDemotion, LeaveSync, Restart, ReturnToSync
from pgcore.model.basics import Instant, Tags
from pgcore.model.cluster import ClusterView, SyncView
from pgcore.model.node import NodeView, TaskKind
from pgcore.model.orders import ReinitOrder, RestartOrder
from pgcore.model.world import World
from pgcore.testing.builders import NOW, doing, down, primary, standby, view, world
from rules.cases import Case, case, nothing, silent
from rules.driver import after, play

LISTED = view("b", sync=SyncView("5", "b", ("A", "c")))
FREED = view("b", sync=SyncView("6", "b", ("c",)))
MINE = view("a", sync=SyncView("5", "a", ("b",)))
ASKED = {"leaving_sync": Instant(NOW - 5)}
LONG_AGO = {"leaving_sync": Instant(NOW - 20)}


def ending(cluster: ClusterView | None, node: NodeView | None = None, **facts: Any) -> World:
    """The agent of a standby of ``b`` was asked to end."""
    return world(node or standby(), cluster, **{"stopping": True, "synchronous_mode": "on"} | facts)


def restarting(cluster: ClusterView, node: NodeView | None = None, **facts: Any) -> World:
    """Its restart was asked for."""
    return world(node or standby(), cluster, **{"order": RestartOrder(), "synchronous_mode": "on"} | facts)


CASES: tuple[Case, ...] = (
    case("a listed standby ends: it asks to be released (EC 133)", ending(LISTED), "shutdown.leave_sync", LeaveSync()),
    nothing("it is not released yet (EC 133)", ending(LISTED, **ASKED), "shutdown.leave_sync"),
    case("it is released: stop (EC 133)", ending(FREED, **ASKED), "shutdown.stop", BeginDemotion),
    case(
        "a new copy of a listed standby was asked for: it asks to be released first",
        restarting(LISTED, order=ReinitOrder(False, False, Instant(NOW - 1))),
        "reinit.leave_sync",
        LeaveSync(),
    ),
    case("it is released: the copy", restarting(FREED, order=ReinitOrder(False, False, Instant(NOW - 1))), "reinit.ask_leader"),
    case("nobody released it within two loops: stop (EC 133)", ending(LISTED, **LONG_AGO), "shutdown.stop"),
    case("the store is away: stop (EC 133)", ending(None), "shutdown.stop"),
    case("it went away while waiting: stop (EC 133)", ending(None, **ASKED), "shutdown.stop"),
    case("nobody leads, so nobody can release it", ending(view(None, sync=LISTED.sync)), "shutdown.stop"),
    case("a standby that is not listed", ending(FREED), "shutdown.stop"),
    case("without synchronous replication", ending(view("b")), "shutdown.stop"),
    case("tagged nosync", ending(LISTED, tags=Tags({"nosync": True})), "shutdown.stop"),
    case("the primary itself hands over", ending(MINE, primary()), "shutdown.hand_over"),
    case("a former leader that /sync still names", ending(view("b", sync=SyncView("5", "a", ("b",)))), "shutdown.stop"),
    case("its server is down already", ending(LISTED, down()), "shutdown.leave"),
    case("a listed standby is to be restarted (EC 133)", restarting(LISTED), "restart.leave_sync", LeaveSync()),
    nothing("it is not released yet, the request waits (EC 133)", restarting(LISTED, **ASKED), "restart.leave_sync"),
    case("it is released: restart (EC 133)", restarting(FREED, **ASKED), "restart.begin", Restart),
    case("nobody released it within two loops: restart (EC 133)", restarting(LISTED, **LONG_AGO), "restart.begin"),
    case(
        "the restart is over: it may be synchronous again",
        world(standby(), FREED, **ASKED),
        "upkeep.return_to_sync",
        ReturnToSync(),
        stage="upkeep",
    ),
    silent("not while it runs", world(doing(TaskKind.RESTART, standby()), FREED, slots_done=True, **ASKED), "upkeep"),
    silent("nor while it is waited for", restarting(LISTED, slots_done=True, **ASKED), "upkeep"),
    silent("nor at the end of the agent", ending(LISTED, slots_done=True, **ASKED), "upkeep"),
)


@pytest.mark.parametrize("each", CASES, ids=str)
def test_the_duty_is_left(each: Case) -> None:
    each.check()


def test_the_card_says_so_in_the_beat_that_asks_and_for_as_long_as_it_waits() -> None:
    """EC 133: whoever reads the tags must not list this node again."""
    first = play(ending(LISTED, tags=Tags({"sync_priority": 5, "clonefrom": True})))
    said = first.did(Announce)[-1]
    assert isinstance(said, Announce)
    assert said.card["tags"] == {"nosync": True, "sync_priority": 0, "clonefrom": True}
    second = play(after(first, seconds=1))
    assert second.rules[0] == "shutdown.leave_sync" and not second.did(LeaveSync)
    assert second.beat.wake_after is not None and second.beat.wake_after <= 1
    assert "shutdown.stop" in play(after(second, seconds=1, cluster=FREED)).rules


def test_the_configured_tags_come_back() -> None:
    at = world(standby(), FREED, tags=Tags({"sync_priority": 5}), **ASKED)
    assert effective_tags(at).nosync
    assert card(play(at).beat.world)["tags"] == {"sync_priority": 5}


def test_a_wait_is_never_longer_than_two_loops() -> None:
    """A primary that does not react delays the stop of its standby by 20 s, not for ever. (EC 133)"""
    played, waited = play(ending(LISTED)), 0.0
    while "shutdown.stop" not in played.rules:
        step = played.beat.wake_after or 10.0
        waited += step
        assert waited < 21
        played = play(replace(after(played, seconds=step), cluster=LISTED))
    assert waited >= 19
