"""A Patroni member and a pgcore member in one scope: what the one writes with kazoo, the other understands (dcs-layout 4, 8)."""

from __future__ import annotations

import json

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import BadVersionError, NodeExistsError

from pgcore.plugin import ABSENT, ANYTHING, Deadline, Key, Refused, Renewal, Stored, version

pytestmark = pytest.mark.server


def soon(seconds=5.0):
    return Deadline.after(seconds)


def read(store):
    return {path: record.value for path, record in store.read(fresh=True, deadline=soon()).records.items()}


@pytest.fixture
def patroni(zookeeper):
    """A client as Patroni has one: its session is kept alive by kazoo."""
    client = KazooClient(zookeeper.host, timeout=2)
    client.start(timeout=10)
    yield client
    client.stop()
    client.close()


def test_what_patroni_writes_is_read(zookeeper, patroni, connect, scope):
    values = {"leader": "p", "members/p": '{"role":"primary"}', "initialize": "7123456789", "config": '{"ttl":30}',
              "status": '{"optime":1}', "failover": "{}", "history": "[]", "failsafe": "{}", "optime/leader": "1"}
    for path, value in values.items():
        patroni.create(f"{scope}/{path}", value.encode(), makepath=True, ephemeral=path in ("leader", "members/p"))
    patroni.create(f"{scope}/sync", b"{}")  # switched off: there is no such key
    assert read(connect("g", hosts=zookeeper.host)) == values


def test_what_pgcore_writes_stands_where_patroni_looks(zookeeper, patroni, connect, scope):
    store = connect("g", hosts=zookeeper.host)
    store.announce('{"state":"running"}', deadline=soon())
    assert store.acquire(force=False, deadline=soon())
    store.put(Key.CONFIG, '{"ttl":30}', expect=ANYTHING, deadline=soon())
    store.put(Key.INITIALIZE, "", expect=ABSENT, deadline=soon())
    leader, leader_stat = patroni.get(f"{scope}/leader")
    card, card_stat = patroni.get(f"{scope}/members/g")
    assert (leader, json.loads(card)) == (b"g", {"state": "running"})
    assert leader_stat.ephemeralOwner == card_stat.ephemeralOwner != 0
    for path, value in (("config", b'{"ttl":30}'), ("initialize", b"")):
        found, stat = patroni.get(f"{scope}/{path}")
        assert (found, stat.ephemeralOwner) == (value, 0)


def test_one_lock_for_both(zookeeper, patroni, connect, scope):
    store = connect("g", hosts=zookeeper.host)
    assert store.acquire(force=False, deadline=soon())
    with pytest.raises(NodeExistsError):
        patroni.create(f"{scope}/leader", b"p", ephemeral=True)
    assert store.release({}, deadline=soon())
    patroni.create(f"{scope}/leader", b"p", ephemeral=True)
    assert store.acquire(force=False, deadline=soon()) is False
    assert store.renew({}, deadline=soon()) is Renewal.TAKEN
    assert store.release({}, deadline=soon()) is False
    assert read(store)["leader"] == "p"


def test_pgcore_takes_the_lock_and_the_card_of_patroni_of_its_own_name(zookeeper, patroni, connect, scope):
    patroni.create(f"{scope}/leader", b"g", ephemeral=True, makepath=True)
    patroni.create(f"{scope}/members/g", b"{}", ephemeral=True, makepath=True)
    store = connect("g", hosts=zookeeper.host)
    assert store.renew({}, deadline=soon()) is Renewal.HELD
    store.announce("{}", deadline=soon())
    patroni.stop()
    assert read(store) == {"leader": "g", "members/g": "{}"}


def test_conditions_agree_in_both_directions(zookeeper, patroni, connect, scope):
    store = connect("g", hosts=zookeeper.host)
    first = store.put(Key.SYNC, "1", expect=ABSENT, deadline=soon())
    _, stat = patroni.get(f"{scope}/sync")
    patroni.set(f"{scope}/sync", b"2", version=stat.version)
    assert store.put(Key.SYNC, "3", expect=version(first.version), deadline=soon()) == Refused()
    record = store.read(fresh=True, deadline=soon()).records["sync"]
    assert isinstance(store.put(Key.SYNC, "3", expect=version(record.version), deadline=soon()), Stored)
    with pytest.raises(BadVersionError):
        patroni.set(f"{scope}/sync", b"4", version=1)


def test_a_sync_that_was_removed_is_emptied_as_patroni_does_and_its_versions_go_on(zookeeper, patroni, connect, scope):
    store = connect("g", hosts=zookeeper.host)
    first = store.put(Key.SYNC, "1", expect=ABSENT, deadline=soon())
    assert store.delete(Key.SYNC, expect=version(first.version), deadline=soon()) == Stored()
    value, stat = patroni.get(f"{scope}/sync")
    assert (value, stat.version) == (b"{}", 1)
    assert "sync" not in read(store)
    again = store.put(Key.SYNC, "2", expect=ABSENT, deadline=soon())
    assert isinstance(again, Stored) and patroni.get(f"{scope}/sync")[1].version == 2


def test_a_version_of_a_znode_that_was_made_anew_is_refused(zookeeper, patroni, connect, scope):
    store = connect("g", hosts=zookeeper.host)
    old = store.put(Key.CONFIG, "1", expect=ABSENT, deadline=soon())
    patroni.delete(f"{scope}/config")
    patroni.create(f"{scope}/config", b"2")  # version 0, like the first
    assert store.put(Key.CONFIG, "3", expect=version(old.version), deadline=soon()) == Refused()
    assert store.delete(Key.CONFIG, expect=version(old.version), deadline=soon()) == Refused()
    assert read(store)["config"] == "2"


def test_a_card_of_patroni_does_not_wake_pgcore_but_its_lock_does(zookeeper, patroni, connect, scope):
    store = connect("g", hosts=zookeeper.host)
    seen = store.read(fresh=True, deadline=soon()).revision
    assert store.watch(seen, timeout=0.1) is False
    patroni.create(f"{scope}/members/p", b"{}", ephemeral=True, makepath=True)
    assert store.watch(seen, timeout=0.5) is False
    patroni.create(f"{scope}/leader", b"p", ephemeral=True)
    assert store.watch(seen, timeout=5) is True
