"""Worlds as JSON and back: exactly, without secrets, and from the records of other versions."""

from __future__ import annotations

import importlib
import json
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgcore.decide.advance import ClusterReading
from pgcore.model import actions as a
from pgcore.model.basics import Instant, Lsn, Role, State, Tags
from pgcore.model.cluster import ClusterView, ConfigRecord, HistoryEntry, Member
from pgcore.model.decision import Decision, Then
from pgcore.model.failsafe import FailsafeAnswer, FailsafeRecord
from pgcore.model.node import DataDir, NodeView, SlotReport
from pgcore.model.settings import Settings
from pgcore.model.world import Memory, World
from pgcore.record.secrets import without_secrets
from pgcore.record.worlds import Unknown, UnreadableError, decode, decode_named, encode, encode_named
from pgcore.testing.builders import NOW, demotion, leads, peer, peers, primary, standby, view, world
from rules.cases import Case

RULES = Path(__file__).parents[1] / "rules"


def cases() -> list[Case]:
    modules = (importlib.import_module(f"rules.{path.stem}") for path in sorted(RULES.glob("test_*.py")))
    return [case for module in modules for case in getattr(module, "CASES", ())]


def through_json(tree: Any) -> Any:
    return json.loads(json.dumps(tree))


def test_every_world_of_the_rule_cases_comes_back_as_it_was() -> None:
    found = [case for case in cases() if decode(World, through_json(encode(case.world))) != case.world]
    assert len(cases()) > 1000 and not found


def test_every_decision_of_the_rule_cases_comes_back_as_it_was() -> None:
    decisions = [decision for case in cases() if (decision := case.decision()) is not None]
    assert all(decode(Decision, through_json(encode(decision))) == decision for decision in decisions)
    assert len({type(action) for decision in decisions for action in decision.actions}) > 50


VALUES = (
    None, True, "renewed", 7, Lsn(77),
    primary(), standby(), SlotReport(frozenset({"x", "b"}), {"x": None, "y": 4}, "b"),
    ClusterReading(view("b"), Settings("a", "batman")),
    peers(peer("b", 12), peer("c", reachable=False)),
    {"b": FailsafeAnswer(True, Lsn(9)), "is": FailsafeAnswer(False, problem="no")},
    leads(2, 900), FailsafeRecord("b", "postgres://b", "http://b", {"b": Lsn(1)}, NOW, 30.0),
    (HistoryEntry(1, Lsn(5), "why", raw=(1, 5, "why")),), {3: "three"}, [1, ("two",)],
)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_whatever_an_action_comes_to_is_read_back_without_knowing_its_type(value: object) -> None:
    outcome = a.Outcome(NOW, value=value, began=Instant(999.5))
    back = decode(a.Outcome, through_json(encode(outcome)))
    assert back == outcome and type(back.value) is type(value)


# -- any value of any type -----------------------------------------------------------------------------------------------------

NAMES = st.text("abcxyz_-0", min_size=1, max_size=4)
KEYS = NAMES | st.just("is")
JSON = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | NAMES,
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2), max_leaves=4)
st.register_type_strategy(Lsn, st.integers(0, 1 << 40).map(Lsn))
st.register_type_strategy(float, st.floats(-1e9, 1e9))
st.register_type_strategy(str, NAMES)
st.register_type_strategy(Tags, JSON.map(lambda value: Tags({"x": value})))


def built(kind: type) -> st.SearchStrategy[Any]:
    """Any value of this type; what a hint leaves open is JSON."""
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{field.name: _hinted(hints[field.name]) for field in fields(kind)})  # type: ignore[arg-type]


