"""The part of the store kit about reads, writes and their conditions."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgcore.dcs.store import ABSENT, ANYTHING, Key, Refused, Renewal, Store, Stored, version
from pgcore.testing.dcs.base import StoreKit


class RecordsContract(StoreKit):
    """Reads, compare-and-set and contention."""

    # -- reads and writes ----------------------------------------------------------------------------------------------

    def test_an_empty_scope_has_no_records(self, join):
        for fresh in (True, False):
            assert dict(join("a").read(fresh=fresh, deadline=self.soon).records) == {}

    @pytest.mark.parametrize("value", ["plain", "", '{"a":"ü 語"}', "x" * 100_000], ids=["plain", "empty", "unicode", "large"])
    def test_a_value_comes_back_as_it_was_written(self, join, value):
        a, b = join("a"), join("b")
        written = self.put(a, Key.CONFIG, value)
        for store in (a, b):
            record = store.read(fresh=True, deadline=self.soon).records["config"]
            assert (record.value, record.version) == (value, written)

    def test_keys_are_paths_below_the_scope(self, join):
        a = join("a")
        for key in (Key.CONFIG, Key.OPTIME, Key.STATUS, Key.HISTORY):
            self.put(a, key, key.value)
        a.announce("card", deadline=self.soon)
        records = a.read(fresh=True, deadline=self.soon).records
        assert {path: record.value for path, record in records.items()} == {
            "config": "config", "optime/leader": "optime/leader", "status": "status", "history": "history", "members/a": "card"}

    def test_a_completed_write_shows_in_the_next_read_of_the_writer(self, join):
        a = join("a")
        for number in range(10):
            self.put(a, Key.STATUS, str(number))
            assert a.read(fresh=False, deadline=self.soon).records["status"].value == str(number)

    def test_reads_of_one_store_never_go_back_in_time(self, join):
        a, b = join("a"), join("b")
        seen = -1
        for number in range(15):
            self.put(a, Key.STATUS, str(number))
            for fresh in (number % 2 == 0, False):
                record = b.read(fresh=fresh, deadline=self.soon).records.get("status")
                now = -1 if record is None else int(record.value)
                assert now >= seen
                assert not fresh or now == number
                seen = now

    def test_a_version_changes_with_every_write_and_never_repeats(self, join):
        a = join("a")
        versions = [self.put(a, Key.SYNC, "same"), self.put(a, Key.SYNC, "same")]
        assert a.delete(Key.SYNC, expect=ANYTHING, deadline=self.soon) == Stored()
        versions.append(self.put(a, Key.SYNC, "same"))
        assert len(set(versions)) == 3

    def test_a_version_stays_while_other_keys_change(self, join):
        a = join("a")
        written = self.put(a, Key.CONFIG, "1")
        self.put(a, Key.STATUS, "1")
        assert a.read(fresh=True, deadline=self.soon).records["config"].version == written

    # -- conditions ----------------------------------------------------------------------------------------------------

    def test_put_if_absent_writes_only_a_missing_key(self, join):
        a, b = join("a"), join("b")
        assert isinstance(a.put(Key.INITIALIZE, "", expect=ABSENT, deadline=self.soon), Stored)
        assert b.put(Key.INITIALIZE, "7", expect=ABSENT, deadline=self.soon) == Refused()
        assert self.value(b, "initialize") == ""

    def test_put_with_a_version_writes_only_over_that_version(self, join):
        a, b = join("a"), join("b")
        first = self.put(a, Key.SYNC, "1")
        second = b.put(Key.SYNC, "2", expect=version(first), deadline=self.soon)
        assert isinstance(second, Stored)
        assert a.put(Key.SYNC, "3", expect=version(first), deadline=self.soon) == Refused()
        assert isinstance(a.put(Key.SYNC, "3", expect=version(second.version), deadline=self.soon), Stored)
        assert self.value(b, "sync") == "3"

    def test_put_with_a_version_does_not_create_a_deleted_key(self, join):
        a = join("a")
        written = self.put(a, Key.SYNC, "1")
        a.delete(Key.SYNC, expect=ANYTHING, deadline=self.soon)
        assert a.put(Key.SYNC, "2", expect=version(written), deadline=self.soon) == Refused()
        assert self.value(a, "sync") is None

    def test_delete_with_a_version_deletes_only_that_version(self, join):
        a = join("a")
        first = self.put(a, Key.SYNC, "1")
        second = self.put(a, Key.SYNC, "2")
        assert a.delete(Key.SYNC, expect=version(first), deadline=self.soon) == Refused()
        assert self.value(a, "sync") == "2"
        assert isinstance(a.delete(Key.SYNC, expect=version(second), deadline=self.soon), Stored)
        assert self.value(a, "sync") is None
        assert a.delete(Key.SYNC, expect=version(second), deadline=self.soon) == Refused()

    @pytest.mark.parametrize("present", [True, False], ids=["present", "absent"])
    def test_a_version_that_never_was_matches_nothing(self, join, present):
        a = join("a")
        if present:
            self.put(a, Key.SYNC, "1")
        for never in ("no version of this store", "0"):
            assert a.put(Key.SYNC, "2", expect=version(never), deadline=self.soon) == Refused()
            assert a.delete(Key.SYNC, expect=version(never), deadline=self.soon) == Refused()
        assert self.value(a, "sync") == ("1" if present else None)

    def test_delete_of_a_missing_key_succeeds_unless_a_version_is_expected(self, join):
        a = join("a")
        assert isinstance(a.delete(Key.SYNC, expect=ANYTHING, deadline=self.soon), Stored)
        assert isinstance(a.delete(Key.SYNC, expect=ABSENT, deadline=self.soon), Stored)
        self.put(a, Key.SYNC, "1")
        assert a.delete(Key.SYNC, expect=ABSENT, deadline=self.soon) == Refused()
        assert self.value(a, "sync") == "1"

    def test_clear_removes_everything_whoever_wrote_it_and_the_scope_can_be_used_again(self, join):
        a, b = join("a"), join("b")
        for key in (Key.INITIALIZE, Key.CONFIG, Key.OPTIME, Key.STATUS, Key.SYNC, Key.HISTORY):
            self.put(a, key, "x")
        a.announce("card", deadline=self.soon)
        assert a.acquire(force=False, deadline=self.soon)
        b.clear(deadline=self.soon)
        for store in (a, b):
            assert dict(store.read(fresh=True, deadline=self.soon).records) == {}
        b.clear(deadline=self.soon)  # of nothing
        assert a.renew({}, deadline=self.soon) is Renewal.GONE
        a.announce("card", deadline=self.soon)
        assert b.acquire(force=False, deadline=self.soon)
        assert set(b.read(fresh=True, deadline=self.soon).records) == {"leader", "members/a"}

    def test_of_many_creators_exactly_one_succeeds(self, join):
        stores = [join(name) for name in "abcd"]
        start = threading.Barrier(len(stores))

        def create(number: int) -> bool:
            start.wait()
            return isinstance(stores[number].put(Key.INITIALIZE, str(number), expect=ABSENT, deadline=self.soon), Stored)

        with ThreadPoolExecutor(len(stores)) as pool:
            won = list(pool.map(create, range(len(stores))))
        assert won.count(True) == 1
        assert self.value(stores[0], "initialize") == str(won.index(True))

    def test_no_increment_is_lost_under_contention(self, join):
        stores, rounds = [join(name) for name in "abc"], 5
        self.put(stores[0], Key.STATUS, "0")

        def increment(store: Store) -> None:
            for _ in range(rounds):
                while True:
                    record = store.read(fresh=True, deadline=self.soon).records["status"]
                    if isinstance(store.put(Key.STATUS, str(int(record.value) + 1), expect=version(record.version),
                                            deadline=self.soon), Stored):
                        break

        with ThreadPoolExecutor(len(stores)) as pool:
            list(pool.map(increment, stores))
        assert self.value(stores[0], "status") == str(rounds * len(stores))
