"""One ZooKeeper and one ensemble for all tests of a run, and stores on scopes of their own."""

from __future__ import annotations

import itertools

import pytest

from pgcore.plugin import StoreRequest, Timing
from pgcore.testing.zookeeper import ZooKeeperEnsemble, ZooKeeperServer, missing

TIMING = Timing(ttl=2, loop_wait=1, retry_timeout=1)
scopes = itertools.count()


@pytest.fixture(scope="session")
def zookeeper(tmp_path_factory):
    """A server of its own; whoever freezes or restarts it brings it back."""
    if lacking := missing():
        pytest.skip(f"needs {lacking}")
    with ZooKeeperServer(tmp_path_factory.mktemp("zookeeper")) as server:
        yield server


@pytest.fixture(scope="session")
def ensemble(tmp_path_factory):
    """Three servers; whoever stops one starts it again."""
    if lacking := missing():
        pytest.skip(f"needs {lacking}")
    with ZooKeeperEnsemble(tmp_path_factory.mktemp("ensemble")) as servers:
        yield servers


@pytest.fixture
def scope():
    """The path of a scope that no other test uses."""
    return f"/service/own{next(scopes)}"


@pytest.fixture
def connect(scope):
    """Opens stores on one fresh scope: ``connect("a", hosts=…)``; other keys of the section as keyword arguments."""
    from pgcore_dcs_zookeeper.section import ZooKeeperSection
    from pgcore_dcs_zookeeper.store import ZooKeeperStore

    opened = []

    def open_store(member, *, timing=TIMING, observer=False, path=scope, section=None, **keys):
        store = ZooKeeperStore(StoreRequest(section or ZooKeeperSection(**keys), path, member, timing, observer))
        opened.append(store)
        return store

    yield open_store
    for store in opened:
        store.close()
