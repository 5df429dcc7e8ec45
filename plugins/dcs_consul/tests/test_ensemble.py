"""Three Consul servers: their leader dies or hangs while somebody holds the lock, and there are never two who hold it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from pgcore.plugin import ANYTHING, Deadline, Key, Renewal, StoreUnavailableError, Timing

pytestmark = pytest.mark.server
TIMING = Timing(ttl=4, loop_wait=1, retry_timeout=2)


def soon(seconds=20.0):
    return Deadline.after(seconds)


def until(condition, within):
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"did not happen within {within} s"
        time.sleep(0.05)


def has_leader(trio):
    try:
        return trio.leader is not None
    except AssertionError:
        return False


@contextmanager
def contended(holder, rival):
    """While entered one renews and the other tries to take the lock, again and again; yields what both were told."""
    stop, renewals, takeovers = threading.Event(), [], []

    def repeat(verb, told):
        while not stop.is_set():
            try:
                told.append(verb(deadline=soon(1.0)))
            except StoreUnavailableError:
                told.append(None)
            time.sleep(0.05)

    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(repeat, lambda deadline: holder.renew({}, deadline=deadline), renewals),
                 pool.submit(repeat, lambda deadline: rival.acquire(force=False, deadline=deadline), takeovers)]
        try:
            yield renewals, takeovers
        finally:
            stop.set()
        for task in tasks:
            task.result()


@pytest.mark.parametrize("trouble", ["kill", "freeze"])
def test_a_lock_that_is_renewed_outlives_the_leading_server(trio, connect, trouble):
    """Killed, or hung and back after another leads: the holder keeps the lock, its rival gets it at no moment."""
    leader = trio.leader
    followers = [server for server in trio.servers if server is not leader]
    a, b = (connect(name, host=server.host, timing=TIMING) for name, server in zip("ab", followers, strict=True))
    assert a.acquire(force=False, deadline=soon())
    with contended(a, b) as (renewals, takeovers):
        time.sleep(0.3)
        getattr(leader, trouble)()
        until(lambda: has_leader(trio) and trio.leader is not leader, 30)
        told = len(renewals)
        until(lambda: Renewal.HELD in renewals[told:], 20)
        leader.thaw() if trouble == "freeze" else leader.start()
        time.sleep(TIMING.ttl / 2)
    assert set(renewals) <= {Renewal.HELD, None} and set(takeovers) <= {False, None}
    assert a.renew({}, deadline=soon()) is Renewal.HELD
    assert b.read(fresh=True, deadline=soon()).records["leader"].value == "a"


def test_an_abandoned_lock_ends_no_sooner_when_the_leading_server_dies(trio, connect):
    """The new leader starts all sessions afresh, so it ends later: the bound that docs/consul.md states."""
    leader = trio.leader
    followers = [server for server in trio.servers if server is not leader]
    a, b = (connect(name, host=server.host, timing=TIMING) for name, server in zip("ab", followers, strict=True))
    assert a.acquire(force=False, deadline=soon())
    renewed = time.monotonic()
    assert a.renew({}, deadline=soon()) is Renewal.HELD
    leader.kill()

    def taken():
        try:
            return b.acquire(force=False, deadline=soon(1.0))
        except StoreUnavailableError:
            return False

    until(taken, 60)
    assert time.monotonic() - renewed > TIMING.ttl
    assert a.renew({}, deadline=soon()) is Renewal.TAKEN
    leader.start()


def test_a_watch_goes_on_under_another_leader(trio, connect):
    leader = trio.leader
    followers = [server for server in trio.servers if server is not leader]
    a, b = (connect(name, host=server.host, timing=TIMING) for name, server in zip("ab", followers, strict=True))
    seen = a.read(fresh=True, deadline=soon()).revision
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(lambda: [a.watch(seen, timeout=30) for _ in range(3)])
        time.sleep(0.3)  # let the watch reach the server
        leader.kill()
        until(lambda: has_leader(trio) and trio.leader is not leader, 30)
        until(lambda: watching.done() or b.put(Key.CONFIG, "news", expect=ANYTHING, deadline=soon()), 30)
        assert True in watching.result(timeout=30)
    assert a.read(fresh=True, deadline=soon()).records["config"].value == "news"
    leader.start()
