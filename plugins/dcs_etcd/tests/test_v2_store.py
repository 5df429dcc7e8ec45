"""The store ``etcd`` keeps every promise of the store protocol, on a real etcd with the v2 API."""

from __future__ import annotations

import itertools

import pytest

from pgcore.plugin import StoreRequest, Timing
from pgcore.testing.dcs import Minority, StoreContract, Wire
from pgcore_dcs_etcd.section import EtcdSection
from pgcore_dcs_etcd.v2 import Etcd2Store

pytestmark = pytest.mark.server
scopes = itertools.count()


class TestEtcd2Store(StoreContract):
    timing = Timing(ttl=2, loop_wait=1, retry_timeout=1)
    expiry_slack_s = 1.2
    promptly_s = 1.0
    races = 100  # each is some 30 requests; PGCORE_TEST_RACES=1000 takes half a minute

    @pytest.fixture
    def on(self):
        """Opens stores on a fresh scope: ``on(host=…)`` is an ``OpenStore``."""
        path = f"/service/scope{next(scopes)}"

        def opener(**keys):
            return lambda member, timing, observer=False: Etcd2Store(
                StoreRequest(EtcdSection(**keys), path, member, timing, observer))

        return opener

    @pytest.fixture
    def cluster(self, on, etcd):
        return on(host=etcd.host)

    @pytest.fixture
    def outage(self, etcd):
        return etcd.frozen()

    @pytest.fixture
    def restart(self, etcd):
        return etcd.crash

    @pytest.fixture
    def wipe(self, etcd):
        return etcd.wipe

    @pytest.fixture
    def wire(self, on, etcd, line):
        cable = line(etcd.host)
        return Wire(on(host=cable.host, use_proxies=True), cable)

    @pytest.fixture
    def stranger(self, on, own_etcd):
        own_etcd.demand_login("right")
        return on(host=own_etcd.host, username="root", password="wrong")

    @pytest.fixture
    def minority(self, on, trio):
        survivor = trio.servers[0]
        return Minority(on(host=survivor.host, use_proxies=True), trio.alone(survivor))
