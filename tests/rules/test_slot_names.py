"""What the leader publishes of its slots; chains of standbys, names, retention over a failover. (HA rules 21.1, 21.2)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pgcore.decide import slots_wanted
from pgcore.model.actions import AcquireLease, ChangeSlots, WriteStatus
from pgcore.model.basics import Instant, Lsn, Tags
from pgcore.model.cluster import ClusterStatus, ClusterView, Member
from pgcore.model.settings import RemoteCluster
from pgcore.model.slots import SlotMemory
from pgcore.model.world import LeaseState, World
from pgcore.testing import builders
from pgcore.testing.builders import NOW, member, primary, standby, view, world
from rules.driver import after, play
from rules.test_slots import CDC, LOGICAL, NOSTREAM_C, B, C, lead, permanent, physical

# -- what the leader publishes --------------------------------------------------------------------------------------------


def status_of(at: World) -> ClusterStatus | None:
    """What is written to /status in this beat."""
    written = play(replace(at, memory=replace(at.memory, written_status=None))).did(WriteStatus)
    assert len(written) <= 1
    return written[0].status if written else None  # type: ignore[attr-defined]


def test_the_leader_publishes_its_slots_itself_and_whom_it_retains() -> None:
    logical = replace(CDC, active=True)
    at = lead(B, C, physical("archive", 500), logical, physical("x", 400), permanent_slots=(*permanent("archive"), LOGICAL))
    assert status_of(at) == ClusterStatus(
        Lsn(1000), {"a": Lsn(1000), "archive": Lsn(500), "b": Lsn(900), "c": Lsn(800), "cdc": Lsn(750)}, ("b", "c")
    )


def test_without_retention_it_publishes_permanent_slots_only() -> None:
    at = lead(B, C, physical("archive", 500), permanent_slots=permanent("archive"), member_slots_ttl=0)
    assert status_of(at) == ClusterStatus(Lsn(1000), {"archive": Lsn(500)})


def test_slots_of_the_wrong_kind_and_of_members_that_do_not_stream_are_not_published() -> None:
    at = lead(B, replace(CDC, plugin="pgoutput"), cluster=NOSTREAM_C, permanent_slots=(LOGICAL,))
    assert status_of(at) == ClusterStatus(Lsn(1000), {"a": Lsn(1000), "b": Lsn(900)}, ("b",))


def test_what_is_published_is_kept_while_the_server_does_not_answer() -> None:
    """The beat in which the monitoring query fails writes nothing, so the slots in /status stay (EC 171)."""
    at = lead(B, C)
    assert status_of(replace(at, node=builders.silent(at.node, slots=()))) is None


def test_a_member_that_went_at_the_moment_of_a_failover_keeps_its_slot_under_the_new_leader() -> None:
    """c's card expires together with the leader: whoever takes the lock counts c's time anew (EC 152)."""
    published = ClusterStatus(Lsn(1000), {"b": Lsn(900), "c": Lsn(800)}, ("a", "c"))
    free = view(None, member("a"), member("b", role="primary"), status=published, optime=1000)
    free = replace(free, status=published)
    stale = SlotMemory({"c": Instant(NOW - 5000)}, found=frozenset())
    at = world(standby(slots=(B, physical("c"))), free, slots=stale, old_cluster=replace(free, leader="b"), peers={})
    played = play(at)
    assert played.did(AcquireLease) and not played.did(ChangeSlots)
    mine = replace(free, leader="a")
    new = after(played, node=primary(slots=(B, physical("c"))), cluster=mine, lease=LeaseState.NONE)
    later = play(new)
    assert not later.did(ChangeSlots)
    assert [action.status.retain_slots for action in later.did(WriteStatus)] == [("b", "c")]  # type: ignore[attr-defined]


# -- names, chains, outages -----------------------------------------------------------------------------------------------


def chained(**above: str) -> ClusterView:
    """``a`` to ``e``, led by ``b``; each named member replicates from another one."""
    cards = (
        member(name, role="primary" if name == "b" else "replica", tags={"replicatefrom": above[name]} if name in above else None)
        for name in "abcde"
    )
    return view("b", *cards)


def test_a_circle_of_replicatefrom_ends_and_nobody_in_it_decodes() -> None:
    """c from d, d from c, and a below them (EC 167)."""
    at = world(standby(), chained(c="d", d="c"), tags=Tags({"replicatefrom": "c"}), permanent_slots=(LOGICAL,))
    assert slots_wanted.chain(at, "c") is None and slots_wanted.chain(at, "a") is None
    assert not slots_wanted.wanted(at).logical and slots_wanted.wanted(at).physical
    assert not slots_wanted.feedback(at)


def test_nodes_that_do_not_stream_and_those_below_them_have_no_logical_slots() -> None:
    """c is nostream, a replicates from it (EC 166)."""
    below = {"tags": Tags({"replicatefrom": "c"}), "permanent_slots": (LOGICAL,)}
    broken = view("b", member("a"), member("b", role="primary"), member("c", tags={"nostream": True}))
    assert not slots_wanted.wanted(world(standby(), broken, **below)).logical
    assert not slots_wanted.wanted(world(standby(), view("b"), tags=Tags({"nostream": True}), permanent_slots=(LOGICAL,))).logical
    assert slots_wanted.wanted(world(standby(), view("b"), **below)).logical


def test_feedback_is_forced_where_logical_slots_are_or_stream_through() -> None:
    never = Tags({"nofailover": True})
    facts: dict[str, Any] = {"permanent_slots": (LOGICAL,)}
    assert slots_wanted.feedback(world(standby(), view("b"), **facts))
    assert slots_wanted.feedback(world(primary(), view("a"), **facts))
    assert not slots_wanted.feedback(world(standby(), view("b"), tags=never, **facts))
    assert slots_wanted.feedback(world(standby(), chained(c="a"), tags=never, **facts))
    assert not slots_wanted.feedback(world(standby(), view("b"), permanent_slots=permanent("archive")))
    assert not slots_wanted.feedback(world(standby(), view("b"), standby_cluster=RemoteCluster("elsewhere"), **facts))
    assert not slots_wanted.feedback(world(standby(), view("b"), use_slots=False, **facts))


def test_slot_names_follow_the_rule_every_member_shares() -> None:
    assert [Member(name).slot for name in ("N-1", "n.1", "Node_2", "nö")] == ["n_1", "n_1", "node_2", "nu0246"]
