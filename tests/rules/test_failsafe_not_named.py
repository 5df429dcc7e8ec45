"""Failsafe mode and a node that ``/failsafe`` does not name: when it may lead after all. (HA rules 9, 15.1.9, EC 25, 29, 32)"""

from __future__ import annotations

import pytest

from pgcore.model.actions import AcquireLease, PollPeers, Promote, ReleaseLease, SetRewind
from pgcore.model.basics import Instant
from pgcore.model.decision import Then
from pgcore.testing.builders import NOW, TTL, peer, peers, primary, request, standby, view, world
from rules.cases import Case, case, nothing
from rules.test_failsafe import ABC, OTHERS, free

CASES: tuple[Case, ...] = (
    nothing(
        "restored from a backup, not in /failsafe, the leader is dead (EC 25, 32)",
        free(None, view(None, failsafe=OTHERS)),
        "race.not_in_failsafe",
    ),
    nothing(
        "an operator's request does not help: the primary asks those in the key only (EC 32)",
        free(None, view(None, failsafe=OTHERS, failover=request(None, "a"))),
        "race.not_in_failsafe",
    ),
    case(
        "a running primary that the key names takes the free lock back (EC 29)",
        free(primary(), view(None, failsafe=ABC)),
        "race.primary_takes_it",
    ),
    nothing(
        "a running primary that the key does not name: somebody has led since (EC 25, 29)",
        free(primary(), view(None, failsafe=OTHERS)),
        "race.primary_not_named",
    ),
    case(
        "a running primary that the key does not name, and all who are answer that they are no primary",
        free(primary(), view(None, failsafe=OTHERS), peers=peers(peer("b"), peer("c"))),
        "race.primary_takes_it",
    ),
    case(
        "not in the key: those who are get asked",
        free(None, view(None, failsafe=OTHERS), peers=None),
        "race.not_in_failsafe",
        PollPeers,
    ),
    case(
        "not in the key, but all who are answer that they are no primary (EC 25)",
        free(None, view(None, failsafe=OTHERS), peers=peers(peer("b"), peer("c"))),
        "race.acquire",
        AcquireLease(),
    ),
    nothing(
        "not in the key, and one of those who are has accepted a primary without the store",
        free(None, view(None, failsafe=OTHERS), peers=peers(peer("b"), peer("c", failsafe_leader="b"))),
        "race.not_in_failsafe",
    ),
    nothing(
        "not in the key, and one of those who are is being promoted",
        free(None, view(None, failsafe=OTHERS), peers=peers(peer("b"), peer("c", promoting=True))),
        "race.not_in_failsafe",
    ),
    case(
        "the lock is mine without being named, long after it was seen free: another may have led meanwhile",
        world(standby(), view("a", failsafe=OTHERS), failsafe_mode=True, read_at=Instant(NOW - TTL - 1)),
        "leader.claimed_late",
        ReleaseLease(),
        then=Then.END,
    ),
    case(
        "the lock is mine without being named, soon after it was seen free",
        world(standby(), view("a", failsafe=OTHERS), failsafe_mode=True, read_at=Instant(NOW - 1)),
        "leader.promote",
        SetRewind,
        Promote,
    ),
)


@pytest.mark.parametrize("each", CASES, ids=str)
def test_who_is_not_named(each: Case) -> None:
    each.check()
