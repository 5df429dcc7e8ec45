"""The README's etcd section as a new user follows it: its commands and the files of examples/, but for ports and directories."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harness.configuration import BIN_DIR
from pgcore.testing.processes import free_port

ROOT = Path(__file__).parents[2]
FILES = (*(f"postgres{number}.yml" for number in range(3)), "haproxy.cfg")
PGCORE = Path(sys.executable).with_name("pgcore")
UNIT = "ExecStart=/usr/bin/patroni {file}"
"""The line of the unit that distributions ship for Patroni."""
Terminals = Callable[[str], "subprocess.Popen[bytes]"]


def section() -> tuple[list[str], list[str]]:
    """The commands of the README's section: those for a terminal of their own, and those for a look at the cluster."""
    text = (ROOT / "README.md").read_text().partition("## Run it with etcd\n")[2].partition("\n## ")[0]
    blocks = [[line.partition(" #")[0].strip() for line in block.splitlines()]
              for block in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    return [line for line in blocks[0] if not line.startswith("pip ")], blocks[1]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the server's account can reach, with ``bin`` for links of other names."""
    path = Path(tempfile.mkdtemp(prefix="pgcore-examples-"))
    path.chmod(0o755)
    (path / "bin").mkdir()
    for name in ("patroni", "patronictl"):
        (path / "bin" / name).symlink_to(PGCORE)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def ports(place: Path) -> dict[str, str]:
    """Copies of the example files in ``place``, which stands for /tmp/pgcore-demo too; free ports in place of theirs."""
    texts = {name: (ROOT / "examples" / name).read_text() for name in FILES}
    found = {port for text in texts.values() for port in re.findall(r"(?::|check port )(\d{4})\b", text)}
    chosen = {port: str(free_port()) for port in sorted(found)}
    (place / "examples").mkdir()
    for name, text in texts.items():
        text = re.sub(r"(:|check port )(\d{4})\b", lambda match: match[1] + chosen[match[2]], text)
        (place / "examples" / name).write_text(text.replace("/tmp/pgcore-demo", str(place / "data")))
    return chosen


@pytest.fixture
def environment(place: Path, ports: dict[str, str]) -> dict[str, str]:
    """PostgreSQL and pgcore on PATH, and a directory and addresses of its own for etcd."""
    client, peer = f"http://127.0.0.1:{ports['2379']}", f"http://127.0.0.1:{free_port()}"
    return os.environ | {
        "PATH": f"{PGCORE.parent}:{BIN_DIR}:{os.environ['PATH']}", "ETCD_DATA_DIR": str(place / "etcd"),
        "ETCD_LISTEN_CLIENT_URLS": client, "ETCD_ADVERTISE_CLIENT_URLS": client, "ETCD_LISTEN_PEER_URLS": peer,
        "ETCD_INITIAL_ADVERTISE_PEER_URLS": peer, "ETCD_INITIAL_CLUSTER": f"default={peer}"}


@pytest.fixture
def run(place: Path, environment: dict[str, str]) -> Iterator[Terminals]:
    """Runs a line as in a terminal of its own; at the end SIGTERM for all, in reverse order."""
    started: list[subprocess.Popen[bytes]] = []

    def start(line: str) -> subprocess.Popen[bytes]:
        with (place / f"{len(started)}.log").open("wb") as log:
            started.append(subprocess.Popen(shlex.split(line), stdout=log, stderr=log, env=environment, cwd=place,
                                            start_new_session=True))
        return started[-1]

    yield start
    for process in reversed(started):
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def said(line: str, place: Path, environment: dict[str, str], within_s: float, expected: Callable[[str], bool]) -> str:
    """What a command prints once it prints what is expected."""
    end = time.monotonic() + within_s
    while True:
        done = subprocess.run(line, shell=True, capture_output=True, text=True, env=environment, cwd=place, timeout=60)
        if done.returncode == 0 and expected(done.stdout):
            return done.stdout
        assert time.monotonic() < end, f"{line}\n{done.stdout}{done.stderr}"
        time.sleep(0.2)


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy")
def test_the_etcd_section_of_the_readme_leads_to_the_primary_and_follows_it(
        place: Path, ports: dict[str, str], environment: dict[str, str], run: Terminals) -> None:
    """Then the node that was stopped comes back by the unchanged line of a Patroni unit, seen by ``patronictl``."""
    terminals, looks = section()
    assert terminals == ["etcd", *(f"pgcore run examples/postgres{number}.yml" for number in range(3)),
                         "haproxy -f examples/haproxy.cfg"]
    agents = [run(line) for line in terminals][1:4]
    psql, look = looks
    assert "-p 5000" in psql
    primary = f"{psql.replace('5000', ports['5000'])} -d postgres -Atc 'SELECT pg_is_in_recovery(), inet_server_port()'"
    before = said(primary, place, environment, 90, lambda text: text.startswith("f|")).strip()
    said(look, place, environment, 60, lambda text: text.count("streaming") == 2 and text.count("postgresql") == 3)
    leader = next(n for n in range(3) if before == f"f|{ports[str(5432 + n)]}")
    agents[leader].send_signal(signal.SIGTERM)
    assert agents[leader].wait(30) == 0
    assert said(primary, place, environment, 30, lambda text: text.startswith("f|")).strip() != before
    unit = UNIT.format(file=f"examples/postgres{leader}.yml").partition("=")[2].replace("/usr/bin", str(place / "bin"))
    run(unit)
    older = environment | {"PATRONICTL_CONFIG_FILE": f"examples/postgres{leader}.yml"}
    said(f"{place}/bin/patronictl list batman", place, older, 60, lambda text: text.count("streaming") == 2)
