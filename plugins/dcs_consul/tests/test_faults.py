"""What Consul does to its clients: agents that restart and forget, sessions that are destroyed, answers that get lost."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgcore.plugin import ABSENT, ANYTHING, Deadline, Key, Renewal, Stored, StoreUnavailableError, Timing, version
from pgcore.testing.consul_server import ConsulServer
from pgcore.testing.processes import LOOPBACK, free_port

pytestmark = pytest.mark.server
CLIENT = "client"


def soon(seconds=8.0):
    return Deadline.after(seconds)


def put(store, value, key=Key.CONFIG, expect=ANYTHING):
    return store.put(key, value, expect=expect, deadline=soon())


def read(store, fresh=True):
    return store.read(fresh=fresh, deadline=soon())


def renew(store):
    return store.renew({}, deadline=soon())


def acquire(store):
    return store.acquire(force=False, deadline=soon())


def latency(watcher, change, seen):
    """Seconds from a change to the end of a watch."""
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(lambda: (watcher.watch(seen, timeout=15), time.monotonic()))
        time.sleep(0.2)
        assert not watching.done(), "the watch ended before the change"
        before = time.monotonic()
        change()
        changed, at = watching.result()
    assert changed
    return at - before


def session_of(server, scope, key):
    [entry] = server.ask("GET", f"/v1/kv/{scope}/{key}?consistent")
    return entry["Session"]


# -- the agent --------------------------------------------------------------------------------------------------------

def test_lock_card_and_data_survive_a_restart_and_the_watch_goes_on(own_consul, connect):
    a, b = connect("a", host=own_consul.host, timing=Timing(30, 1, 2)), connect("b", host=own_consul.host)
    assert acquire(a)
    a.announce("card", deadline=soon())
    put(a, "kept")
    session = session_of(own_consul, connect.scope, "leader")
    seen = read(b).revision
    b.watch(seen, timeout=0.1)
    own_consul.kill()
    own_consul.start()
    assert renew(a) is Renewal.HELD
    assert session_of(own_consul, connect.scope, "leader") == session
    assert {path: record.value for path, record in read(b).records.items()} == {
        "leader": "a", "members/a": "card", "config": "kept"}
    assert latency(b, lambda: put(a, "new"), read(b).revision) < 1.0


def test_a_consul_that_forgot_everything_is_followed(own_consul, connect):
    a, b = connect("a", host=own_consul.host), connect("b", host=own_consul.host)
    assert acquire(a)
    a.announce("card", deadline=soon())
    for number in range(40):
        put(a, str(number))
    seen = read(b).revision
    b.watch(seen, timeout=0.1)
    own_consul.stop()
    own_consul.forget()
    own_consul.start()
    assert b.watch(seen, timeout=15) is True
    assert dict(read(b, fresh=False).records) == {}
    assert renew(a) is Renewal.GONE
    a.announce("card", deadline=soon())
    assert acquire(b)
    assert renew(a) is Renewal.TAKEN
    assert latency(b, lambda: put(a, "anew"), read(b).revision) < 1.0
    assert set(read(b, fresh=False).records) == {"leader", "members/a", "config"}


class ClientAgent(ConsulServer):
    """An agent without data beside a server, as it runs on a database node."""

    def __init__(self, directory, server):
        serf = free_port()
        super().__init__(directory, ports=(free_port(), free_port(), serf), options={
            "server": False, "node_name": CLIENT, "retry_join": [f"{LOOPBACK}:{server._serf_port}"], "retry_interval": "1s"})
        self.options["bootstrap_expect"] = 0

    def ready(self):
        try:
            return bool(self.ask("GET", f"/v1/catalog/node/{CLIENT}?consistent"))
        except (OSError, ValueError):
            return False


def test_the_lock_outlives_a_restart_of_the_local_agent(own_consul, connect, tmp_path):
    """Killed, or stopped with ``leave_on_terminate`` off: the servers keep session, card and lock for it."""
    with ClientAgent(tmp_path / "client", own_consul) as agent:
        a, b = connect("a", host=agent.host, timing=Timing(30, 1, 2)), connect("b", host=own_consul.host)
        assert acquire(a)
        a.announce("card", deadline=soon())
        session = session_of(own_consul, connect.scope, "leader")
        for end in (agent.kill, agent.stop):
            end()
            with pytest.raises(StoreUnavailableError):
                a.renew({}, deadline=soon(0.3))
            assert not acquire(b)
            agent.start()
            assert renew(a) is Renewal.HELD
            assert session_of(own_consul, connect.scope, "leader") == session
        assert read(b).records["members/a"].value == "card"


def test_no_agent_at_all_ends_at_the_deadline(connect):
    a = connect("a", host=f"{LOOPBACK}:{free_port()}")
    before = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="no answer to a read"):
        a.read(fresh=True, deadline=soon(0.5))
    assert not a.watch("", timeout=0.5)
    assert 0.9 < time.monotonic() - before < 1.8


# -- sessions ---------------------------------------------------------------------------------------------------------

def test_a_session_destroyed_by_an_operator_is_noticed_and_replaced(consul, connect):
    a, b = connect("a", host=consul.host), connect("b", host=consul.host)
    assert acquire(a)
    a.announce("card", deadline=soon())
    seen = read(b).revision

    def destroy():
        consul.ask("PUT", f"/v1/session/destroy/{session_of(consul, connect.scope, 'leader')}")

    assert latency(b, destroy, seen) < 1.0
    assert dict(read(a, fresh=False).records) == {}
    assert renew(a) is Renewal.GONE
    assert dict(read(b).records) == {}
    assert acquire(a) and renew(a) is Renewal.HELD
    a.announce("card", deadline=soon())
    assert set(read(b).records) == {"leader", "members/a"}


def test_a_session_that_ends_between_two_calls_costs_only_a_new_one(consul, connect):
    a = connect("a", host=consul.host)
    a.announce("card", deadline=soon())
    consul.ask("PUT", f"/v1/session/destroy/{session_of(consul, connect.scope, 'members/a')}")
    a.announce("other card", deadline=soon())  # the session was just extended: it is not asked for again
    assert read(a).records["members/a"].value == "other card"


def test_a_lock_is_never_free_while_a_successor_takes_it_over(consul, connect):
    observer, stop, absent = connect("x", host=consul.host, observer=True), threading.Event(), []
    assert acquire(connect("a", host=consul.host))

    def look():
        while not stop.is_set():
            if "leader" not in read(observer).records:
                absent.append(time.monotonic())

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            for _ in range(20):
                assert renew(connect("a", host=consul.host)) is Renewal.HELD
        finally:
            stop.set()
        looking.result()
    assert absent == []


def test_a_lock_without_session_is_nobodys(consul, connect):
    a, b = connect("a", host=consul.host), connect("b", host=consul.host)
    consul.ask("PUT", f"/v1/kv/{connect.scope}/leader", "b")  # as `consul kv import` leaves it
    assert "leader" not in read(a).records
    assert renew(b) is Renewal.GONE
    assert b.release({}, deadline=soon()) is False
    assert acquire(a)
    assert not acquire(b)


def test_a_longer_minimum_of_the_agent_is_taken_and_told(program, tmp_path, connect, caplog):
    with ConsulServer(tmp_path, options={"session_ttl_min": "12s"}) as server:
        a = connect("a", host=server.host)
        with caplog.at_level(logging.WARNING):
            assert acquire(a)
        assert "session_ttl_min is 12s" in caplog.text
        [session] = server.ask("GET", f"/v1/session/info/{session_of(server, connect.scope, 'leader')}")
        assert session["TTL"] == "12s"


# -- lost answers, lost connections -----------------------------------------------------------------------------------

def test_a_conditional_write_whose_answer_was_lost_is_proven_by_its_mark(consul, connect, line):
    cable = line(consul.host)
    a, b = connect("a", host=cable.host), connect("b", host=consul.host)
    cable.swallow = "/v1/txn"
    first = put(a, "1", expect=ABSENT)
    assert cable.swallow == "" and first == Stored(read(b).records["config"].version)
    cable.swallow = "/v1/txn"
    second = put(a, "2", expect=version(first.version))
    assert second == Stored(read(b).records["config"].version)


def test_a_conditional_write_whose_answer_was_lost_and_which_is_overwritten_is_undecided(consul, connect, line):
    cable = line(consul.host)
    a, b = connect("a", host=cable.host), connect("b", host=consul.host)
    first = put(a, "1")
    cable.swallow, cable.meanwhile = "/v1/txn", lambda: put(b, "2")  # the same value: only the mark tells them apart
    with pytest.raises(StoreUnavailableError, match="may have happened"):
        put(a, "2", expect=version(first.version))


def test_a_removal_whose_answer_was_lost_is_undecided_if_it_had_a_condition(consul, connect, line):
    cable = line(consul.host)
    a = connect("a", host=cable.host)
    first = put(a, "1")
    cable.swallow = "/v1/txn"
    with pytest.raises(StoreUnavailableError, match="may have happened"):
        a.delete(Key.CONFIG, expect=version(first.version), deadline=soon())
    assert dict(read(a).records) == {}


def test_lock_renewal_and_release_whose_answers_were_lost_are_settled_by_repeating_them(consul, connect, line):
    cable = line(consul.host)
    a, b = connect("a", host=cable.host), connect("b", host=consul.host)
    for path, step in (("/v1/session/create", lambda: acquire(a)), ("/v1/txn", lambda: acquire(a)),
                       ("/v1/session/renew", lambda: renew(a) is Renewal.HELD),
                       ("/v1/txn", lambda: a.release({}, deadline=soon()))):
        cable.swallow = path
        assert step() is True
        assert cable.swallow == "", path
    assert "leader" not in read(b).records


def test_a_cut_watch_is_opened_again_and_misses_nothing(consul, connect, line):
    cable = line(consul.host)
    a, b = connect("a", host=cable.host), connect("b", host=consul.host)
    seen = read(a).revision
    with ThreadPoolExecutor(1) as pool:
        for number in range(3):
            watching = pool.submit(a.watch, seen, timeout=15)
            time.sleep(0.2)
            cable.cut()
            put(b, str(number))
            assert watching.result(timeout=3) is True
            snapshot = read(a, fresh=False)
            assert snapshot.records["config"].value == str(number)
            seen = snapshot.revision


# -- weight -----------------------------------------------------------------------------------------------------------

def test_a_beat_of_an_idle_leader_costs_a_read_and_a_renewal(consul, connect, line):
    cable = line(consul.host)
    a = connect("a", host=cable.host)
    assert acquire(a)
    a.announce("card", deadline=soon())
    read(a, fresh=False)
    cable.requests.clear()
    for _ in range(3):
        read(a, fresh=False)
        assert renew(a) is Renewal.HELD
        a.announce("card", deadline=soon())
    assert [request.split("?")[0].rsplit("/", 1)[0] for request in cable.requests] == [
        f"GET /v1/kv/{connect.scope}", "PUT /v1/session/renew"] * 3


def test_a_renewal_or_a_card_of_another_does_not_end_a_watch(consul, connect):
    a, b = connect("a", host=consul.host), connect("b", host=consul.host)
    assert acquire(b)
    seen = read(a).revision
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(a.watch, seen, timeout=1.0)
        for number in range(4):
            assert renew(b) is Renewal.HELD
            b.announce(f"card {number}", deadline=soon())
            put(b, str(number), key=Key.STATUS)
            time.sleep(0.1)
        assert watching.result() is False


def test_an_idle_watch_is_one_request(consul, connect, line):
    cable = line(consul.host)
    a = connect("a", host=cable.host, timing=Timing(40, 10, 10))
    seen = read(a).revision
    cable.requests.clear()
    before = time.monotonic()
    assert a.watch(seen, timeout=2) is False
    assert time.monotonic() - before < 3
    assert 1 <= len(cable.requests) <= 3  # Consul ends it a little early and the rest is asked for again


def test_a_lock_or_a_card_deleted_by_hand_is_noticed_by_the_next_beat(consul, connect):
    a, observer = connect("a", host=consul.host), connect("x", host=consul.host, observer=True)
    assert acquire(a)
    a.announce("card", deadline=soon())
    observer.delete(Key.LEADER, expect=ANYTHING, deadline=soon())
    consul.ask("DELETE", f"/v1/kv/{connect.scope}/members/a")
    read(a, fresh=False)
    assert renew(a) is Renewal.GONE
    a.announce("card", deadline=soon())
    assert set(read(observer).records) == {"members/a"}


def test_scopes_with_a_common_beginning_do_not_mix(consul, connect):
    one, two = (connect("a", host=consul.host, path=f"/service/twin{end}") for end in ("", "2"))
    put(two, "2")
    assert dict(read(one).records) == {}
    assert isinstance(put(one, "1", expect=ABSENT), Stored)
    assert read(two).records["config"].value == "2"
    one.clear(deadline=soon())
    assert set(read(two).records) == {"config"}


@pytest.mark.parametrize("name", ["nœud é", "a b?c=d&e#f", "x" * 200])
def test_names_are_taken_as_they_are(consul, connect, name):
    a = connect(name, host=consul.host, path=f"/service/sc {name[:20]}")
    assert acquire(a)
    a.announce("card", deadline=soon())
    records = read(a).records
    assert (set(records), records["leader"].value) == ({"leader", f"members/{name}"}, name)
    a.clear(deadline=soon())
    assert dict(read(a).records) == {}
