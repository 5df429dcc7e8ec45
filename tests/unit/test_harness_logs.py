"""The order in which the report of a failed test shows what the agents said."""

from __future__ import annotations

from harness.logs import newest_first

LOGS = {
    "n1": "--- start at 1.0\n2026-11-23 23:59:59,900 INFO: a\n2026-11-24 00:00:00,200 ERROR: b\nTraceback\n"
    "2026-11-24 00:00:00,200 INFO: c\n",
    "n2": "2026-11-24 00:00:00.100 UTC [7] LOG:  d\n2026-11-24 00:00:01,000 INFO: e\n",
    "n3": "",
}


def test_the_newest_line_of_all_agents_stands_first() -> None:
    assert newest_first(LOGS, 9) == [
        "00:00:01.000 n2 INFO: e",
        "00:00:00.200 n1 INFO: c",
        "00:00:00.200 n1 ERROR: b",
        "    Traceback",
        "00:00:00.100 n2 UTC [7] LOG:  d",
        "23:59:59.900 n1 INFO: a",
    ]


def test_what_is_too_much_is_the_oldest() -> None:
    assert newest_first(LOGS, 2) == ["00:00:01.000 n2 INFO: e", "00:00:00.200 n1 INFO: c"]
