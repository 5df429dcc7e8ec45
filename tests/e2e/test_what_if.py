"""``pgcore simulate --from-cluster`` on a real cluster: what it foretells comes true, and looking touches nothing."""

from __future__ import annotations

import json
import subprocess
import sys

from harness import Cluster


def ask(cluster: Cluster, what: str, *options: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "pgcore", "-c", str(cluster.nodes[0].node_file), "simulate", "--from-cluster", what, *options]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)


def test_what_would_happen_if_the_primary_died_does_happen(etcd_cluster: Cluster) -> None:
    primary = etcd_cluster.primary()
    etcd = etcd_cluster.etcd
    assert etcd is not None
    names = [node.name for node in etcd_cluster.nodes]
    before = (etcd.get(etcd_cluster.leader_key()), primary.timeline(), primary.postmaster_pid())

    wrong = ask(etcd_cluster, "stop n77")
    assert wrong.returncode == 2 and "there is no member n77; there are " + ", ".join(names) in " ".join(wrong.stderr.split())

    told = ask(etcd_cluster, f"stop {primary.name}")
    assert told.returncode == 0, told.stderr
    assert f"{primary.name} leads, timeline {before[1]}" in told.stdout and "race.acquire" in told.stdout
    assert f"What if: stop {primary.name}" in told.stdout
    answer = json.loads(ask(etcd_cluster, f"stop {primary.name}", "-o", "json").stdout)
    after = (etcd.get(etcd_cluster.leader_key()), primary.timeline(), primary.postmaster_pid())
    assert after == before, "the real cluster was touched"
    foretold = {name for course in answer["runs"] for name in course["writable"]}
    assert foretold <= set(names) - {primary.name} and not any(course["before"] for course in answer["runs"])
    took = [course["took_s"] for course in answer["runs"]]

    primary.kill_everything()
    new = etcd_cluster.wait_primary_other_than(primary, etcd_cluster.ttl + 10)
    assert new.name in foretold and max(took) < etcd_cluster.ttl + 10
    primary.start()
    etcd_cluster.wait_healthy()
