"""One ZooKeeper and one ensemble for all tests of a run, and stores on scopes of their own."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from contextlib import suppress

import pytest

from pgcore.plugin import StoreRequest, Timing
from pgcore.testing.processes import LOOPBACK
from pgcore.testing.zookeeper import ZooKeeperEnsemble, ZooKeeperServer, missing

TIMING = Timing(ttl=2, loop_wait=1, retry_timeout=1)
scopes = itertools.count()
QUIET = (11,)
"""Types of requests whose answers nobody waits for: the ping."""


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


class Line:
    """A TCP line to a server that notes the types of requests, can swallow the answer to one, and can be cut."""

    def __init__(self, target):
        host, _, port = target.partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server((LOOPBACK, 0))
        self.host = f"{LOOPBACK}:{self._listener.getsockname()[1]}"
        self.requests = []
        self.connections = 0
        self.swallow = None
        """Type of the request whose answer is thrown away with the connection, once."""
        self.lost = False
        self.meanwhile = lambda: None
        self._lose = 0
        self._open = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                self.connections += 1
                server = socket.create_connection(self._target)
                self._open += [client, server]
                ends = {"swallow": False}
                threading.Thread(target=self._upwards, args=(client, server, ends), daemon=True).start()
                threading.Thread(target=self._downwards, args=(client, server, ends), daemon=True).start()

    def _upwards(self, client, server, ends):
        buffer, greeted = b"", False
        with suppress(OSError):
            while data := client.recv(65536):
                buffer += data
                while len(buffer) >= 4 and len(buffer) >= 4 + (size := struct.unpack("!i", buffer[:4])[0]):
                    frame, buffer = buffer[:4 + size], buffer[4 + size:]
                    if greeted:
                        kind = struct.unpack("!i", frame[8:12])[0]
                        self.requests.append(kind)
                        if self._chosen(kind):
                            ends["swallow"] = True
                    greeted = True
                    server.sendall(frame)
        server.close()

    def _downwards(self, client, server, ends):
        with suppress(OSError):
            while data := server.recv(65536):
                if ends["swallow"]:
                    self.meanwhile()
                    break
                client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        client.close()

    def _chosen(self, kind):
        if kind == self.swallow:
            self.swallow = None
            return True
        self._lose -= kind not in QUIET
        self.lost = self.lost or (self._lose == 0 and kind not in QUIET)
        return self._lose == 0 and kind not in QUIET

    def lose(self, number):
        """See ``pgcore.testing.dcs.Line``."""
        self._lose, self.lost = number, False

    def cut(self):
        """End the connections that are open; new ones work."""
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self):
        self._listener.close()


@pytest.fixture
def line():
    """Makes lines: ``line("127.0.0.1:2181")``."""
    lines = []

    def make(target):
        lines.append(Line(target))
        return lines[-1]

    yield make
    for made in lines:
        made.close()
