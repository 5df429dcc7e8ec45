"""A failure that lasts is told when it begins, when its reason changes, now and then, and when it is over."""

from __future__ import annotations

import pytest

from pgcore.daemon.complaints import REMINDER_S, Complaints
from pgcore.model.basics import Instant


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
    caplog.clear()
    return found


def test_the_same_failure_is_told_once_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    complaints = Complaints()
    for second in range(5):
        complaints.failed("ReadCluster", OSError("timed out"), Instant(second))
    assert lines(caplog) == ["ReadCluster: timed out"]
    complaints.failed("ReadCluster", OSError("refused"), Instant(5))
    complaints.failed("ReadCluster", OSError("timed out"), Instant(6))
    assert lines(caplog) == ["ReadCluster: refused"]
    complaints.worked("ReadCluster", Instant(7))
    complaints.worked("ReadCluster", Instant(8))
    assert lines(caplog) == ["ReadCluster works again after 7.0 s and 7 failures"]


def test_a_long_one_is_told_again_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints()
    for second in range(int(REMINDER_S * 2.5)):
        complaints.failed("CompareTimelines", OSError("refused"), Instant(second))
    assert lines(caplog) == [
        "CompareTimelines: refused",
        "CompareTimelines has failed for 60 s, 61 times: refused",
        "CompareTimelines has failed for 120 s, 121 times: refused",
    ]


def test_one_action_does_not_hide_another_and_a_single_failure_is_not_followed_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    complaints = Complaints()
    complaints.failed("ReadCluster", OSError("timed out"), Instant(0))
    complaints.failed("WriteStatus", OSError("timed out"), Instant(0))
    complaints.worked("ReadCluster", Instant(1))
    complaints.failed("ReadCluster", OSError("timed out"), Instant(2))
    assert lines(caplog) == ["ReadCluster: timed out", "WriteStatus: timed out", "ReadCluster: timed out"]
