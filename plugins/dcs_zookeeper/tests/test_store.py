"""The store keeps every promise of the store protocol, on a real ZooKeeper."""

from __future__ import annotations

import itertools

import pytest
from kazoo.security import make_digest_acl_credential

from pgcore.plugin import Key, StoreRequest, Timing
from pgcore.testing.dcs import Minority, StoreContract, Wire
from pgcore_dcs_zookeeper.section import ZooKeeperSection
from pgcore_dcs_zookeeper.store import ZooKeeperStore

pytestmark = pytest.mark.server
scopes = itertools.count()


class TestZooKeeperStore(StoreContract):
    timing = Timing(ttl=2, loop_wait=1, retry_timeout=1)
    expiry_slack_s = 1.2
    promptly_s = 1.0
    races = 50  # each is ten sessions

    @pytest.fixture
    def on(self):
        """Opens stores on a fresh scope: ``on(hosts=…)`` is an ``OpenStore``."""
        path = f"/service/scope{next(scopes)}"

        def opener(**keys):
            return lambda member, timing, observer=False: ZooKeeperStore(
                StoreRequest(ZooKeeperSection(**keys), path, member, timing, observer))

        return opener

    @pytest.fixture
    def cluster(self, on, zookeeper):
        return on(hosts=zookeeper.host)

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
        return Wire(on(hosts=cable.host), cable)

    @pytest.fixture
    def stranger(self, on, zookeeper):
        acls = {f"digest:{make_digest_acl_credential('pg', 'right')}": ["all"]}
        owner = on(hosts=zookeeper.host, auth_data={"digest": "pg:right"}, set_acls=acls)("owner", self.timing)
        owner.announce("card", deadline=self.soon)
        self.put(owner, Key.SYNC, "there")  # nobody is kept from removing what is not there
        owner.close()
        return on(hosts=zookeeper.host, auth_data={"digest": "pg:wrong"})

    @pytest.fixture
    def minority(self, on, ensemble):
        survivor = ensemble.servers[0]
        return Minority(on(hosts=survivor.host), ensemble.alone(survivor))
