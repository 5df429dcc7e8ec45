"""Hunting weakened rules: a copy of the sources, one mutant in it at a time, seeds until the first violation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pgcore
from sim.hunts import HUNTS
from sim.mutants import MUTANTS, Mutant

SOURCES = Path(pgcore.__file__ or "").parent
HUNTER = Path(__file__).with_name("mutated.py")
DOCUMENT = Path(__file__).parents[2] / "docs" / "simulation-mutants.md"
LIMIT_S = 240

HALVES = (MUTANTS[0::2], MUTANTS[1::2])
"""Two files share them, so that two cores do."""
HUNTED = tuple(name for name in HUNTS if any(each.hunt == name for each in MUTANTS))


def most_seeds(hunt: str) -> int:
    """As many seeds as any mutant may need."""
    return max(each.seeds for each in MUTANTS if each.hunt == hunt)


@dataclass(frozen=True)
class Found:
    """The first violation of a hunt."""

    seed: int
    invariant: str
    text: str


class Copy:
    """A copy of the package, in which one file at a time is another."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        shutil.copytree(SOURCES, directory / "pgcore")

    def hunt(self, hunt: str, seeds: int, mutant: Mutant | None = None) -> Found | None:
        """Run the seeds of this hunt with the mutant; None: nothing was found."""
        if mutant is None:
            return self._run(hunt, seeds)
        original, path = SOURCES / mutant.file, self._directory / "pgcore" / mutant.file
        path.write_text(mutated(mutant))
        try:
            return self._run(hunt, seeds)
        finally:
            shutil.copy2(original, path)

    def _run(self, hunt: str, seeds: int) -> Found | None:
        command = [sys.executable, str(HUNTER), str(self._directory), hunt, str(seeds)]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found = json.loads(done.stdout)
        return Found(*found) if found is not None else None


def mutated(mutant: Mutant) -> str:
    """The file with the weakened rule. What is replaced must be there exactly once: the list follows the code."""
    text = (SOURCES / mutant.file).read_text()
    count = text.count(mutant.old)
    assert count == 1, f"{mutant.name}: its text stands {count} times in {mutant.file}; adjust tests/sim/mutants.py to the code"
    return text.replace(mutant.old, mutant.new)


def page() -> str:
    """What docs/simulation-mutants.md must say."""
    rows = [f"| {each.name} | `{each.file}` | {each.why} | {each.hunt} | {'; '.join(each.caught_by)} | {each.seeds} |"
            for each in MUTANTS]
    hunts = [f"- `{name}`: {hunt.sentence}" for name, hunt in HUNTS.items() if any(each.hunt == name for each in MUTANTS)]
    return HEAD.format(count=len(MUTANTS)) + "\n".join(hunts) + TABLE + "\n".join(rows) + TAIL


HEAD = """# How we know that the simulator finds bugs

A test that never fails proves nothing. So {count} weakened versions of pgcore are kept, each with one safety condition removed or
inverted, and `tests/sim/test_mutants_*.py` shows in every run of CI that the simulator catches each of them within the stated
number of seeds, by an invariant that fits, and that the rules as they are violate nothing on the same seeds.

A mutant is a textual replacement in one file below `core/src/pgcore`, made in a copy of the package. The text must stand there
exactly once: who changes the rule changes the mutant, or the test says so. The faults come from short, dense profiles
(`tests/sim/hunts.py`) of generic trouble, drawn from the seed; none scripts the bug it finds:

"""
TABLE = """

This page is written from `tests/sim/mutants.py`: `cd tests && python -m sim.hunting`.

| Mutant | File | What is weakened | Hunt | Caught by | Seeds |
|---|---|---|---|---|---|
"""
TAIL = """

## What two layers guard

Conditions that were removed alone without anything being found in 10 to 40 seeds, as another one stands behind each. They are no
mutants:

| removed | what still holds |
|---|---|
| a primary demotes itself without lock or store, or under another leader | the guard stops the server before the lease ends |
| the look at the lease right before a promotion, `busy.lost_lock`, `replica.still_promoting` | the guard, armed meanwhile |
| the guard's margins before the end of the lease | a race takes longer than the rest of a stop |
| `caught_up`: a candidate has the end of the shutdown checkpoint | `missing_wal` in the race, and the other way round |
| `not_synchronous` in the race | the verdict of `too_few_votes`, which asks the same |
| `/sync` is read again before the promotion | its write is conditional on the version of the proof |
| `maximum_lag_on_failover` while a better standby answers | positions are compared |
"""


if __name__ == "__main__":
    DOCUMENT.write_text(page())
