"""The promise of synchronous replication, checked in whole histories: no node that may be promoted lacks a confirmed commit.

A model of a cluster in which everything may happen at any moment: commits, standbys that lag, come and go, other settings,
another mode, an agent that forgets, writes that arrive late, promotions by the votes of HA rules 15.3. After every event each
node that ``/sync`` would let lead, with whatever peers it reaches, is asked whether it has every confirmed commit.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgcore.decide import sync_quorum
from pgcore.decide.sync_names import any_of, first_of
from pgcore.model import actions as a
from pgcore.model.cluster import SyncView
from pgcore.model.synchronous import OFF
from rules.sync_model import Cluster, happen, settle

NUMBER = st.integers(0, 5)
EVENTS = st.one_of(
    st.tuples(st.just("commit")),
    st.tuples(st.just("replicate"), NUMBER, st.integers(1, 3)),
    st.tuples(st.just("replicate"), NUMBER, st.just(1000)),
    st.tuples(st.just("toggle"), NUMBER),
    st.tuples(st.just("connect"), st.frozensets(NUMBER)),
    st.tuples(st.just("look"), st.booleans()),
    st.tuples(st.just("write"), st.sampled_from(["done", "done", "done", "late", "lost"])),
    st.tuples(st.just("beat")),
    st.tuples(st.just("beat")),
    st.tuples(st.just("beat")),
    st.tuples(st.just("in_force")),
    st.tuples(st.just("settle")),
    st.tuples(st.just("arrive")),
    st.tuples(st.just("wanted"), st.integers(0, 4)),
    st.tuples(st.just("strict")),
    st.tuples(st.just("mode")),
    st.tuples(st.just("nosync"), NUMBER),
    st.tuples(st.just("forget")),
    st.tuples(st.just("hand_over"), st.booleans(), st.lists(st.sampled_from(["done", "late", "lost"]), min_size=1, max_size=3)),
    st.tuples(st.just("promote"), NUMBER, st.integers(1, 4), st.booleans(), st.booleans()),
)

HISTORY = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@HISTORY
@given(st.sampled_from(["on", "quorum"]), st.integers(2, 6), st.integers(1, 3), st.lists(EVENTS, min_size=30, max_size=100))
def test_whoever_may_lead_has_every_confirmed_commit(
    mode: str,
    size: int,
    wanted: int,
    events: list[tuple],
) -> None:
    """(EC 118, 119, 120, 142, 143, 145)"""
    cluster = Cluster(mode, size, wanted)
    for name in list(cluster.nodes)[1:]:
        cluster.toggle(name)
    settle(cluster, 30)
    for event in events:
        happen(cluster, event)
        cluster.check()


@HISTORY
@given(st.sampled_from(["on", "quorum"]), st.integers(2, 6), st.integers(1, 3), st.lists(EVENTS, min_size=5, max_size=40))
def test_a_history_settles_once_nothing_changes(
    mode: str,
    size: int,
    wanted: int,
    events: list[tuple],
) -> None:
    """Also that the goal is reached: all named ones vote, with the quorum of HA rules 20.1."""
    cluster = Cluster(mode, size, wanted)
    for event in events:
        happen(cluster, event)
    cluster.late.clear()
    for name in cluster.nodes:
        if cluster.down:
            cluster.promote(name, 4)
    assert settle(cluster, 40) < 40
    picture = cluster.look()
    sync, names = cluster.sync, cluster.me.names
    chosen, count = set(picture.chosen), min(cluster.number, len(picture.chosen))
    if not chosen and cluster.strict:
        assert names.placeholder or set(names.names) == set(sync.standbys)
        return
    assert set(sync.standbys) == set(names.names) == (chosen if count else set())
    assert (sync.leader, names.count) == (cluster.primary, count)
    assert sync.quorum == (len(chosen) - count if cluster.mode == "quorum" and count else 0)


HANDS = st.tuples(st.integers(1, 3), st.lists(st.sampled_from("abcdefx"), max_size=4), st.booleans())


@HISTORY
@given(
    st.sampled_from(["on", "quorum"]),
    st.integers(2, 5),
    HANDS,
    st.lists(st.sampled_from("abcdef"), max_size=5),
    st.integers(-1, 5),
    st.booleans(),
)
def test_whatever_hands_made_of_it_the_first_writes_make_it_safe(
    mode: str, size: int, hands: tuple[int, list[str], bool], voters: list[str], quorum: int, strict: bool
) -> None:
    """(EC 121)"""
    count, listed, quorum_form = hands
    cluster = Cluster(mode, size, strict=strict)
    for name in list(cluster.nodes)[1:]:
        cluster.toggle(name)
    cluster.sync = SyncView("0", "a", tuple(sorted(set(voters) - {"a"})), quorum)
    cluster.me.names = any_of(count, listed) if quorum_form else first_of(listed)
    cluster.in_force()
    cluster.look()
    safe = sync_quorum.is_safe("a", cluster.sync, cluster.me.names)
    step = cluster.step()
    assert safe or (step is not None and isinstance(step.actions[0], a.WriteSync))
    assert sync_quorum.is_safe("a", cluster.sync, cluster.me.names)
    for name in cluster.nodes:
        cluster.commit()
        cluster.replicate(name, 1)
        cluster.check()
    settle(cluster, 30)


def four(wanted: int = 1) -> Cluster:
    """a leads b, c and d in quorum mode, all have everything, one acknowledgement is enough unless said otherwise."""
    cluster = Cluster("quorum", 4, wanted)
    for event in (("connect", frozenset({1, 2, 3})), ("commit",), ("settle",)):
        happen(cluster, event)
    assert cluster.sync.standbys == ("b", "c", "d")
    return cluster


def test_the_old_leader_comes_back_alone_before_the_new_one_has_decided_anything() -> None:
    """HA rules 20.5 would leave ``/sync`` to a, which needs no vote and has never seen what c and d confirmed."""
    cluster = four()
    cluster.promote("c", 4)
    assert (cluster.primary, cluster.sync.leader, cluster.sync.quorum) == ("c", "c", 2)
    happen(cluster, ("connect", frozenset({3})))
    happen(cluster, ("commit",))
    happen(cluster, ("replicate", 3, 1))
    assert len(cluster.confirmed) == 2
    cluster.check()
    assert not cluster.may_lead("a")


def test_a_write_arrives_after_the_names_would_have_changed() -> None:
    cluster = four()
    cluster.wanted = 2
    for event in (("beat",), ("in_force",), ("look", False), ("look", False), ("write", "late")):
        happen(cluster, event)
    assert (cluster.sync.quorum, cluster.me.names.count, len(cluster.late)) == (2, 2, 1)
    cluster.wanted = 1
    for event in (("beat",), ("arrive",), ("beat",), ("arrive",)):
        happen(cluster, event)
        cluster.check()
    assert (cluster.sync.quorum, cluster.me.names.count) == (2, 1)


def test_new_names_are_shown_but_commits_do_not_wait_by_them_yet() -> None:
    """PostgreSQL's checkpointer tells the others whether to wait at all, and reads new names only between two checkpoints."""
    cluster = Cluster("on", 2)
    happen(cluster, ("connect", frozenset({1})))
    for event in (("beat",), ("beat",), ("beat",), ("commit",), ("beat",), ("beat",)):
        happen(cluster, event)
        cluster.check()
    assert (cluster.me.names, len(cluster.confirmed)) == (first_of("b"), 1)
    assert cluster.sync.standbys == ()
    happen(cluster, ("settle",))
    assert cluster.sync.standbys == ("b",)


