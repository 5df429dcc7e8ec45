"""The part of the store kit about members: their names, their clocks, ten in a race, and what a closed store leaves behind."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from pgcore import clock
from pgcore.dcs.store import MEMBERS, Key, Renewal, Store
from pgcore.testing.dcs.base import StoreKit

RACERS = 10
HOUR_S = 3600.0


@contextlib.contextmanager
def wrong_by(seconds: float) -> Iterator[None]:
    """While entered, every clock on the wall in this process is wrong by so much."""
    right = time.time
    time.time = lambda: right() + seconds
    clock.use(wall=time.time)
    try:
        yield
    finally:
        time.time = right
        clock.use()


def sockets() -> int:
    """How many this process has open; 0 where the system does not tell."""
    with contextlib.suppress(OSError):
        links = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                links.append(os.readlink(f"/proc/self/fd/{name}"))
        return sum(link.startswith("socket:") for link in links)
    return 0


class MembersContract(StoreKit):
    """Who the members are, how many and where their clocks stand does not matter."""

    def test_names_come_back_as_they_are(self, join):
        stores = {name: join(name) for name in self.names}
        for name, store in stores.items():
            store.announce(f"card of {name}", deadline=self.soon)
            assert self.acquire(store) and self.renew(store) is Renewal.HELD
            assert self.value(store, "leader") == name
            assert store.release({}, deadline=self.soon) is True
            store.announce(f"card of {name}", deadline=self.soon)
        cards = {path: record.value for path, record in store.read(fresh=True, deadline=self.soon).records.items()}
        assert cards == {MEMBERS + name: f"card of {name}" for name in self.names}
        for store in stores.values():
            store.withdraw(deadline=self.soon)
        assert dict(store.read(fresh=True, deadline=self.soon).records) == {}

    def test_clocks_on_the_wall_may_be_wrong_by_hours(self, join, elapse, until):
        a, b = join("a"), join("b")
        with wrong_by(HOUR_S):
            assert self.acquire(a)
            a.announce("card", deadline=self.soon)
        for ahead_s in (-HOUR_S, 3 * HOUR_S):
            with wrong_by(ahead_s):
                assert self.acquire(b) is False
                assert (self.value(b, "leader"), self.value(b, "members/a")) == ("a", "card")
        elapse(self.timing.ttl * 0.7)
        with wrong_by(3 * HOUR_S):
            assert self.acquire(b) is False
        with wrong_by(-HOUR_S):
            until(lambda: self.acquire(b), within=self.expiry_s)

    def test_of_ten_nodes_that_race_exactly_one_wins_each_time(self, join):
        stores = [join(f"node{number}") for number in range(RACERS)]
        with ThreadPoolExecutor(RACERS) as pool:
            for _ in range(int(os.environ.get("PGCORE_TEST_RACES", self.races))):
                won = list(pool.map(self.acquire, stores))
                winner = won.index(True)
                assert won.count(True) == 1
                assert self.value(stores[(winner + 1) % RACERS], "leader") == f"node{winner}"
                assert stores[winner].release({}, deadline=self.soon) is True

    def use(self, store: Store) -> None:
        """Everything that may need a connection or a thread of its own, then close."""
        store.announce("card", deadline=self.soon)
        assert self.acquire(store)
        self.put(store, Key.CONFIG, "x")
        store.watch(store.read(fresh=True, deadline=self.soon).revision, timeout=0.1)
        assert store.release({}, deadline=self.soon)
        store.close()

    def test_a_closed_store_leaves_no_thread_and_no_socket_behind(self, join):
        self.use(join("a"))  # what is made once and kept for all stores is there now
        before, most = sockets(), threading.active_count()
        for _ in range(3):
            self.use(join("a"))
        end = time.monotonic() + 5
        while sockets() > before or threading.active_count() > most:
            assert time.monotonic() < end, f"{before} sockets became {sockets()}, {[each.name for each in threading.enumerate()]}"
            time.sleep(0.05)
