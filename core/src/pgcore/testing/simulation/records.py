"""Flight records of simulated nodes, for ``pgcore explain`` and ``pgcore replay``; every heartbeat is in them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from pgcore.record.beats import BeatRecord, line
from pgcore.testing.simulation.run import Result, run
from pgcore.testing.simulation.schedule import Plan


def save(plan: Plan, folder: Path) -> Result:
    """Run it, and write one record for each node into this directory, which is made; what came of the run."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, TextIO] = {}
    with ExitStack() as stack:

        def take(record: BeatRecord) -> None:
            name = record.start.settings.name
            if name not in files:
                path = folder / f"flight-{record.start.settings.scope}-{name}.jsonl"
                files[name] = stack.enter_context(path.open("w"))
            files[name].write(line(record) + "\n")

        return run(plan.profile, plan.seed, plan.faults, recorded=take)
