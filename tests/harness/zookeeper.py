"""ZooKeeper under a test cluster: a single server with a short tick and ordinary data files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.processes import free_port
from harness.store_server import StoreServer
from pgcore.testing import zookeeper


class ZooKeeperServer(StoreServer):
    """One server; see ``pgcore.testing.zookeeper``."""

    def __init__(self, directory: Path, host: str = "127.0.0.1", prefix: tuple[str, ...] = ()) -> None:
        super().__init__(directory, host, prefix, name="zookeeper")
        self._server = zookeeper.ZooKeeperServer(directory, host, free_port(host))

    @classmethod
    def missing(cls) -> str:
        """What this machine lacks."""
        return zookeeper.missing()

    def section(self) -> dict[str, Any]:
        """The one server."""
        return {"zookeeper": {"hosts": [self._server.host]}}

    def command(self) -> Sequence[str]:
        """The argument list to run."""
        return [*self._prefix, *self._server.command()]

    def ready(self) -> bool:
        """Whether it serves."""
        return self._server.ready()
