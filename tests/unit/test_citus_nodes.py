"""What the coordinator's pg_dist_node should say. (HA rules 29)"""

from __future__ import annotations

from typing import Any

import pytest

from pgcore.builtin.citus import pgcore_mpp_handlers
from pgcore.builtin.citus.handler import CitusHandler
from pgcore.builtin.citus.nodes import AddPrimary, AddSecondary, MovePrimary, Remove, Row, Step, steps
from pgcore.config.sections import CitusSection
from pgcore.daemon.mpp import groups_of
from pgcore.dcs.store import Record, Snapshot
from pgcore.mpp import Group, GroupMember


def member(name: str, **changes: Any) -> GroupMember:
    return GroupMember(name, f"{name}.example", 5432, f"http://{name}:8008", **{"running": True, **changes})


def group(leader: str | None, *members: GroupMember, number: int = 1) -> Group:
    return Group(number, leader, members)


A, B = member("a", primary=True), member("b")
A_ROW, B_ROW = Row(7, 1, "a.example", 5432, True), Row(8, 1, "b.example", 5432, False)


@pytest.mark.parametrize(("situation", "rows", "found", "wanted"), [
    ("a new group", [], group("a", A), [AddPrimary(1, "a.example", 5432)]),
    ("with a standby", [], group("a", A, B),
     [AddPrimary(1, "a.example", 5432), AddSecondary("b.example", 5432, "a.example", 5432)]),
    ("all is as it should be", [A_ROW, B_ROW], group("a", A, B), []),
    ("after a failover of which nobody reported (EC 226)", [A_ROW, B_ROW], group("b", member("b", primary=True)),
     [Remove("b.example", 5432), MovePrimary(7, "b.example", 5432)]),
    ("the former primary is a standby now", [A_ROW, B_ROW], group("b", member("b", primary=True), member("a")),
     [Remove("b.example", 5432), MovePrimary(7, "b.example", 5432), AddSecondary("a.example", 5432, "b.example", 5432)]),
    ("a change was left half done", [Row(7, 1, "a.example-demoted", 5432, True)], group("a", A),
     [MovePrimary(7, "a.example", 5432)]),
    ("the new leader is still being promoted: the row stays", [A_ROW], group("b", B, member("a", running=False)), []),
    ("nobody leads: the row stays", [A_ROW, B_ROW], group(None, B), []),
    ("a standby is not to be read from", [A_ROW, B_ROW], group("a", A, member("b", noloadbalance=True)),
     [Remove("b.example", 5432)]),
    ("a standby is gone", [A_ROW, B_ROW], group("a", A), [Remove("b.example", 5432)]),
    ("a standby does not run", [A_ROW], group("a", A, member("b", running=False)), []),
])
def test_steps_of_a_group(situation: str, rows: list[Row], found: Group, wanted: list[Step]) -> None:
    assert list(steps(rows, {1: found})) == wanted, situation


def test_a_group_whose_change_is_open_is_left_alone() -> None:
    assert steps([A_ROW], {1: group("b", member("b", primary=True))}, changing=(1,)) == ()


def test_groups_are_done_in_order_and_those_the_store_does_not_name_stay() -> None:
    other = group("c", member("c", primary=True), number=2)
    assert steps([A_ROW], {2: other}) == (AddPrimary(2, "c.example", 5432),)


def test_groups_are_read_from_below_the_path_of_the_scope() -> None:
    card = '{"conn_url":"postgres://10.0.0.1:5432/postgres","api_url":"http://x","state":"running","role":"primary"}'
    records = {"0/leader": Record("a", "1"), "0/members/a": Record(card, "2"), "12/members/b": Record(card, "3"),
               "leader": Record("x", "4"), "01/leader": Record("x", "5")}
    found = groups_of(Snapshot(records, "9"))
    assert sorted(found) == [0, 12]
    assert found[0].leader_member == GroupMember("a", "10.0.0.1", 5432, "http://x", True, True, False)
    assert found[12].leader is None


def test_only_the_slots_of_moves_and_splits_in_the_own_database_are_kept() -> None:
    handler = CitusHandler(0, "app")
    assert handler.keeps_slot("citus_shard_move_slot_1", "pgoutput", "app")
    assert handler.keeps_slot("citus_shard_split_slot_1", "citus", "app")
    assert not handler.keeps_slot("citus_shard_move_slot_1", "pgoutput", "other")
    assert not handler.keeps_slot("citus_shard_move_slot_1", None, None)
    assert not handler.keeps_slot("mine", "pgoutput", "app")


def test_the_handler_is_there_only_with_a_section() -> None:
    assert list(pgcore_mpp_handlers({})) == []
    (handler,) = pgcore_mpp_handlers({"citus": CitusSection(group=3, database="app")})
    assert handler.group == 3
