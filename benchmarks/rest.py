"""Measures the REST APIs of pgcore and its predecessor side by side: ``python benchmarks/rest.py --rounds 5``.

Each system runs a primary on an etcd of its own, both at the same time; only one of them is asked at a time, in turns, with a new
connection for every request. Must run as root where PostgreSQL, etcd and setpriv are installed. ``docs/benchmarks.md`` says what
each figure means.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from run import machine

from harness import Cluster, Node
from harness.agents import patroni_agent, pgcore_agent
from harness.lease import LeaseWatch
from harness.load import Load
from harness.predecessor import default_cache, install
from harness.weight import weigh

REQUESTS = ("OPTIONS /primary", "GET /primary", "GET /patroni")
CLIENTS = (1, 20)
SETTLE_S, REST_S = 5.0, 15.0
Case = tuple[str, int]


@dataclass
class Figures:
    """What the rounds of one case of one system gave."""

    per_second: list[float] = field(default_factory=list)
    p50_s: list[float] = field(default_factory=list)
    p99_s: list[float] = field(default_factory=list)
    worst_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    """Processor time of the agent for one request."""
    failed: int = 0
    """Requests that were answered otherwise than by 200, or not at all."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns per system and case (5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each turn lasts (3)")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where Patroni is installed if missing (%(default)s)")
    chosen = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root: the predecessor and PostgreSQL are run as the user postgres")
    return chosen


def primary_of(cluster: Cluster) -> Node:
    """The primary of a new cluster that has come to rest, with one standby that streams."""
    cluster.bootstrap()
    time.sleep(SETTLE_S)
    return cluster.primary()


def turn(node: Node, case: Case, seconds: float, figures: Figures) -> None:
    """One load on one system."""
    before = weigh([node.pid]).cpu_s
    report = Load(node.host, node.rest_port, *case, seconds).run()
    spent = weigh([node.pid]).cpu_s - before
    answers = max(1, len(report.latencies_s))
    figures.per_second.append(report.per_second)
    figures.p50_s.append(report.percentile(0.5))
    figures.p99_s.append(report.percentile(0.99))
    figures.worst_s.append(report.percentile(1.0))
    figures.cpu_s.append(spent / answers)
    figures.failed += sum(number for code, number in report.codes.items() if code != "200")


def rows(case: Case, found: dict[str, Figures]) -> Iterator[str]:
    """The lines of one case: the medians of the rounds; the worst answer of all."""
    request, clients = case
    for system, figures in found.items():
        median = statistics.median
        yield (f"| {request}, {clients} | {system} | {median(figures.per_second):.0f} | {median(figures.p50_s) * 1e3:.2f} | "
               f"{median(figures.p99_s) * 1e3:.2f} | {max(figures.worst_s) * 1e3:.0f} | {median(figures.cpu_s) * 1e6:.0f} | "
               f"{figures.failed} |")
    ours, theirs = found["pgcore"].per_second, found["patroni"].per_second
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    yield f"| | ratio | {min(ratios):.1f} / {statistics.median(ratios):.1f} / {max(ratios):.1f} | | | | | |"


def main() -> int:
    """Run everything and print the table."""
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the clusters are closed on the way out
    agents = {"pgcore": pgcore_agent(), "patroni": patroni_agent(install(chosen.cache))}
    found = {(request, clients): {name: Figures() for name in agents} for clients in CLIENTS for request in REQUESTS}
    least = float("inf")
    with ExitStack() as stack:
        nodes = {name: primary_of(stack.enter_context(Cluster(agent=agent, size=2, timing="default")))
                 for name, agent in agents.items()}
        with LeaseWatch(nodes["pgcore"]) as at_rest:
            time.sleep(REST_S)
        for number in range(chosen.rounds):
            print(f"round {number + 1} of {chosen.rounds}, load of the machine {os.getloadavg()[0]:.1f}", file=sys.stderr)
            for case, figures in found.items():
                with LeaseWatch(nodes["pgcore"]) as watch:
                    turn(nodes["pgcore"], case, chosen.seconds, figures["pgcore"])
                least = min(least, watch.least_left_s)
                turn(nodes["patroni"], case, chosen.seconds, figures["patroni"])
    print(", ".join(f"{key} {value}" for key, value in {"rounds": chosen.rounds, "seconds": chosen.seconds, **machine()}.items()))
    print("\n| request, clients | system | requests/s | p50 ms | p99 ms | worst ms | processor µs/request | failed |")
    print("|---|---|---|---|---|---|---|---|")
    for case, figures in found.items():
        print("\n".join(rows(case, figures)))
    print(f"\npgcore's lease never had less than {least:.2f} s left under load, {at_rest.least_left_s:.2f} s at rest")
    return 1 if any(one.failed for figures in found.values() for one in figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
