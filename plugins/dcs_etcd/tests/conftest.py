"""One etcd for the tests that do not break it."""

from __future__ import annotations

import pytest

from pgcore.testing.processes import EtcdServer


@pytest.fixture(scope="session")
def etcd(tmp_path_factory):
    with EtcdServer(tmp_path_factory.mktemp("etcd")) as server:
        yield server
