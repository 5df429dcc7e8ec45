"""Keys as annotations and back."""

from __future__ import annotations

import pytest

from pgcore.dcs.codec import decode_member, encode_failover, encode_status, encode_sync
from pgcore.model.basics import Lsn
from pgcore.model.cluster import ClusterStatus
from pgcore.plugin import Key
from pgcore_dcs_kubernetes.layout import Names, card_life, card_written, removed, text_of, version_of, written
from pgcore_dcs_kubernetes.lock import Lock, in_annotations, in_lease, to_annotations, to_lease

STATUS = encode_status(ClusterStatus(Lsn(42), {"b": Lsn(7), "a": Lsn(1)}, ("b",)))


def applied(change, before=None):
    """Annotations after a change, as Kubernetes merges it."""
    return {name: text for name, text in ((before or {}) | change).items() if text is not None}


@pytest.mark.parametrize(("key", "text", "annotations"), [
    (Key.SYNC, encode_sync("a", ("b", "c"), 1), {"leader": "a", "quorum": "1", "sync_standby": "b,c"}),
    (Key.SYNC, encode_sync("a"), {"leader": "a", "quorum": "0"}),
    (Key.FAILOVER, encode_failover("a", "b", "2030-01-01T00:00:00+00:00"),
     {"leader": "a", "member": "b", "scheduled_at": "2030-01-01T00:00:00+00:00"}),
    (Key.FAILOVER, "{}", {}),
    (Key.STATUS, STATUS, {"optime": "42", "slots": '{"a":1,"b":7}', "retain_slots": '["b"]'}),
    (Key.STATUS, '{"optime":42}', {"optime": "42"}),
    (Key.CONFIG, '{"ttl":30}', {"config": '{"ttl":30}'}), (Key.INITIALIZE, "", {"initialize": ""}),
    (Key.FAILSAFE, '{"a":"x"}', {"failsafe": '{"a":"x"}'}), (Key.HISTORY, "[]", {"history": "[]"})])
def test_what_the_agent_writes_stands_there_as_patroni_reads_it(key, text, annotations):
    found = applied(written(key, text))
    assert {name: value for name, value in found.items() if not name.startswith("pgcore/")} == annotations
    assert text_of(key, found) == text
    assert text_of(key, annotations) == (None if text == "{}" else text)
    assert text_of(key, applied(removed(key), found)) is None


@pytest.mark.parametrize("text", ["plain", "", "7", '{"leader": "a"}', '{"leader":"a","more":1}', "[]", "null", "{}",
                                  '{"optime":"x"}'])
@pytest.mark.parametrize("key", [key for key in Key if key is not Key.LEADER])
def test_any_text_comes_back_whatever_stood_there(key, text):
    for before in ({}, applied(written(key, STATUS)), applied(written(key, encode_sync("a"))), applied(removed(key))):
        assert text_of(key, applied(written(key, text), before)) == text


def test_what_patroni_writes_later_counts():
    ours = applied(written(Key.SYNC, "odd"))
    assert text_of(Key.SYNC, applied({"leader": "p", "quorum": "0", "sync_standby": None}, ours)) == encode_sync("p")
    cleared = applied({"leader": None, "member": None}, applied(written(Key.FAILOVER, encode_failover("a"))))
    assert text_of(Key.FAILOVER, cleared) == "{}"
    assert text_of(Key.STATUS, {"optime": "7", "slots": "broken", "retain_slots": ""}) == '{"optime":7}'


def test_a_version_is_of_one_key_and_one_write():
    one = applied(written(Key.CONFIG, "x"))
    both = applied(written(Key.HISTORY, "[]"), one)
    assert version_of(Key.CONFIG, one) == version_of(Key.CONFIG, both)
    assert version_of(Key.CONFIG, applied(written(Key.CONFIG, "x"), both)) != version_of(Key.CONFIG, both)
    assert version_of(Key.CONFIG, both | {"config": "y"}) != version_of(Key.CONFIG, both), "written by Patroni or by hand"


def test_names_are_patronis_and_tell_parts_apart():
    names, endpoints, group = Names("demo"), Names("demo", leader_suffix=""), Names("demo", "2")
    assert [names.of(part) for part in ("leader", "config", "failover", "sync")] == [
        "demo-leader", "demo-config", "demo-failover", "demo-sync"]
    assert (endpoints.of("leader"), group.of("leader")) == ("demo", "demo-2-leader")
    assert Names("demo", "0", "").of("leader") == "demo-0"
    assert [names.part(name, "") for name in ("demo-leader", "demo-sync", "demo-x", "demo", "demo-2-sync")] == [
        "leader", "sync", "", "", ""]
    assert names.part("demo-2-sync", "2") == "sync" and endpoints.part("demo", "") == "leader"
    assert names.member_of(names.member("a-b"), "") == "a-b" and names.member_of("demo-sync", "") == ""


def test_the_lock_reads_back_from_annotations_and_from_a_lease():
    lock = Lock().taken("a", 30, anew=True)
    assert in_annotations(applied(to_annotations(lock))) == lock
    spec = to_lease(lock)
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("a", 30, 1)
    assert to_lease(in_lease(spec)) == spec
    renewed = lock.taken("a", 60, anew=False)
    assert (renewed.acquired, renewed.transitions, renewed.version) == (lock.acquired, "1", lock.version) and renewed.ttl == "60"
    assert lock.freed().leader == "" and lock.freed().taken("b", 30, anew=True).transitions == "2"
    assert in_lease({"holderIdentity": None}).leader == "" and in_annotations({}).lasts_s(20) == 20


def test_a_card_lives_as_long_as_its_sign_of_life_belongs_to_it():
    card = '{"state":"running"}'
    found = applied(card_written(card, 30))
    assert decode_member("a", found["status"]).state == "running"
    life = card_life(found)
    assert life is not None and life[0] == 30
    assert card_life(applied(card_written(card, 30)))[1] != life[1]
    assert card_life(found | {"status": "{}"}) is None, "written by Patroni: it lasts as long as its pod"
