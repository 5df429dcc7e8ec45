"""`pgcore migrate` on a cluster of Patroni: what it sees without writing anything, and its plan carried out to the letter."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import Cluster, Node
from harness.agents import patroni_agent, pgcore_agent
from pgcore.cli.store_version import store_version
from pgcore.testing.consul_server import ConsulServer, consul_program

PGCORE = Path(sys.executable).with_name("pgcore")
WRITES = ("Put", "Txn", "DeleteRange", "LeaseGrant", "LeaseRevoke")
ADOPTED_S = 60.0


@pytest.fixture(scope="module")
def patroni(make_shared_cluster: Callable[..., Cluster], predecessor: Path) -> Iterator[Cluster]:
    """A leader and a standby of Patroni."""
    yield make_shared_cluster(size=2, agent=patroni_agent(predecessor)).bootstrap()


def migrate(node: Node, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PGCORE, "migrate", *arguments], capture_output=True, text=True, timeout=60)


def checked(node: Node, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = migrate(node, "check", str(node.node_file), "-f", "json", *arguments)
    return done.returncode, json.loads(done.stdout)


def test_the_check_reads_the_cluster_and_writes_nothing(patroni: Cluster) -> None:
    """While the agents stand still nobody but the check could have written."""
    assert patroni.etcd is not None
    leader = patroni.primary()
    other = patroni.others(leader)[0]
    code, seen = checked(other)
    assert (code, seen["verdict"], seen["unreadable"]) == (0, "nothing must change first", "")
    facts = seen["facts"]
    assert facts[f"member {leader.name}"].startswith("leader, running, Patroni 4.1.5, ")
    assert facts[f"member {other.name}"].endswith(f", Patroni 4.1.5, {other.host}:{other.pg_port}")
    assert re.fullmatch(r"etcd3 3\.\d+\.\d+", facts["store"])
    assert facts["REST address"].endswith(f"(Patroni 4.1.5 as {other.name})")
    assert facts["system identifier"] == str(other.system_identifier()) and facts["PostgreSQL"].startswith("15.")
    assert any(row["path"] == "ttl" and "limits hold for all" in row["text"] for row in seen["findings"])
    for node in patroni.nodes:
        node.freeze_agent()
    try:
        before = patroni.etcd.requests()
        code, seen = checked(other)
        after = patroni.etcd.requests()
    finally:
        for node in patroni.nodes:
            node.thaw_agent()
    assert code == 0 and seen["facts"]["REST address"].endswith("(nobody answers)")
    assert {name: after.get(name, 0) - before.get(name, 0) for name in WRITES} == dict.fromkeys(WRITES, 0)
    assert after["Range"] > before["Range"]


def test_a_file_that_cannot_be_read_and_a_store_that_does_not_answer_are_told_apart(patroni: Cluster, tmp_path: Path) -> None:
    node = patroni.nodes[0]
    missing = migrate(node, "check", str(tmp_path / "none.yml"))
    assert missing.returncode == 2 and "none.yml: does not exist" in missing.stderr
    path = tmp_path / "node.yml"
    path.write_text(node.node_file.read_text().replace(f"{patroni.etcd.address}", "127.0.0.1:9") if patroni.etcd else "")
    path.chmod(0o600)
    away = migrate(node, "check", str(path))
    assert away.returncode == 2 and "the cluster cannot be read" in away.stderr and "127.0.0.1:9" in away.stderr
    assert "nothing must change in the file; the cluster could not be read" in away.stdout
    offline = migrate(node, "check", str(path), "--offline")
    assert (offline.returncode, offline.stderr) == (0, "")


def test_the_printed_plan_moves_the_cluster_and_restarts_no_server(patroni: Cluster) -> None:
    """``systemctl`` stands for what starts and stops agents here; all else is run as printed. (EC 188)"""
    servers = {node.name: node.postmaster_pid() for node in patroni.nodes}
    leader = patroni.primary()
    plan, way_back = json.loads(migrate(leader, "plan", str(leader.node_file), "-f", "json").stdout)
    order = [step["member"] for step in plan["steps"] if any("enable" in command for command in step["commands"])]
    assert order == [patroni.others(leader)[0].name, leader.name]
    assert [step["member"] for step in way_back["steps"] if any("enable" in command for command in step["commands"])] == order
    for step in plan["steps"]:
        for command in step["commands"]:
            carry_out(command, patroni.node(step["member"]) if step["member"] else leader)
    assert all("pgcore" in node.status() for node in patroni.nodes)
    assert {node.name: node.postmaster_pid() for node in patroni.nodes} == servers and patroni.primary() is leader
    again = migrate(leader, "plan", str(leader.node_file))
    forth, _, back = again.stdout.partition("back from pgcore to Patroni")
    assert again.returncode == 0 and "# nothing is left to do" in forth and "systemctl disable --now pgcore" in back
    assert migrate(leader, "plan", "--back", str(leader.node_file)).stdout.startswith(f"# {patroni.scope}: back from")


def carry_out(command: str, node: Node) -> None:
    """A line of the plan, on this node."""
    if command == "systemctl disable --now patroni":
        assert node.stop() == 0
    elif command == "systemctl enable --now pgcore":
        node.agent = pgcore_agent()
        node.start()
        assert node.running
    elif not command.startswith("systemctl show "):
        environ = os.environ | {"PATH": f"{PGCORE.parent}:{os.environ['PATH']}"}
        words = shlex.split(command, comments=True)
        if words[:3] == ["pgcore", "migrate", "check"]:
            command = shlex.join([*words[:3], str(node.node_file)])
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=ADOPTED_S, env=environ)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}\n{node.log()[-2000:]}"


@pytest.mark.skipif(consul_program() is None, reason="needs consul")
def test_the_release_of_consul_is_told_and_silent_servers_are_passed_over(tmp_path: Path) -> None:
    server = ConsulServer(tmp_path)
    server.start()
    try:
        told = store_version("consul", {"host": server.host})
        assert re.match(r"1\.\d+\.\d+", told)
        assert store_version("consul", {"url": f"http://{server.host}"}) == told
        assert store_version("etcd3", {"hosts": f"127.0.0.1:9,{server.host}"}) == "", "it does not answer as etcd does"
    finally:
        server.stop()
