"""The plugins of ``examples/plugins``, installed as wheels would be, in a real cluster: a copy, a snapshot, a webhook."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from harness import Cluster, wait_for
from harness.agents import POSTGRES_USER
from harness.configuration import BIN_DIR, REPLICATION_PASSWORD

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "plugins"
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


class Inbox(ThreadingHTTPServer):
    """Keeps what is posted to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.posted: list[Any] = []
        Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))  # type: ignore[attr-defined]
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for ``PYTHONPATH`` with the three distributions."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    shutil.copytree(EXAMPLES, source, dirs_exist_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation", "--target", target]
    subprocess.run([*pip, *sorted(source.iterdir())], check=True, timeout=120, env=ENVIRONMENT)
    return target


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    server = Inbox()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("folder", sorted(path.name for path in EXAMPLES.iterdir()))
def test_their_own_tests_pass_and_an_agent_could_use_them(installed: Path, folder: str) -> None:
    environment = ENVIRONMENT | {"PYTHONPATH": str(installed)}
    name = folder.rpartition("-")[2]
    for argv in (["pgcore", "plugins", "check", "--strict", name],
                 ["pytest", "-q", "-p", "no:cacheprovider", "--rootdir", EXAMPLES / folder, EXAMPLES / folder / "tests"]):
        done = subprocess.run([sys.executable, "-m", *argv], cwd=installed, env=environment, capture_output=True, text=True,
                              timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_copy_of_a_cluster_with_a_standby_from_a_snapshot_posts_its_roles(
        make_cluster: Callable[..., Cluster], etcd_cluster: Cluster, installed: Path, inbox: Inbox,
        monkeypatch: pytest.MonkeyPatch) -> None:
    original = etcd_cluster.primary()
    original.query("CREATE TABLE IF NOT EXISTS production AS SELECT 4711 AS number")
    monkeypatch.setenv("PYTHONPATH", str(installed))
    staging = make_cluster(size=2, scope="staging", beside=etcd_cluster)
    first, second = staging.nodes
    for node in staging.nodes:
        node.document["webhook"] = {"url": f"http://127.0.0.1:{inbox.server_port}/"}
    conninfo = f"host={original.host} port={original.pg_port} user=replicator password={REPLICATION_PASSWORD}"
    first.document["bootstrap"] |= {"method": "copy", "copy": {"conninfo": conninfo}}
    snapshot = staging.directory / "snapshot"
    second.document["postgresql"] |= {"create_replica_methods": ["snapshot"], "snapshot": {"path": str(snapshot)}}

    first.start()
    staging.primary()
    assert first.query("SELECT number FROM production") == [(4711,)]
    first.query("CREATE TABLE mine AS SELECT 1 AS number")
    assert original.query("SELECT to_regclass('mine')") == [(None,)], "the copy is not independent"

    snapshot.mkdir()
    shutil.chown(snapshot, POSTGRES_USER, POSTGRES_USER)
    dsn = f"host={first.host} port={first.pg_port} user=replicator password={REPLICATION_PASSWORD}"
    subprocess.run(["setpriv", f"--reuid={POSTGRES_USER}", f"--regid={POSTGRES_USER}", "--init-groups", "--",
                    BIN_DIR / "pg_basebackup", "-D", snapshot, "-c", "fast", "-X", "stream", "-d", dsn], check=True, timeout=60)
    second.start()
    wait_for(second.streams, 60, "the standby from the snapshot streams")
    assert second.query("SELECT number FROM mine") == [(1,)]
    assert "making a replica with method snapshot" in second.log()
    wait_for(lambda: {"scope": "staging", "member": first.name, "role": "primary"} in inbox.posted, 30, "the role is posted")
