"""Flight records of simulated clusters: heartbeats come back from their lines and are decided the same, failovers are told."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

from pgcore.record.beats import BeatRecord, line
from pgcore.record.explain import Kind, moments
from pgcore.record.reading import read
from pgcore.record.replay import replay
from pgcore.record.worlds import decode, encode
from pgcore.testing.simulation.run import run

RUNS = (("default", 3), ("quorum", 5), ("sync_strict", 6), ("failsafe", 6), ("operators", 6), ("standby_cluster", 5), ("disk", 3))
LEFT_OUT = 15
"""Of heartbeats whose rules were seen before, one in so many is looked at."""


class Records:
    """The record of every node, and heartbeats that a line does not hold exactly."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = defaultdict(list)
        self.changed: list[BeatRecord] = []
        self._seen: set[tuple[str, ...]] = set()
        self._count = 0

    def take(self, record: BeatRecord) -> None:
        """Called for each heartbeat."""
        self.lines[record.start.settings.name].append(line(record))
        self._count += 1
        rules = tuple(decision.rule for decision in record.decisions)
        if rules not in self._seen or self._count % LEFT_OUT == 0:
            self._seen.add(rules)
            if decode(BeatRecord, json.loads(json.dumps(encode(record)))) != record:
                self.changed.append(record)

    def save(self, folder: Path) -> str:
        """The directory that an operator would give to ``pgcore explain``."""
        for name, lines in self.lines.items():
            (folder / f"flight-simulated-{name}.jsonl").write_text("\n".join(lines) + "\n")
        return str(folder)


@pytest.mark.parametrize(("profile", "seed"), RUNS)
def test_records_hold_what_happened(profile: str, seed: int, tmp_path: Path) -> None:
    """Lines are without secrets, which must not change a decision."""
    records = Records()
    result = run(profile, seed, recorded=records.take)
    assert not records.changed
    recording = read([records.save(tmp_path)])
    differences = [found for found in replay(recording) if found is not None]
    assert not differences and not recording.remarks()
    changes = [m for m in moments(recording) if m.kind in (Kind.FAILOVER, Kind.SWITCHOVER, Kind.HANDOVER)]
    assert len(changes) >= result.failovers + result.switchovers
    assert all(f"{m.new} took over from {m.old}" in m.answer and m.rules and m.entries for m in changes)
