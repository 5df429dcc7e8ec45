"""``pgcore run`` as the first process of a container and under a service manager: signals, orphans, notifications (cli 8)."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import Cluster, Node, wait_for
from harness.configuration import REPLICATION_PASSWORD
from harness.processes import is_postgres

pytestmark = pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True).returncode != 0,
    reason="needs PID namespaces")
READY_S = 60.0


class Manager:
    """What a service manager sees of its service."""

    def __init__(self, path: Path) -> None:
        self.path, self.heard = path, list[str]()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def hears(self, pattern: str, timeout_s: float = READY_S) -> re.Match[str]:
        """The next message is this one."""
        self._socket.settimeout(timeout_s)
        message = self._socket.recv(4096).decode()
        self.heard.append(message)
        found = re.fullmatch(pattern, message)
        assert found is not None, self.heard
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def contained(make_cluster: Callable[..., Cluster]) -> Iterator[tuple[Node, Manager]]:
    """A node whose agent will be process 1 of a PID namespace, with a service manager and a password in the environment."""
    cluster = make_cluster(size=1)
    cluster.start_store()
    node = cluster.nodes[0]
    manager = Manager(cluster.directory / "notify")
    del node.document["postgresql"]["authentication"]["replication"]["password"]
    node.prefix = ("env", f"NOTIFY_SOCKET={manager.path}", f"PATRONI_REPLICATION_PASSWORD={REPLICATION_PASSWORD}",
                   "PATRONI_NOT_A_NAME=1", "KUBERNETES_PORT=1", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    yield node, manager
    manager.close()


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]



def _first_and_agent(node: Node) -> tuple[int, int]:
    """Process 1 of the namespace, and the agent: the one child of it with threads."""
    (first,) = _children(node.pid)
    (agent,) = [child for child in _children(first) if len(os.listdir(f"/proc/{child}/task")) > 3]
    return first, agent


def _usec() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_the_first_process_reaps_and_passes_signals_on_and_the_manager_is_told(contained: tuple[Node, Manager]) -> None:
    node, manager = contained
    node.start()
    manager.hears("READY=1")
    wait_for(lambda: node.status_of("/primary") == 200, READY_S, "the node is the primary")
    first, _ = _first_and_agent(node)
    assert len(os.listdir(f"/proc/{first}/task")) == 1, "process 1 does nothing but wait"

    enter = ["nsenter", f"--target={first}", "--pid", "--mount"]
    subprocess.run([*enter, "sh", "-c", "sleep 0.2 & sleep 0.4 &"], check=True, timeout=10, stdout=subprocess.DEVNULL)
    wait_for(lambda: not [pid for pid in _children(first) if _name(pid) == "sleep"], 30, "orphans are reaped")

    servers = [pid for pid in node.pids() if is_postgres(pid)]
    assert servers
    inherited = b"".join(Path(f"/proc/{pid}/environ").read_bytes() for pid in servers[:1])
    assert b"PATRONI_" not in inherited and b"NOTIFY_SOCKET" not in inherited and b"KUBERNETES_" not in inherited

    before = _usec()
    os.kill(first, signal.SIGHUP)
    begun = manager.hears(r"RELOADING=1\nMONOTONIC_USEC=(\d+)")
    assert before <= int(begun[1]) <= _usec()
    manager.hears("READY=1")
    assert "the configuration of this node was read again" in node.log()

    os.kill(first, signal.SIGTERM)
    manager.hears("STOPPING=1", 10)
    assert node.wait_ended(60) == 0
    control = subprocess.run([Path(node.document["postgresql"]["bin_dir"]) / "pg_controldata", node.data_dir],
                             capture_output=True, text=True, env={"LC_ALL": "C"}, check=True).stdout
    assert re.search(r"cluster state: +shut down\n", control), control


def test_the_code_of_a_killed_agent_is_that_of_the_container(contained: tuple[Node, Manager]) -> None:
    node, manager = contained
    node.start()
    manager.hears("READY=1")
    first, agent = _first_and_agent(node)
    os.kill(agent, signal.SIGKILL)
    assert node.wait_ended(20) == 128 + signal.SIGKILL
    assert not Path(f"/proc/{first}").exists()


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
