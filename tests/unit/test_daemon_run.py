"""What ``pgcore run`` looks at before it touches anything: where PostgreSQL is to listen, what the first configuration says."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from contract.postgres_node import BIN_DIR
from pgcore.daemon.run import check_listen
from pgcore.errors import ConfigError
from unit.test_daemon_kit import write_node_file

GOOD = ["127.0.0.1:5432", "0.0.0.0:5432", "*:5432", ":5432", "127.0.0.1", "localhost,127.0.0.1:5432", " localhost , * :5432"]
BAD = {
    "no-such-host.invalid:5432": "no-such-host.invalid",
    "127.0.0.1,no-such-host.invalid:5432": "no-such-host.invalid",
    "300.1.1.1:5432": "300.1.1.1",
    "two words:5432": "two words",
    "127.0.0.1:port": "127.0.0.1:port",
    "bad..name:5432": "bad..name",
    f"{'a' * 70}.example:5432": "a" * 70,
}


@pytest.mark.parametrize("listen", GOOD)
def test_where_postgresql_can_listen_is_accepted(listen: str) -> None:
    check_listen(listen)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
@pytest.mark.parametrize("listen", ["[::1]:5432", "::1:5432", "127.0.0.1,[::1]:5432"])
def test_addresses_of_ipv6_are_accepted(listen: str) -> None:
    check_listen(listen)


@pytest.mark.parametrize(("listen", "named"), BAD.items())
def test_a_name_that_is_no_address_is_refused_with_key_value_and_remedy(listen: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_listen(listen)
    assert caught.value.path == "postgresql.listen"
    assert caught.value.problem.startswith(f"'{named}") and "0.0.0.0:5432" in caught.value.hint


def run(folder: Path, changes: dict[str, Any]) -> str:
    """What ``pgcore run`` prints on a node file that it refuses."""
    path = write_node_file(folder, changes)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PGCORE_", "PATRONI_"))}
    command = [sys.executable, "-m", "pgcore", "run", str(path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert os.listdir(folder) == ["node.yml"]
    return ended.stderr


@pytest.mark.server
def test_an_agent_told_to_listen_at_no_address_ends_before_anything_is_made(tmp_path: Path) -> None:
    told = run(tmp_path, {"postgresql": {"listen": "no-such-host.invalid:5432", "bin_dir": BIN_DIR}})
    assert "pgcore: postgresql.listen: 'no-such-host.invalid' is not an address of this machine" in told


def test_an_agent_with_a_mistake_in_bootstrap_dcs_ends_before_anything_is_made(tmp_path: Path) -> None:
    told = run(tmp_path, {"bootstrap": {"dcs": {"ttl": "soon"}}})
    assert f"pgcore: {tmp_path / 'node.yml'}: bootstrap.dcs.ttl: " in told and "'soon'" in told


def test_an_agent_without_its_driver_says_what_to_install() -> None:
    without = ("import sys; sys.modules['psycopg2'] = None; sys.argv = ['pgcore', 'run']; "
               "from pgcore.__main__ import main; sys.exit(main())")
    ended = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, timeout=20)
    assert ended.returncode == 1 and ended.stderr.startswith("pgcore: the PostgreSQL driver psycopg2 is not installed (")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.server
@pytest.mark.skipif(not BIN_DIR, reason="no PostgreSQL programs on this machine")
def test_an_agent_whose_store_is_mute_says_so_at_once_and_ends_at_once(tmp_path: Path) -> None:
    """A store that accepts connections and never answers, as behind a broken network."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        changes = {"postgresql": {"bin_dir": BIN_DIR}, "etcd3": {"hosts": [f"127.0.0.1:{mute.getsockname()[1]}"]}, "raft": None}
        path = write_node_file(tmp_path, changes)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PGCORE_", "PATRONI_"))}
        with open(tmp_path / "log", "wb") as log:
            agent = subprocess.Popen([sys.executable, "-m", "pgcore", "run", str(path)], env=environment, stderr=log)
        try:
            began = time.monotonic()
            while b"which has not answered yet" not in (tmp_path / "log").read_bytes():
                assert time.monotonic() - began < 8, (tmp_path / "log").read_text()
                time.sleep(0.05)
            asked = time.monotonic()
            agent.send_signal(signal.SIGINT)
            assert agent.wait(8) == 0
            assert time.monotonic() - asked < 2
        finally:
            agent.kill()
            agent.wait()
    assert "asked to end before the store (etcd3) answered" in (tmp_path / "log").read_text()
