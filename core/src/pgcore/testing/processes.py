"""Real servers as child processes of a test: started on free loopback ports, frozen, killed and restarted at will.

Everything a test starts here must be stopped by it: use the classes as context managers or in a fixture.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A TCP port of the loopback address that is free right now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def freeze(pid: int, timeout_s: float = 10.0) -> None:
    """SIGSTOP, and wait until each thread of the process stands still: on a busy machine it runs on for a while.

    AssertionError if it does not within ``timeout_s``, ProcessLookupError if there is no such process.
    """
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + timeout_s
    while not _stands_still(pid):
        assert time.monotonic() < deadline, f"process {pid} did not stop within {timeout_s:g} s of SIGSTOP"
        time.sleep(0.002)


class ServerProcess:
    """One server program. ``start`` may be called again after ``stop`` or ``kill``: same ports, same data."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = Path(directory)
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        """The argument list to run."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether the server answers."""
        raise NotImplementedError

    @property
    def log(self) -> Path:
        """Everything the server printed."""
        return self.directory / f"{self.name}.log"

    def launch(self) -> None:
        """Start the program without waiting for it."""
        assert self.process is None, f"{self.name} is running"
        self.directory.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                            env=environment, cwd=self.directory)

    def wait_ready(self, timeout_s: float = 20.0) -> None:
        """Wait until the server answers; AssertionError with the end of its log if it does not."""
        end = time.monotonic() + timeout_s
        while not self.ready():
            assert self.process is not None and self.process.poll() is None and time.monotonic() < end, (
                f"{self.name} did not start:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def start(self) -> Self:
        """Start the server and wait until it answers."""
        self.launch()
        self.wait_ready()
        return self

    def stop(self) -> None:
        """End the server in an orderly way (a frozen one too); killed after 5 s. Does nothing if it is not running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(number)
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def forget(self) -> None:
        """Remove all data, where it is in ``data``; only while it is not running."""
        assert self.process is None
        shutil.rmtree(self.directory / "data", ignore_errors=True)

    def crash(self) -> None:
        """Kill it and start it again, with its data."""
        self.kill()
        self.start()

    def wipe(self) -> None:
        """Stop it and start it again without its data."""
        self.stop()
        self.forget()
        self.start()

    def freeze(self) -> None:
        """Stop the process without closing its sockets (SIGSTOP); returns once each of its threads stands still."""
        assert self.process is not None
        freeze(self.process.pid)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Frozen while entered."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


Server = TypeVar("Server", bound=ServerProcess)


class Ensemble(Generic[Server]):
    """Several servers that form one store; ``servers`` can be stopped and frozen one by one."""

    servers: list[Server]

    def start(self) -> Self:
        """Start all servers and wait until all answer."""
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_ready(60)
        return self

    def stop(self) -> None:
        """End all servers as a crash would."""
        for server in self.servers:
            server.kill()

    @contextmanager
    def alone(self, survivor: Server) -> Iterator[None]:
        """All but this one are frozen while entered."""
        with ExitStack() as frozen:
            for server in self.servers:
                if server is not survivor:
                    frozen.enter_context(server.frozen())
            yield

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class EtcdServer(ServerProcess):
    """One etcd, by default a cluster of its own, with v2 API, all on loopback.

    ``certificates`` = (server certificate, its key, CA) makes the client port TLS and demands client certificates of the CA.
    ``options`` are further command line arguments.
    """

    def __init__(self, tmp_dir: Path, port: int | None = None, *, name: str = "etcd", peer_port: int | None = None,
                 certificates: tuple[Path, Path, Path] | None = None, options: Sequence[str] = ()) -> None:
        super().__init__(name, Path(tmp_dir) / name)
        self.port = port or free_port()
        self.peer_port = peer_port or free_port()
        self.certificates = certificates
        self.options = tuple(options)
        self.initial_cluster = f"{name}={self.peer_url}"
        self.heartbeat_ms = 20
        """Small, as a lone server elects itself and leases as short as 1 s are wanted; a cluster needs patience."""

    @property
    def url(self) -> str:
        """The client address, ``http://127.0.0.1:port``."""
        return f"{'https' if self.certificates else 'http'}://{LOOPBACK}:{self.port}"

    @property
    def peer_url(self) -> str:
        """The address the other etcd members use."""
        return f"http://{LOOPBACK}:{self.peer_port}"

    @property
    def host(self) -> str:
        """``127.0.0.1:port``."""
        return f"{LOOPBACK}:{self.port}"

    def command(self) -> Sequence[str]:
        """The argument list to run."""
        arguments = [
            "etcd", "--name", self.name, "--data-dir", str(self.directory / "data"), "--enable-v2", "--unsafe-no-fsync",
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
            "--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url,
            "--initial-cluster", self.initial_cluster, "--initial-cluster-token", "pgcore-test",
            "--heartbeat-interval", str(self.heartbeat_ms), "--election-timeout", str(10 * self.heartbeat_ms),
            "--log-level", "warn", "--logger", "zap", *self.options]
        if self.certificates:
            certificate, key, authority = map(str, self.certificates)
            arguments += ["--cert-file", certificate, "--key-file", key, "--trusted-ca-file", authority, "--client-cert-auth"]
        return arguments

    def ready(self) -> bool:
        """Whether ``/health`` says so, which needs a leader."""
        connection: http.client.HTTPConnection
        if self.certificates:
            certificate, key, authority = map(str, self.certificates)
            context = ssl.create_default_context(cafile=authority)
            context.load_cert_chain(certificate, key)
            connection = http.client.HTTPSConnection(LOOPBACK, self.port, timeout=2, context=context)
        else:
            connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=2)
        try:
            connection.request("GET", "/health")
            return json.loads(connection.getresponse().read()).get("health") == "true"
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            connection.close()


    def ask(self, method: str, path: str, body: object, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The JSON answer of a server without TLS. Raises OSError, HTTPException, or ValueError unless it answers with 2xx."""
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=5)
        try:
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status >= 300:
                raise ValueError(f"{method} {path}: {answer.status} {content.decode(errors='replace')}")
            return json.loads(content or b"{}")
        finally:
            connection.close()

    def demand_login(self, password: str, others: Sequence[str] = ()) -> None:
        """From now on both APIs want users with this password: ``root``, who may do all, and ``others``, who may do nothing."""
        for name in ("root", *others):
            self.ask("POST", "/v3/auth/user/add", {"name": name, "password": password})
        self.ask("POST", "/v3/auth/role/add", {"name": "root"})
        self.ask("POST", "/v3/auth/user/grant", {"user": "root", "role": "root"})
        self.ask("POST", "/v3/auth/enable", {})
        self.ask("PUT", "/v2/auth/users/root", {"user": "root", "password": password})
        self.ask("PUT", "/v2/auth/enable", {})


class EtcdCluster(Ensemble[EtcdServer]):
    """Several etcd servers, three by default, that form one cluster."""

    def __init__(self, tmp_dir: Path, size: int = 3) -> None:
        self.servers = [EtcdServer(tmp_dir, name=f"etcd{number}") for number in range(size)]
        for server in self.servers:
            server.heartbeat_ms = 100
            server.initial_cluster = ",".join(f"{peer.name}={peer.peer_url}" for peer in self.servers)

    @property
    def hosts(self) -> list[str]:
        """The client addresses, ``127.0.0.1:port``."""
        return [server.host for server in self.servers]

    @property
    def leader(self) -> EtcdServer:
        """The server that leads at the moment. AssertionError if nobody does."""
        for server in self.servers:
            with suppress(OSError, http.client.HTTPException, ValueError):
                answer = self._status(server)
                if answer.get("leader") == answer["header"]["member_id"]:
                    return server
        raise AssertionError("no etcd leads")

    @staticmethod
    def _status(server: EtcdServer) -> dict[str, dict[str, str]]:
        connection = http.client.HTTPConnection(LOOPBACK, server.port, timeout=2)
        try:
            connection.request("POST", "/v3/maintenance/status", "{}")
            answer: dict[str, dict[str, str]] = json.loads(connection.getresponse().read())
            return answer
        finally:
            connection.close()


def _stands_still(pid: int) -> bool:
    """Every thread is stopped; true as well where that cannot be read."""
    try:
        states = [path.read_text().rpartition(") ")[2][:1] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        return True
    return all(state in "TZX" for state in states)
