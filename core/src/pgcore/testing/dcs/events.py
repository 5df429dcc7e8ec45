"""The part of the store kit about watching."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgcore.dcs.store import ANYTHING, Key, Renewal
from pgcore.testing.dcs.base import StoreKit

WATCHED = (Key.LEADER, Key.CONFIG, Key.FAILOVER, Key.SYNC, Key.INITIALIZE)


class EventsContract(StoreKit):
    """A watch misses nothing, and ends when it should."""

    @pytest.mark.parametrize("key", WATCHED)
    def test_a_change_by_another_ends_a_watch_promptly_and_is_then_read(self, join, key):
        a, b = join("a"), join("b")
        assert self.latency(a, lambda: self.change(b, key)) < self.promptly_s
        assert key in a.read(fresh=False, deadline=self.soon).records

    def test_the_end_of_the_lock_ends_a_watch(self, join):
        a, b = join("a"), join("b")
        assert self.acquire(b)
        assert self.latency(a, lambda: b.release({}, deadline=self.soon)) < self.promptly_s
        assert "leader" not in a.read(fresh=False, deadline=self.soon).records

    def test_a_deleted_key_ends_a_watch(self, join):
        a, b = join("a"), join("b")
        self.put(b, Key.SYNC, "1")
        assert self.latency(a, lambda: b.delete(Key.SYNC, expect=ANYTHING, deadline=self.soon)) < self.promptly_s

    def test_a_change_between_read_and_watch_is_not_missed(self, join):
        a, b = join("a"), join("b")
        for number in range(5):
            seen = a.read(fresh=False, deadline=self.soon).revision
            self.put(b, Key.CONFIG, str(number))
            before = time.monotonic()
            assert a.watch(seen, timeout=15) is True
            assert time.monotonic() - before < self.promptly_s
            assert a.read(fresh=False, deadline=self.soon).records["config"].value == str(number)

    def test_no_change_of_many_is_missed(self, join):
        a, b = join("a"), join("b")
        last, end = "19", time.monotonic() + 20 * self.promptly_s
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(lambda: [self.put(b, Key.FAILOVER, str(number)) for number in range(20)])
            while True:
                snapshot = a.read(fresh=False, deadline=self.soon)
                if "failover" in snapshot.records and snapshot.records["failover"].value == last:
                    break
                assert time.monotonic() < end
                assert a.watch(snapshot.revision, timeout=15) is True
            writing.result()

    def test_an_uneventful_watch_waits_for_its_timeout(self, join):
        a = join("a")
        waits = []
        for _ in range(3):  # spurious wake-ups are allowed, but not a store that only ever has those
            seen, before = a.read(fresh=False, deadline=self.soon).revision, time.monotonic()
            changed = a.watch(seen, timeout=0.5)
            waits.append((changed, time.monotonic() - before))
        assert all(waited < 0.5 + self.promptly_s for _, waited in waits)
        assert any(not changed and waited >= 0.45 for changed, waited in waits)

    def test_verbs_work_while_another_thread_watches(self, join):
        a = join("a")
        stop = threading.Event()

        def sit() -> None:
            while not stop.is_set():
                a.watch(a_revision[0], timeout=0.2)

        a_revision = [a.read(fresh=True, deadline=self.soon).revision]
        with ThreadPoolExecutor(1) as pool:
            watching = pool.submit(sit)
            try:
                assert self.acquire(a)
                for number in range(15):
                    self.put(a, Key.CONFIG, str(number))
                    assert self.renew(a) is Renewal.HELD
                    a.announce(f"card {number}", deadline=self.soon)
                    snapshot = a.read(fresh=False, deadline=self.soon)
                    assert snapshot.records["config"].value == str(number)
                    a_revision[0] = snapshot.revision
            finally:
                stop.set()
            watching.result(timeout=5)

    def test_close_ends_a_watch(self, join):
        a = join("a")
        seen = a.read(fresh=True, deadline=self.soon).revision
        with ThreadPoolExecutor(1) as pool:
            watching = pool.submit(a.watch, seen, timeout=30)
            time.sleep(0.3)  # let the watch reach the server
            a.close()
            watching.result(timeout=self.promptly_s)
        a.close()
