"""What ``scripts/backends.py measure`` does: runs the kit on each store and real clusters on each, and keeps what came out."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from measure import Measurement

from harness.agents import pgcore_agent
from harness.configuration import BIN_DIR
from harness.stores import SERVERS
from pgcore.config.dynamic import NEW_CLUSTER_TIMING
from pgcore.testing.consul_server import consul_program
from pgcore.testing.kube_apiserver import kube_apiserver_program
from pgcore.testing.zookeeper import JAR

ROOT = Path(__file__).resolve().parent.parent
IN_FULL = {"PGCORE_TEST_KUBERNETES_MODES": "all", "PGCORE_TEST_EXHIBITOR": "all", "PGCORE_TEST_STORES": "all"}
"""Nothing is left to another store."""
KIT_TIMEOUT_S = 3000
RACE = "test_of_ten_nodes_that_race_exactly_one_wins_each_time"

Results = dict[str, Any]
Case = dict[str, Any]


def occasion() -> Results:
    """When and on what a part was measured."""
    return {"date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            "machine": f"{os.cpu_count()} processors", "load": round(os.getloadavg()[1])}


def said_by(*argv: str) -> str:
    """The first line a program prints."""
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def version_of(server: str) -> str:
    """Name and version of the server, or library, behind a store."""
    if server == "etcd":
        return f"etcd {said_by('etcd', '--version').split()[-1]}"
    if server == "consul":
        return f"Consul {said_by(consul_program() or 'consul', 'version').split()[-1].removeprefix('v')}"
    if server == "kubernetes":
        program = kube_apiserver_program() or "kube-apiserver"
        return f"kube-apiserver {said_by(program, '--version').split()[-1].removeprefix('v')}"
    if server == "zookeeper":
        with zipfile.ZipFile(JAR) as jar:
            properties = jar.read("META-INF/maven/org.apache.zookeeper/zookeeper/pom.properties").decode()
        return "ZooKeeper " + next(line.partition("=")[2] for line in properties.split() if line.startswith("version="))
    if server == "raft":
        return f"pysyncobj {importlib.metadata.version('pysyncobj')}"
    return ""


def postgresql() -> str:
    """The PostgreSQL that clusters are measured with."""
    return f"PostgreSQL {said_by(str(BIN_DIR / 'postgres'), '--version').split()[2]}"


def tests_of(file: str, directory: Path) -> tuple[Path, Mapping[str, str]]:
    """The test file with the store's kit, and what its environment needs; that of a new plugin is written first."""
    if file:
        return ROOT / file, {}
    subprocess.run([sys.executable, "-m", "pgcore", "plugin", "new", "file", "--kind", "dcs"], cwd=directory, check=True,
                   stdout=subprocess.DEVNULL)
    (test,) = directory.glob("*/tests/test_plugin.py")
    return test, {"PYTHONPATH": str(test.parents[1] / "src")}


def kit(file: str, contract: str, races: int = 0) -> dict[str, Case]:
    """The outcome of each case of the kit by its name; with ``races`` only the race, so often. Takes some minutes."""
    with tempfile.TemporaryDirectory() as scratch:
        path, further = tests_of(file, Path(scratch))
        report = Path(scratch) / "report.xml"
        chosen = ["-k", RACE] if races else []
        environment = {**os.environ, **IN_FULL, **further} | ({"PGCORE_TEST_RACES": str(races)} if races else {})
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={path.parent}",
             "-c", str(ROOT / "pyproject.toml"), f"--timeout={KIT_TIMEOUT_S}", f"--junitxml={report}", *chosen,
             f"{path}::{contract}"],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            raise SystemExit(f"{path}: pytest ended with {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
        return outcomes(report)


def outcomes(report: Path) -> dict[str, Case]:
    """By name of the case: how many variants passed, failed and were skipped, why, and the seconds they took."""
    cases: dict[str, Case] = {}
    for test in xml.etree.ElementTree.parse(report).iter("testcase"):
        case = cases.setdefault(test.attrib["name"].partition("[")[0], {"passed": 0})
        trouble = next((found for kind in ("failure", "error", "skipped") if (found := test.find(kind)) is not None), None)
        kind = "passed" if trouble is None else "skipped" if trouble.tag == "skipped" else "failed"
        case[kind] = case.get(kind, 0) + 1
        if trouble is not None:
            case["why"] = trouble.attrib.get("message", "").splitlines()[0]
        case["seconds"] = round(case.get("seconds", 0.0) + float(test.attrib["time"]), 1)
    return cases


def measured_kit(server: str, file: str, contract: str) -> Results:
    """The kit on one store."""
    when, cases = occasion(), kit(file, contract)
    plain = {case: {key: value for key, value in found.items() if key != "seconds"} for case, found in sorted(cases.items())}
    seconds = round(sum(found["seconds"] for found in cases.values()))
    return {"server": version_of(server), **when, "cases": plain, "seconds": seconds}


def measured_races(server: str, file: str, contract: str, races: int) -> Results:
    """So many races of ten nodes on one store."""
    when, found = occasion(), kit(file, contract, races)[RACE]
    return {"server": version_of(server), **when, "races": races, "seconds": found["seconds"],
            "won by exactly one": found["passed"] == 1}


def measured_clusters(server: str, store: str, rounds: int, idle_s: float) -> Results:
    """Clusters of three nodes with the defaults of new ones: idle, then the primary's node is dead."""
    when, figures = occasion(), []
    for _ in range(rounds):
        done = Measurement(pgcore_agent(), store, idle_s, {}).run(("idle", "dead_node"))
        if done.failures:
            raise SystemExit(f"{store}: {done.failures}")
        figures.append(done.figures)
    return {"server": version_of(server), "postgresql": postgresql(), **when, "idle_s": idle_s,
            "ttl": max(NEW_CLUSTER_TIMING.ttl, SERVERS[store].ttl_floor_s if store in SERVERS else 0),
            "figures": {name: [round(found[name], 3) for found in figures if name in found] for name in figures[0]}}
