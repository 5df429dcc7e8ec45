"""One Consul for the tests that do not break it, stores on it, and a line that can swallow an answer."""

from __future__ import annotations

import itertools
import time
from contextlib import ExitStack

import pytest

from pgcore.plugin import StoreRequest, Timing
from pgcore.testing.consul_server import ConsulEnsemble, ConsulServer, consul_program
from pgcore.testing.line import HttpLine
from pgcore_dcs_consul.section import ConsulSection
from pgcore_dcs_consul.store import ConsulStore

TIMING = Timing(ttl=8, loop_wait=1, retry_timeout=2)
scopes = itertools.count()


@pytest.fixture(scope="session")
def program():
    if consul_program() is None:
        pytest.skip("needs Consul: set PGCORE_TEST_CONSUL or run `make test`, which fetches Debian's")


@pytest.fixture(scope="session")
def consul(program, tmp_path_factory):
    with ConsulServer(tmp_path_factory.mktemp("consul")) as server:
        yield server


@pytest.fixture
def own_consul(program, tmp_path):
    """A Consul of the test's own, to be broken."""
    with ConsulServer(tmp_path) as server:
        yield server


@pytest.fixture(scope="session")
def trio(program, tmp_path_factory):
    """Three servers; whoever ends or freezes one brings it back."""
    with ConsulEnsemble(tmp_path_factory.mktemp("trio")) as servers:
        yield servers


@pytest.fixture(scope="session")
def guarded(program, tmp_path_factory):
    """A Consul whose default allows what no policy forbids, and its tokens: one that may do all, one that may only read keys."""
    directory = tmp_path_factory.mktemp("guarded")
    with ConsulServer(directory, options={"acl": {"enabled": True, "default_policy": "allow"}}) as server:
        end = time.monotonic() + 20
        while True:  # the ACL system begins a moment after the leader was elected
            try:
                server._token = server.ask("PUT", "/v1/acl/bootstrap")["SecretID"]
                break
            except ValueError:
                assert time.monotonic() < end
                time.sleep(0.1)
        rules = 'key_prefix "service/" { policy = "read" }'
        server.ask("PUT", "/v1/acl/policy", {"Name": "reader", "Rules": rules})
        reader = server.ask("PUT", "/v1/acl/token", {"Policies": [{"Name": "reader"}]})["SecretID"]
        yield server, server._token, reader


@pytest.fixture
def connect():
    """Opens stores on one fresh scope: ``connect("a", host=…)``; other keys of the section as keyword arguments."""
    scope, opened = f"/service/own{next(scopes)}", []

    def open_store(member, *, timing=TIMING, observer=False, path=scope, **section):
        store = ConsulStore(StoreRequest(ConsulSection(**section), path, member, timing, observer))
        opened.append(store)
        return store

    open_store.scope = scope.strip("/")
    yield open_store
    for store in opened:
        store.close()


@pytest.fixture
def line():
    """Makes lines: ``line("127.0.0.1:8500")``."""
    with ExitStack() as lines:
        yield lambda target: lines.enter_context(HttpLine(target))
