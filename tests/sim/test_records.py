"""Flight records of simulated clusters: heartbeats come back from their lines and are decided the same, failovers are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pgcore.cli.main import group
from pgcore.record.beats import BeatRecord
from pgcore.record.explain import Kind, moments
from pgcore.record.reading import read
from pgcore.record.replay import replay
from pgcore.record.worlds import decode, encode
from pgcore.testing.simulation.records import save
from pgcore.testing.simulation.run import run
from pgcore.testing.simulation.schedule import Fault, Plan

RUNS = (("default", 3), ("quorum", 5), ("sync_strict", 6), ("failsafe", 6), ("operators", 6), ("standby_cluster", 5), ("disk", 3))


@pytest.mark.parametrize(("profile", "seed"), RUNS)
def test_records_hold_what_happened(profile: str, seed: int, tmp_path: Path) -> None:
    """Lines are without secrets, which must not change a decision."""
    result = save(Plan(profile, seed), tmp_path)
    recording = read([str(tmp_path)])
    differences = [found for found in replay(recording) if found is not None]
    assert not differences and not recording.remarks()
    changes = [m for m in moments(recording) if m.kind in (Kind.FAILOVER, Kind.SWITCHOVER, Kind.HANDOVER)]
    asked = result.switchovers if profile != "standby_cluster" else 0  # demoted and promoted as a whole, it is no switchover
    assert len(changes) >= result.failovers + asked
    assert all(f"{m.new} took over from {m.old}" in m.answer and m.rules and m.entries for m in changes)


@pytest.mark.parametrize(("profile", "seed"), RUNS[:3])
def test_every_kind_of_heartbeat_is_encoded_exactly(profile: str, seed: int) -> None:
    changed, seen = list[BeatRecord](), set[tuple[str, ...]]()

    def take(record: BeatRecord) -> None:
        rules = tuple(decision.rule for decision in record.decisions)
        if rules not in seen:
            seen.add(rules)
            if decode(BeatRecord, json.loads(json.dumps(encode(record)))) != record:
                changed.append(record)

    run(profile, seed, recorded=take)
    assert len(seen) > 20 and not changed


def test_the_command_writes_records_that_the_others_read(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(Plan("default", 5, (Fault(30.0, "power-loss", "leader", 60.0),)).text())
    ran = CliRunner().invoke(group, ["simulate", "--schedule", str(plan), "--jobs", "1", "--record", str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    files = sorted(map(str, (tmp_path / "default-5").iterdir()))
    replayed = CliRunner().invoke(group, ["replay", *files])
    assert replayed.exit_code == 0 and "none differently" in replayed.output
    explained = CliRunner().invoke(group, ["explain", "--record", str(tmp_path / "default-5")])
    assert explained.exit_code == 0 and "failover: " in explained.output