def _hinted(hint: Any) -> st.SearchStrategy[Any]:
    if hint is Any or hint is object:
        return JSON
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if is_dataclass(hint):
        return st.from_type(hint) if hint is Tags else built(hint)  # type: ignore[arg-type]
    if origin is tuple and arguments[-1] is ...:
        return st.lists(_hinted(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(_hinted, arguments))
    if origin is frozenset:
        return st.frozensets(_hinted(arguments[0]), max_size=2)
    if origin is Mapping:
        return st.dictionaries(NAMES, _hinted(arguments[1]), max_size=2)
    if arguments:
        return st.one_of(*map(_hinted, arguments))
    return st.from_type(hint)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
@pytest.mark.parametrize("kind", [Memory, NodeView, ClusterView, Settings, World])
def test_any_value_comes_back_as_it_was(kind: type, data: st.DataObject) -> None:
    value = data.draw(built(kind))
    assert decode(kind, through_json(encode(value))) == value
    assert decode_named(through_json(encode_named(value))) == value


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
@pytest.mark.parametrize("kind", typing.get_args(a.Action))
def test_any_action_comes_back_as_it_was(kind: type, data: st.DataObject) -> None:
    value = data.draw(built(kind))
    assert decode_named(through_json(encode_named(value))) == value


# -- other versions ------------------------------------------------------------------------------------------------------------


def test_a_field_this_version_does_not_know_is_dropped() -> None:
    tree = through_json(encode(world(primary(), view("a"))))
    tree["node"]["invented"] = {"is": "Unheard"}
    tree["memory"]["also"] = 3
    assert decode(World, tree) == world(primary(), view("a"))


def test_a_field_the_record_does_not_have_gets_its_default() -> None:
    tree = through_json(encode(world(primary(), view("a"), maximum_lag_on_failover=5)))
    del tree["settings"]["maximum_lag_on_failover"], tree["settings"]["timing"]
    back = decode(World, tree)
    assert back.settings == Settings("a", "batman", dynamic={"ttl": 30})


def test_an_action_this_version_does_not_have_is_told_by_its_name() -> None:
    tree = {"because": "why", "actions": [{"is": "Secede", "region": "north"}, {"is": "Promote"}], "then": "REST"}
    back = decode(Decision, tree)
    assert back.actions == (Unknown("Secede", tree["actions"][0]), a.Promote())
    assert encode_named(back)["actions"][0] == tree["actions"][0]


def test_a_default_that_is_something_is_written() -> None:
    """A later version may have another default."""
    assert encode(Settings("a", "batman"))["maximum_lag_on_failover"] == 1048576


@pytest.mark.parametrize(("path", "value", "where"), [
    (("node", "role"), "king", "node.role"),
    (("node", "position"), "far", "node.position"),
    (("settings", "timing", "ttl"), "long", "settings.timing.ttl"),
    (("cluster", "members"), {}, "cluster.members"),
    (("memory", "procedure"), {"is": "Demotion", "mode": "polite"}, "memory.procedure.mode"),
])
def test_what_cannot_be_read_is_named(path: tuple[str, ...], value: object, where: str) -> None:
    tree = through_json(encode(world(primary(), view("a"), procedure=demotion(a.DemoteMode.GRACEFUL, a.Phase.STOP))))
    inner = tree
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    with pytest.raises(UnreadableError) as caught:
        decode(World, tree)
    assert caught.value.path == where


def test_a_required_field_that_is_missing_is_named() -> None:
    with pytest.raises(UnreadableError, match="data_dir of NodeView is missing"):
        decode(NodeView, {"at": 1.0, "role": "replica", "state": "running"})


def test_positions_and_words_are_readable_by_people() -> None:
    tree = encode(replace(standby(0x3000060), role=Role.REPLICA, state=State.RUNNING, data_dir=DataDir.PRESENT))
    assert tree["position"] == "0/3000060" and tree["role"] == "replica" and tree["state"] == "running"
    assert encode(Decision("why", then=Then.END))["then"] == "END"


# -- secrets -------------------------------------------------------------------------------------------------------------------

DOCUMENT = {
    "ttl": 30,
    "postgresql": {
        "authentication": {"superuser": {"username": "postgres", "password": "s3cret-1"}},
        "pg_hba": ["host all all all ldap ldapbindpasswd=s3cret-2"],
        "parameters": {"primary_conninfo": "password=s3cret-3", "archive_command": "s3cret-4 push %p", "shared_buffers": "1GB"},
        "recovery_conf": {"restore_command": "fetch --key s3cret-5 %f"},
    },
    "standby_cluster": {"host": "far", "restore_command": "fetch s3cret-6"},
    "api_token": 123456,
}
CARDS = (
    Member("token-0", conn_url="postgres://u:s3cret-7@10.0.0.1:5432/postgres", api_url="http://x:s3cret-8@10.0.0.1:8008/patroni",
           data={"conn_url": "postgres://u:s3cret-7@10.0.0.1:5432/postgres", "secret": "s3cret-9"}),
)


def test_secrets_are_left_out_and_the_rest_is_not() -> None:
    vouching = {"token-0": "http://10.0.0.1:8008"}
    seen = ClusterView(members=CARDS, config=ConfigRecord("1", DOCUMENT), leader="token-0", failsafe=vouching)
    before = replace(world(primary(), seen, dynamic=DOCUMENT), peers=peers(peer("token-0", 55)))
    written = json.dumps(without_secrets(encode(before)))
    assert "s3cret" not in written and "123456" not in written
    back = decode(World, json.loads(written))
    assert back.cluster.members[0].address == ("10.0.0.1", 5432)
    assert back.cluster.failsafe == vouching and back.peers == peers(peer("token-0", 55))
    assert back.settings.dynamic["ttl"] == 30 and back.settings.dynamic["postgresql"]["parameters"]["shared_buffers"] == "1GB"


def test_errors_may_quote_a_connection_string() -> None:
    error = "could not connect: host=10.0.0.1 user=u password='s3cret 1' dbname=x; postgres://u:s3cret@h/db; PGPASSWORD=s3cret"
    written = without_secrets(encode(a.Outcome(NOW, ok=False, error=error)))["error"]
    assert "s3cret" not in written and "host=10.0.0.1 user=u" in written and "dbname=x" in written


@given(JSON)
def test_leaving_secrets_out_twice_changes_nothing(tree: Any) -> None:
    once = without_secrets({"document": tree, "error": "password=x y://a:b@c"})
    assert without_secrets(once) == once
