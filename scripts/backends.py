"""The page of the stores, docs/backends.md, and the measurements behind it.

    python scripts/backends.py page                          writes the page from benchmarks/results/backends.json
    python scripts/backends.py measure [kit,races,clusters]  runs them on real servers and keeps the results there, as root

``measure --backends "consul;etcd3"`` does some stores only; ``measure others`` runs the kit on whatever other versions of the
servers come first on PATH, and keeps the sums beside the rest.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from pgcore.testing.dcs import StoreContract

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "backends.json"
PAGE = ROOT / "docs" / "backends.md"
TEMPLATE = ROOT / "scripts" / "backends.md.in"
PARTS = ("kit", "races", "clusters")
OUTCOMES = ("passed", "skipped", "failed")
MIB = 1024 * 1024


@dataclass(frozen=True)
class Backend:
    """A store, where its kit is proven, and its kind in test clusters; ``pgcore plugin new`` writes the one without ``file``."""

    name: str
    server: str
    contract: str
    file: str = ""
    store: str = ""


_ETCD, _CONSUL, _ZOOKEEPER = "plugins/dcs_etcd/tests", "plugins/dcs_consul/tests", "plugins/dcs_zookeeper/tests"
_KUBERNETES = "plugins/dcs_kubernetes/tests/test_kubernetes_store.py"
BACKENDS = (
    Backend("etcd3", "etcd", "TestEtcd3Store", f"{_ETCD}/test_v3_store.py", "etcd3"),
    Backend("etcd", "etcd", "TestEtcd2Store", f"{_ETCD}/test_v2_store.py", "etcd"),
    Backend("consul", "consul", "TestConsulStore", f"{_CONSUL}/test_consul_store.py", "consul"),
    Backend("zookeeper", "zookeeper", "TestZooKeeperStore", f"{_ZOOKEEPER}/test_store.py", "zookeeper"),
    Backend("exhibitor", "zookeeper", "TestExhibitorStore", f"{_ZOOKEEPER}/test_exhibitor_store.py", "exhibitor"),
    Backend("kubernetes, Endpoints", "kubernetes", "TestEndpointsStore", _KUBERNETES, "kubernetes"),
    Backend("kubernetes, ConfigMaps", "kubernetes", "TestConfigMapsStore", _KUBERNETES, "kubernetes-configmaps"),
    Backend("kubernetes, Leases", "kubernetes", "TestLeaseStore", _KUBERNETES, "kubernetes-leases"),
    Backend("raft", "raft", "TestRaftStore", "plugins/dcs_raft/tests/test_raft_contract.py", "raft"),
    Backend("memory", "", "TestMemoryStore", "tests/unit/test_memory_store.py"),
    Backend("new plugin", "", "TestFileStore"),
)


def page() -> str:
    """The whole page in Markdown."""
    results = json.loads(RESULTS.read_text())
    reasons: list[str] = []
    parts = {"clusters": clusters(results["clusters"]), "races": races(results["races"]), "kit": kit(results["kit"], reasons),
             "others": others(results["others"])}
    parts |= {f"{part}_when": when(results[part]) for part in PARTS}
    listed = "\n".join(f"{number}. {reason}" for number, reason in enumerate(reasons, start=1))
    return Template(TEMPLATE.read_text()).substitute(parts, reasons=listed)


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def when(part: dict[str, Any]) -> str:
    """Days, machines and versions."""
    load = [int(found["load"]) for found in part.values()]
    servers = {found[name] for found in part.values() for name in ("server", "postgresql") if found.get(name)}
    machines = {f"{found['date']}, {found['machine']}" for found in part.values()}
    loads = " to ".join(map(str, sorted({min(load), max(load)})))
    return f"Measured {'; '.join(sorted(machines))}, load {loads}, on {', '.join(sorted(servers))}."


def clusters(part: dict[str, Any]) -> str:
    """Failover, requests and memory."""
    rows = [["store", "ttl, s", "dead node, s", "lost commits", "requests/s", "PSS, MiB", "RSS, MiB", "threads",
             "processor, ms/s"]]
    for backend in BACKENDS:
        if backend.store:
            found = part[backend.name]
            figures = found["figures"]
            gaps = " / ".join(f"{gap:.1f}" for gap in figures["dead node: write gap"])
            lost = f"{sum(figures['dead node: lost commits']):.0f}"
            columns = [("store requests, whole cluster", 1, 1), ("memory of agent and helpers", 1 / MIB, 1),
                       ("resident memory of agent and helpers", 1 / MIB, 1), ("threads", 1, 0), ("processor time, idle", 1000, 1)]
            rows.append([backend.name, str(found["ttl"]), gaps, lost,
                         *(median(figures.get(name, ()), scale, digits) for name, scale, digits in columns)])
    return table(rows)


def median(values: Sequence[float], scale: float, digits: int) -> str:
    """The median in another unit."""
    return f"{statistics.median(values) * scale:.{digits}f}" if values else "–"


def races(part: dict[str, Any]) -> str:
    """A row per store."""
    rows = [["store", "races", "exactly one won each", "seconds"]]
    rows += [[backend.name, str(found["races"]), "yes" if found["won by exactly one"] else "**no**", f"{found['seconds']:.0f}"]
             for backend in BACKENDS if (found := part.get(backend.name))]
    return table(rows)


def cases() -> dict[str, dict[str, int]]:
    """Name of each part of the kit to its cases, in order, each with the number of its variants."""
    return {part.__name__.removesuffix("Contract"): {
        name: math.prod(len(mark.args[1]) for mark in getattr(case, "pytestmark", ()) if mark.name == "parametrize")
        for name, case in vars(part).items() if name.startswith("test_")} for part in StoreContract.__bases__}


def kit(part: dict[str, Any], reasons: list[str]) -> str:
    """A table for each part of the kit; reasons of what was skipped are added to ``reasons``, whose numbers the cells bear."""
    text = ""
    for title, found in cases().items():
        rows = [["", *(backend.name for backend in BACKENDS)]]
        rows += [[case.removeprefix("test_").replace("_", " "),
                  *(cell(part[backend.name]["cases"].get(case), variants, reasons) for backend in BACKENDS)]
                 for case, variants in found.items()]
        words = re.sub("(?<=.)(?=[A-Z])", " ", title).capitalize()
        text += f"\n### {words}\n\n{table(rows)}"
    return text


def cell(found: dict[str, Any] | None, variants: int, reasons: list[str]) -> str:
    """What came of a case."""
    if found is None or sum(found.get(outcome, 0) for outcome in OUTCOMES) != variants:
        return "**not run**"
    if "failed" in found:
        return f"**{found['failed']} failed**"
    if "skipped" in found:
        if found["why"] not in reasons:
            reasons.append(found["why"])
        return f"skipped, {reasons.index(found['why']) + 1}"
    return "✓" if variants == 1 else f"✓ {variants}"


def others(part: dict[str, Any]) -> str:
    """Sums for each other version."""
    rows = [["server", "store", *OUTCOMES, "measured"]]
    rows += [[server, name, *(str(found[outcome]) for outcome in OUTCOMES), found["date"]]
             for server, stores in sorted(part.items()) for name, found in sorted(stores.items())]
    return table(rows)


def measure(parts: Sequence[str], backends: Sequence[Backend], races: int, rounds: int, idle_s: float) -> None:
    """Run the parts on these stores; what was measured before stays where nothing newer comes."""
    sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]
    import backends as bench  # type: ignore[import-not-found]

    for part in parts:
        for backend in backends:
            print(f"{part}: {backend.name}", file=sys.stderr, flush=True)
            proven = (backend.server, backend.file, backend.contract)
            if part == "clusters" and backend.store:
                keep(bench.measured_clusters(backend.server, backend.store, rounds, idle_s), part, backend.name)
            elif part == "races":
                keep(bench.measured_races(*proven, races), part, backend.name)
            elif part == "kit":
                keep(bench.measured_kit(*proven), part, backend.name)
            elif part == "others":
                found = bench.measured_kit(*proven)
                cases = found.pop("cases").values()
                sums = {kind: sum(case.get(kind, 0) for case in cases) for kind in OUTCOMES}
                keep({**found, **sums}, part, found["server"], backend.name)


def keep(value: dict[str, Any], *place: str) -> None:
    """Lay a result down at its place in the file, which other measurements may have changed meanwhile."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    room = results
    for name in place[:-1]:
        room = room.setdefault(name, {})
    room[place[-1]] = value
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("page", help="write docs/backends.md")
    verb = verbs.add_parser("measure", help="run the kit and clusters on real servers; takes half an hour")
    verb.add_argument("parts", nargs="?", default=",".join(PARTS), help=f"comma-separated, of {','.join(PARTS)},others")
    verb.add_argument("--backends", default="", metavar="NAMES", help="by a semicolon between them (all)")
    verb.add_argument("--races", type=int, default=1000, metavar="N", help="races per store (1000)")
    verb.add_argument("--rounds", type=int, default=2, metavar="N", help="clusters per store (2)")
    verb.add_argument("--idle-seconds", type=float, default=30.0, metavar="S", help="how long each idle cluster is watched (30)")
    chosen = parser.parse_args()
    if chosen.verb == "page":
        PAGE.write_text(page())
        return
    named = {name.strip() for name in chosen.backends.split(";") if name.strip()}
    if unknown := named - {backend.name for backend in BACKENDS} | set(chosen.parts.split(",")) - {*PARTS, "others"}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    measure(chosen.parts.split(","), [each for each in BACKENDS if not named or each.name in named],
            chosen.races, chosen.rounds, chosen.idle_seconds)


if __name__ == "__main__":
    main()
