"""The store ``etcd`` keeps every promise of the store protocol, on a real etcd with the v2 API."""

from __future__ import annotations

import itertools

import pytest

from pgcore.plugin import StoreRequest, Timing
from pgcore.testing.dcs import StoreContract
from pgcore_dcs_etcd.section import EtcdSection
from pgcore_dcs_etcd.v2 import Etcd2Store

pytestmark = pytest.mark.server
scopes = itertools.count()


class TestEtcd2Store(StoreContract):
    timing = Timing(ttl=2, loop_wait=1, retry_timeout=1)
    expiry_slack_s = 1.2
    promptly_s = 1.0

    @pytest.fixture
    def cluster(self, etcd):
        path = f"/service/scope{next(scopes)}"

        def open_store(member, timing, observer=False):
            return Etcd2Store(StoreRequest(EtcdSection(host=etcd.host), path, member, timing, observer))

        return open_store

    @pytest.fixture
    def outage(self, etcd):
        return etcd.frozen()
