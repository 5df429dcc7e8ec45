"""The winner of the race under ``/sync``: proof, names, ``/sync``, and only then the promotion. (HA rules 19.6, 20.5)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcore.model.actions import (
    NoteProof,
    PollPeers,
    Promote,
    ReadCluster,
    ReleaseLease,
    SetStandbyNames,
    WriteSync,
)
from pgcore.model.cluster import SyncView
from pgcore.model.decision import Then
from pgcore.model.synchronous import PLACEHOLDER_NAME, StandbyNames, SyncMemory
from pgcore.model.world import World
from pgcore.testing.builders import END, peer, peers, request, standby, view, world
from rules.cases import Case, case, nothing
from rules.driver import Script, after, play
from rules.test_synchronous import LONG, QUORUM, B, proven_holder, remembered, set_to


def winner(key: SyncView, names: str | StandbyNames = "", **facts: Any) -> World:
    """A standby that holds the lock, won under version 5 of ``/sync``, which was read again since."""
    setting = names if isinstance(names, StandbyNames) else set_to(names)
    node = replace(standby(), names=setting)
    given = {"synchronous_mode": "on", "elected": "5", "fresh": True, "sync": remembered("")}
    failover = facts.pop("failover", None)
    return world(node, view("a", sync=key, failover=failover), **given | facts)


EQUAL = peers(peer("b"), peer("c"))
C_LED = SyncView("5", "c", ("a",))
C_QUORUM = SyncView("5", "c", ("a", "b"), 1)
PROMOTIONS = (
    case("won: /sync is read again", winner(C_LED, fresh=False), "leader.reread", ReadCluster(fresh=True)),
    case(
        "nothing was ever promised: promoted at once", winner(SyncView(), synchronous_mode="off", elected=None), "leader.promote"
    ),
    case(
        "the agent was restarted while it held the lock with a standby: the others are asked",
        winner(C_LED, elected=None),
        "leader.ask_again",
        PollPeers,
    ),
    case(
        "they were asked before /sync changed",
        winner(replace(C_LED, version="6"), peers=EQUAL, asked_under="5"),
        "leader.ask_again",
        PollPeers,
    ),
    case(
        "/sync lets this node lead: proven again (EC 147)",
        winner(C_LED, elected=None, peers=EQUAL, asked_under="5"),
        "leader.proven_again",
        NoteProof("5"),
    ),
    case(
        "the leader of /sync is back with a quorum, nobody is ahead (EC 147)",
        winner(QUORUM, elected=None, peers=EQUAL, asked_under="5", synchronous_mode="quorum"),
        "leader.proven_again",
        NoteProof("5"),
    ),
    case(
        "a voter is ahead (EC 147)",
        winner(QUORUM, elected=None, peers=peers(peer("b", END + 1)), asked_under="5", synchronous_mode="quorum"),
        "leader.unproven",
        ReleaseLease(),
        then=Then.END,
    ),
    case(
        "another still runs as a primary",
        winner(C_LED, elected=None, peers=peers(peer("c", is_primary=True)), asked_under="5"),
        "leader.unproven",
        ReleaseLease(),
    ),
    case(
        "the old leader wrote /sync after the race: it does not let this node lead any more",
        winner(SyncView("6", "c", ("b",)), peers=EQUAL, asked_under="6"),
        "leader.unproven",
        ReleaseLease(),
    ),
    case(
        "the mode was switched off meanwhile, but the old leader may still confirm by /sync",
        winner(SyncView("6", "c", ("b",)), elected=None, peers=EQUAL, asked_under="6", synchronous_mode="off"),
        "leader.unproven",
        ReleaseLease(),
    ),
    case("not strict: /sync first", winner(C_LED, "x"), "leader.sync_before_promotion", WriteSync("a", (), 0, "5")),
    case("then the names", winner(SyncView("5", "a"), "x"), "leader.names_before_promotion", SetStandbyNames("")),
    case(
        "strict: the names first, the old leader among them (EC 125)",
        winner(C_LED, synchronous_mode_strict=True),
        "leader.names_before_promotion",
        SetStandbyNames("c"),
    ),
    case(
        "strict: then /sync (EC 125)",
        winner(C_LED, "c", synchronous_mode_strict=True),
        "leader.sync_before_promotion",
        WriteSync("a", ("c",), 0, "5"),
    ),
    case(
        "strict, switched on while nobody led",
        winner(SyncView(), synchronous_mode_strict=True, elected=None),
        "leader.names_before_promotion",
        SetStandbyNames(PLACEHOLDER_NAME),
    ),
    case(
        "quorum: the names were lost and come before /sync (EC 149)",
        winner(C_QUORUM, synchronous_mode="quorum"),
        "leader.names_before_promotion",
        SetStandbyNames("ANY 1 (b,c)"),
    ),
    case(
        "quorum: then /sync moves to me with the old leader as a voter (EC 144)",
        winner(C_QUORUM, "ANY 1 (b,c)", synchronous_mode="quorum"),
        "leader.sync_before_promotion",
        WriteSync("a", ("b", "c"), 1, "5"),
    ),
    nothing(
        "the names are shown but not in force: the promotion waits",
        winner(SyncView("5", "a", ("b", "c"), 1), set_to("ANY 1 (b,c)", in_force=False), synchronous_mode="quorum"),
        "leader.names_not_in_force",
    ),
    case(
        "they do not come into force within ttl",
        winner(
            SyncView("5", "a", ("b", "c"), 1),
            set_to("ANY 1 (b,c)", in_force=False),
            synchronous_mode="quorum",
            sync=remembered("", changed_at=LONG),
        ),
        "leader.names_not_in_force",
        ReleaseLease(),
    ),
    case(
        "I led before, quorum: what I wrote then must not arrive after the names were changed",
        winner(SyncView("5", "a", ("b", "c"), 1), synchronous_mode="quorum", sync=SyncMemory()),
        "leader.late_write_outrun",
        WriteSync("a", ("b", "c"), 1, "5"),
    ),
    case(
        "I led before, and nothing else is to be written",
        winner(SyncView("5", "a"), sync=SyncMemory()),
        "leader.late_write_outrun",
        WriteSync("a", (), 0, "5"),
    ),
    case(
        "I led before, but /sync is written anyway",
        winner(B, sync=SyncMemory()),
        "leader.sync_before_promotion",
        WriteSync("a", (), 0, "5"),
    ),
    case(
        "quorum: all is prepared",
        winner(SyncView("5", "a", ("b", "c"), 1), "ANY 1 (b,c)", synchronous_mode="quorum"),
        "leader.promote",
    ),
    case(
        "a manual failover to me needs no proof, /sync still moves first",
        winner(C_LED, elected=None, failover=request(None, "a")),
        "leader.sync_before_promotion",
        WriteSync("a", (), 0, "5"),
    ),
    case(
        "a switchover to me needs its proof",
        winner(C_LED, elected=None, failover=request("c", "a")),
        "leader.ask_again",
    ),
    case(
        "switched off and proven: /sync goes before the promotion",
        winner(C_LED, synchronous_mode="off"),
        "leader.sync_before_promotion",
    ),
)
CASES = PROMOTIONS


@pytest.mark.parametrize("each", CASES, ids=str)
def test_case(each: Case) -> None:
    each.check()


def test_the_whole_promotion_takes_one_beat_and_keeps_its_order() -> None:
    """(EC 125, 149)"""
    played = play(proven_holder(winner(C_QUORUM, synchronous_mode="quorum")), SetStandbyNames=True, WriteSync="6")
    done = played.did(ReadCluster, SetStandbyNames, WriteSync, Promote)
    assert done == [
        ReadCluster(),
        ReadCluster(fresh=True),
        SetStandbyNames("ANY 1 (b,c)"),
        WriteSync("a", ("b", "c"), 1, "5"),
        Promote(300.0),
    ]
    assert played.beat.world.memory.elected == "6"


def test_a_refused_write_postpones_the_promotion_and_the_next_beat_gives_the_lock_back() -> None:
    """(EC 141) The old leader was faster by one write: what was proven is not proven any more."""
    world = proven_holder(winner(C_LED))
    played = play(world, WriteSync=None)
    assert played.did(Promote) == []
    assert played.beat.wake_after is not None and played.beat.wake_after < 0.1
    changed = replace(world.cluster, sync=SyncView("6", "c", ("b",)))
    following = play(proven_holder(after(played, cluster=changed)))
    assert following.did(ReleaseLease, Promote) == [ReleaseLease()]
    assert following.beat.world.memory.elected is None


def test_an_unanswered_write_postpones_the_promotion() -> None:
    """(EC 141) It may have happened, so all is proven anew under what the next beat reads."""
    script = Script(fails=lambda number, action: isinstance(action, WriteSync))
    played = script.play(proven_holder(winner(C_LED)))
    assert (played.did(Promote), played.beat.world.memory.sync.undecided) == ([], True)
    moved = replace(played.beat.world.cluster, sync=SyncView("6", "a"))
    again = play(proven_holder(after(played, cluster=moved)), PollPeers=EQUAL, WriteSync="7")
    done = again.did(PollPeers, NoteProof, WriteSync, Promote)
    assert [type(action) for action in done] == [PollPeers, NoteProof, WriteSync, Promote]
    assert again.beat.world.memory.elected == "7"


def test_whoever_lost_the_race_again_does_not_promote() -> None:
    world = proven_holder(winner(C_LED))
    others = {"cluster": replace(world.cluster, leader="b")}
    assert play(replace(world, **others)).did(Promote, WriteSync, SetStandbyNames) == []
