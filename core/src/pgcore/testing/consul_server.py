"""Real Consul servers for tests on loopback ports of their own, alone or as an ensemble."""

from __future__ import annotations

import http.client
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pgcore.testing.processes import LOOPBACK, Ensemble, ServerProcess, free_port

NODE = "pgcore-test"


def consul_program() -> str | None:
    """The Consul to test with: what ``PGCORE_TEST_CONSUL`` names, else the one on PATH, else None."""
    return os.environ.get("PGCORE_TEST_CONSUL") or shutil.which("consul")


class ConsulServer(ServerProcess):
    """One Consul server, a datacenter of its own. ``options`` is laid over its configuration.

    Data survives ``kill`` and ``stop``; ``forget`` removes it. Sessions may be as short as a second unless ``options`` says
    otherwise, so that tests need not wait for Consul's usual 10 s.
    """

    def __init__(self, tmp_dir: Path, *, host: str = LOOPBACK, ports: Sequence[int] = (),
                 options: Mapping[str, Any] | None = None, prefix: Sequence[str] = (), token: str = "",
                 name: str = "consul") -> None:
        super().__init__(name, Path(tmp_dir) / name)
        self.address = host
        self.port, self._server_port, self._serf_port = ports or [free_port() for _ in range(3)]
        self.options = dict(options or {})
        self._prefix, self._token = tuple(prefix), token

    @property
    def host(self) -> str:
        """``127.0.0.1:port`` of the HTTP API."""
        return f"{self.address}:{self.port}"

    @property
    def joined_at(self) -> str:
        """``127.0.0.1:port`` where other agents join it."""
        return f"{self.address}:{self._serf_port}"

    @property
    def leads(self) -> bool:
        """Whether it is the leader as far as it knows."""
        return bool(self.ask("GET", "/v1/status/leader") == f"{self.address}:{self._server_port}")

    def command(self) -> Sequence[str]:
        """The argument list to run; writes the configuration."""
        closed = {name: -1 for name in ("dns", "grpc", "https", "serf_wan")}
        document = {
            "server": True, "bootstrap_expect": 1, "node_name": NODE, "bind_addr": self.address, "client_addr": self.address,
            "data_dir": str(self.directory / "data"), "log_level": "warn", "disable_update_check": True,
            "session_ttl_min": "1s", "performance": {"raft_multiplier": 1}, "leave_on_terminate": False,
            "ports": closed | {"http": self.port, "server": self._server_port, "serf_lan": self._serf_port}}
        (self.directory / "consul.json").write_text(json.dumps(document | self.options))
        return [*self._prefix, consul_program() or "consul", "agent", f"-config-file={self.directory / 'consul.json'}"]

    def ready(self) -> bool:
        """Whether there is a leader who knows this node, which sessions need."""
        try:
            return bool(self.ask("GET", f"/v1/catalog/node/{self.options.get('node_name', NODE)}?consistent"))
        except (OSError, http.client.HTTPException, ValueError):
            return False

    def ask(self, method: str, path: str, body: object = None, *, plain: bool = False) -> Any:
        """What the HTTP API answers, ``plain`` as text, None for 404. Raises OSError, HTTPException or ValueError."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=5)
        try:
            data = body if body is None or isinstance(body, str) else json.dumps(body)
            connection.request(method, path, data, {"X-Consul-Token": self._token} if self._token else {})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status == 404:
                return None
            if answer.status != 200:
                raise ValueError(f"{method} {path}: {answer.status} {content.decode(errors='replace')}")
            return content.decode() if plain else json.loads(content) if content else None
        finally:
            connection.close()


class ConsulEnsemble(Ensemble[ConsulServer]):
    """Servers, three by default, that form one datacenter. ``options`` are for all of them."""

    def __init__(self, tmp_dir: Path, size: int = 3, options: Mapping[str, Any] | None = None) -> None:
        self.servers = [ConsulServer(tmp_dir, name=f"consul{number}") for number in range(1, size + 1)]
        peers = [server.joined_at for server in self.servers]
        for server in self.servers:
            server.options |= {"node_name": server.name, "bootstrap_expect": size, "retry_join": peers, "retry_interval": "1s",
                               **(options or {})}

    @property
    def leader(self) -> ConsulServer:
        """The server that leads. AssertionError if nobody does."""
        for server in self.servers:
            with suppress(OSError, http.client.HTTPException, ValueError):
                if server.process is not None and server.leads:
                    return server
        raise AssertionError("no Consul leads")
