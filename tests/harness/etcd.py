"""One real etcd for tests: start, stop, freeze, look inside, and count what it was asked."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from harness.processes import MARKER, free_port, wait_for

START_TIMEOUT_S = 15.0
ANSWER_TIMEOUT_S = 2.0


class EtcdServer:
    """A single-member etcd on ``host``. Ports and data survive ``kill`` and ``stop``, so ``start`` brings the same store back."""

    def __init__(self, directory: Path, mark: str, host: str = "127.0.0.1", prefix: tuple[str, ...] = (),
                 port: int | None = None, peer_port: int | None = None) -> None:
        self.host = host
        self.port = port or free_port(host)
        self._peer_port = peer_port or free_port(host)
        self._directory, self._mark, self._prefix = directory, mark, prefix
        self._process: subprocess.Popen[bytes] | None = None
        self.log_file = directory / "etcd.log"

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return f"{self.host}:{self.port}"

    def start(self) -> None:
        """Start and wait until it answers."""
        client, peer = f"http://{self.host}:{self.port}", f"http://{self.host}:{self._peer_port}"
        argv = [*self._prefix, "etcd", "--name", "store", "--data-dir", str(self._directory / "etcd"),
                "--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
                "--initial-advertise-peer-urls", peer, "--initial-cluster", f"store={peer}"]
        with open(self.log_file, "ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                             start_new_session=True, env={**os.environ, MARKER: self._mark})
        wait_for(self.healthy, START_TIMEOUT_S, "etcd answers")

    def healthy(self) -> bool:
        """Whether it serves a linearizable read."""
        try:
            return b"true" in self._request("GET", "/health")
        except (OSError, http.client.HTTPException):
            return False

    def kill(self) -> None:
        """SIGKILL and reap; the data stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def get(self, key: str) -> str | None:
        """The value of one key, ``None`` when absent. Raises ``OSError`` when etcd does not answer."""
        body = json.dumps({"key": base64.b64encode(key.encode()).decode()})
        answer = json.loads(self._request("POST", "/v3/kv/range", body))
        found = answer.get("kvs", [])
        return base64.b64decode(found[0].get("value", "")).decode() if found else None

    def put(self, key: str, value: str) -> None:
        """Store one key without conditions."""
        self._request("POST", "/v3/kv/put", json.dumps({"key": base64.b64encode(key.encode()).decode(),
                                                        "value": base64.b64encode(value.encode()).decode()}))

    def requests(self) -> dict[str, float]:
        """Requests started since etcd began, by method, from its own metrics."""
        counted: dict[str, float] = {}
        for line in self._request("GET", "/metrics").decode().splitlines():
            if line.startswith("grpc_server_started_total{"):
                labels, _, number = line.rpartition(" ")
                method = labels.split('grpc_method="')[1].split('"')[0]
                counted[method] = counted.get(method, 0.0) + float(number)
        return counted

    def key_gone(self, key: str, timeout_s: float, previous: str) -> float:
        """The instant (monotonic seconds) at which ``key`` was first seen without the value ``previous``."""

        def changed() -> float | None:
            return time.monotonic() if self.get(key) != previous else None

        return wait_for(changed, timeout_s, f"{key} stops being {previous}", interval_s=0.02)

    def _request(self, method: str, path: str, body: str | None = None) -> bytes:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=ANSWER_TIMEOUT_S)
        try:
            connection.request(method, path, body)
            return connection.getresponse().read()
        finally:
            connection.close()

    def __enter__(self) -> EtcdServer:
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.kill()
