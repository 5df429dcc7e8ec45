"""Who can be synchronous, who is chosen, and when a standby has everything. (HA rules 19.3, 19.4)"""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgcore.decide.sync_candidates import (
    Candidate,
    anchored,
    choose_any,
    choose_first,
    eligible,
    preferred,
    proven_any,
    proven_first,
)
from pgcore.decide.sync_names import any_of, first_of
from pgcore.model.basics import Json, Lsn, Tags
from pgcore.model.cluster import Member, SyncView
from pgcore.model.node import WalSender
from pgcore.model.synchronous import OFF, Anchor, Names

OWN = Lsn(1000)


def member(name: str, state: str = "running", **tags: Json) -> Member:
    return Member(name, state=state, tags=Tags(tags))


def sender(name: str, flush: int | None = 100, state: str = "streaming", sync_state: str = "async") -> WalSender:
    position = None if flush is None else Lsn(flush)
    return WalSender(name, state, sync_state=sync_state, write=position, flush=position, replay=position)


def names_of(senders: list[WalSender], members: list[Member], me: str = "a") -> list[str]:
    return [c.name for c in eligible(senders, members, me, "on")]


def chosen(candidates: list[Candidate], wanted: int = 1, names: Names = OFF, limit: int = -1) -> str:
    return "".join(choose_first(preferred(candidates, names, limit, OWN), wanted))


@pytest.mark.parametrize(
    ("situation", "senders", "members", "names"),
    [
        ("a streaming member", [sender("b")], [member("b")], "b"),
        ("compared without case, spelled as the member (EC 127)", [sender("NODE")], [member("Node")], "Node"),
        ("a client with the primary's own name (EC 128)", [sender("A")], [member("a"), member("b")], ""),
        ("streaming, but no position yet (EC 129)", [sender("b", None)], [member("b")], ""),
        ("a name that /sync cannot hold", [sender("b,c")], [member("b,c")], ""),
        ("catching up", [sender("b", state="catchup")], [member("b")], ""),
        ("a backup, not a member", [sender("pg_receivewal")], [member("b")], ""),
        ("not running", [sender("b")], [member("b", "starting")], ""),
        ("nosync", [sender("b")], [member("b", nosync=True)], ""),
        ("sync_priority 0 asks to be released (EC 133)", [sender("b")], [member("b", nosync=True, sync_priority=0)], ""),
        ("should cascade (EC 137)", [sender("b"), sender("c")], [member("b"), member("c", replicatefrom="B")], "b"),
        (
            "should cascade through another (EC 137)",
            [sender("b"), sender("d")],
            [member("b"), member("c", replicatefrom="b"), member("d", replicatefrom="c")],
            "b",
        ),
        ("its upstream does not stream", [sender("c")], [member("b"), member("c", replicatefrom="b")], "c"),
        (
            "its upstream is not running",
            [sender("b"), sender("c")],
            [member("b", "stopped"), member("c", replicatefrom="b")],
            "c",
        ),
        ("its upstream is the primary", [sender("c")], [member("a"), member("c", replicatefrom="a")], "c"),
        ("cascading in a circle", [sender("b")], [member("b", replicatefrom="c"), member("c", replicatefrom="b")], "b"),
    ],
)
def test_who_can_be_synchronous(situation: str, senders: list[WalSender], members: list[Member], names: str) -> None:
    """EC 128, 129, 133, 137: the rows say which."""
    assert "".join(names_of(senders, members)) == names


@pytest.mark.parametrize(("commit", "position"), [("remote_write", 3), ("on", 2), ("local", 2), ("remote_apply", 1)])
def test_the_position_is_the_one_a_commit_waits_for(commit: str, position: int) -> None:
    row = WalSender("b", "streaming", write=Lsn(3), flush=Lsn(2), replay=Lsn(1))
    assert eligible([row], [member("b")], "a", commit)[0].position == position


def test_two_connections_under_one_name_are_one_candidate() -> None:
    """A dead connection that has not timed out yet: the one PostgreSQL waits for counts, else the one that proves less."""
    rows = [sender("b", 100, sync_state="potential"), sender("b", 90, sync_state="sync")]
    assert [(c.position, c.sync_state) for c in eligible(rows, [member("b")], "a", "on")] == [(90, "sync")]
    rows = [sender("b", 100, sync_state="quorum"), sender("b", 90, sync_state="quorum")]
    assert [c.position for c in eligible(reversed(rows), [member("b")], "a", "on")] == [90]


B, C, D = Candidate("b", Lsn(100)), Candidate("c", Lsn(200)), Candidate("d", Lsn(300))


@pytest.mark.parametrize(
    ("situation", "candidates", "expected"),
    [
        ("the most advanced one", [B, C], "c"),
        ("by name when equal", [replace(C, name="d"), C], "c"),
        ("the present one stays though it is behind (EC 131)", [replace(B, sync_state="sync"), C], "b"),
        ("the next in line before others", [replace(B, sync_state="potential"), C], "b"),
        ("a higher sync_priority replaces it", [replace(B, sync_state="sync"), replace(C, sync_priority=2)], "c"),
        ("one that can fail over is preferred (EC 130)", [replace(C, nofailover=True), B], "b"),
        (
            "... though the other is synchronous (EC 130)",
            [replace(C, nofailover=True, sync_state="sync", sync_priority=9), B],
            "b",
        ),
        ("nobody else is there", [replace(C, nofailover=True)], "c"),
        ("nobody at all", [], ""),
    ],
)
def test_who_is_chosen(situation: str, candidates: list[Candidate], expected: str) -> None:
    assert chosen(candidates) == expected
    assert chosen(candidates[::-1]) == expected


