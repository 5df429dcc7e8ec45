"""Clusters whose members are agents of both kinds, and the command lines an operator has for either."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.agents import AgentKind, patroni_agent, pgcore_agent
from harness.cluster import Cluster
from harness.configuration import SUPERUSER_PASSWORD
from harness.node import Node
from harness.processes import wait_for

TIMING = os.environ.get("PGCORE_TEST_MIXED_TIMING", "20,1,3")
"""ttl, loop_wait, retry_timeout: Patroni takes no shorter ones than these."""
COMMAND_TIMEOUT_S = 120.0
JOIN_TIMEOUT_S = 90.0

Maker = Callable[..., Cluster]

only_when_all = pytest.mark.skipif(os.environ.get("PGCORE_TEST_MIXED") != "all",
                                   reason="a longer variant: set PGCORE_TEST_MIXED=all")


def kinds(predecessor: Path) -> dict[str, AgentKind]:
    """Both kinds of agents by name."""
    ttl, loop_wait, retry_timeout = map(int, TIMING.split(","))
    return {"patroni": patroni_agent(predecessor, (ttl, loop_wait, retry_timeout)), "pgcore": pgcore_agent()}


class MixedCluster:
    """A cluster whose nodes are run by the kinds in ``order``: n1 by the first of them, n2 by the second, ..."""

    def __init__(self, make: Maker, predecessor: Path, order: str, **options: Any) -> None:
        """``order`` is like ``"patroni pgcore pgcore"``; ``options`` are those of ``Cluster``."""
        self.kinds = kinds(predecessor)
        words = order.split()
        agents = {f"n{number}": self.kinds[word] for number, word in enumerate(words, start=1)}
        self.cluster: Cluster = make(size=len(words), agents=agents, **options)
        self.patronictl = Operator(predecessor / "bin" / "patronictl", self.cluster)
        self.pgcore = Operator(Path(sys.executable).with_name("pgcore"), self.cluster)

    def bootstrap(self, by: str = "n1") -> MixedCluster:
        """Let one node create the cluster, then the others join it."""
        cluster, first = self.cluster, self.cluster.node(by)
        cluster.start_store()
        first.start()
        wait_for(lambda: cluster.find_primary() is first, JOIN_TIMEOUT_S, f"{by} has created the cluster")
        for node in cluster.others(first):
            node.start()
        cluster.wait_healthy()
        cluster.create_table()
        return self

    def of(self, kind: str) -> list[Node]:
        """The nodes that this kind of agent runs."""
        return [node for node in self.cluster.nodes if node.agent.name == kind]

    def by(self, kind: str) -> Operator:
        """The command line that comes with this kind of agent."""
        return self.patronictl if kind == "patroni" else self.pgcore

    def document(self, key: str) -> dict[str, Any]:
        """The JSON document under one key of the cluster, empty if there is none."""
        assert self.cluster.etcd is not None
        return dict(json.loads(self.cluster.etcd.get(self.cluster.key(key)) or "{}"))

    def synchronous(self) -> tuple[str, set[str], int]:
        """Leader, standbys and quorum of ``/sync``."""
        document = self.document("sync")
        return document.get("leader", ""), set((document.get("sync_standby") or "").split(",")) - {""}, document.get("quorum", 0)

    def move(self, operator: Operator, candidate: Node) -> Node:
        """Switch over to ``candidate`` by this command line; returns the old leader once all stream from the new one."""
        cluster = self.cluster
        leader = cluster.primary()
        operator.ok("switchover", cluster.scope, "--leader", leader.name, "--candidate", candidate.name, "--force")
        assert cluster.primary() is candidate
        cluster.wait_healthy()
        return leader


class Operator:
    """A command line that is told by a node file where the cluster is and who it may be."""

    def __init__(self, program: Path, cluster: Cluster) -> None:
        self._program, self._cluster = program, cluster
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PATRONI", "DCS", "XDG"))}
        home = str(cluster.nodes[0].directory)
        self._environ: Mapping[str, str] = {**kept, "HOME": home, "LC_ALL": "C.UTF-8", "PGUSER": "postgres",
                                            "PGPASSWORD": SUPERUSER_PASSWORD, "PGTZ": "UTC", "COLUMNS": "200"}

    def run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """The ended command."""
        return subprocess.run([self._program, "-c", str(self._cluster.nodes[0].node_file), *arguments], input=text, text=True,
                              capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False, env=dict(self._environ))

    def ok(self, *arguments: str, text: str = "") -> str:
        """Its output; raises AssertionError with all it said unless it succeeded."""
        done = self.run(*arguments, text=text)
        told = f"{self._program.name} {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == 0, told
        return done.stdout
