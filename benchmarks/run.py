"""Measures pgcore and its predecessor side by side on this machine: ``python benchmarks/run.py --rounds 3``.

Must run as root where PostgreSQL, etcd and setpriv are installed. ``docs/benchmarks.md`` says what each figure means.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from measure import SCENARIOS, Measurement, Round
from report import table

from harness.agents import AgentKind, patroni_agent, pgcore_agent
from harness.configuration import BIN_DIR
from harness.predecessor import default_cache, install
from harness.stores import SERVERS


def timing(text: str) -> dict[str, int]:
    """The value of ``--timing``."""
    return dict(zip(("ttl", "loop_wait", "retry_timeout"), map(int, text.split(",")), strict=True))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds per system, each on a new cluster (3)")
    parser.add_argument("--systems", default="pgcore,patroni", help="comma-separated: pgcore, patroni")
    parser.add_argument("--store", choices=(*SERVERS, "raft"), default="etcd3")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help=f"comma-separated, of {','.join(SCENARIOS)}")
    parser.add_argument("--idle-seconds", type=float, default=30.0, help="how long an idle cluster is watched (30)")
    parser.add_argument("--timing", type=timing, default={}, metavar="TTL,LOOP_WAIT,RETRY_TIMEOUT",
                        help="the same seconds for all systems, such as 30,10,10 (each system's own defaults)")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where Patroni is installed if missing (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every single value to FILE")
    chosen = parser.parse_args()
    for name, known in (("systems", ("pgcore", "patroni")), ("scenarios", SCENARIOS)):
        if unknown := set(getattr(chosen, name).split(",")) - set(known):
            parser.error(f"--{name}: {', '.join(sorted(unknown))} is none of {', '.join(known)}")
    if os.geteuid() != 0:
        parser.error("needs root: the predecessor and PostgreSQL are run as the user postgres")
    return chosen


def machine() -> dict[str, str]:
    """What the figures depend on."""
    version = subprocess.run([str(BIN_DIR / "postgres"), "--version"], capture_output=True, text=True, check=True).stdout
    return {"processors": str(os.cpu_count()), "kernel": platform.release(), "python": platform.python_version(),
            "server": version.strip()}


def agent_of(system: str, cache: Path) -> AgentKind:
    """The agent behind a name of ``--systems``."""
    return pgcore_agent() if system == "pgcore" else patroni_agent(install(cache))


def main() -> int:
    """Run everything and print the table; 1 if anything failed."""
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the clusters are closed on the way out
    systems = {name: agent_of(name, chosen.cache) for name in chosen.systems.split(",")}
    rounds: dict[str, list[Round]] = {name: [] for name in systems}
    for number in range(chosen.rounds):
        # Alternating systems share whatever else happens on the machine meanwhile.
        for name, agent in systems.items():
            print(f"round {number + 1} of {chosen.rounds}: {name}", file=sys.stderr, flush=True)
            measurement = Measurement(agent, chosen.store, chosen.idle_seconds, chosen.timing)
            rounds[name].append(measurement.run(tuple(chosen.scenarios.split(","))))
    values = {name: {figure: [done.figures[figure] for done in found if figure in done.figures]
                     for figure in dict.fromkeys(figure for done in found for figure in done.figures)}
              for name, found in rounds.items()}
    failures = {name: [failure for done in found for failure in done.failures] for name, found in rounds.items()}
    about = {"store": chosen.store, "timing": chosen.timing or "default", "rounds": chosen.rounds, **machine()}
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print("min / median / max\n")
    print(table(values))
    for name, texts in failures.items():
        for text in texts:
            print(f"FAILED {name}: {text}")
    if chosen.json:
        chosen.json.write_text(json.dumps({"about": about, "values": values, "failures": failures}, indent=2) + "\n")
    return 1 if any(failures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
