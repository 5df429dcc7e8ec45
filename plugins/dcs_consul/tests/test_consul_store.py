"""The store ``consul`` keeps every promise of the store protocol, on a real Consul."""

from __future__ import annotations

import itertools

import pytest

from pgcore.plugin import StoreRequest, Timing
from pgcore.testing.dcs import StoreContract
from pgcore_dcs_consul.section import ConsulSection
from pgcore_dcs_consul.store import ConsulStore

pytestmark = pytest.mark.server
scopes = itertools.count()


class TestConsulStore(StoreContract):
    timing = Timing(ttl=2, loop_wait=1, retry_timeout=1)
    expiry_slack_s = 1.2
    promptly_s = 1.0

    @pytest.fixture
    def cluster(self, consul):
        path = f"/service/scope{next(scopes)}"

        def open_store(member, timing, observer=False):
            return ConsulStore(StoreRequest(ConsulSection(host=consul.host), path, member, timing, observer))

        return open_store

    @pytest.fixture
    def outage(self, consul):
        return consul.frozen()
