"""The store keeps every promise of the store protocol, on a real ZooKeeper."""

from __future__ import annotations

import itertools

import pytest

from pgcore.plugin import StoreRequest, Timing
from pgcore.testing.dcs import StoreContract
from pgcore_dcs_zookeeper.section import ZooKeeperSection
from pgcore_dcs_zookeeper.store import ZooKeeperStore

pytestmark = pytest.mark.server
scopes = itertools.count()


class TestZooKeeperStore(StoreContract):
    timing = Timing(ttl=2, loop_wait=1, retry_timeout=1)
    expiry_slack_s = 1.2
    promptly_s = 1.0

    @pytest.fixture
    def cluster(self, zookeeper):
        path = f"/service/scope{next(scopes)}"

        def open_store(member, timing, observer=False):
            return ZooKeeperStore(StoreRequest(ZooKeeperSection(hosts=zookeeper.host), path, member, timing, observer))

        return open_store

    @pytest.fixture
    def outage(self, zookeeper):
        return zookeeper.frozen()
