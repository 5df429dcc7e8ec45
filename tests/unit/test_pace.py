"""Share, rate and remaining time of a copy, from its bytes."""

from __future__ import annotations

from pgcore.daemon.pace import WINDOW_S, Pace


def test_nothing_is_known_without_bytes() -> None:
    pace = Pace()
    assert pace.of({"phase": "starting"}, 0) == {}
    assert pace.of({"bytes_done": "many"}, 1) == {}
    assert pace.of({"bytes_done": 5}, 2) == {} and pace.of({"bytes_done": 5}, 2.5) == {}


def test_a_copy_that_goes_on_has_a_share_a_rate_and_an_end() -> None:
    pace = Pace()
    assert pace.of({"bytes_done": 0, "bytes_total": 1000}, 0) == {"percent": 0}
    assert pace.of({"bytes_done": 100, "bytes_total": 1000}, 2) == {"percent": 10, "bytes_per_second": 50, "seconds_left": 18}
    assert pace.of({"bytes_done": 999, "bytes_total": 1000}, 10)["percent"] == 99
    assert pace.of({"bytes_done": 1001, "bytes_total": 1000}, 11) == {"percent": 100, "bytes_per_second": 91, "seconds_left": 0}


def test_only_the_last_half_minute_counts_and_a_standstill_has_no_end() -> None:
    pace = Pace()
    for second in range(100):
        found = pace.of({"bytes_done": 10 * min(second, 50), "bytes_total": 1000}, second)
    assert second - 50 > WINDOW_S
    assert found == {"percent": 50, "bytes_per_second": 0}


def test_another_attempt_begins_at_nothing() -> None:
    pace = Pace()
    pace.of({"bytes_done": 900, "bytes_total": 1000}, 0)
    assert pace.of({"bytes_done": 0, "bytes_total": 1000}, 5) == {"percent": 0}
    assert pace.of({"bytes_done": 30, "bytes_total": 1000}, 8)["bytes_per_second"] == 10
