"""The reference store keeps every promise of the store protocol, on a clock of the test's own."""

from __future__ import annotations

import pytest

from pgcore.model.basics import Instant
from pgcore.testing.dcs import StoreContract
from pgcore.testing.memory_store import MemoryServer, MemoryStore


class Clock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> Instant:
        return Instant(self.at)


class TestMemoryStore(StoreContract):
    expiry_slack_s = 0.5

    @pytest.fixture
    def server(self):
        return MemoryServer(Clock())

    @pytest.fixture
    def cluster(self, server):
        return lambda member, timing, observer=False: MemoryStore(server, member, timing)

    @pytest.fixture
    def outage(self, server):
        return server.outage()

    @pytest.fixture
    def wipe(self, server):
        def forget():
            with server.session():
                for path in list(server.entries):
                    server.remove(path)

        return forget

    @pytest.fixture
    def elapse(self, server):
        def move(seconds: float) -> None:
            server.clock.at += seconds
            server.tick()

        return move

    def test_the_end_of_a_lease_ends_a_watch_on_the_real_clock(self):
        server = MemoryServer()
        a, b = (MemoryStore(server, name, self.timing) for name in "ab")
        seen = a.read(fresh=True, deadline=self.soon).revision
        b.retime(type(self.timing)(ttl=1))
        assert self.acquire(b)
        assert a.watch(seen, timeout=5)
        seen = a.read(fresh=True, deadline=self.soon).revision
        assert a.watch(seen, timeout=5)
        assert "leader" not in a.read(fresh=True, deadline=self.soon).records
