"""Failsafe mode and the end of a leadership: whoever may take over must not stand back. (HA rules 9, 15.1.9, 16)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcore.model.actions import BeginDemotion, WriteFailsafe
from pgcore.model.cluster import ClusterView
from pgcore.model.decision import Then
from pgcore.model.failsafe import FailsafeMap
from pgcore.model.world import World
from pgcore.testing.builders import NOW, peer, peers, primary, request, view, world
from rules.cases import Case, case, nothing
from rules.driver import play
from rules.remote import LEADER, STILL, of_remote
from rules.test_failsafe import ABC, KEY, MINE, URL

ALONE = view("a", failsafe={"a": ABC["a"]}, failsafe_version="9")
"""It was the first one back after an outage of the store; the cards of the others have just come."""


def giving_way(cluster: ClusterView, **facts: Any) -> World:
    """The leader in failsafe mode while ``b`` and ``c`` stream and answer."""
    known: dict[str, Any] = {"failsafe_mode": True, "failsafe_map": MINE, "peers": peers(peer("b"), peer("c"))}
    return world(primary(), cluster, **known | URL | facts)


ASKED_AWAY = replace(ALONE, failover=request("a", "b"))
CASES: tuple[Case, ...] = (
    case(
        "a switchover to a node that /failsafe does not name: it would stand back, so it is named first (EC 25, 32)",
        giving_way(ASKED_AWAY),
        "leader.name_for_hand_over",
        WriteFailsafe(ABC, "9"),
        then=Then.AGAIN,
    ),
    case("everybody is named", giving_way(replace(KEY, failover=request("a", "b"))), "leader.hand_over"),
    nothing(
        "the members have just kept this primary without the store: they would not take the lock yet (EC 33)",
        giving_way(replace(KEY, failover=request("a", "b")), failsafe_bound=NOW + 4),
        "leader.candidates_bound",
    ),
    case("that is over", giving_way(replace(KEY, failover=request("a", "b")), failsafe_bound=NOW), "leader.hand_over"),
    case("the mode is off, nobody looks there", giving_way(ASKED_AWAY, failsafe_mode=False), "leader.hand_over"),
    case(
        "that write got no answer: the hand-over does not wait for another",
        giving_way(ASKED_AWAY, failsafe_map=FailsafeMap(ABC, ABC, mine=True)),
        "leader.hand_over",
    ),
    case("nobody is named at all, so nobody stands back", giving_way(view("a", failover=request("a", "b"))), "leader.hand_over"),
    case(
        "the agent ends and the others are not named (EC 25, 32)",
        giving_way(ALONE, stopping=True),
        "shutdown.name_whoever_takes_over",
        WriteFailsafe(ABC, "9"),
        then=Then.AGAIN,
    ),
    case(
        "the same with a standby leader",
        of_remote(
            replace(LEADER, senders=primary().senders),
            ASKED_AWAY,
            peers=peers(peer("b"), peer("c")),
            failsafe_mode=True,
            failsafe_map=MINE,
            **STILL | URL,
        ),
        "standby_leader.name_for_hand_over",
        WriteFailsafe(ABC, "9"),
    ),
)


@pytest.mark.parametrize("each", CASES, ids=str)
def test_before_a_hand_over(each: Case) -> None:
    """The rules of failsafe mode about giving the lock away."""
    each.check()


def test_a_failsafe_key_that_somebody_else_changed_is_left_for_the_next_look() -> None:
    played = play(giving_way(ASKED_AWAY), WriteFailsafe=None)
    assert len(played.did(WriteFailsafe)) == 1 and not played.did(BeginDemotion)