@pytest.mark.parametrize("wanted", [1, 2])
def test_a_write_of_the_former_leadership_arrives_after_the_leader_won_again(wanted: int) -> None:
    """Sent when commits waited for two, it lets a node lead that lacks what only one has confirmed since."""
    cluster = four()
    cluster.wanted = 2
    for event in (("beat",), ("in_force",), ("look", False), ("look", False), ("write", "late")):
        happen(cluster, event)
    assert (cluster.sync.quorum, cluster.me.names.count, [sync.quorum for _, sync in cluster.late]) == (2, 2, [1])
    cluster.wanted = wanted
    cluster.promote("b", 1)
    assert cluster.down
    cluster.promote("a", 4)
    assert (cluster.primary, cluster.down) == ("a", False)
    for event in (("arrive",), ("connect", frozenset({1})), ("commit",), ("replicate", 1, 1)):
        happen(cluster, event)
        cluster.check()


def test_the_same_in_priority_mode() -> None:
    """Sent when b was named; after it won again without a standby, nobody but the leader may lead."""
    cluster = Cluster("on", 3)
    for event in (("connect", frozenset({1})), ("beat",), ("beat",), ("beat",), ("in_force",), ("look", False), ("look", False)):
        happen(cluster, event)
    happen(cluster, ("write", "late"))
    assert [sync.standbys for _, sync in cluster.late] == [("b",)]
    cluster.down = True
    cluster.promote("a", 4)
    assert (cluster.primary, cluster.down, cluster.me.names) == ("a", False, OFF)
    for event in (("arrive",), ("commit",)):
        happen(cluster, event)
        cluster.check()


@pytest.mark.parametrize("mode", ["on", "quorum"])
def test_a_zombie_that_goes_on_after_the_race_was_won_makes_the_winner_start_over(mode: str) -> None:
    """It releases b and lets c alone confirm: b won under a ``/sync`` that is not there any more. (EC 141)"""
    cluster = Cluster(mode, 3)
    happen(cluster, ("connect", frozenset({1})))
    happen(cluster, ("settle",))
    assert cluster.sync.standbys == ("b",)
    without_b = (("connect", frozenset({2})), ("settle",), ("commit",), ("replicate", 2, 1000))
    cluster.promote("b", 4, True, False, *without_b)
    assert (cluster.primary, cluster.down, cluster.sync.standbys) == ("a", True, ("c",))
    cluster.check()
    cluster.promote("c", 4)
    assert (cluster.primary, cluster.down) == ("c", False)
    cluster.check()