def test_a_name_just_set_is_not_given_up_before_its_connection_shows_it() -> None:
    assert chosen([B, C], names=first_of("b")) == "b"


def test_as_many_as_wanted_are_chosen() -> None:
    assert chosen([B, C, D], 2) == "dc"
    assert chosen([B, C, D], 0) == ""


@pytest.mark.parametrize(
    ("candidates", "limit", "expected"),
    [
        ([replace(B, sync_state="sync"), C], 100, "b"),
        ([replace(B, sync_state="sync"), C], 99, "c"),
        ([C], 800, "c"),
        ([C], 799, ""),
        ([C], 0, "c"),
    ],
)
def test_who_lags_beyond_the_limit_is_replaced(candidates: list[Candidate], limit: int, expected: str) -> None:
    """(EC 131, 132)"""
    assert chosen(candidates, limit=limit) == expected


def test_in_quorum_mode_all_take_part_but_nofailover_only_to_fill_up() -> None:
    candidates = preferred([B, replace(C, nofailover=True), D], OFF, -1, OWN)
    assert choose_any(candidates, 1) == choose_any(candidates, 2) == ("d", "b")
    assert choose_any(candidates, 3) == ("d", "b", "c")
    assert choose_any(candidates, 0) == ()


def at(position: int, names: Names, sync_state: str, in_force: bool = True) -> tuple[list[Candidate], Anchor]:
    return [Candidate("b", Lsn(position), sync_state)], Anchor(names, "era", Lsn(100), in_force)


@pytest.mark.parametrize(
    ("situation", "position", "names", "state", "in_force", "proven"),
    [
        ("caught up with the position at the change (EC 118)", 100, "b", "sync", True, True),
        ("not yet (EC 118)", 99, "b", "sync", True, False),
        ("the change is not in force yet", 100, "b", "sync", False, False),
        ("not named", 100, "c", "sync", True, False),
        ("named but not waited for", 100, "bc", "potential", True, False),
        ("its connection does not know yet", 100, "b", "async", True, False),
    ],
)
def test_when_a_standby_of_priority_mode_has_everything(
    situation: str, position: int, names: str, state: str, in_force: bool, proven: bool
) -> None:
    candidates, anchor = at(position, first_of(names), state, in_force)
    assert bool(proven_first(candidates, anchor, SyncView("1", "a"), "a")) is proven


@pytest.mark.parametrize(
    ("sync", "proven"),
    [
        (SyncView("1", "A", ("B",)), True),
        (SyncView("1", "a", ("b", "c"), 1), False),
        (SyncView("1", "c", ("b",)), False),
    ],
)
def test_a_listed_standby_has_everything_if_it_may_lead_alone(sync: SyncView, proven: bool) -> None:
    candidates, anchor = at(1, first_of("b"), "sync", False)
    assert bool(proven_first(candidates, anchor, sync, "a")) is proven


@pytest.mark.parametrize(("position", "state", "proven"), [(100, "quorum", True), (99, "quorum", False), (100, "async", False)])
def test_when_a_standby_of_quorum_mode_has_everything(position: int, state: str, proven: bool) -> None:
    candidates, anchor = at(position, any_of(1, "bc"), state)
    assert bool(proven_any(candidates, anchor)) is proven


def test_names_in_priority_form_count_as_well_after_a_switch_of_modes() -> None:
    candidates, anchor = at(100, first_of("b"), "sync")
    assert proven_any(candidates, anchor)


def test_the_first_look_at_a_change_is_never_believed() -> None:
    """A sender that has not read the new names yet may still confirm by the old ones, behind the position just read."""
    first = anchored(None, first_of("b"), "era", Lsn(10), True)
    second = anchored(first, first_of("B"), "era", Lsn(20), True)
    assert (first.in_force, second.in_force, second.position) == (False, True, 20)
    assert anchored(second, first_of("b"), "era", Lsn(30), True) is second


def test_the_anchor_moves_on_until_the_change_is_in_force() -> None:
    anchor = anchored(None, first_of("b"), "era", Lsn(10), False)
    anchor = anchored(anchor, first_of("b"), "era", Lsn(20), False)
    assert (anchor.in_force, anchor.position) == (False, 20)


@pytest.mark.parametrize(("names", "era"), [(first_of("c"), "era"), (any_of(1, "b"), "era"), (first_of("b"), "after a restart")])
def test_other_names_or_another_run_of_the_server_start_anew(names: Names, era: str) -> None:
    known = Anchor(first_of("b"), "era", Lsn(10), True)
    assert anchored(known, names, era, Lsn(30), True) == Anchor(names, era, Lsn(30), False)
