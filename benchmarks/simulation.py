"""How fast the simulator is: node cycles a second on one core in the default profile, or in others.

Usage: python benchmarks/simulation.py [PROFILE...] [--seeds N] [--profiler]
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import pstats

from pgcore.testing.simulation.batch import Summary
from pgcore.testing.simulation.run import run


def measure(profile: str, seeds: int) -> Summary:
    """The figures of so many seeds."""
    gc.collect()
    gc.freeze()
    summary = Summary()
    for seed in range(1, seeds + 1):
        summary.add(run(profile, seed))
    return summary


def main() -> None:
    """Print a line for each profile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profiles", nargs="*", default=["default"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--profiler", action="store_true", help="say where the time goes")
    arguments = parser.parse_args()
    profiler = cProfile.Profile() if arguments.profiler else None
    for name in arguments.profiles:
        if profiler:
            profiler.enable()
        summary = measure(name, arguments.seeds)
        if profiler:
            profiler.disable()
        executed, everything = summary.per_second
        print(f"{name}: {executed:,.0f} node cycles/s executed, {everything:,.0f} with skipped ones "
              f"({summary.days:.2f} days in {summary.cpu_s:.1f} s, {len(summary.violated)} violations)")
    if profiler:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    main()
