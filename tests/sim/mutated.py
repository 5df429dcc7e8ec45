"""A process that hunts in a copy of the sources: ``python mutated.py SOURCES HUNT SEEDS`` prints the first violation."""

from __future__ import annotations

import json
import sys


def main(sources: str, name: str, seeds: int) -> None:
    """JSON: the seed, the invariant and the violation; null if every seed is clean."""
    sys.path.insert(0, sources)
    import pgcore

    assert (pgcore.__file__ or "").startswith(sources), f"{pgcore.__file__} instead of the copy in {sources}"
    from hunts import HUNTS

    from pgcore.testing.simulation.run import run

    for seed in range(seeds):
        found = run(HUNTS[name], seed, first_violation=True).violations
        if found:
            print(json.dumps([seed, found[0].invariant, str(found[0])]))
            return
    print("null")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
