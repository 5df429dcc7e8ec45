"""One etcd for the tests that do not break it, stores of either API, and a line that can be cut."""

from __future__ import annotations

import itertools
import socket
import threading
from contextlib import suppress

import pytest

from pgcore.plugin import StoreRequest, Timing
from pgcore.testing.processes import LOOPBACK, EtcdCluster, EtcdServer
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


class Line:
    """A TCP line to a server that counts requests and can swallow the next answer."""

    def __init__(self, target: str) -> None:
        host, _, port = target.partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server((LOOPBACK, 0))
        self.host = f"{LOOPBACK}:{self._listener.getsockname()[1]}"
        self.requests: list[str] = []
        self.swallow = ""
        """The next answer to a request whose path ends so is thrown away and the connection closed."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(self._target)
                ends = {"swallow": False}
                threading.Thread(target=self._upwards, args=(client, server, ends), daemon=True).start()
                threading.Thread(target=self._downwards, args=(client, server, ends), daemon=True).start()

    def _upwards(self, client: socket.socket, server: socket.socket, ends: dict[str, bool]) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                first = data.split(b"\r\n")[0].decode("latin-1")
                if first.endswith("HTTP/1.1"):
                    path = first.split(" ")[1]
                    self.requests.append(path)
                    if self.swallow and path.endswith(self.swallow):
                        self.swallow, ends["swallow"] = "", True
                server.sendall(data)
        server.close()

    def _downwards(self, client: socket.socket, server: socket.socket, ends: dict[str, bool]) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if ends["swallow"]:
                    break
                client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        client.close()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def line():
    """Makes lines: ``line("127.0.0.1:2379")``."""
    lines = []

    def make(target):
        lines.append(Line(target))
        return lines[-1]

    yield make
    for made in lines:
        made.close()
