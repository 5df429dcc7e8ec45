"""Quorum commit: the sequences of writes of HA rules 20.4, and what the rules say beside them.

A situation is written ``q2 bcd n1 abd``: quorum and voters of ``/sync``, then the number and the names PostgreSQL waits for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from pgcore.decide.sync_candidates import Picture
from pgcore.decide.sync_names import QUORUM_PLACEHOLDER, SetNames, Step, Wait, WriteSync, any_of, first_of, parse
from pgcore.decide.sync_quorum import before_promotion, is_safe, next_step
from pgcore.model.cluster import SyncView
from pgcore.model.synchronous import OFF, Names


def situation(text: str, *, me: str = "a", leader: str = "a", chosen: str = "", wanted: int = 1) -> Picture:
    """``q2 bcd n1 abd`` with ``-`` for nobody."""
    quorum, voters, count, names = text.split()
    sync = SyncView("1", leader, tuple(voters.strip("-")), int(quorum[1:]))
    return Picture(me, sync, any_of(int(count[1:]), names.strip("-")), tuple(chosen), frozenset(), wanted)


def performed(picture: Picture, step: Step) -> Picture:
    """The picture after the write."""
    if isinstance(step, SetNames):
        return replace(picture, names=step.names)
    assert isinstance(step, WriteSync), step
    return replace(picture, sync=SyncView("2", step.leader, step.standbys, step.quorum))


def told(step: Step | None) -> str:
    """The step as the rows of the table write it."""
    match step:
        case SetNames(names) if names.names:
            return f"SSN {names.count}{{{''.join(names.names)}}}"
        case SetNames(names):
            return f"SSN {'strict' if names.placeholder else 'off'}"
        case WriteSync(leader, standbys, quorum):
            return f"sync {leader} q{quorum} {{{''.join(standbys)}}}"
        case Wait():
            return "wait"
        case _:
            return "stable"


def story(picture: Picture, proven: int) -> tuple[str, Picture]:
    """All writes until nothing or a wait follows. After each write so many of the active named ones are proven, by name."""
    writes: list[str] = []
    for _ in range(20):
        active = sorted(set(picture.names.names) & set(picture.chosen))
        step = next_step(replace(picture, proven=frozenset(active[:proven])))
        if step is None or isinstance(step, Wait):
            return "; ".join([*writes, *(["wait"] if step else [])]), picture
        assert step.because
        picture = performed(picture, step)
        assert is_safe(picture.me, picture.sync, picture.names), (told(step), picture)
        writes.append(told(step))
    raise AssertionError(f"no end: {writes}")


@dataclass(frozen=True)
class Row:
    """One row of HA rules 20.4; ``then`` are more proven or active ones and what follows."""

    before: str
    proven: int
    chosen: str
    wanted: int
    writes: str
    then: tuple[tuple[int, str, str], ...] = ()
    me: str = "a"
    leader: str = "a"
    fresh: bool = False

    def __str__(self) -> str:
        return f"{self.before}, {self.proven} proven, active {self.chosen or 'none'}, w{self.wanted}"


ROWS = (
    Row("q0 - n0 -", 0, "b", 1, "SSN 1{b}; wait"),
    Row("q0 - n0 -", 0, "bcd", 1, "SSN 1{bcd}; wait"),
    Row("q0 - n1 bcd", 1, "bcd", 1, "sync a q2 {bcd}"),
    Row("q0 - n2 bcde", 1, "bcde", 2, "sync a q3 {bcde}; wait", ((2, "bcde", "sync a q2 {bcde}"),)),
    Row("q0 b n1 b", 1, "bc", 1, "sync a q1 {bc}; SSN 1{bc}"),
    Row("q0 b n1 b", 1, "bc", 2, "SSN 2{bc}; sync a q1 {bc}; wait", ((2, "bc", "sync a q0 {bc}"),)),
    Row("q0 b n1 b", 1, "bcde", 2, "SSN 2{bc}; sync a q3 {bcde}; SSN 2{bcde}; wait"),
    Row("q0 b n1 b", 0, "", 1, "sync a q0 {}; SSN off"),
    Row("q0 b n1 b", 0, "c", 1, "sync a q0 {}; SSN 1{c}; wait"),
    Row("q2 bcde n2 bcde", 2, "bc", 2, "SSN 2{bc}; sync a q0 {bc}"),
    Row("q2 bcde n2 bcde", 3, "bcd", 2, "SSN 2{bcd}; sync a q1 {bcd}"),
    Row("q2 bcde n2 bcde", 2, "bc", 1, "SSN 2{bc}; sync a q1 {bc}; SSN 1{bc}"),
    Row("q0 bc n2 bc", 1, "b", 2, "sync a q0 {b}; SSN 1{b}"),
    Row("q0 bc n2 bc", 1, "bd", 2, "sync a q0 {b}; SSN 2{bd}; sync a q1 {bd}; wait"),
    Row("q2 bcd n1 bcd", 1, "bcd", 2, "SSN 2{bcd}; wait", ((2, "bcd", "sync a q1 {bcd}"),)),
    Row("q1 bcd n2 bcd", 2, "bcd", 1, "sync a q2 {bcd}; SSN 1{bcd}"),
    # c, a voter, was promoted; b connects.
    Row(
        "q2 bcd n1 abd", 0, "", 1, "sync c q2 {abd}; wait", ((1, "b", "SSN 1{b}; sync c q0 {b}"),), me="c", leader="a", fresh=True
    ),
    # ... or nobody connects in time.
    Row("q2 abd n1 abd", 0, "", 1, "sync c q0 {}; SSN off", me="c", leader="c"),
    # d, no voter, was promoted; then b and c connect.
    Row(
        "q1 bc n2 abc",
        0,
        "",
        1,
        "sync d q1 {abc}; wait",
        ((2, "bc", "SSN 2{bc}; sync d q1 {bc}; SSN 1{bc}"),),
        me="d",
        leader="a",
        fresh=True,
    ),
    # c was promoted, but the names were not set before: what it confirmed since is nowhere else, so only c may lead until
    # somebody has it. (HA rules 20.4 lets a, b and d vote at once.)
    Row("q2 bcd n0 -", 0, "abd", 1, "sync c q0 {}; SSN 1{abd}; wait", ((1, "abd", "sync c q2 {abd}"),), me="c", leader="a"),
    Row("q0 bc n1 bc", 0, "bc", 1, "sync a q1 {bc}"),
)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_worked_example(row: Row) -> None:
    picture = replace(situation(row.before, me=row.me, leader=row.leader, chosen=row.chosen, wanted=row.wanted), fresh=row.fresh)
    writes, picture = story(picture, row.proven)
    assert writes == row.writes
    for proven, chosen, following in row.then:
        writes, picture = story(replace(picture, chosen=tuple(chosen)), proven)
        assert writes == following


def test_a_standby_joins_and_leaves_before_it_is_proven() -> None:
    """(EC 143)"""
    before = situation("q0 b n1 b", chosen="bc", wanted=2)
    writes, joined = story(before, 1)
    assert writes == "SSN 2{bc}; sync a q1 {bc}; wait"
    writes, left = story(replace(joined, chosen=("b",)), 1)
    assert writes == "SSN 1{b}; sync a q0 {b}"
    assert (left.sync.standbys, left.sync.quorum, left.names) == (before.sync.standbys, 0, before.names)


def test_the_last_known_holders_of_a_commit_keep_their_vote_until_the_others_have_everything() -> None:
    """b and c stream, but d and e alone may have confirmed the last commits: a quorum of 0 must wait for a proof."""
    writes, picture = story(situation("q2 bcde n2 bcde", chosen="bc", wanted=2), 0)
    assert writes == "SSN 2{bc}; wait"
    assert story(picture, 2)[0] == "sync a q0 {bc}"


def test_a_fresh_primary_evicts_nobody() -> None:
    """(EC 144)"""
    picture = replace(situation("q2 bcd n1 abd", me="c"), fresh=True)
    assert story(picture, 0)[0] == "sync c q2 {abd}; wait"


@pytest.mark.parametrize(
    ("before", "written"),
    [
        ("q0 b n1 x", "sync a q0 {}"),
        ("q0 b n0 -", "sync a q0 {}"),
        ("q1 bc n1 b", "stable"),
        ("q0 bc n1 bd", "sync a q1 {bd}"),
        ("q3 bc n2 bc", "sync a q0 {}"),
        ("q1 - n1 b", "sync a q0 {}"),
    ],
)
def test_after_an_edit_by_hand_sync_is_repaired_before_anything_else(before: str, written: str) -> None:
    """(EC 121)"""
    proven = frozenset({"b"}) if "d" in before else frozenset()
    picture = replace(situation(before, chosen="bc"), proven=proven)
    step = next_step(picture)
    if written != "stable":
        assert told(step) == written
        assert step is not None
        picture = performed(picture, step)
    assert is_safe("a", picture.sync, picture.names)


def test_without_sync_the_primary_claims_it_first() -> None:
    """(EC 122)"""
    picture = replace(situation("q0 - n0 -", chosen="b"), sync=SyncView())
    assert told(next_step(picture)) == "sync a q0 {}"


def test_a_renamed_leader_takes_sync_over_alone() -> None:
    """(EC 136)"""
    writes, _ = story(situation("q1 bc n1 bc", me="x", chosen="bc"), 1)
    assert writes == "sync x q0 {}; sync x q1 {bc}"


STRICT = (
    ("q0 - n0 -", "SSN strict"),
    ("q0 - n1 b", "SSN strict"),
    ("q1 bc n1 bc", "wait"),
    ("q1 bcd n2 bcd", "wait"),
    ("q2 bcd n3 bcd", "SSN 1{bcd}"),
)


@pytest.mark.parametrize(("before", "written"), STRICT)
def test_strict_without_candidates_keeps_the_last_known_names(before: str, written: str) -> None:
    """(EC 124)"""
    step = next_step(replace(situation(before), strict=True))
    assert told(step) == written
    if isinstance(step, Wait):
        assert step.seconds is None


@pytest.mark.parametrize(("strict", "wanted"), [(True, "SSN strict"), (False, "SSN off")])
def test_names_that_anybody_can_confirm_are_no_names(strict: bool, wanted: str) -> None:
    """(EC 124) ``*`` is what Patroni 4.1 sets."""
    picture = replace(situation("q0 b n0 -"), names=parse("*"), strict=strict)
    if strict:
        assert told(next_step(picture)) == "sync a q0 {}"
    picture = replace(picture, sync=SyncView("1", "a"))
    step = next_step(picture)
    assert told(step) == wanted
    assert step is not None
    if not strict:
        assert next_step(performed(picture, step)) is None


def test_the_placeholder_gives_way_to_those_who_vote() -> None:
    picture = replace(situation("q1 bcd n0 -", chosen="b"), names=QUORUM_PLACEHOLDER, strict=True)
    assert told(next_step(picture)) == "SSN 2{bcd}"


def test_the_form_of_the_names_is_corrected_last() -> None:
    picture = replace(situation("q0 bc n2 bc", chosen="bc", wanted=2), names=first_of("bc"), proven=frozenset("bc"))
    assert told(next_step(picture)) == "SSN 2{bc}"
    writes, _ = story(replace(picture, wanted=1), 2)
    assert writes == "sync a q1 {bc}; SSN 1{bc}"


def test_names_compare_as_postgresql_compares_them() -> None:
    """(EC 127)"""
    picture = Picture("A", SyncView("1", "a", ("NODE-b",), 0), any_of(1, ["Node-B"]), ("node-b",), frozenset({"node-b"}))
    assert next_step(picture) is None
    step = next_step(replace(picture, chosen=("node-b", "First")))
    assert isinstance(step, WriteSync)
    assert step.standbys == ("First", "node-b")


def test_more_acknowledgements_than_names_are_corrected() -> None:
    picture = replace(situation("q0 bc n2 bc", chosen="bc", wanted=2), names=parse("ANY 3 (b,c)"))
    assert told(next_step(picture)) == "SSN 2{bc}"


def test_a_count_of_zero_means_no_synchronous_standby() -> None:
    assert story(situation("q1 bc n1 bc", chosen="bc", wanted=0), 2)[0] == "sync a q0 {}; SSN off"


def test_a_write_of_unknown_fate_is_outrun_before_the_names_change() -> None:
    picture = replace(situation("q2 bcd n2 bcd", chosen="bcd"), undecided=True, proven=frozenset("bcd"))
    assert told(next_step(picture)) == "sync a q2 {bcd}"
    assert told(next_step(replace(picture, undecided=False))) == "SSN 1{bcd}"


BEFORE_PROMOTION = (
    # me, /sync, names -> names, then /sync
    ("c", "q2 bcd n0 -", "SSN 1{abd}; sync c q2 {abd}"),
    ("d", "q1 bc n0 -", "SSN 2{abc}; sync d q1 {abc}"),
    ("a", "q1 bc n0 -", "SSN 1{bc}"),
    ("a", "q1 bc n1 bc", ""),
    ("b", "q0 bc n0 -", "SSN 2{ac}; sync b q0 {ac}"),
    ("a", "q0 - n1 b", "SSN off"),
    ("b", "q0 - n0 -", "SSN 1{a}; sync b q0 {a}"),
)


@pytest.mark.parametrize(("me", "before", "writes"), BEFORE_PROMOTION)
@pytest.mark.parametrize("elected", [True, False])
def test_before_a_promotion_commits_are_made_to_wait_for_the_old_voters(me: str, before: str, writes: str, elected: bool) -> None:
    """HA rules 20.5; only who was elected moves ``/sync`` before."""
    picture, done = situation(before, me=me), []
    while (step := before_promotion(me, picture.sync, picture.names, False, elected)) is not None:
        done.append(told(step))
        picture = performed(picture, step)
        assert is_safe(me, picture.sync, picture.names)
    assert "; ".join(done) == (writes if elected else writes.partition("; sync")[0])


@pytest.mark.parametrize(("strict", "names"), [(True, QUORUM_PLACEHOLDER), (False, OFF)])
def test_before_a_promotion_nobody_else_is_known(strict: bool, names: Names) -> None:
    step = before_promotion("a", SyncView(), parse("x"), strict, True)
    assert isinstance(step, SetNames)
    assert step.names == names
    assert before_promotion("a", SyncView(), names, strict, True) is None
