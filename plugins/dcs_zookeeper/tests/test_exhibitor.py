"""The servers as Exhibitor lists them: a stub of its one answer in front of a real ZooKeeper."""

from __future__ import annotations

import pytest

from pgcore.plugin import ANYTHING, Deadline, Key, StoreUnavailableError
from pgcore.testing.exhibitor import Exhibitor
from pgcore.testing.processes import LOOPBACK, free_port
from pgcore_dcs_zookeeper.section import ExhibitorSection

pytestmark = pytest.mark.server


def soon(seconds=5.0):
    return Deadline.after(seconds)


@pytest.fixture
def exhibitor():
    with Exhibitor() as stub:
        yield stub


def section(exhibitor, **keys):
    return ExhibitorSection(hosts=[LOOPBACK], port=exhibitor.port, **keys)


def test_the_listed_servers_are_used_and_asked_for_once_in_an_interval(zookeeper, exhibitor, connect):
    exhibitor.lists(LOOPBACK, port=zookeeper.port)
    store = connect("a", section=section(exhibitor))
    store.put(Key.CONFIG, "1", expect=ANYTHING, deadline=soon())
    for _ in range(3):
        assert store.read(fresh=True, deadline=soon()).records["config"].value == "1"
    assert store.acquire(force=False, deadline=soon())
    assert exhibitor.asked == ["/exhibitor/v1/cluster/list"]


def test_a_changed_list_is_followed(zookeeper, ensemble, exhibitor, connect):
    exhibitor.lists(LOOPBACK, port=zookeeper.port)
    store = connect("a", section=section(exhibitor, poll_interval=1))
    store.put(Key.CONFIG, "old", expect=ANYTHING, deadline=soon())
    exhibitor.lists(LOOPBACK, port=ensemble.servers[0].port)
    store._ensemble._exhibitor._next_at = None  # the interval is over
    store.read(fresh=True, deadline=soon())
    store._data.drop()
    assert "config" not in store.read(fresh=True, deadline=soon()).records


@pytest.mark.parametrize("answer", [b"", b"{}", b"no json", b'{"servers": [], "port": 1}', b'{"servers": ["h"], "port": "x"}'])
def test_a_bad_answer_leaves_the_last_list_in_use(zookeeper, exhibitor, connect, answer):
    exhibitor.lists(LOOPBACK, port=zookeeper.port)
    store = connect("a", section=section(exhibitor))
    store.put(Key.CONFIG, "1", expect=ANYTHING, deadline=soon())
    exhibitor.answer, store._ensemble._exhibitor._next_at = answer, None
    assert store.read(fresh=True, deadline=soon()).records["config"].value == "1"
    store._data.drop()
    assert store.read(fresh=True, deadline=soon()).records["config"].value == "1"
    assert len(exhibitor.asked) == 2


def test_the_second_exhibitor_is_asked_when_the_first_is_away(zookeeper, exhibitor, connect):
    exhibitor.lists(LOOPBACK, port=zookeeper.port)
    nobody = "127.0.0.2"
    store = connect("a", section=ExhibitorSection(hosts=[nobody, LOOPBACK], port=exhibitor.port))
    assert dict(store.read(fresh=True, deadline=soon()).records) == {}


def test_without_any_list_the_verbs_say_so(connect):
    store = connect("a", section=ExhibitorSection(hosts=[LOOPBACK], port=free_port()))
    with pytest.raises(StoreUnavailableError, match="Exhibitor lists no ZooKeeper server"):
        store.read(fresh=True, deadline=soon(0.5))
    assert store.watch("", timeout=0.2) is False
