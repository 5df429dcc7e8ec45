"""The part of the store kit about watching, threads, deadlines and outages."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgcore.clock import Deadline
from pgcore.dcs.store import ANYTHING, Key, Renewal, Store, Stored, version
from pgcore.errors import StoreUnavailableError
from pgcore.testing.dcs.base import StoreKit

WATCHED = (Key.LEADER, Key.CONFIG, Key.FAILOVER, Key.SYNC, Key.INITIALIZE)
SPURIOUS_WAKE_UPS = 5


class EventsContract(StoreKit):
    """A watch misses nothing and raises nothing; a verb ends at its deadline and then says undecided."""

    # -- watch ---------------------------------------------------------------------------------------------------------

    def change(self, store: Store, key: Key) -> None:
        """Change one key in the way a member does."""
        if key is Key.LEADER:
            assert self.acquire(store)
        else:
            self.put(store, key, "changed")

    def latency(self, watcher: Store, change: Callable[[], object], timeout: float = 15.0) -> float:
        """Seconds from the change to the return of ``watch``. A spurious wake-up before the change is forgiven a few times."""

        def sit(seen: str) -> float:
            assert watcher.watch(seen, timeout=timeout) is True
            return time.monotonic()

        with ThreadPoolExecutor(1) as pool:
            for _ in range(SPURIOUS_WAKE_UPS):
                waiting = pool.submit(sit, watcher.read(fresh=True, deadline=self.soon).revision)
                time.sleep(0.3)  # let the watch reach the server
                if not waiting.done():
                    break
            else:
                pytest.fail("the watch returned again and again though nothing had changed")
            before = time.monotonic()
            change()
            return waiting.result() - before

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

    # -- undecided -----------------------------------------------------------------------------------------------------

    def verbs(self, store: Store, deadline: Callable[[], Deadline]) -> dict[str, Callable[[], object]]:
        """Every verb of a store as a call."""
        return {
            "read": lambda: store.read(fresh=False, deadline=deadline()),
            "fresh read": lambda: store.read(fresh=True, deadline=deadline()),
            "put": lambda: store.put(Key.CONFIG, "x", expect=ANYTHING, deadline=deadline()),
            "delete": lambda: store.delete(Key.SYNC, expect=ANYTHING, deadline=deadline()),
            "announce": lambda: store.announce("card", deadline=deadline()),
            "withdraw": lambda: store.withdraw(deadline=deadline()),
            "clear": lambda: store.clear(deadline=deadline()),
            "acquire": lambda: store.acquire(force=False, deadline=deadline()),
            "renew": lambda: store.renew({}, deadline=deadline()),
            "release": lambda: store.release({}, deadline=deadline()),
        }

    def test_a_deadline_that_has_passed_ends_every_verb_at_once(self, join):
        a = join("a")
        a.read(fresh=True, deadline=self.soon)
        for name, call in self.verbs(a, lambda: Deadline.after(0)).items():
            before = time.monotonic()
            with contextlib.suppress(StoreUnavailableError):
                call()
            assert time.monotonic() - before < 0.5, name

    def test_every_verb_is_undecided_at_its_deadline_during_an_outage(self, join, outage):
        a = join("a")
        a.announce("card", deadline=self.soon)
        assert self.acquire(a)
        with outage:
            for name, call in self.verbs(a, lambda: Deadline.after(0.4)).items():
                before = time.monotonic()
                with pytest.raises(StoreUnavailableError):
                    pytest.fail(f"{name} returned {call()!r}")
                assert time.monotonic() - before < 0.4 + 0.4, name

    def test_a_watch_waits_out_an_outage_and_works_after_it(self, join, outage):
        a, b = join("a"), join("b")
        seen = a.read(fresh=True, deadline=self.soon).revision
        a.watch(seen, timeout=0.2)
        with outage:
            before = time.monotonic()
            while time.monotonic() - before < 1.0:  # the loss of the connection may wake it, but must not raise
                assert a.watch(seen, timeout=1.0) in (True, False)
            assert time.monotonic() - before < 2.0 + self.promptly_s
        a.read(fresh=True, deadline=Deadline.after(10))
        b.read(fresh=True, deadline=Deadline.after(10))
        assert self.latency(a, lambda: self.put(b, Key.CONFIG, "after")) < self.promptly_s

    def test_the_store_recovers_after_an_outage(self, join, outage):
        a = join("a")
        written = self.put(a, Key.CONFIG, "before")
        with outage, contextlib.suppress(StoreUnavailableError):
            a.read(fresh=True, deadline=Deadline.after(0.3))
        later = Deadline.after(10)
        assert a.read(fresh=True, deadline=later).records["config"].version == written
        assert isinstance(a.put(Key.CONFIG, "after", expect=version(written), deadline=later), Stored)
        a.announce("card", deadline=later)
        assert a.acquire(force=False, deadline=later) and a.renew({}, deadline=later) is Renewal.HELD
