"""One real Consul for clusters under test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.processes import free_port
from harness.store_server import StoreServer
from pgcore.testing.consul_server import ConsulServer, consul_program


class ConsulStoreServer(StoreServer):
    """A single Consul server on an address of its own, with the shortest sessions that Consul allows by default."""

    lease_slack_s = 2.0
    ttl_floor_s = 20

    def __init__(self, directory: Path, host: str = "127.0.0.1", prefix: tuple[str, ...] = ()) -> None:
        super().__init__(directory, host, prefix, name="consul")
        self._consul = ConsulServer(directory, host=host, ports=[free_port(host) for _ in range(3)], prefix=prefix,
                                    options={"session_ttl_min": "10s", "telemetry": {"prometheus_retention_time": "1h"}})

    @classmethod
    def missing(cls) -> str:
        """Consul, if it is not there."""
        return "" if consul_program() else "consul (set PGCORE_TEST_CONSUL)"

    def end_leases(self) -> bool:
        """Destroy all sessions, and with them lock and cards."""
        for session in self._consul.ask("GET", "/v1/session/list?consistent"):
            self._consul.ask("PUT", f"/v1/session/destroy/{session['ID']}")
        return True

    def requests(self) -> dict[str, float]:
        """Requests of its HTTP API by method and path, blocking queries among them."""
        lines = self._consul.ask("GET", "/v1/agent/metrics?format=prometheus", plain=True).splitlines()
        counted = {name: float(number) for name, _, number in (line.rpartition(" ") for line in lines)
                   if name.partition("{")[0].endswith("_count") and "_http" in name and "v1_agent_metrics" not in name}
        # consul_api_http_count{method="GET",path="v1_kv_"} from 1.9 on, beside or in place of consul_http_GET_v1_kv__count
        newer = {name: number for name, number in counted.items() if name.startswith("consul_api_http_count{")}
        return newer or counted

    def section(self) -> dict[str, Any]:
        """The agent at this address."""
        return {"consul": {"host": self._consul.host}}

    def command(self) -> Sequence[str]:
        """The argument list to run."""
        return self._consul.command()

    def ready(self) -> bool:
        """Whether it leads and knows its own node."""
        return self._consul.ready()
