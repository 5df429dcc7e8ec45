"""One Consul for the tests that do not break it, stores on it, and a line that can swallow an answer."""

from __future__ import annotations

import itertools
import socket
import threading
from contextlib import suppress

import pytest

from pgcore.plugin import StoreRequest, Timing
from pgcore.testing.consul_server import ConsulServer, consul_program
from pgcore.testing.processes import LOOPBACK
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


class Line:
    """A TCP line to a server that counts requests, can swallow the next answer and can be cut."""

    def __init__(self, target: str) -> None:
        host, _, port = target.partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server((LOOPBACK, 0))
        self.host = f"{LOOPBACK}:{self._listener.getsockname()[1]}"
        self.requests: list[str] = []
        self.swallow = ""
        """The answer to the next request whose path begins so is thrown away and the connection closed."""
        self.meanwhile = lambda: None
        """Called when an answer was swallowed, before the client notices."""
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(self._target)
                self._open += [client, server]
                ends = {"swallow": False}
                threading.Thread(target=self._upwards, args=(client, server, ends), daemon=True).start()
                threading.Thread(target=self._downwards, args=(client, server, ends), daemon=True).start()

    def _upwards(self, client: socket.socket, server: socket.socket, ends: dict[str, bool]) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                first = data.split(b"\r\n")[0].decode("latin-1")
                if first.endswith("HTTP/1.1"):
                    method, path, _ = first.split(" ")
                    self.requests.append(f"{method} {path}")
                    if self.swallow and path.startswith(self.swallow):
                        self.swallow, ends["swallow"] = "", True
                server.sendall(data)
        server.close()

    def _downwards(self, client: socket.socket, server: socket.socket, ends: dict[str, bool]) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if ends["swallow"]:
                    self.meanwhile()
                    break
                client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        client.close()

    def cut(self) -> None:
        """End the connections that are open; new ones work."""
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut()


@pytest.fixture
def line():
    """Makes lines: ``line("127.0.0.1:8500")``."""
    lines = []

    def make(target):
        lines.append(Line(target))
        return lines[-1]

    yield make
    for made in lines:
        made.close()
