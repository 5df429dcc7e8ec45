"""ZooKeeper under a test cluster: a single server with a short tick and ordinary data files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.processes import free_port
from harness.store_server import StoreServer
from pgcore.testing import zookeeper
from pgcore.testing.exhibitor import Exhibitor


class ZooKeeperServer(StoreServer):
    """One server; see ``pgcore.testing.zookeeper``."""

    def __init__(self, directory: Path, host: str = "127.0.0.1", prefix: tuple[str, ...] = ()) -> None:
        super().__init__(directory, host, prefix, name="zookeeper")
        self._server = zookeeper.ZooKeeperServer(directory, host, free_port(host))

    @classmethod
    def missing(cls) -> str:
        """What this machine lacks."""
        return zookeeper.missing()

    def requests(self) -> dict[str, float]:
        """Packets that clients sent, pings and the beginnings of sessions among them."""
        lines = self._server.ask("mntr").splitlines()
        return {name: float(number) for name, number in (line.split("\t") for line in lines) if name == "zk_packets_received"}

    def section(self) -> dict[str, Any]:
        """The one server."""
        return {"zookeeper": {"hosts": [self._server.host]}}

    def command(self) -> Sequence[str]:
        """The argument list to run."""
        return [*self._prefix, *self._server.command()]

    def ready(self) -> bool:
        """Whether it serves."""
        return self._server.ready()


class ExhibitorServer(ZooKeeperServer):
    """The same server, found by a stub of Exhibitor in this process."""

    def __init__(self, directory: Path, host: str = "127.0.0.1", prefix: tuple[str, ...] = ()) -> None:
        super().__init__(directory, host, prefix)
        self._exhibitor = Exhibitor(host).lists(host, port=self._server.port)

    def section(self) -> dict[str, Any]:
        """Where Exhibitor listens."""
        return {"exhibitor": {"hosts": [self.host], "port": self._exhibitor.port}}
