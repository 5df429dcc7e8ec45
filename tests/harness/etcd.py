"""One real etcd for tests: start, stop, freeze, look inside, and count what it was asked."""

from __future__ import annotations

import base64
import http.client
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.processes import free_port, wait_for
from harness.store_server import StoreServer, summed

ANSWER_TIMEOUT_S = 2.0


class EtcdServer(StoreServer):
    """A single-member etcd with ordinary fsync on an address of its choice, so that it can have a namespace of its own."""

    programs = ("etcd",)

    def __init__(self, directory: Path, host: str = "127.0.0.1", prefix: tuple[str, ...] = (),
                 port: int | None = None, peer_port: int | None = None) -> None:
        super().__init__(directory, host, prefix, name="etcd")
        self.port = port or free_port(host)
        self._peer_port = peer_port or free_port(host)

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return f"{self.host}:{self.port}"

    def section(self) -> dict[str, Any]:
        """The v3 API at this address."""
        return {"etcd3": {"hosts": [self.address]}}

    def command(self) -> Sequence[str]:
        """The argument list to run."""
        client, peer = f"http://{self.host}:{self.port}", f"http://{self.host}:{self._peer_port}"
        return [*self._prefix, "etcd", "--name", "store", "--data-dir", str(self.directory / "data"),
                "--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
                "--initial-advertise-peer-urls", peer, "--initial-cluster", f"store={peer}"]

    def ready(self) -> bool:
        """Whether it serves a linearizable read."""
        try:
            return b"true" in self._request("GET", "/health")
        except (OSError, http.client.HTTPException):
            return False

    def get(self, key: str) -> str | None:
        """The value of one key, ``None`` when absent. Raises ``OSError`` when etcd does not answer."""
        found = self._range(key)
        return base64.b64decode(found.get("value", "")).decode() if found else None

    def revisions(self, key: str) -> tuple[int, int] | None:
        """When one key was created and when it was last written, as revisions of the store; ``None`` when absent."""
        found = self._range(key)
        return (int(found["create_revision"]), int(found["mod_revision"])) if found else None

    def ttl(self, key: str) -> int:
        """The ttl in seconds that was asked for the lease under which ``key`` was written."""
        lease = (self._range(key) or {})["lease"]
        return int(json.loads(self._request("POST", "/v3/lease/timetolive", json.dumps({"ID": lease})))["grantedTTL"])

    def _range(self, key: str) -> dict[str, Any] | None:
        body = json.dumps({"key": base64.b64encode(key.encode()).decode()})
        answer = json.loads(self._request("POST", "/v3/kv/range", body))
        return next(iter(answer.get("kvs", [])), None)

    def put(self, key: str, value: str) -> None:
        """Store one key without conditions."""
        self._request("POST", "/v3/kv/put", json.dumps({"key": base64.b64encode(key.encode()).decode(),
                                                        "value": base64.b64encode(value.encode()).decode()}))

    def delete(self, key: str) -> None:
        """Remove one key without conditions."""
        self._request("POST", "/v3/kv/deleterange", json.dumps({"key": base64.b64encode(key.encode()).decode()}))

    def wipe(self, prefix: str) -> None:
        """Delete every key that begins with ``prefix``."""
        start, end = (base64.b64encode(text.encode()).decode() for text in (prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1)))
        self._request("POST", "/v3/kv/deleterange", json.dumps({"key": start, "range_end": end}))

    def requests(self) -> dict[str, float]:
        """Requests started since etcd began, by method, from its own metrics."""
        return self._metric("grpc_server_started_total", "grpc_method")

    def key_gone(self, key: str, timeout_s: float, previous: str) -> float:
        """The instant (monotonic seconds) at which ``key`` was first seen without the value ``previous``."""

        def changed() -> float | None:
            return time.monotonic() if self.get(key) != previous else None

        return wait_for(changed, timeout_s, f"{key} stops being {previous}", interval_s=0.02)

    def _metric(self, name: str, label: str) -> dict[str, float]:
        """The values of one of its own counters by one of its labels."""
        lines = self._request("GET", "/metrics").decode().splitlines()
        return summed((line for line in lines if line.startswith(f"{name}{{")), label)

    def _request(self, method: str, path: str, body: str | None = None) -> bytes:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=ANSWER_TIMEOUT_S)
        try:
            connection.request(method, path, body)
            return connection.getresponse().read()
        finally:
            connection.close()


class EtcdV2Server(EtcdServer):
    """The same server with the v2 API, which agents use; what is asked here by the v3 API does not show it."""

    def section(self) -> dict[str, Any]:
        """The v2 API at this address."""
        return {"etcd": {"hosts": [self.address]}}

    def command(self) -> Sequence[str]:
        """The argument list to run."""
        return [*super().command(), "--enable-v2"]

    def requests(self) -> dict[str, float]:
        """Requests for keys, watches among them, by method."""
        return self._metric("etcd_http_received_total", "method")
