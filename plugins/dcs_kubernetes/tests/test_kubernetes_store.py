"""The store ``kubernetes`` keeps every promise of the store protocol, on a real API server: each verb in each of its three modes.

Most of the time goes into the cases that wait: for the end of leases, for a server that is frozen, restarted or races. What all
modes have in common is shown in one of them; ``PGCORE_TEST_KUBERNETES_MODES=all`` runs everything in all.
"""

from __future__ import annotations

import pytest

from pgcore.plugin import Timing
from pgcore.testing.dcs import Minority, StoreContract, Wire, without
from pgcore.testing.kube_apiserver import WRONG
from pgcore.testing.line import HttpLine

pytestmark = pytest.mark.server

ALL = "PGCORE_TEST_KUBERNETES_MODES"

OF_ONE_MODE = (
    "test_a_lock_acquired_under_an_older_lease_gets_a_full_ttl", "test_a_shorter_ttl_takes_effect_without_losing_the_lock",
    "test_whoever_slept_through_the_lease_learns_that_the_lock_is_gone",
    "test_whoever_slept_through_the_lease_learns_that_the_lock_is_taken", "test_clocks_on_the_wall_may_be_wrong_by_hours",
    "test_a_watch_waits_out_an_outage_and_works_after_it", "test_a_store_that_lost_everything_is_believed",
    "test_a_server_without_its_majority_decides_nothing_and_proves_nothing", "test_the_store_recovers_after_an_outage",
    "test_a_restart_of_the_store_loses_no_key_and_gives_nobody_the_lock", "test_an_uneventful_watch_waits_for_its_timeout",
    "test_a_change_that_was_undone_before_its_answer_was_lost_is_not_called_refused",
    "test_connections_that_are_cut_are_made_anew_and_the_lock_is_kept", "test_of_ten_nodes_that_race_exactly_one_wins_each_time",
    "test_a_successor_takes_over_the_lock_and_the_card_of_its_predecessor",
    "test_a_longer_ttl_takes_effect_without_losing_the_lock", "test_every_verb_is_undecided_at_its_deadline_during_an_outage",
    "test_close_ends_a_verb_under_way", "test_a_closed_store_leaves_no_thread_and_no_socket_behind")
OF_TWO_MODES = (
    "test_what_is_renewed_outlives_its_ttl", "test_what_is_abandoned_ends_after_its_ttl_and_not_before",
    "test_no_lost_answer_makes_a_verb_say_what_is_not_so")
"""ConfigMaps and Leases: cards are annotations of pods or Leases. Endpoints have their cards where ConfigMaps have them."""


class KubernetesContract(StoreContract):
    timing = Timing(ttl=2, loop_wait=1, retry_timeout=1)
    expiry_slack_s = 1.8
    promptly_s = 1.0
    names = ("n", "node-1.example", "n" * 200)
    races = 20  # each is some 60 requests to a server that takes 5 ms for one; PGCORE_TEST_RACES=1000 takes minutes
    mode: dict[str, bool] = {}

    @pytest.fixture
    def cluster(self, connect):
        return lambda member, timing, observer=False: connect(member, timing=timing, observer=observer, **self.mode)

    @pytest.fixture
    def outage(self, kubernetes):
        return kubernetes.frozen()

    @pytest.fixture
    def restart(self, kubernetes):
        return kubernetes.crash

    @pytest.fixture
    def wipe(self, wipe_all):
        return wipe_all

    @pytest.fixture
    def wire(self, connect, gate, by, lines):
        line = lines.enter_context(HttpLine(gate.host))
        return Wire(lambda member, timing, observer=False: connect(
            member, timing=timing, observer=observer, config=by(line.host), **self.mode), line)

    @pytest.fixture
    def minority(self, cluster, kubernetes):
        """The API server without its etcd."""
        return Minority(cluster, kubernetes.etcd.frozen())

    @pytest.fixture
    def stranger(self, connect, kubernetes):
        return lambda member, timing, observer=False: connect(
            member, timing=timing, observer=observer, config=kubernetes.kubeconfig(WRONG), **self.mode)


class TestConfigMapsStore(KubernetesContract):
    pass


@without(*OF_ONE_MODE, *OF_TWO_MODES, unless=ALL)
class TestEndpointsStore(KubernetesContract):
    mode = {"use_endpoints": True}


@without(*OF_ONE_MODE, unless=ALL)
class TestLeaseStore(KubernetesContract):
    mode = {"use_leases": True}
