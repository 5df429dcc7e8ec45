"""Real ZooKeeper servers for tests, alone or as an ensemble, from the jars of Debian's package ``zookeeper``."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pgcore.testing.processes import LOOPBACK, Ensemble, ServerProcess, free_port

JAR = Path("/usr/share/java/zookeeper.jar")
CLASSES = ":".join(str(JAR.with_name(f"{name}.jar")) for name in ("zookeeper", "netty-codec", "netty-resolver"))
"""The latter two are not named by the first in Debian; Netty, for TLS, does not work without them."""
TICK_MS = 200
# Small and quick to start: a test waits for it.
JVM = ("-Xmx96m", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData")


def missing() -> str:
    """What this machine lacks to run ZooKeeper; empty if nothing."""
    return "" if JAR.exists() and shutil.which("java") else "ZooKeeper (packages zookeeper and default-jre-headless)"


class ZooKeeperServer(ServerProcess):
    """One ZooKeeper server with a short tick, so that sessions of a second are possible and end soon after their time.

    ``settings`` are laid over its configuration file, ``java`` are further arguments of the virtual machine.
    """

    def __init__(self, tmp_dir: Path, host: str = LOOPBACK, port: int | None = None, *, name: str = "zookeeper",
                 settings: Mapping[str, str] | None = None, java: Sequence[str] = ()) -> None:
        super().__init__(name, Path(tmp_dir) / name)
        self.address, self.port = host, port or free_port()
        self.settings = {"tickTime": str(TICK_MS), "initLimit": "50", "syncLimit": "10", "clientPort": str(self.port),
                         "clientPortAddress": host, "dataDir": str(self.directory / "data"), "maxClientCnxns": "0",
                         "maxSessionTimeout": "60000", "admin.enableServer": "false", "4lw.commands.whitelist": "*",
                         "forceSync": "no", **(settings or {})}
        self.java = tuple(java)
        self.number = 0
        """Which member of an ensemble it is, from 1 on."""

    @property
    def host(self) -> str:
        """``127.0.0.1:port``."""
        return f"{self.address}:{self.port}"

    def command(self) -> Sequence[str]:
        """The argument list to run; writes the configuration file."""
        (self.directory / "data").mkdir(parents=True, exist_ok=True)
        if self.number:
            (self.directory / "data" / "myid").write_text(str(self.number))
        file = self.directory / "zoo.cfg"
        file.write_text("".join(f"{key}={value}\n" for key, value in self.settings.items()))
        return ["java", *JVM, "-Dzookeeper.jmx.log4j.disable=true", *self.java, "-cp", CLASSES,
                "org.apache.zookeeper.server.quorum.QuorumPeerMain", str(file)]

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """As in ``ServerProcess``, with the patience a virtual machine needs; ends one that does not come up."""
        try:
            super().wait_ready(timeout_s)
        except AssertionError:
            self.kill()
            raise

    def ask(self, word: str) -> str:
        """The answer to one of ZooKeeper's four-letter words; empty if there is none."""
        with suppress(OSError), socket.create_connection((self.address, self.port), timeout=2) as connection:
            connection.sendall(word.encode())
            answer = b""
            while data := connection.recv(65536):
                answer += data
            return answer.decode(errors="replace")
        return ""

    def ready(self) -> bool:
        """Whether it serves clients, which needs a leader."""
        return "Mode:" in self.ask("srvr")

    @property
    def leads(self) -> bool:
        """Whether it leads an ensemble."""
        return "Mode: leader" in self.ask("srvr")


class ZooKeeperEnsemble(Ensemble[ZooKeeperServer]):
    """Servers, three by default, that form an ensemble."""

    def __init__(self, tmp_dir: Path, size: int = 3) -> None:
        self.servers = [ZooKeeperServer(tmp_dir, name=f"zookeeper{number}") for number in range(1, size + 1)]
        peers = {f"server.{number}": f"{LOOPBACK}:{free_port()}:{free_port()}" for number in range(1, size + 1)}
        for number, server in enumerate(self.servers, start=1):
            server.number = number
            server.settings |= peers

    @property
    def hosts(self) -> list[str]:
        """The client addresses."""
        return [server.host for server in self.servers]

    @property
    def leader(self) -> ZooKeeperServer:
        """The server that leads. AssertionError if nobody does."""
        leaders = [server for server in self.servers if server.process is not None and server.leads]
        assert leaders, "no ZooKeeper leads"
        return leaders[0]
