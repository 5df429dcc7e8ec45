"""The README's etcd section as a new user follows it: the files of examples/ as they are, but for ports and directories."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg2
import pytest

from harness.configuration import BIN_DIR
from pgcore.testing.processes import EtcdServer, free_port

EXAMPLES = Path(__file__).parents[2] / "examples"
README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the server's account can reach."""
    path = Path(tempfile.mkdtemp(prefix="pgcore-examples-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def run(place: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts programs as in terminals of their own; ends them with SIGTERM, in reverse order."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *command: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PATH": f"{BIN_DIR}:{os.environ['PATH']}"}
        with (place / f"{name}.log").open("wb") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True))
        return started[-1]

    yield start
    for process in reversed(started):
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    for process in started:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def localised(place: Path, etcd_port: int) -> tuple[list[Path], Path, int]:
    """Copies of the example files with free ports and ``place`` for /tmp/pgcore-demo; the node files, HAProxy's, its port."""
    names = [*(f"node{number}.yml" for number in range(3)), "haproxy.cfg"]
    texts = {name: (EXAMPLES / name).read_text() for name in names}
    ports = {port: free_port() for port in {p for text in texts.values() for p in re.findall(r":(\d{4})\b", text)}}
    ports |= {port: free_port() for port in re.findall(r"check port (\d+)", texts["haproxy.cfg"]) if port not in ports}
    ports["2379"] = etcd_port
    for name, text in texts.items():
        for old, new in ports.items():
            text = re.sub(rf"(:|check port ){old}\b", rf"\g<1>{new}", text)
        (place / name).write_text(text.replace("/tmp/pgcore-demo", str(place / "data")))
    return [place / name for name in names[:3]], place / "haproxy.cfg", ports["5000"]


def through(port: int, statement: str, within_s: float) -> str:
    """The first answer to a statement sent through HAProxy."""
    end = time.monotonic() + within_s
    while True:
        try:
            connection = psycopg2.connect(
                host="127.0.0.1", port=port, user="postgres", password="su-example", dbname="postgres", connect_timeout=2)
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                answer = str(cursor.fetchone()[0])  # type: ignore[index]
            connection.close()
            return answer
        except psycopg2.Error:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy")
def test_the_etcd_journey_of_the_readme_leads_to_the_primary_and_follows_it(
        place: Path, run: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> None:
    etcd = EtcdServer(tmp_path)
    etcd.start()
    try:
        nodes, haproxy, port = localised(place, int(etcd.url.rpartition(":")[2]))
        agents = [run(node.stem, sys.executable, "-m", "pgcore", "run", str(node)) for node in nodes]
        run("haproxy", "haproxy", "-f", str(haproxy))
        assert through(port, "SELECT pg_is_in_recovery()", 60) == "False"
        before = through(port, "SELECT inet_server_port()", 10)
        look = [sys.executable, "-m", "pgcore", "-c", str(nodes[0]), "list"]
        listed = subprocess.run(look, capture_output=True, text=True, check=True)
        assert all(f"postgresql{number}" in listed.stdout for number in range(3)), listed.stdout
        leader = next(n for n, node in enumerate(nodes) if f"listen: 127.0.0.1:{before}" in node.read_text())
        deadline = time.monotonic() + 60
        while listed.stdout.count("streaming") < 2 and time.monotonic() < deadline:
            time.sleep(0.5)
            listed = subprocess.run(look, capture_output=True, text=True, check=True)
        agents[leader].send_signal(signal.SIGTERM)
        assert agents[leader].wait(30) == 0
        assert through(port, "SELECT pg_is_in_recovery()", 30) == "False"
        assert through(port, "SELECT inet_server_port()", 10) != before
    finally:
        etcd.stop()


def test_the_readme_names_the_files_and_commands_that_this_test_runs() -> None:
    text = README.read_text()
    for words in ("pgcore run examples/node0.yml", "pgcore run examples/node1.yml", "pgcore run examples/node2.yml",
                  "haproxy -f examples/haproxy.cfg", "PGPASSWORD=su-example", "-p 5000", "pgcore -c examples/node0.yml list"):
        assert words in text, words
