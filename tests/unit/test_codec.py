"""Wire formats: what Patroni 4.1 writes is read, what we write is what it reads, and nothing that stands in a key raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgcore.dcs import codec
from pgcore.dcs.store import MEMBERS, Key, Record, Snapshot
from pgcore.decide.publish import card
from pgcore.model.basics import Lsn
from pgcore.model.cluster import ClusterStatus, ClusterView, FailoverRequest, HistoryEntry
from pgcore.testing.builders import primary, standby, view, world


def read(key: str, text: str) -> ClusterView:
    """The cluster when this key alone holds this text."""
    return codec.decode(Snapshot({key: Record(text, "7")}, "41"))


# -- paths and plain keys ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("namespace", "scope", "path"),
    [
        ("service", "demo", "/service/demo"),
        ("/service/", "demo", "/service/demo"),
        ("//a//b/", "demo", "/a/b/demo"),
        ("", "demo", "/demo"),
    ],
)
def test_slashes_around_a_namespace_do_not_matter(namespace: str, scope: str, path: str) -> None:
    assert codec.scope_path(namespace, scope) == path


def test_an_empty_store_is_an_unlocked_cluster_that_was_never_made() -> None:
    found = codec.decode(Snapshot({}, "1"))
    assert found == ClusterView(revision="1")
    assert found.unlocked and found.initialize is None and found.timeline == 0


@pytest.mark.parametrize(("text", "leader"), [("a", "a"), ("", None)])
def test_an_empty_lock_is_no_lock(text: str, leader: str | None) -> None:
    assert read(Key.LEADER, text).leader == leader


@pytest.mark.parametrize(
    ("text", "valid"),
    [("7300000000000000001", True), ("1234567890", True), ("123456789", False), ("", False), ("12345678x0", False)],
)
def test_a_system_identifier_has_at_least_ten_digits(text: str, valid: bool) -> None:
    found = read(Key.INITIALIZE, text)
    assert (found.initialize, found.initialize_version, found.initialized) == (text, "7", valid)


def test_a_configuration_that_cannot_be_read_is_there_without_a_document() -> None:
    broken, sound = read(Key.CONFIG, "{").config, read(Key.CONFIG, '{"ttl":20}').config
    assert broken is not None and broken.document is None and broken.version == "7"
    assert sound is not None and sound.document == {"ttl": 20}


# -- status ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ('{"optime":100,"slots":{"b":90},"retain_slots":["b"]}', ClusterStatus(Lsn(100), {"b": Lsn(90)}, ("b",))),
        ("100", ClusterStatus(Lsn(100))),
        ('{"optime":100,"slots":"{\\"b\\":90}","retain_slots":"[\\"b\\"]"}', ClusterStatus(Lsn(100), {"b": Lsn(90)}, ("b",))),
        ('{"optime":"100","slots":{"b":"x"}}', ClusterStatus(Lsn(100), {"b": Lsn(0)})),
        ('{"optime":null,"slots":[],"retain_slots":{}}', ClusterStatus()),
        ("nonsense", ClusterStatus()),
    ],
    ids=["an object", "a bare number", "JSON inside JSON (Kubernetes)", "numbers as text", "wrong kinds", "nonsense"],
)
def test_a_status_is_read_in_every_form(text: str, status: ClusterStatus) -> None:
    assert read(Key.STATUS, text).status == status


def test_the_legacy_position_counts_only_without_a_status() -> None:
    assert read(Key.OPTIME, "55").status.optime == 55
    both = {Key.OPTIME: Record("55", "1"), Key.STATUS: Record('{"optime":66}', "1")}
    assert codec.decode(Snapshot(both, "1")).status.optime == 66


def test_a_status_is_written_without_blanks_and_without_what_is_empty() -> None:
    assert codec.encode_status(ClusterStatus(Lsn(7))) == '{"optime":7}'
    full = ClusterStatus(Lsn(7), {"c": Lsn(2), "b": Lsn(1)}, ("c", "b"))
    assert codec.encode_status(full) == '{"optime":7,"slots":{"b":1,"c":2},"retain_slots":["b","c"]}'


# -- failover ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ('{"leader":"a","member":"b"}', FailoverRequest("7", "a", "b")),
        ('{"member":"b"}', FailoverRequest("7", None, "b")),
        ('{"leader":"a"}', FailoverRequest("7", "a")),
        ("a:b", FailoverRequest("7", "a", "b")),
        (" a : b ", FailoverRequest("7", "a", "b")),
        ("{}", None),
        ('{"leader":"","member":""}', None),
        ('{"scheduled_at":"2030-01-01T00:00:00+00:00"}', None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_a_request_is_read_in_every_form(text: str, request_: FailoverRequest | None) -> None:
    assert read(Key.FAILOVER, text).failover == request_


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("2030-01-01T00:00:00+00:00", 1893456000.0),
        ("2030-01-01T02:00:00+02:00", 1893456000.0),
        ("2030-01-01T00:00:00Z", 1893456000.0),
        ("2030-01-01T00:00:00", None),
        ("noon", None),
        (12, None),
    ],
    ids=["utc", "another zone", "Z", "without a zone (EC 71)", "garbage (EC 71)", "a number"],
)
def test_a_schedule_needs_a_zone(text: object, due: float | None) -> None:
    found = read(Key.FAILOVER, json.dumps({"leader": "a", "scheduled_at": text})).failover
    assert found is not None
    assert found.scheduled_at and found.due_at == due


def test_a_request_is_written_as_patroni_reads_it() -> None:
    assert (
        codec.encode_failover("a", "b", "2030-01-01T00:00:00+00:00")
        == '{"leader":"a","member":"b","scheduled_at":"2030-01-01T00:00:00+00:00"}'
    )
    assert codec.encode_failover(None, "b") == '{"member":"b"}'
    assert codec.encode_failover() == "{}"


# -- sync, history, failsafe ------------------------------------------------------------------------------------------------


def test_synchronous_state_is_read_and_written_in_wire_order() -> None:
    found = read(Key.SYNC, '{"leader":"A","quorum":1,"sync_standby":"b,c"}').sync
    assert (found.version, found.leader, found.standbys, found.quorum, found.active) == ("7", "A", ("b", "c"), 1, True)
    assert found.covers("a") and found.covers("B") and not found.covers("d")
    assert codec.encode_sync("a") == '{"leader":"a","quorum":0,"sync_standby":null}'
    assert codec.encode_sync("a", ("c", "b"), 1) == '{"leader":"a","quorum":1,"sync_standby":"b,c"}'


@pytest.mark.parametrize("text", ["{}", "[]", "x", '{"leader":"","sync_standby":"b"}', '{"leader":null}'])
def test_synchronous_state_without_a_leader_is_empty_but_has_a_version(text: str) -> None:
    found = read(Key.SYNC, text).sync
    assert (found.active, found.standbys, found.version) == (False, (), "7")


def test_lines_of_history_are_kept_as_they_are_stored() -> None:
    text = '[[1,100,"no recovery target specified"],[2,200,"x","2030-01-01T00:00:00+00:00","b"]]'
    found = read(Key.HISTORY, text)
    assert found.history is not None and found.timeline == 3
    assert (found.history[0].timestamp, found.history[1].new_leader) == (None, "b")
    assert codec.encode_history(found.history) == text


def test_a_new_line_of_history_has_five_items() -> None:
    assert codec.encode_history((HistoryEntry(1, Lsn(9), "x", "t", "a"),)) == '[[1,9,"x","t","a"]]'


@pytest.mark.parametrize(
    ("text", "timeline"), [("[]", 1), ("x", 0), ("{}", 1), ("[[]]", 0), ('[["x",1,"r"]]', 0), ("7", 0), ("null", 0)]
)
def test_a_history_that_cannot_be_read_is_unknown(text: str, timeline: int) -> None:
    assert read(Key.HISTORY, text).timeline == timeline


@pytest.mark.parametrize(("text", "found"), [('{"a":"http://h"}', {"a": "http://h"}), ("[]", None), ("x", None), ("{}", {})])
def test_a_failsafe_topology_is_a_map_or_nothing(text: str, found: dict[str, str] | None) -> None:
    assert read(Key.FAILSAFE, text).failsafe == found


# -- members -----------------------------------------------------------------------------------------------------------------

CARD = {
    "conn_url": "postgres://10.0.0.2:5433/postgres",
    "api_url": "http://10.0.0.2:8008/patroni",
    "state": "running",
    "role": "master",
    "version": "2.1.0",
    "xlog_location": "1000",
    "timeline": 3,
    "checkpoint_after_promote": False,
    "tags": {"nofailover": True},
    "custom": [1],
}


def test_the_card_of_an_old_patroni_is_understood() -> None:
    found = codec.decode_member("b", json.dumps(CARD))
    assert found.address == ("10.0.0.2", 5433)
    assert (found.is_primary, found.is_patroni, found.running, found.checkpoint_pending) == (True, True, True, True)
    assert (found.xlog_location, found.timeline, found.tags.nofailover, found.data["custom"]) == (1000, 3, True, [1])


@pytest.mark.parametrize(
    ("text", "pgcore", "patroni"),
    [
        ('{"version":"4.1.5","state":"running","role":"replica"}', False, True),
        ('{"version":"4.1.5","pgcore_version":"0.1.0","state":"running","role":"replica"}', True, False),
        ('{"version":"4.1.5","pgcore_version":"0.1.0"}', True, False),
        ('{"version":"4.1.5","pgcore_version":null}', False, True),
        ('{"version":"4.1.5","pgcore_version":""}', False, True),
        ('{"version":"3.3.2","role":"master"}', False, True),
        ('{"version":"garbage"}', False, True),
        ('{"state":"stopped","role":"primary"}', False, True),
        ("{}", False, False),
        ("", False, False),
        ("garbage", False, False),
        ("[]", False, False),
        ("postgres://10.0.0.2:5433/postgres?application_name=http://10.0.0.2:8008/patroni", False, False),
    ],
)
def test_which_kind_of_agent_wrote_a_card(text: str, pgcore: bool, patroni: bool) -> None:
    """(dcs-layout 11.1) Only pgcore adds its own version; who wrote nothing readable is neither."""
    found = codec.decode_member("b", text)
    assert (found.is_pgcore, found.is_patroni) == (pgcore, patroni)


def test_one_card_of_patroni_makes_the_cluster_keep_to_its_limits() -> None:
    ours, theirs = Record('{"pgcore_version":"0.1.0"}', "1"), Record('{"version":"4.1.5"}', "1")
    records = {MEMBERS + "a": ours, MEMBERS + "b": ours, MEMBERS + "c": Record("", "1")}
    assert not codec.decode(Snapshot(records, "1")).patroni_present
    assert codec.decode(Snapshot(records | {MEMBERS + "c": theirs}, "1")).patroni_present


def test_the_ancient_form_of_a_card_is_a_url() -> None:
    found = codec.decode_member("b", "postgres://10.0.0.2:5433/postgres?application_name=http://10.0.0.2:8008/patroni")
    assert (found.conn_url, found.api_url) == ("postgres://10.0.0.2:5433/postgres", "http://10.0.0.2:8008/patroni")


def test_a_card_with_conn_kwargs_only_can_be_followed() -> None:
    assert codec.decode_member("b", '{"conn_kwargs":{"host":"h","port":1,"user":"x"}}').address == ("h", 1)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '{"tags":[],"timeline":true,"xlog_location":"x"}'])
def test_a_member_with_a_broken_card_is_still_a_member(text: str) -> None:
    found = codec.decode_member("b", text)
    assert (found.name, found.address, found.api_url, found.timeline, found.running) == ("b", None, None, None, False)


def test_members_come_in_the_order_of_their_names() -> None:
    records = {MEMBERS + name: Record("{}", "1") for name in ("c", "a", "b")}
    assert [each.name for each in codec.decode(Snapshot(records, "1")).members] == ["a", "b", "c"]


@pytest.mark.parametrize("node", [primary(), standby()], ids=["primary", "standby"])
def test_a_card_that_is_published_is_read_back_as_meant(node: Any) -> None:
    at = world(node, view("a"), conn_url="postgres://10.0.0.1:5432/postgres", api_url="http://10.0.0.1:8008/patroni")
    text = codec.compact(card(at))
    assert " " not in text
    found = codec.decode_member("a", text)
    assert (found.address, found.role, found.timeline, found.xlog_location) == (("10.0.0.1", 5432), node.role, 1, 1000)
    assert not found.is_patroni


# -- anything ----------------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = (
    "leader",
    "member",
    "scheduled_at",
    "optime",
    "slots",
    "retain_slots",
    "sync_standby",
    "quorum",
    "tags",
    "state",
    "timeline",
)
OBJECTS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5)
TEXTS = st.one_of(st.text(max_size=20), VALUES.map(json.dumps), OBJECTS.map(json.dumps))
FUZZ = settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@FUZZ
@given(st.sampled_from([*Key, MEMBERS + "b"]), TEXTS)
def test_whatever_stands_in_a_key_nothing_raises(key: str, text: str) -> None:
    found = read(key, text)
    assert found.timeline >= 0
    assert all(each.slot and each.tags.failover_priority is not None for each in found.members)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (Key.STATUS, '{"optime":Infinity}'),
        (Key.HISTORY, '[[1,1e999,"x"]]'),
        (MEMBERS + "b", "postgres://["),
        (MEMBERS + "b", '{"tags":{"failover_priority":1e999}}'),
        (MEMBERS + "b", '{"conn_url":5}'),
        (Key.CONFIG, "[" * 100_000),
    ],
    ids=[
        "infinite position",
        "infinite history",
        "broken old URL",
        "infinite priority",
        "URL is a number",
        "deep nesting",
    ],
)
def test_no_value_however_odd_raises(key: str, text: str) -> None:
    found = read(key, text)
    for each in found.members:
        assert each.tags.failover_priority is not None
        assert each.address is None
