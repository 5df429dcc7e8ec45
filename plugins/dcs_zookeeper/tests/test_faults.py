"""What ZooKeeper and the network do to a client: servers that die, freeze and restart, sessions that end, lost answers."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from kazoo.client import KazooClient
from kazoo.protocol.serialization import Close, Create, SetData, Transaction

from pgcore.plugin import (
    ANYTHING,
    Deadline,
    Key,
    Renewal,
    StoreRejectedError,
    StoreUnavailableError,
    Timing,
    version,
)

pytestmark = pytest.mark.server
LONGER = Timing(ttl=6, loop_wait=1, retry_timeout=2)


def soon(seconds=5.0):
    return Deadline.after(seconds)


def put(store, value, deadline=None):
    return store.put(Key.CONFIG, value, expect=ANYTHING, deadline=deadline or soon())


def read(store, fresh=True, deadline=None):
    return {path: record.value for path, record in store.read(fresh=fresh, deadline=deadline or soon()).records.items()}


def until(condition, within):
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"did not happen within {within} s"
        time.sleep(0.05)


# -- the lease --------------------------------------------------------------------------------------------------------

def test_an_agent_that_only_reads_and_watches_loses_its_lock(zookeeper, connect):
    a, b = connect("a", hosts=zookeeper.host), connect("b", hosts=zookeeper.host)
    assert a.acquire(force=False, deadline=soon())
    a.announce("card", deadline=soon())
    began, stop = time.monotonic(), threading.Event()

    def watch():
        while not stop.is_set():
            a.watch(a.read(fresh=False, deadline=soon()).revision, timeout=0.2)

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            until(lambda: "leader" not in read(b), 5)
        finally:
            stop.set()
        watching.result()
    assert 1.5 < time.monotonic() - began < 4.5
    assert "members/a" not in read(b)


def test_no_thread_and_no_socket_is_left_behind(zookeeper, connect, line):
    cable, threads = line(zookeeper.host), threading.active_count()
    store = connect("a", hosts=cable.host)
    store.announce("card", deadline=soon())
    store.watch(read(store) and "", timeout=0.1)
    inside = threading.active_count()
    assert inside - threads == 2 * cable.connections, "a thread that is not the line's"
    store.close()
    until(lambda: threading.active_count() <= threads, 5)


def test_a_renewal_is_a_new_connection_and_a_write(zookeeper, connect, line):
    cable = line(zookeeper.host)
    store = connect("a", hosts=cable.host)
    assert store.acquire(force=False, deadline=soon())
    time.sleep(0.3)
    cable.requests.clear()
    before = cable.connections
    assert store.renew({}, deadline=soon()) is Renewal.HELD
    assert (cable.requests, cable.connections - before) == ([Transaction.type, 4], 1)


def test_a_session_that_was_ended_from_outside_is_noticed_and_replaced(zookeeper, connect):
    a, b = connect("a", hosts=zookeeper.host), connect("b", hosts=zookeeper.host)
    assert a.acquire(force=False, deadline=soon())
    a.announce("card", deadline=soon())
    ticket = a._lease._session.ticket
    thief = KazooClient(zookeeper.host, client_id=(ticket.number, ticket.password))
    thief.start(timeout=10)
    thief.stop()
    assert a.renew({}, deadline=soon()) is Renewal.GONE
    a.announce("card", deadline=soon())
    assert a.acquire(force=False, deadline=soon()) and a.renew({}, deadline=soon()) is Renewal.HELD
    assert read(b) == {"leader": "a", "members/a": "card"}


def test_a_ttl_longer_than_any_session_of_the_server_is_refused_with_the_remedy(zookeeper, connect):
    store = connect("a", hosts=zookeeper.host, timing=Timing(ttl=90, loop_wait=10, retry_timeout=10))
    with pytest.raises(StoreRejectedError, match=r"after 60 s.*maxSessionTimeout"):
        store.acquire(force=False, deadline=soon())
    assert "leader" not in read(store)


# -- lost answers -----------------------------------------------------------------------------------------------------

def test_a_conditional_write_whose_answer_was_lost_is_undecided(zookeeper, connect, line):
    cable = line(zookeeper.host)
    a, b = connect("a", hosts=cable.host), connect("b", hosts=zookeeper.host)
    first = put(a, "1")
    cable.swallow = SetData.type
    with pytest.raises(StoreUnavailableError, match="may have happened"):
        a.put(Key.CONFIG, "2", expect=version(first.version), deadline=soon())
    assert read(b)["config"] == "2"


@pytest.mark.parametrize(("kind", "verb"), [
    (Create.type, lambda store: store.acquire(force=False, deadline=soon())),
    (Create.type, lambda store: store.announce("card", deadline=soon()) is None),
    (Close.type, lambda store: store.acquire(force=False, deadline=soon()) and store.release({}, deadline=soon())),
    (Transaction.type, lambda store: store.acquire(force=False, deadline=soon())
     and store.renew({}, deadline=soon()) is Renewal.HELD),
], ids=["acquire", "announce", "release", "renew"])
def test_a_verb_of_the_lease_whose_answer_was_lost_is_settled_by_looking(zookeeper, connect, line, kind, verb):
    cable = line(zookeeper.host)
    store = connect("a", hosts=cable.host)
    put(store, "the scope is there")
    cable.swallow = kind
    assert verb(store) is True
    assert cable.swallow is None


def test_a_request_that_was_given_up_is_never_carried_out_later(zookeeper, connect):
    a = connect("a", hosts=zookeeper.host, timing=LONGER)
    put(a, "before")
    zookeeper.kill()
    with pytest.raises(StoreUnavailableError):
        put(a, "given up", deadline=soon(0.5))
    with pytest.raises(StoreUnavailableError):
        a.acquire(force=False, deadline=soon(0.5))
    assert not a.watch("0:0.0.0.0.0", timeout=0.3)
    zookeeper.start()
    assert read(a, deadline=soon(10)) == {"config": "before"}
    time.sleep(0.5)
    assert read(a) == {"config": "before"}


# -- servers that die -------------------------------------------------------------------------------------------------

def test_lock_and_data_survive_a_restart_of_the_server(zookeeper, connect):
    a, b = connect("a", hosts=zookeeper.host, timing=LONGER), connect("b", hosts=zookeeper.host)
    assert a.acquire(force=False, deadline=soon())
    put(a, "kept")
    seen = a.read(fresh=True, deadline=soon()).revision
    a.watch(seen, timeout=0.1)
    zookeeper.kill()
    zookeeper.start()
    assert a.renew({}, deadline=soon(10)) is Renewal.HELD
    assert read(b, deadline=soon(10)) == {"leader": "a", "config": "kept"}
    put(b, "new")
    assert a.watch(seen, timeout=10) is True


@contextmanager
def renewing(store):
    """Renew again and again while entered; yields what came of it."""
    stop, outcomes = threading.Event(), []

    def renew():
        while not stop.is_set():
            outcomes.append(store.renew({}, deadline=soon()))
            time.sleep(0.05)

    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(renew)
        try:
            yield outcomes
        finally:
            stop.set()
        task.result()


def test_renewals_and_watch_survive_the_death_of_the_leading_server(ensemble, connect):
    a, b = connect("a", hosts=ensemble.hosts, timing=LONGER), connect("b", hosts=",".join(ensemble.hosts), timing=LONGER)
    assert a.acquire(force=False, deadline=soon())
    b.watch(b.read(fresh=True, deadline=soon()).revision, timeout=0.1)
    leader = ensemble.leader
    with renewing(a) as outcomes:
        time.sleep(0.2)
        leader.kill()
        seen = b.read(fresh=True, deadline=soon(10)).revision
        put(connect("c", hosts=ensemble.hosts), "news", deadline=soon(10))
        assert b.watch(seen, timeout=10) is True
        assert read(b, deadline=soon(10))["config"] == "news"
    assert set(outcomes) == {Renewal.HELD}
    leader.start()


def test_a_frozen_server_of_three_holds_up_neither_verbs_nor_watch(ensemble, connect):
    frozen = next(server for server in ensemble.servers if not server.leads)
    b = connect("b", hosts=[server.host for server in ensemble.servers if server is not frozen], timing=LONGER)
    a = connect("a", hosts=ensemble.hosts, timing=LONGER)
    a._ensemble.endpoints.prefer(f"http://{frozen.host}")
    assert a.acquire(force=False, deadline=soon())
    seen = a.read(fresh=True, deadline=soon()).revision
    a.watch(seen, timeout=0.1)
    with frozen.frozen():
        put(b, "news")
        assert a.watch(seen, timeout=10) is True
        began = time.monotonic()
        assert read(a, deadline=soon(3))["config"] == "news"
        assert a.renew({}, deadline=soon(3)) is Renewal.HELD
        assert time.monotonic() - began < 4


def test_a_server_cut_off_from_the_other_two_confirms_no_renewal(ensemble, connect):
    """The one server this client may ask has no majority behind it, though its own process is well."""
    alone = ensemble.leader
    others = [server for server in ensemble.servers if server is not alone]
    a = connect("a", hosts=alone.host, timing=LONGER)
    assert a.acquire(force=False, deadline=soon())
    a.read(fresh=True, deadline=soon())
    for server in others:
        server.freeze()
    try:
        for verb in (lambda: a.renew({}, deadline=soon(0.7)), lambda: a.read(fresh=True, deadline=soon(0.7))):
            with pytest.raises(StoreUnavailableError):
                verb()
    finally:
        for server in others:
            server.thaw()
    assert a.renew({}, deadline=soon(15)) in (Renewal.HELD, Renewal.GONE)
