"""A real HAProxy in front of a test cluster, on one of the configurations in ``examples/``."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from harness.cluster import Cluster
from harness.configuration import dsn
from harness.processes import MARKER, free_port

EXAMPLES = Path(__file__).parents[2] / "examples"


class HaProxy:
    """``examples/<name>`` with the cluster's servers and free ports in place of the example's; all else as it is."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name, self._mark = name, cluster.mark
        self._file, self._log = (cluster.directory / f"{Path(name).stem}.{end}" for end in ("cfg", "log"))
        text = (EXAMPLES / name).read_text()
        self._ports = {port: free_port() for port in re.findall(r"bind 127\.0\.0\.1:(\d+)", text)}
        for old, new in self._ports.items():
            text = text.replace(f"bind 127.0.0.1:{old}", f"bind 127.0.0.1:{new}")
        for number, node in enumerate(cluster.nodes):
            text, changed = re.subn(rf"server postgresql{number} \S+ (.*) check port \d+",
                                    rf"server {node.name} {node.host}:{node.pg_port} \1 check port {node.rest_port}", text)
            assert changed == 2, f"{name} has one server in each of two listens for node {number}"
        self._file.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def primary_dsn(self) -> str:
        """What a client of the primary uses."""
        return dsn([("127.0.0.1", self._ports["5000"])])

    @property
    def replicas_dsn(self) -> str:
        """What a client of the replicas uses."""
        return dsn([("127.0.0.1", self._ports["5001"])])

    def up(self, listen: str) -> set[str] | None:
        """The servers of a listen that HAProxy sends clients to; None: it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._ports['7000']}/;csv", timeout=2) as answer:
                rows = list(csv.DictReader(answer.read().decode().lstrip("# ").splitlines()))
        except (urllib.error.URLError, OSError):
            return None
        servers = [row for row in rows if row["pxname"] == listen and row["type"] == "2"]
        return {row["svname"] for row in servers if row["status"].startswith("UP")}

    def __enter__(self) -> HaProxy:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(["haproxy", "-db", "-f", str(self._file)], stdout=log, stderr=log,
                                             stdin=subprocess.DEVNULL, start_new_session=True,
                                             env={**os.environ, MARKER: self._mark})
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)
