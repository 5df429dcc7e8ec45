"""The policy around pg_basebackup: attempts, pauses, a tool that hangs, and what a failed attempt leaves behind. (config 10.5)"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgcore.builtin import basebackup
from pgcore.builtin.basebackup import Policy, policy
from pgcore.errors import CommandFailedError
from pgcore.hookspecs import ReplicaRequest
from pgcore.model.server import Upstream
from pgcore.postgres import unfinished
from pgcore.postgres.programs import ProgramRunner
from pgcore.testing.methods import replica_request
from unit.test_daemon_kit import write_script


def request_of(tmp_path: Path, tool: str, options: Any) -> ReplicaRequest:
    """A copy made by a script in the place of pg_basebackup."""
    script = write_script(tmp_path / "tool", tool)
    made = replica_request(tmp_path / "data", options)
    return ReplicaRequest(server=made.server, source=Upstream("127.0.0.1", 5432, name="a"), connstring="", env={},
                          options=options, binary=lambda name: script, task=ProgramRunner(), server_major=15,
                          places=unfinished.unoccupied(basebackup.fills(options)))


def test_without_a_stall_timeout_a_copy_that_does_nothing_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its day is half a second here."""
    monkeypatch.setattr(basebackup, "STALL_S", 0.5)
    with pytest.raises(CommandFailedError, match="did nothing for as long as its stall-timeout allows"):
        basebackup.run(request_of(tmp_path, "sleep 60", ["attempts=1"]))


@pytest.mark.parametrize(("options", "expected"), [
    (None, Policy()),
    (["attempts=4", {"attempt-pause": "0.5"}, {"stall-timeout": 60}, {"max-rate": "1M"}], Policy(4, 0.5, 60)),
    ({"attempts": 1, "attempt-pause": 0, "stall-timeout": "90"}, Policy(1, 0, 90)),
])
def test_attempts_pause_and_limit_are_options_in_every_form_and_never_pg_basebackups(options: Any, expected: Policy) -> None:
    assert policy(options) == expected
    assert not [word for word in basebackup.command_options(options, 15) if "attempt" in word or "stall" in word]


def test_the_section_of_the_documentation() -> None:
    """The example of docs/replica-creation.md is what it says it is."""
    page = (Path(__file__).parents[2] / "docs" / "replica-creation.md").read_text()
    section = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])["postgresql"]["basebackup"]
    assert policy(section) == Policy(3, 10, 300)
    assert basebackup.command_options(section, 15) == [
        "--verbose", "--max-rate=100M", "--checkpoint=fast", "--waldir=/wal/main", "--tablespace-mapping=/ssd/fast=/ssd2/fast"]


@pytest.mark.parametrize("value", ["0", "two", None, True, "inf"])
def test_a_number_of_attempts_that_is_none_is_named_and_the_default_holds(value: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert policy([{"attempts": value}]) == Policy()
    assert "attempts" in caplog.text and "a whole number of at least 1" in caplog.text


def test_as_many_attempts_as_configured_each_in_an_empty_directory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    count = f"echo x >>{tmp_path}/count; test -e {tmp_path}/data/half && echo 'not empty'; touch {tmp_path}/data/half; "
    request = request_of(tmp_path, count + "echo 'no space left' >&2; exit 3", ["attempts=3", "attempt-pause=0.01"])
    with caplog.at_level(logging.WARNING), pytest.raises(CommandFailedError, match=r"tool exited with 3: no space left$"):
        basebackup.run(request)
    assert (tmp_path / "count").read_text() == "x\n" * 3
    assert list((tmp_path / "data").iterdir()) == []
    assert "attempt 2 of 3 failed, the next begins in 0.01 s" in caplog.text


def test_what_an_attempt_left_elsewhere_is_removed_and_what_was_there_before_is_not(tmp_path: Path) -> None:
    """WAL directory and tablespaces that were empty are emptied for the next attempt; where something was, nothing is ours."""
    mine, other = tmp_path / "wal", tmp_path / "space"
    other.mkdir()
    (other / "PG_15").touch()
    request = request_of(tmp_path, f"mkdir -p {mine}; touch {mine}/0001; exit 1",
                         [f"waldir={mine}", f"tablespace-mapping=/a\\=b={other}", "attempts=1"])
    assert basebackup.fills(request.options) == [str(mine), str(other)]
    with pytest.raises(CommandFailedError):
        basebackup.run(request)
    assert list(mine.iterdir()) == [] and list(other.iterdir()) == [other / "PG_15"]


def test_a_tool_that_makes_no_progress_is_ended_and_tried_again(tmp_path: Path) -> None:
    body = f"echo begun; test -e {tmp_path}/second && exit 0; touch {tmp_path}/second; exec sleep 600"
    began = time.monotonic()
    basebackup.run(request_of(tmp_path, body, ["stall-timeout=0.5", "attempt-pause=0"]))
    assert time.monotonic() - began < 60


def test_a_tool_that_hangs_in_the_last_attempt_is_named_with_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(CommandFailedError, match=r"tool printed nothing for 0\.3 s and was ended: begun"):
        basebackup.run(request_of(tmp_path, "echo begun; exec sleep 600", ["stall-timeout=0.3", "attempts=1"]))
