"""The part of the store kit about the lease: the lock, the member card, changed timing, observers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgcore.dcs.store import MEMBERS, Key, Renewal
from pgcore.model.basics import Timing
from pgcore.testing.dcs.base import StoreKit


class LeaseContract(StoreKit):
    """Expiry, renewal, hand-over and succession of lock and card."""

    # -- the lock ------------------------------------------------------------------------------------------------------

    def test_a_free_lock_goes_to_the_first_and_shows_its_name(self, join):
        a, b = join("a"), join("b")
        assert self.acquire(a) is True
        assert self.acquire(b) is False
        assert self.value(b, "leader") == "a"

    def test_acquiring_again_what_is_already_ours_is_true(self, join):
        a = join("a")
        assert self.acquire(a) and self.acquire(a)

    def test_of_many_racers_exactly_one_gets_the_lock(self, join):
        stores = {name: join(name) for name in "abcd"}
        start = threading.Barrier(len(stores))

        def race(name: str) -> bool:
            start.wait()
            return self.acquire(stores[name])

        with ThreadPoolExecutor(len(stores)) as pool:
            won = dict(zip(stores, pool.map(race, stores), strict=True))
        assert [name for name in won if won[name]] == [self.value(stores["a"], "leader")]

    def test_force_takes_the_lock_from_another(self, join):
        a, b = join("a"), join("b")
        assert self.acquire(a)
        assert self.acquire(b, force=True) is True
        assert self.value(a, "leader") == "b"
        assert self.renew(a) is Renewal.TAKEN

    def test_what_is_renewed_outlives_its_ttl(self, join, live):
        a, b = join("a"), join("b")
        assert self.acquire(a)

        def beat() -> None:
            assert self.renew(a) is Renewal.HELD
            b.announce("card", deadline=self.soon)

        live(self.expiry_s, beat)
        assert self.acquire(b) is False
        assert (self.value(b, "leader"), self.value(a, "members/b")) == ("a", "card")

    def test_what_is_abandoned_ends_after_its_ttl_and_not_before(self, join, elapse, until):
        a, b, c = join("a"), join("b"), join("c")
        assert self.acquire(a)
        c.announce("card", deadline=self.soon)
        for store in (a, c):
            store.close()
        elapse(self.timing.ttl * 0.7)
        assert self.value(b, "leader") == "a" and self.acquire(b) is False
        assert self.value(b, "members/c") == "card"
        until(lambda: self.value(b, "leader") is None, within=self.expiry_s)
        until(lambda: self.value(b, "members/c") is None, within=self.expiry_slack_s)
        assert self.acquire(b) is True

    def test_a_lock_acquired_under_an_older_lease_gets_a_full_ttl(self, join, elapse):
        a, b = join("a"), join("b")
        a.announce("card", deadline=self.soon)
        elapse(self.timing.ttl * 0.6)
        assert self.acquire(a)
        elapse(self.timing.ttl * 0.7)
        assert self.value(b, "leader") == "a"

    def test_whoever_slept_through_the_lease_learns_that_the_lock_is_gone(self, join, until):
        a, b = join("a"), join("b")
        assert self.acquire(a)
        a.announce("card", deadline=self.soon)
        until(lambda: self.value(b, "leader") is None, within=self.expiry_s)
        assert self.renew(a) is Renewal.GONE
        assert self.value(b, "leader") is None
        assert self.acquire(a) is True
        assert self.renew(a) is Renewal.HELD
        a.announce("card", deadline=self.soon)
        assert self.value(b, "members/a") == "card"

    def test_whoever_slept_through_the_lease_learns_that_the_lock_is_taken(self, join, until):
        a, b = join("a"), join("b")
        assert self.acquire(a)
        until(lambda: self.acquire(b), within=self.expiry_s)
        assert self.renew(a) is Renewal.TAKEN
        assert self.acquire(a) is False
        assert a.release({}, deadline=self.soon) is False
        assert self.value(a, "leader") == "b"

    def test_force_takes_a_free_lock_too(self, join):
        a, b = join("a"), join("b")
        assert self.acquire(a, force=True) is True
        assert self.renew(a) is Renewal.HELD and self.acquire(b) is False

    def test_riders_travel_with_the_lock(self, join):
        a, b = join("a"), join("b")
        if not a.carries:
            pytest.skip("this store carries nothing")
        assert self.acquire(a)
        assert a.renew(dict.fromkeys(a.carries, "renewed"), deadline=self.soon) is Renewal.HELD
        assert {self.value(b, key) for key in a.carries} == {"renewed"}
        assert b.renew(dict.fromkeys(a.carries, "stolen"), deadline=self.soon) is Renewal.TAKEN
        assert a.release(dict.fromkeys(a.carries, "released"), deadline=self.soon) is True
        assert {self.value(b, key) for key in a.carries} == {"released"}

    def test_renew_never_acquires(self, join):
        a = join("a")
        assert self.renew(a) is Renewal.GONE
        assert self.value(a, "leader") is None

    def test_renew_of_another_ones_lock_is_taken(self, join):
        a, b = join("a"), join("b")
        assert self.acquire(a)
        assert self.renew(b) is Renewal.TAKEN
        assert self.value(b, "leader") == "a"

    def test_release_hands_the_lock_over_at_once(self, join):
        a, b = join("a"), join("b")
        assert self.acquire(a)
        assert a.release({}, deadline=self.soon) is True
        assert self.renew(a) is Renewal.GONE
        assert self.acquire(b) is True
        assert self.renew(a) is Renewal.TAKEN
        assert b.release({}, deadline=self.soon) is True
        assert self.acquire(a) is True and self.renew(a) is Renewal.HELD

    def test_release_of_a_lock_that_is_not_ours_changes_nothing(self, join):
        a, b = join("a"), join("b")
        assert b.release({}, deadline=self.soon) is False
        assert self.acquire(a)
        assert b.release({}, deadline=self.soon) is False
        assert self.value(b, "leader") == "a"

    def test_a_successor_takes_over_the_lock_and_the_card_of_its_predecessor(self, join, live):
        cards, other = {"a": "card", "b": "other card"}, join("c")
        for name in cards:
            first = join(name)
            first.announce("card", deadline=self.soon)
            assert self.acquire(first) is (name == "a")
            first.close()
        seconds = {name: join(name) for name in cards}

        def beat() -> None:
            assert self.renew(seconds["a"]) is Renewal.HELD
            for name, second in seconds.items():
                second.announce(cards[name], deadline=self.soon)

        beat()
        assert {name: self.value(other, f"members/{name}") for name in cards} == cards  # at once, changed or not
        live(self.expiry_s, beat)
        assert {name: self.value(other, f"members/{name}") for name in cards} == cards
        assert self.acquire(other) is False
        assert seconds["a"].release({}, deadline=self.soon) is True

    def test_the_version_of_the_lock_tells_owners_apart(self, join):
        a, b = join("a"), join("b")
        assert self.acquire(a)
        first = a.read(fresh=True, deadline=self.soon).records["leader"].version
        assert a.release({}, deadline=self.soon) and self.acquire(b)
        assert a.read(fresh=True, deadline=self.soon).records["leader"].version != first

    # -- the card ------------------------------------------------------------------------------------------------------

    def test_cards_of_all_members_are_read(self, join):
        stores = {name: join(name) for name in "ab"}
        for name, store in stores.items():
            store.announce(f"card of {name}", deadline=self.soon)
        stores["a"].announce("news", deadline=self.soon)
        cards = {path: record.value for path, record in stores["b"].read(fresh=True, deadline=self.soon).records.items()}
        assert cards == {MEMBERS + "a": "news", MEMBERS + "b": "card of b"}

    def test_withdraw_removes_only_the_own_card(self, join):
        a, b = join("a"), join("b")
        a.withdraw(deadline=self.soon)
        a.announce("a", deadline=self.soon)
        b.announce("b", deadline=self.soon)
        a.withdraw(deadline=self.soon)
        assert (self.value(b, "members/a"), self.value(b, "members/b")) == (None, "b")
        a.announce("a", deadline=self.soon)
        assert self.value(b, "members/a") == "a"

    def test_a_member_that_released_can_announce_again(self, join):
        a = join("a")
        a.announce("leader", deadline=self.soon)
        assert self.acquire(a) and a.release({}, deadline=self.soon)
        a.announce("replica", deadline=self.soon)
        assert self.value(a, "members/a") == "replica"

    def test_an_observer_reads_and_writes_but_leaves_no_trace(self, join):
        a, observer = join("a"), join("nobody", observer=True)
        for number in range(5):
            self.put(a, Key.CONFIG, str(number))
            assert observer.read(fresh=False, deadline=self.soon).records["config"].value == str(number)
        self.put(observer, Key.FAILOVER, "{}")
        assert set(a.read(fresh=True, deadline=self.soon).records) == {"config", "failover"}

    # -- retime --------------------------------------------------------------------------------------------------------

    def test_a_longer_ttl_takes_effect_without_losing_the_lock(self, join, elapse, until):
        a, b = join("a"), join("b")
        a.announce("card", deadline=self.soon)
        assert self.acquire(a)
        a.retime(Timing(self.timing.ttl * 4, self.timing.loop_wait, self.timing.retry_timeout))
        assert self.acquire(b) is False
        assert self.renew(a) is Renewal.HELD
        a.announce("card", deadline=self.soon)
        elapse(self.expiry_s)
        assert self.acquire(b) is False
        assert (self.value(b, "leader"), self.value(b, "members/a")) == ("a", "card")

    def test_a_shorter_ttl_takes_effect_without_losing_the_lock(self, join, until):
        a, b = join("a", Timing(self.timing.ttl * 10, self.timing.loop_wait, self.timing.retry_timeout)), join("b")
        assert self.acquire(a)
        a.retime(self.timing)
        assert self.renew(a) is Renewal.HELD
        assert self.acquire(b) is False
        until(lambda: self.value(b, "leader") is None, within=self.expiry_s)
