"""The store ``etcd3`` keeps every promise of the store protocol, on a real etcd."""

from __future__ import annotations

import itertools

import pytest

from pgcore.plugin import StoreRequest, Timing
from pgcore.testing.dcs import StoreContract
from pgcore_dcs_etcd.section import Etcd3Section
from pgcore_dcs_etcd.v3 import Etcd3Store

pytestmark = pytest.mark.server
scopes = itertools.count()


class TestEtcd3Store(StoreContract):
    timing = Timing(ttl=2, loop_wait=1, retry_timeout=1)
    expiry_slack_s = 1.2
    promptly_s = 1.0

    @pytest.fixture
    def cluster(self, etcd):
        path = f"/service/scope{next(scopes)}"

        def open_store(member, timing, observer=False):
            return Etcd3Store(StoreRequest(Etcd3Section(host=etcd.host), path, member, timing, observer))

        return open_store

    @pytest.fixture
    def outage(self, etcd):
        return etcd.frozen()
