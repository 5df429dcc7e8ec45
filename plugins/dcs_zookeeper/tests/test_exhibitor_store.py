"""The store ``exhibitor`` keeps every promise of the store protocol, on a real ZooKeeper that a stub of Exhibitor names.

Once it knows the servers it is the store ``zookeeper``, so the cases that wait for sessions to end are left to that;
``PGCORE_TEST_EXHIBITOR=all`` runs them here too.
"""

from __future__ import annotations

import itertools

import pytest
from kazoo.security import make_digest_acl_credential

from pgcore.plugin import Key, StoreRequest, Timing
from pgcore.testing.dcs import Minority, StoreContract, Wire, without
from pgcore.testing.exhibitor import Exhibitor
from pgcore.testing.processes import LOOPBACK
from pgcore_dcs_zookeeper.section import ExhibitorSection
from pgcore_dcs_zookeeper.store import ZooKeeperStore

pytestmark = pytest.mark.server
scopes = itertools.count()
WAITING = (
    "test_what_is_renewed_outlives_its_ttl", "test_what_is_abandoned_ends_after_its_ttl_and_not_before",
    "test_a_lock_acquired_under_an_older_lease_gets_a_full_ttl",
    "test_whoever_slept_through_the_lease_learns_that_the_lock_is_gone",
    "test_whoever_slept_through_the_lease_learns_that_the_lock_is_taken",
    "test_a_successor_takes_over_the_lock_and_the_card_of_its_predecessor",
    "test_a_longer_ttl_takes_effect_without_losing_the_lock", "test_a_shorter_ttl_takes_effect_without_losing_the_lock",
    "test_clocks_on_the_wall_may_be_wrong_by_hours", "test_an_uneventful_watch_waits_for_its_timeout",
    "test_no_lost_answer_makes_a_verb_say_what_is_not_so",
    "test_a_change_that_was_undone_before_its_answer_was_lost_is_not_called_refused",
    "test_a_server_without_its_majority_decides_nothing_and_proves_nothing")


@without(*WAITING, unless="PGCORE_TEST_EXHIBITOR")
class TestExhibitorStore(StoreContract):
    timing = Timing(ttl=2, loop_wait=1, retry_timeout=1)
    expiry_slack_s = 1.2
    promptly_s = 1.0
    races = 20  # the store `zookeeper` races fifty times

    @pytest.fixture
    def on(self):
        """Opens stores on a fresh scope: ``on("127.0.0.1:2181")`` is an ``OpenStore`` whose Exhibitor names that server."""
        path, stubs = f"/service/scope{next(scopes)}", []

        def opener(server, **keys):
            stubs.append(Exhibitor().lists(LOOPBACK, port=int(server.rpartition(":")[2])))
            section = ExhibitorSection(hosts=[LOOPBACK], port=stubs[-1].port, poll_interval=1, **keys)
            return lambda member, timing, observer=False: ZooKeeperStore(
                StoreRequest(section, path, member, timing, observer))

        yield opener
        for stub in stubs:
            stub.close()

    @pytest.fixture
    def cluster(self, on, zookeeper):
        return on(zookeeper.host)

    @pytest.fixture
    def outage(self, zookeeper):
        return zookeeper.frozen()

    @pytest.fixture
    def restart(self, zookeeper):
        return zookeeper.crash

    @pytest.fixture
    def wipe(self, zookeeper):
        return zookeeper.wipe

    @pytest.fixture
    def wire(self, on, zookeeper, line):
        cable = line(zookeeper.host)
        return Wire(on(cable.host), cable)

    @pytest.fixture
    def stranger(self, on, zookeeper):
        acls = {f"digest:{make_digest_acl_credential('pg', 'right')}": ["all"]}
        owner = on(zookeeper.host, auth_data={"digest": "pg:right"}, set_acls=acls)("owner", self.timing)
        owner.announce("card", deadline=self.soon)
        self.put(owner, Key.SYNC, "there")  # nobody is kept from removing what is not there
        owner.close()
        return on(zookeeper.host, auth_data={"digest": "pg:wrong"})

    @pytest.fixture
    def minority(self, on, ensemble):
        survivor = ensemble.servers[0]
        return Minority(on(survivor.host), ensemble.alone(survivor))
