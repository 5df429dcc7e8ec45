"""The store ``kubernetes`` keeps every promise of the store protocol, on a real API server: each verb in each of its three modes.

The cases that wait for leases take most of the time, so each of them runs in one mode: those of the lock, which all modes judge
alike, on ConfigMaps, those of the card on Leases and, where a pod is no Lease, on Endpoints. ``PGCORE_TEST_KUBERNETES_MODES=all``
runs all of them in all modes.
"""

from __future__ import annotations

import os

import pytest

from pgcore.plugin import Timing
from pgcore.testing.store_contract import StoreContract

pytestmark = pytest.mark.server

OF_THE_LOCK = (
    "test_a_renewed_lock_outlives_its_ttl", "test_an_abandoned_lock_ends_after_its_ttl_and_not_before",
    "test_a_lock_acquired_under_an_older_lease_gets_a_full_ttl", "test_a_shorter_ttl_takes_effect_without_losing_the_lock",
    "test_whoever_slept_through_the_lease_learns_that_the_lock_is_gone",
    "test_whoever_slept_through_the_lease_learns_that_the_lock_is_taken",
    "test_a_successor_takes_over_the_lock_of_its_predecessor_by_renewing",
    "test_every_verb_is_undecided_at_its_deadline_during_an_outage", "test_a_watch_waits_out_an_outage_and_works_after_it")
OF_THE_CARD = (
    "test_a_card_announced_again_unchanged_outlives_its_ttl", "test_a_longer_ttl_takes_effect_without_losing_the_lock",
    "test_a_successor_replaces_the_card_of_its_predecessor_at_once")
OF_A_POD = ("test_an_abandoned_card_ends_after_its_ttl_and_not_before", "test_an_expired_card_is_written_again_though_unchanged")


class KubernetesContract(StoreContract):
    timing = Timing(ttl=2, loop_wait=1, retry_timeout=1)
    expiry_slack_s = 1.8
    promptly_s = 1.0
    mode: dict[str, bool] = {}

    @pytest.fixture
    def cluster(self, connect):
        return lambda member, timing, observer=False: connect(member, timing=timing, observer=observer, **self.mode)

    @pytest.fixture
    def outage(self, kubernetes):
        return kubernetes.frozen()


def without(*cases):
    """Leaves cases of the kit to another mode."""
    def cut(kit):
        for case in cases if os.environ.get("PGCORE_TEST_KUBERNETES_MODES") != "all" else ():
            assert callable(getattr(kit, case)), f"the kit has no {case} any more"
            setattr(kit, case, None)
        return kit
    return cut


@without(*OF_THE_CARD, *OF_A_POD)
class TestConfigMapsStore(KubernetesContract):
    pass


@without(*OF_THE_LOCK, *OF_THE_CARD)
class TestEndpointsStore(KubernetesContract):
    mode = {"use_endpoints": True}


@without(*OF_THE_LOCK, *OF_A_POD)
class TestLeaseStore(KubernetesContract):
    mode = {"use_leases": True}
