"""A program that hangs is told from one that works silently: real processes, real copies."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from pgcore.builtin.replica_command import STALL_S, idle_limit
from pgcore.errors import CommandFailedError
from pgcore.hookspecs import IdleLimit
from pgcore.postgres.idleness import BYTES, Work, went_on
from pgcore.postgres.programs import ProgramRunner

LIMIT_S = 0.5
WORK_S = 2.0


@pytest.mark.parametrize(("now", "expected"), [
    (Work(1.0, 5, (7,)), False),
    (Work(1.0 + 3.5, 5, (7,)), False),
    (Work(1.0 + 3.7, 5, (7,)), True),
    (Work(1.0, 5 + BYTES - 1, (7,)), False),
    (Work(1.0, 5 + BYTES, (7,)), True),
    (Work(1.0, 5, (7 + BYTES,)), True),
    (Work(0.0, 5 - BYTES, (7,)), True),
])
def test_what_counts_as_work_within_an_hour(now: Work, expected: bool) -> None:
    assert went_on(Work(1.0, 5, (7,)), now, 3600) is expected


@pytest.mark.parametrize("script", ["echo begun; sleep 60", "echo begun; sleep 60 & wait",
                                    "echo begun; exec >/dev/null 2>&1; sleep 60"])
def test_one_that_does_nothing_is_ended_with_its_children(script: str) -> None:
    """Its own output, or that of its children, closed or not."""
    began = time.monotonic()
    with pytest.raises(CommandFailedError, match=r"did nothing for as long as its stall-timeout allows.*: begun"):
        ProgramRunner().run(["bash", "-c", script], idle=IdleLimit(LIMIT_S))
    assert LIMIT_S < time.monotonic() - began < 5


@pytest.mark.parametrize("script", [
    f"end=$((SECONDS + {WORK_S:.0f})); while ((SECONDS < end)); do :; done",
    f"timeout {WORK_S} sh -c 'while :; do head -c 4000000 /dev/zero; sleep 0.2; done' >/dev/null || true",
    f"for i in $(seq {WORK_S * 5:.0f}); do echo $i; sleep 0.2; done",
])
def test_one_that_works_goes_on(script: str) -> None:
    """It computes, it moves data in its children, it prints."""
    began = time.monotonic()
    ProgramRunner().run(["bash", "-c", script], idle=IdleLimit(LIMIT_S))
    assert time.monotonic() - began > LIMIT_S * 2


def test_one_whose_data_comes_from_elsewhere_goes_on(tmp_path: Path) -> None:
    """A copy that another machine pushes here: no process below the command does anything."""
    writer = f"for i in $(seq 10); do head -c 3000000 /dev/zero >>{tmp_path}/pushed; sync {tmp_path}/pushed; sleep 0.2; done"
    ProgramRunner().run(["bash", "-c", f"setsid -f bash -c '{writer}' >/dev/null 2>&1; exec sleep {WORK_S}"],
                        idle=IdleLimit(LIMIT_S, (str(tmp_path),)))


@pytest.mark.parametrize(("options", "seconds"), [
    ({}, STALL_S), ({"stall-timeout": 60}, 60), ({"stall-timeout": "1.5"}, 1.5), (None, STALL_S), ({"timeout": 5}, STALL_S)])
def test_the_limit_of_a_section(options: object, seconds: float) -> None:
    assert idle_limit(options, "/data") == IdleLimit(seconds, ("/data",))  # type: ignore[arg-type]


def test_no_limit_and_a_wrong_one(caplog: pytest.LogCaptureFixture) -> None:
    assert idle_limit({"stall-timeout": 0}, "/data") is None and caplog.text == ""
    with caplog.at_level(logging.ERROR):
        assert idle_limit({"command": "/bin/restore", "stall-timeout": "soon"}, "/data") == IdleLimit(STALL_S, ("/data",))
    assert "stall-timeout of the command /bin/restore is 'soon', it must be a number of seconds" in caplog.text
