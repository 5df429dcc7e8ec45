"""What the tags of a node mean for its rules, and the form in which they are published. (HA rules 26)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcore.decide.publish import card
from pgcore.model.actions import AcquireLease, Clone, CompareRecovery, PollPeers, Rewind, RewindState, SetRewind
from pgcore.model.basics import Role, Tags
from pgcore.model.cluster import ClusterView
from pgcore.model.world import World
from pgcore.testing.builders import empty, history, leads, member, peer, peers, standby, upstream, view, world
from rules.cases import Case, case, nothing
from rules.driver import after, play

EVERYBODY = peers(peer("b", 999), peer("c", 999))


def tagged(tags: dict[str, Any], cluster: ClusterView | None = None, **facts: Any) -> World:
    """A standby with these tags."""
    return world(standby(), cluster or view("b"), **{"tags": Tags(tags)} | facts)


def racing(tags: dict[str, Any], **facts: Any) -> World:
    """The lock is free and the others have answered."""
    return tagged(tags, view(None), **{"peers": EVERYBODY} | facts)


def follows(situation: str, tags: dict[str, Any], cluster: ClusterView, whom: str) -> Case:
    """A case of ``replicatefrom``."""
    wanted = CompareRecovery(upstream(whom), Role.REPLICA)
    return case(situation, tagged(tags, cluster), "replica.compare_recovery", wanted)


LEADER = member("b", role="primary")
ALONE_MAY = {"nofailover": False, "failover_priority": 0}
CASES = (
    case("nofailover: false beside failover_priority: 0 may lead (EC 220)", racing(ALONE_MAY), "race.acquire", AcquireLease()),
    nothing(
        "but it compares as priority 0 (EC 220)",
        racing(ALONE_MAY, peers=peers(peer("b", failover_priority=1))),
        "race.peer_preferred",
        then=None,
    ),
    case("failover_priority: 0 alone never leads", racing({"failover_priority": 0}), "race.nofailover"),
    case("nor does a negative one", racing({"failover_priority": -1}), "race.nofailover"),
    follows("replicatefrom names a running member", {"replicatefrom": "c"}, view("b", LEADER, member("a"), member("c")), "c"),
    follows("it names an absent one: the leader (EC 221)", {"replicatefrom": "x"}, view("b"), "b"),
    follows("it names this node: the leader", {"replicatefrom": "a"}, view("b"), "b"),
    follows(
        "the named one replicates from me: the leader",
        {"replicatefrom": "c"},
        view("b", LEADER, member("a"), member("c", tags={"replicatefrom": "a"})),
        "b",
    ),
    follows(
        "a longer way leads back to me: the leader",
        {"replicatefrom": "c"},
        view("b", LEADER, member("c", tags={"replicatefrom": "d"}), member("d", tags={"replicatefrom": "a"})),
        "b",
    ),
    follows(
        "a loop of others is theirs to leave: both follow the leader, and I follow them",
        {"replicatefrom": "c"},
        view("b", LEADER, member("c", tags={"replicatefrom": "d"}), member("d", tags={"replicatefrom": "c"})),
        "c",
    ),
    follows(
        "a member of the loop leads now: its own tag does not count",
        {"replicatefrom": "c"},
        view("c", member("c", role="primary", tags={"replicatefrom": "a"}), member("a")),
        "c",
    ),
    case(
        "nostream: the archive only",
        tagged({"nostream": True, "replicatefrom": "c"}),
        "replica.compare_recovery",
        CompareRecovery(None, Role.REPLICA),
    ),
    nothing(
        "nostream: that it does not stream is no reason to look again soon",
        tagged({"nostream": True}, recovery_change="none", probed=True),
        "replica.keep",
    ),
    case(
        "clonefrom: a willing replica spares the leader",
        world(empty(), view("b", LEADER, member("a"), member("c", tags={"clonefrom": True}))),
        "no_data.clone",
        object,
        Clone(upstream("c")),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_situation_has_its_rule(case: Case) -> None:
    case.check()


def test_a_nofailover_node_that_is_ahead_is_left_behind_and_rewinds_afterwards() -> None:
    """EC 54: b, which lacks one byte of it, takes the lock without asking it; then a compares and rewinds."""
    ahead = standby(1001, rewind_possible=True)
    mine = play(world(ahead, view(None), tags=Tags({"nofailover": True})))
    assert mine.did(SetRewind) == [SetRewind(RewindState.CHECK)] and not mine.did(AcquireLease, PollPeers)
    theirs = world(standby(1000), view(None), peers=peers(peer("b", 1001, nofailover=True)))
    assert play(theirs, PollPeers=peers(peer("b", 1001, nofailover=True))).did(AcquireLease)
    promoted = view("b", member("b", role="primary", timeline=2), member("a"), history=history(1000))
    switched = leads(2, 1000)
    diverged = play(after(mine, node=ahead, cluster=promoted), CompareTimelines=switched)
    assert diverged.did(SetRewind)[0] == SetRewind(RewindState.NEED) and diverged.did(Rewind)


@pytest.mark.parametrize(
    ("configured", "published"),
    [
        ({}, None),
        ({"nofailover": False, "nosync": False, "clonefrom": False, "noloadbalance": False, "nostream": False}, None),
        (ALONE_MAY, ALONE_MAY),
        ({"nosync": False, "sync_priority": 0}, {"nosync": False, "sync_priority": 0}),
        ({"nofailover": True, "clonefrom": True}, {"nofailover": True, "clonefrom": True}),
        ({"rack": "a1", "mirror": False, "weight": 0}, {"rack": "a1", "mirror": False, "weight": 0}),
    ],
)
def test_tags_are_published_without_the_switches_that_are_off(configured: dict[str, Any], published: object) -> None:
    assert card(replace(tagged(configured))).get("tags") == published
