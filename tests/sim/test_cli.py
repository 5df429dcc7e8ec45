"""``pgcore simulate``: figures, exit codes, schedules from files."""

from __future__ import annotations

import json
import re
from pathlib import Path

from click.testing import CliRunner, Result

from pgcore.cli.main import group
from pgcore.testing.simulation.profiles import PROFILES
from pgcore.testing.simulation.schedule import Fault, Plan


def simulate(*arguments: str) -> Result:
    return CliRunner().invoke(group, ["simulate", *arguments])


def test_the_figures_of_some_seeds() -> None:
    told = simulate("--seeds", "1..2", "--profile", "sync", "--profile", "default", "--jobs", "2")
    assert told.exit_code == 0, told.output
    for words in ("4 runs", "days of cluster time", "heartbeats", "failovers", "unnecessary", "p50", "p99", "faults: ",
                  "no violations"):
        assert words in told.output


def test_json_has_the_same_figures() -> None:
    told = simulate("--seeds", "3", "--profile", "sync", "--jobs", "1", "-o", "json")
    assert told.exit_code == 0, told.output
    document = json.loads(told.stdout)
    assert document["runs"] == 1 and document["violations"] == [] and document["cycles"] > 50
    assert document["write_gaps"]["max"] >= document["write_gaps"]["p50"] >= 0


def test_a_schedule_from_a_file_and_its_story(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(Plan("sync", 5, (Fault(10.0, "power-loss", "leader", 30.0),)).text())
    told = simulate("--schedule", str(file), "--jobs", "1", "-v")
    assert told.exit_code == 0, told.output
    assert "faults: power-loss 1" in told.output
    assert "there will be no more faults" in told.output and re.search(r"begins: power-loss \w for 30 s", told.output)


def test_a_time_limit_draws_seeds_and_ends(tmp_path: Path) -> None:
    told = simulate("--minutes", "0.05", "--profile", "all", "--jobs", "1", "--findings", str(tmp_path / "found.txt"))
    assert told.exit_code in (0, 1), told.output
    assert (tmp_path / "found.txt").exists() == (told.exit_code == 1)


def test_profiles_are_listed() -> None:
    told = simulate("--profiles")
    assert told.exit_code == 0 and all(name in told.output for name in PROFILES)


def test_bad_input_ends_with_2(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text(Plan("default", 1, (Fault(1.0, "earthquake"),)).text())
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(Plan("default", 1, (Fault(1.0, "crash", "node17"),)).text())
    for arguments in (("--schedule", str(wrong)), ("--schedule", str(elsewhere)), ("--schedule", str(elsewhere), "--seeds", "1"),
                      ("--profile", "nosuch"), ("--seeds", "9..3"), ("--seeds", "x"), ("--minutes", "0")):
        told = simulate(*arguments)
        assert told.exit_code == 2, (arguments, told.output)


def test_a_violation_is_shrunk_told_and_ends_with_1(tmp_path: Path) -> None:
    """A crash recovery takes longer than the profile's bound: the agents do nothing wrong, but it is not well in time."""
    file = tmp_path / "plan.json"
    faults = (Fault(5.0, "reload", "leader"), Fault(10.0, "endless-recovery", "replica 1", 4.0),
              Fault(11.0, "crash", "replica 1"), Fault(14.0, "slow-gate", "all", 2.0))
    file.write_text(Plan("sync", 5, faults).text())
    told = simulate("--schedule", str(file), "--jobs", "1", "--findings", str(tmp_path / "found.txt"))
    assert told.exit_code == 1, told.output
    assert "VIOLATION" in told.output and "it settles once faults stop" in told.output and "pgcore simulate" in told.output
    shrunk = told.output[told.output.index("The smallest schedule"):told.output.index("How it came to that")]
    assert "endless-recovery" in shrunk and "crash" in shrunk
    assert "reload" not in shrunk and "slow-gate" not in shrunk
    assert re.search(r"begins: crash \w\n", told.output[told.output.index("How it came to that"):])
    assert "sync" in (tmp_path / "found.txt").read_text()
