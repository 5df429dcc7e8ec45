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

    def test_a_renewed_lock_outlives_its_ttl(self, join, live):
        a, b = join("a"), join("b")
        assert self.acquire(a)

        def beat() -> None:
            assert self.renew(a) is Renewal.HELD

        live(self.expiry_s, beat)
        assert self.acquire(b) is False
        assert self.value(b, "leader") == "a"

    def test_an_abandoned_lock_ends_after_its_ttl_and_not_before(self, join, elapse, until):
        a, b = join("a"), join("b")
        assert self.acquire(a)
        a.close()
        elapse(self.timing.ttl * 0.7)
        assert self.value(b, "leader") == "a" and self.acquire(b) is False
        until(lambda: self.value(b, "leader") is None, within=self.expiry_s)
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
        until(lambda: self.value(b, "leader") is None, within=self.expiry_s)
        assert self.renew(a) is Renewal.GONE
        assert self.value(b, "leader") is None
        assert self.acquire(a) is True
        assert self.renew(a) is Renewal.HELD

    def test_whoever_slept_through_the_lease_learns_that_the_lock_is_taken(self, join, until):
        a, b = join("a"), join("b")
        assert self.acquire(a)
        until(lambda: self.acquire(b), within=self.expiry_s)
        assert self.renew(a) is Renewal.TAKEN
        assert self.acquire(a) is False
        assert a.release({}, deadline=self.soon) is False
        assert self.value(a, "leader") == "b"

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

    def test_a_successor_takes_over_the_lock_of_its_predecessor_by_renewing(self, join, live):
        first, other = join("a"), join("b")
        assert self.acquire(first)
        first.close()
        second = join("a")

        def beat() -> None:
            assert self.renew(second) is Renewal.HELD

        beat()
        live(self.expiry_s, beat)
        assert self.acquire(other) is False
        assert second.release({}, deadline=self.soon) is True

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

    def test_a_card_announced_again_unchanged_outlives_its_ttl(self, join, live):
        a, b = join("a"), join("b")
        a.announce("card", deadline=self.soon)
        live(self.expiry_s, lambda: a.announce("card", deadline=self.soon))
        assert self.value(b, "members/a") == "card"

    def test_an_abandoned_card_ends_after_its_ttl_and_not_before(self, join, elapse, until):
        a, b = join("a"), join("b")
        a.announce("card", deadline=self.soon)
        a.close()
        elapse(self.timing.ttl * 0.7)
        assert self.value(b, "members/a") == "card"
        until(lambda: self.value(b, "members/a") is None, within=self.expiry_s)

    def test_an_expired_card_is_written_again_though_unchanged(self, join, until):
        a, b = join("a"), join("b")
        a.announce("card", deadline=self.soon)
        until(lambda: self.value(b, "members/a") is None, within=self.expiry_s)
        a.announce("card", deadline=self.soon)
        assert self.value(b, "members/a") == "card"

    @pytest.mark.parametrize("card", ["card", "other card"], ids=["unchanged", "changed"])
    def test_a_successor_replaces_the_card_of_its_predecessor_at_once(self, join, live, card):
        first, other = join("a"), join("b")
        first.announce("card", deadline=self.soon)
        first.close()
        second = join("a")
        second.announce(card, deadline=self.soon)
        assert self.value(other, "members/a") == card
        live(self.expiry_s, lambda: second.announce(card, deadline=self.soon))
        assert self.value(other, "members/a") == card

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
