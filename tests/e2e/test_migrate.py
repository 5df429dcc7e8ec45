"""`pgcore migrate` on a cluster of Patroni: what it sees without writing anything, and its plan carried out to the letter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import UNDISTURBED_S, Cluster, Gap, Node
from harness.agents import AgentKind, patroni_agent, pgcore_agent
from harness.cluster import lost_commits
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


class Machines:
    """Shells on the machines of the nodes, with a ``systemctl`` that starts and stops agents here; the rest is what it is."""

    def __init__(self, cluster: Cluster, kinds: dict[str, AgentKind], place: Path) -> None:
        self.cluster, self._kinds, self._place = cluster, kinds, place
        for name in ("asked", "answered"):
            os.mkfifo(place / name)
        stand_in = place / "systemctl"
        stand_in.write_text(f"""#!/bin/sh
        if [ "$1" = show ]; then echo KillMode=process; exit; fi
        echo "$MEMBER $*" >{place}/asked; read code <{place}/answered; exit $code
        """)
        stand_in.chmod(0o755)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            member, verb, *rest = (self._place / "asked").read_text().split()
            (self._place / "answered").write_text("0\n" if self._done(self.cluster.node(member), verb, rest) else "1\n")

    def _done(self, node: Node, verb: str, rest: list[str]) -> bool:
        """Whether the unit did what it was told."""
        if len(rest) != 2 or rest[0] != "--now":
            return False
        if verb == "disable":
            return node.agent is self._kinds[rest[1]] and node.stop() == 0
        node.agent = self._kinds[rest[1]]
        node.start()
        return node.running

    def carry_out(self, plan: str) -> list[str]:
        """Run what was printed, step by step in a shell where the step says; the members whose agents changed, in order."""
        leader, order = self.cluster.primary(), []
        for step in re.split(r"(?m)^# \d+\. ", plan)[1:]:
            node = next((node for node in self.cluster.nodes if step.startswith(f"{node.name}: ")), leader)
            environ = os.environ | {"PATH": f"{self._place}:{PGCORE.parent}:{os.environ['PATH']}", "MEMBER": node.name}
            done = subprocess.run(["bash", "-euc", f"# {step}"], cwd=node.directory, env=environ, capture_output=True, text=True,
                                  timeout=ADOPTED_S)
            assert done.returncode == 0, f"{step}\n{done.stdout}{done.stderr}\n{node.log()[-2000:]}"
            order += [node.name] if "systemctl enable" in step else []
        return order

    def servers(self) -> dict[str, int | None]:
        return {node.name: node.postmaster_pid() for node in self.cluster.nodes}


def planned(node: Node, *arguments: str) -> str:
    """What is printed for nodes that each have their file as ``node.yml`` where their shell begins."""
    done = migrate(node, "plan", str(node.node_file), "--file-on-nodes", "node.yml", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def machines(patroni: Cluster, predecessor: Path, tmp_path_factory: pytest.TempPathFactory) -> Machines:
    """The units are called as their programs."""
    return Machines(patroni, {"patroni": patroni.nodes[0].agent, "pgcore": pgcore_agent()}, tmp_path_factory.mktemp("machines"))


def test_the_printed_plan_moves_the_cluster_and_restarts_no_server(patroni: Cluster, machines: Machines) -> None:
    """As printed, by a shell. (EC 188)"""
    servers, leader = machines.servers(), patroni.primary()
    both = [json.loads(migrate(leader, "plan", str(leader.node_file), "-f", "json").stdout)[at]["steps"] for at in (0, 1)]
    order = [[step["member"] for step in steps if any("enable" in command for command in step["commands"])] for steps in both]
    assert order == [[patroni.others(leader)[0].name, leader.name]] * 2
    printed, _, _ = planned(leader).partition("back from pgcore to Patroni")
    assert machines.carry_out(printed.rpartition("\n#")[0]) == order[0]
    assert all("pgcore" in node.status() for node in patroni.nodes)
    assert machines.servers() == servers and patroni.primary() is leader
    again = migrate(leader, "plan", str(leader.node_file))
    forth, _, back = again.stdout.partition("back from pgcore to Patroni")
    assert again.returncode == 0 and "# nothing is left to do" in forth and "systemctl disable --now pgcore" in back


def test_the_printed_way_back_moves_it_back(patroni: Cluster, machines: Machines) -> None:
    """With settings that Patroni does not know or allow; while a client writes. (EC 188)"""
    leader, writer = patroni.primary(), patroni.writer().start()
    settings = "-s ttl=12 -s loop_wait=2 -s retry_timeout=3 -s failsafe_quorum=true"
    subprocess.run([PGCORE, "-c", leader.node_file, "edit-config", "--force", *settings.split(), patroni.scope], check=True)
    servers, printed = machines.servers(), planned(leader, "--back")
    assert printed.startswith(f"# {patroni.scope}: back from pgcore to Patroni\n")
    assert machines.carry_out(printed) == [patroni.others(leader)[0].name, leader.name]
    assert not any("pgcore" in node.status() for node in patroni.nodes)
    assert machines.servers() == servers and patroni.primary() is leader
    assert patroni.etcd is not None
    config = json.loads(patroni.etcd.get(patroni.key("config")) or "")
    assert (config["ttl"], config["retry_timeout"]) == (30, 3) and not {"failsafe_quorum", "pause"} & set(config)
    patroni.wait_healthy()
    assert writer.report().longest_gap().seconds < UNDISTURBED_S and lost_commits(patroni, writer) == []
    assert len(writer.report().acknowledged) > 100


def test_the_printed_plan_with_a_switchover(patroni: Cluster, machines: Machines, measured: Callable[[str, Gap], None]) -> None:
    """The one thing that clients notice; only the server of the old leader is started anew."""
    leader, servers, writer = patroni.primary(), machines.servers(), patroni.writer().start()
    printed, _, _ = planned(leader, "--switchover").partition("back from pgcore to Patroni")
    assert machines.carry_out(printed.rpartition("\n#")[0]) == [patroni.others(leader)[0].name, leader.name]
    assert all("pgcore" in node.status() for node in patroni.nodes) and patroni.primary() is not leader
    patroni.wait_healthy()
    assert {name for name, pid in machines.servers().items() if pid != servers[name]} == {leader.name}
    measured("switchover of the printed plan: write gap", writer.report().longest_gap())
    assert lost_commits(patroni, writer) == []


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
