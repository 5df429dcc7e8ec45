"""The store ``consul`` keeps every promise of the store protocol, on a real Consul."""

from __future__ import annotations

import itertools

import pytest

from pgcore.plugin import StoreRequest, Timing
from pgcore.testing.dcs import Minority, StoreContract, Wire
from pgcore_dcs_consul.section import ConsulSection
from pgcore_dcs_consul.store import ConsulStore

pytestmark = pytest.mark.server
scopes = itertools.count()


class TestConsulStore(StoreContract):
    timing = Timing(ttl=2, loop_wait=1, retry_timeout=1)
    expiry_slack_s = 1.2
    promptly_s = 1.0
    races = 100  # each is some 30 requests; PGCORE_TEST_RACES=1000 takes half a minute

    @pytest.fixture
    def on(self):
        """Opens stores on a fresh scope: ``on(host=…)`` is an ``OpenStore``."""
        path = f"/service/scope{next(scopes)}"

        def opener(**keys):
            return lambda member, timing, observer=False: ConsulStore(
                StoreRequest(ConsulSection(**keys), path, member, timing, observer))

        return opener

    @pytest.fixture
    def cluster(self, on, consul):
        return on(host=consul.host)

    @pytest.fixture
    def outage(self, consul):
        return consul.frozen()

    @pytest.fixture
    def restart(self, consul):
        return consul.crash

    @pytest.fixture
    def wipe(self, consul):
        return consul.wipe

    @pytest.fixture
    def wire(self, on, consul, line):
        cable = line(consul.host)
        return Wire(on(host=cable.host), cable)

    @pytest.fixture
    def stranger(self, on, guarded):
        return on(host=guarded[0].host, token="00000000-dead-beef-0000-000000000000")

    @pytest.fixture
    def minority(self, on, trio):
        survivor = trio.servers[0]
        return Minority(on(host=survivor.host), trio.alone(survivor))
