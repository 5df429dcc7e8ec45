"""One etcd for the tests that do not break it, stores of either API, and a line that can be cut."""

from __future__ import annotations

import itertools
from contextlib import ExitStack

import pytest

from pgcore.plugin import StoreRequest, Timing
from pgcore.testing.line import HttpLine
from pgcore.testing.processes import EtcdCluster, EtcdServer
from pgcore_dcs_etcd.section import Etcd3Section, EtcdSection
from pgcore_dcs_etcd.v2 import Etcd2Store
from pgcore_dcs_etcd.v3 import Etcd3Store

TIMING = Timing(ttl=5, loop_wait=1, retry_timeout=2)
scopes = itertools.count()


@pytest.fixture(scope="session")
def etcd(tmp_path_factory):
    with EtcdServer(tmp_path_factory.mktemp("etcd")) as server:
        yield server


@pytest.fixture
def own_etcd(tmp_path):
    """An etcd of the test's own, to be broken."""
    with EtcdServer(tmp_path) as server:
        yield server


@pytest.fixture(scope="session")
def trio(tmp_path_factory):
    """Three etcds; whoever freezes one lets it go on."""
    with EtcdCluster(tmp_path_factory.mktemp("trio")) as cluster:
        yield cluster


@pytest.fixture
def etcds(tmp_path):
    """Three etcds of the test's own."""
    with EtcdCluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture(params=["etcd3", "etcd"])
def api(request):
    return request.param


@pytest.fixture
def connect():
    """Opens stores on one fresh scope: ``connect("a", host=…)``; other keys of the section as keyword arguments."""
    scope, opened = f"/service/own{next(scopes)}", []

    def open_store(member, *, api="etcd3", timing=TIMING, observer=False, path=scope, **section):
        kinds = {"etcd3": (Etcd3Section, Etcd3Store), "etcd": (EtcdSection, Etcd2Store)}
        section_type, store_type = kinds[api]
        store = store_type(StoreRequest(section_type(**section), path, member, timing, observer))
        opened.append(store)
        return store

    yield open_store
    for store in opened:
        store.close()


@pytest.fixture
def line():
    """Makes lines: ``line("127.0.0.1:2379")``."""
    with ExitStack() as lines:
        yield lambda target: lines.enter_context(HttpLine(target))
