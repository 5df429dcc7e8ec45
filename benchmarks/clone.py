"""Compares a replica cloned by pgcore with pg_basebackup by hand: ``python benchmarks/clone.py --megabytes 2200 --rounds 3``.

Both copy the same primary in turn, with the same options and the same account. Meanwhile the primary's agent is watched: the
longest time between two renewals of its lease is printed. Must run as root where PostgreSQL, etcd and setpriv are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from harness import Cluster, Node, wait_for
from harness.agents import POSTGRES_USER, pgcore_agent
from harness.configuration import BIN_DIR, REPLICATION_PASSWORD

LOOK_S = 0.02
LIMIT_S = 1800.0
LEFT = re.compile(r"^pgcore_lease_seconds_left\S* (\S+)$", re.MULTILINE)


@dataclass
class Lease:
    """Looks at the lease of a primary, and notes every moment at which it was renewed."""

    node: Node
    renewed: list[float] = field(default_factory=list)
    least_left_s: float = float("inf")
    over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Until ``over``; whenever more is left than before, it was renewed in between."""
        before = 0.0
        while not self.over.wait(LOOK_S):
            answer = self.node.request("GET", "/metrics")
            found = LEFT.search(answer.text) if answer is not None else None
            if found is None:
                continue
            left = float(found.group(1))
            if left > before:
                self.renewed.append(time.monotonic())
            before, self.least_left_s = left, min(self.least_left_s, left)

    def longest_gap_s(self) -> float:
        """Between two renewals."""
        return max(after - before for before, after in zip(self.renewed, self.renewed[1:], strict=False))


def fill(primary: Node, megabytes: int) -> None:
    """A table of that size, one row a page."""
    primary.query("CREATE TABLE ballast (filler text)")
    primary.query("ALTER TABLE ballast ALTER filler SET STORAGE PLAIN")
    for _ in range(-(-megabytes // 100)):
        primary.query("INSERT INTO ballast SELECT repeat(chr(65 + n % 26), 7000) || n FROM generate_series(1, 12800) n")
    primary.query("CHECKPOINT")


def by_hand(primary: Node, directory: Path) -> float:
    """pg_basebackup as an operator would type it; seconds."""
    directory.mkdir(mode=0o700)
    shutil.chown(directory, POSTGRES_USER, POSTGRES_USER)
    drop = ["setpriv", f"--reuid={POSTGRES_USER}", f"--regid={POSTGRES_USER}", "--init-groups"]
    argv = [f"{BIN_DIR}/pg_basebackup", "-D", str(directory), "-X", "stream", "-c", "fast", "-P",
            "-d", f"host={primary.host} port={primary.pg_port} user=replicator"]
    began = time.monotonic()
    subprocess.run(drop + argv, check=True, capture_output=True, cwd="/", env={**os.environ, "PGPASSWORD": REPLICATION_PASSWORD})
    took = time.monotonic() - began
    shutil.rmtree(directory)
    return took


def by_pgcore(node: Node) -> tuple[float, float]:
    """Seconds of the clone, from its decision to its end, and from the start of the agent until the replica streams."""
    began = time.monotonic()
    node.start()
    wait_for(node.streams, LIMIT_S, "the replica streams")
    streams = time.monotonic() - began
    phases = wait_for(lambda: node.status()["pgcore"].get("phases"), LIMIT_S, "the phases are told")
    took = sum(phase["took"] for phase in phases if phase["what"].startswith("clone"))
    node.stop()
    shutil.rmtree(node.data_dir)
    return took, streams


def main() -> None:
    """Fill, copy in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=2200, help="size of the primary (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="copies of each kind, in turn (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every single value to FILE")
    chosen = parser.parse_args()
    hand: list[float] = []
    pgcore: list[float] = []
    streams: list[float] = []
    with Cluster(size=1, agent=pgcore_agent(), timing="default") as cluster:
        cluster.bootstrap()
        primary, node = cluster.primary(), cluster.add_node("copy")
        fill(primary, chosen.megabytes)
        size = int(primary.ask("SELECT sum(pg_database_size(oid)) FROM pg_database"))
        lease = Lease(primary)
        watcher = threading.Thread(target=lease.watch)
        watcher.start()
        try:
            for number in range(chosen.rounds):
                kinds = ["hand", "pgcore"] if number % 2 == 0 else ["pgcore", "hand"]
                for kind in kinds:
                    if kind == "hand":
                        hand.append(by_hand(primary, node.directory.parent / "by_hand"))
                        continue
                    took, until = by_pgcore(node)
                    pgcore.append(took)
                    streams.append(until)
        finally:
            lease.over.set()
            watcher.join()
        report = {"bytes": size, "hand": hand, "pgcore": pgcore, "streams": streams, "longest_gap_s": lease.longest_gap_s(),
                  "least_left_s": lease.least_left_s}
    ratio = statistics.median(pgcore) / statistics.median(hand)
    print(f"size of the primary                 {size / 1e9:8.2f} GB")
    for name, values in (("pg_basebackup by hand", hand), ("clone by pgcore", pgcore), ("start of agent to streaming", streams)):
        print(f"{name:<34}{statistics.median(values):10.2f} s   ({', '.join(f'{value:.2f}' for value in values)})")
    print(f"ratio of the medians                {ratio:8.3f}")
    print(f"longest time between two renewals   {lease.longest_gap_s():8.2f} s")
    print(f"least that was left of the lease    {lease.least_left_s:8.2f} s")
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
