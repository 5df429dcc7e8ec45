"""The part of the store kit about faults: deadlines, freezes, cuts, restarts, a wipe, strangers, a lost majority."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgcore.clock import Deadline
from pgcore.dcs.store import ANYTHING, Key, Renewal, Stored, version
from pgcore.errors import StoreRejectedError, StoreUnavailableError
from pgcore.model.basics import Timing
from pgcore.testing.dcs.base import StoreKit

MAY_BE_SILENT = ("withdraw", "renew", "release")
"""Verbs that need not ask for anything where nothing of the member is there."""


class FaultsContract(StoreKit):
    """A verb ends at its deadline and then says undecided; what the store did is believed, whatever happened on the way."""

    # -- deadlines and freezes -----------------------------------------------------------------------------------------

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
            for name, call in self.verbs(a, lambda: Deadline.after(self.hurry_s)).items():
                before = time.monotonic()
                with pytest.raises(StoreUnavailableError):
                    pytest.fail(f"{name} returned {call()!r}")
                assert time.monotonic() - before < self.hurry_s + 0.4, name

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

    def test_close_ends_a_verb_under_way(self, join, outage):
        a = join("a")
        a.read(fresh=True, deadline=self.soon)
        with outage, ThreadPoolExecutor(1) as pool:
            writing = pool.submit(a.put, Key.CONFIG, "x", expect=ANYTHING, deadline=Deadline.after(20))
            time.sleep(0.3)  # let the verb begin to wait
            a.close()
            with pytest.raises(StoreUnavailableError):
                writing.result(timeout=self.promptly_s)

    # -- cuts ----------------------------------------------------------------------------------------------------------

    def test_connections_that_are_cut_are_made_anew_and_the_lock_is_kept(self, wire, join):
        a, b = wire.cluster("a", self.timing), join("b")
        with contextlib.closing(a):
            a.announce("card", deadline=self.soon)
            assert self.acquire(a)
            seen = a.read(fresh=True, deadline=self.soon).revision
            with ThreadPoolExecutor(1) as pool:
                watching = pool.submit(lambda: [a.watch(seen, timeout=1.0), a.watch(seen, timeout=0.1)])
                time.sleep(0.3)  # let the watch reach the server
                wire.line.cut()
                assert self.renew(a) is Renewal.HELD
                watching.result(timeout=1.1 + self.promptly_s)
            wire.line.cut()
            assert a.read(fresh=True, deadline=self.soon).records["leader"].value == "a"
            wire.line.cut()
            self.put(a, Key.STATUS, "after")
            wire.line.cut()
            a.announce("card again", deadline=self.soon)
            assert (self.value(b, "status"), self.value(b, "members/a")) == ("after", "card again")
            wire.line.cut()
            assert self.latency(a, lambda: self.put(b, Key.CONFIG, "news")) < self.promptly_s
            wire.line.cut()
            assert a.release({}, deadline=self.soon) is True

    # -- restarts ------------------------------------------------------------------------------------------------------

    def test_a_restart_of_the_store_loses_no_key_and_gives_nobody_the_lock(self, join, restart):
        longer = Timing(self.timing.ttl * 4, self.timing.loop_wait, self.timing.retry_timeout)
        a, b = join("a", longer), join("b")
        assert self.acquire(a)
        old = [self.put(a, Key.CONFIG, "old"), self.put(a, Key.CONFIG, "kept")]
        a.watch(a.read(fresh=True, deadline=self.soon).revision, timeout=0.1)
        restart()
        later = Deadline.after(15)
        record = b.read(fresh=True, deadline=later).records["config"]
        assert (record.value, record.version) == ("kept", old[-1])
        assert a.renew({}, deadline=later) in (Renewal.HELD, Renewal.GONE)
        new = a.put(Key.CONFIG, "new", expect=version(old[-1]), deadline=later)
        assert isinstance(new, Stored) and new.version not in old
        assert self.latency(b, lambda: self.put(a, Key.FAILOVER, "news")) < self.promptly_s
        assert self.acquire(a) and self.renew(a) is Renewal.HELD

    def test_a_store_that_lost_everything_is_believed(self, join, wipe):
        a, b = join("a"), join("b")
        assert self.acquire(a)
        a.announce("card", deadline=self.soon)
        for number in range(20):
            self.put(a, Key.CONFIG, str(number))
        seen = b.read(fresh=True, deadline=self.soon).revision
        b.watch(seen, timeout=0.1)
        wipe()
        later = Deadline.after(15)
        assert b.watch(seen, timeout=15) is True
        assert dict(b.read(fresh=False, deadline=later).records) == {}
        assert a.renew({}, deadline=later) is Renewal.GONE
        a.announce("card", deadline=later)
        assert b.acquire(force=False, deadline=later)
        assert self.renew(a) is Renewal.TAKEN
        assert self.latency(b, lambda: self.put(a, Key.CONFIG, "anew")) < self.promptly_s
        assert set(b.read(fresh=False, deadline=self.soon).records) == {"leader", "members/a", "config"}

    # -- who may not come in, and who does not know --------------------------------------------------------------------

    def test_whoever_is_not_let_in_is_told_so_at_once_by_every_verb(self, stranger):
        a = stranger("a", self.timing)
        with contextlib.closing(a):
            for name, call in self.verbs(a, lambda: self.soon).items():
                before = time.monotonic()
                try:
                    outcome = call()
                except StoreRejectedError:
                    outcome = None
                else:
                    assert name in MAY_BE_SILENT and outcome in (None, False, Renewal.GONE), f"{name} returned {outcome!r}"
                assert time.monotonic() - before < self.promptly_s, name
            before = time.monotonic()
            assert a.watch("", timeout=0.5) in (True, False)
            assert time.monotonic() - before < 0.5 + self.promptly_s

    def test_a_server_without_its_majority_decides_nothing_and_proves_nothing(self, minority):
        a = minority.cluster("a", Timing(self.timing.ttl * 4, self.timing.loop_wait, self.timing.retry_timeout))
        with contextlib.closing(a):
            assert self.acquire(a)
            a.announce("card", deadline=self.soon)
            self.put(a, Key.CONFIG, "1")
            seen = dict(a.read(fresh=True, deadline=self.soon).records)
            with minority.alone:
                for name, call in self.verbs(a, lambda: Deadline.after(self.hurry_s)).items():
                    if name == "read":  # may be of the past, but never of what this store saw change
                        with contextlib.suppress(StoreUnavailableError):
                            assert dict(call().records) == seen
                    else:
                        with pytest.raises(StoreUnavailableError):
                            pytest.fail(f"{name} returned {call()!r}")
            assert a.read(fresh=True, deadline=Deadline.after(15)).records is not None
