"""The log as an operator reads it: plain lines, JSON lines, tracebacks, files (config 2.2)."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgcore import log

logger = logging.getLogger("pgcore.test_log")


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Logging as the test runner had it is put back: ``configure`` closes whatever handlers it finds."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers[:] = []
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("pgcore.test_log", "pgcore.test_log.loud"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def fail() -> None:
    """Log an exception as the agent does."""
    try:
        raise ValueError("no such thing")
    except ValueError:
        logger.exception("the %s failed", "work")


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def objects(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(capsys)]


def test_a_plain_line_has_time_level_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure()
    logger.info("%d members", 3)
    (line,) = lines(capsys)
    assert line.endswith(" INFO: 3 members") and line[:4].isdigit()


def test_what_a_message_quotes_cannot_pass_for_a_line_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure()
    logger.info("key %s", "a\n2026-01-01 00:00:00,000 INFO: all is well\r\x1b[2J\x85\ud800\tend")
    first, second = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert first.endswith(" INFO: key a")
    assert second == "  2026-01-01 00:00:00,000 INFO: all is well\\x0d\\x1b[2J\\x85\\ud800\tend"


def test_format_date_and_level_are_those_configured(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(level="WARNING", format_="%(asctime)s|%(name)s|%(message)s", dateformat="now")
    logger.info("unheard")
    logger.warning("heard")
    assert lines(capsys) == ["now|pgcore.test_log|heard"]


def test_json_lines_have_the_three_usual_fields(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(kind="json")
    logger.info('say "%s"', "hello\nworld")
    (line,) = objects(capsys)
    assert line.keys() == {"asctime", "levelname", "message"}
    assert (line["levelname"], line["message"]) == ("INFO", 'say "hello\nworld"')


def test_json_fields_can_be_chosen_renamed_and_added_to(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(kind="json", format_=["message", {"levelname": "severity"}, "no_such_field"], static_fields={"scope": "demo"})
    logger.error("trouble")
    assert objects(capsys) == [{"message": "trouble", "severity": "ERROR", "no_such_field": None, "scope": "demo"}]


def test_a_decision_carries_its_rule_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(kind="json", format_=["message"])
    logger.info("leader.keep: fine", extra={"rule": "leader.keep", "because": "fine", "took_ms": 3})
    assert objects(capsys) == [{"message": "leader.keep: fine", "rule": "leader.keep", "because": "fine", "took_ms": 3}]


def test_json_keeps_a_traceback_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(kind="json")
    fail()
    (line,) = objects(capsys)
    assert line["message"] == "the work failed"
    assert line["exc_info"].startswith("Traceback") and line["exc_info"].endswith("ValueError: no such thing")


def test_a_list_of_fields_with_plain_lines_means_the_usual_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(format_=["message"])
    logger.info("hello")
    assert lines(capsys)[0].endswith(" INFO: hello")


def test_a_traceback_is_printed_as_long_as_nobody_said_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure()
    fail()
    printed = lines(capsys)
    assert printed[1].startswith("Traceback") and printed[-1] == "ValueError: no such thing"


@pytest.mark.parametrize("kind", ["plain", "json"])
def test_with_traceback_level_debug_an_exception_is_one_line(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    log.configure(kind=kind, traceback_level="debug")
    fail()
    (line,) = lines(capsys)
    assert "the work failed, DETAIL: 'no such thing'" in line and "exc_info" not in line


def test_with_traceback_level_debug_a_debug_log_has_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(level="DEBUG", traceback_level="DEBUG")
    fail()
    assert any(line.startswith("Traceback") for line in lines(capsys))


def test_single_loggers_have_levels_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(level="ERROR", loggers={"pgcore.test_log.loud": "DEBUG"})
    logging.getLogger("pgcore.test_log.loud").debug("heard")
    logger.warning("unheard")
    assert [line.split(": ")[1] for line in lines(capsys)] == ["heard"]


def test_a_logger_no_longer_named_after_a_reload_inherits_again() -> None:
    named, kept = logging.getLogger("pgcore.test_log.loud"), logging.getLogger("pgcore.test_log")
    log.configure(loggers={"pgcore.test_log.loud": "DEBUG", "pgcore.test_log": "ERROR"})
    log.configure(loggers={"pgcore.test_log": "WARNING"})
    assert (named.level, kept.level) == (logging.NOTSET, logging.WARNING)
    log.configure()
    assert (named.level, kept.level) == (logging.NOTSET, logging.NOTSET)


def test_a_logger_the_configuration_never_named_keeps_its_level() -> None:
    logger.setLevel(logging.ERROR)
    log.configure(loggers={"pgcore.test_log.loud": "DEBUG"})
    log.configure()
    assert logger.level == logging.ERROR


def test_a_reload_does_not_double_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure()
    log.configure()
    logger.info("once")
    assert len(lines(capsys)) == 1


def test_a_directory_gets_a_file_with_the_wanted_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(directory=str(tmp_path), mode=0o640)
    logger.info("into the file")
    assert lines(capsys) == []
    assert "into the file" in (tmp_path / "patroni.log").read_text()
    assert stat.S_IMODE((tmp_path / "patroni.log").stat().st_mode) == 0o640


def fill(directory: Path, **options: Any) -> None:
    """Log until the files have been rotated several times."""
    log.configure(directory=str(directory), file_size=200, file_num=2, **options)
    for number in range(20):
        logger.info("line number %d of a log that is rotated", number)


def test_files_are_rotated_and_only_as_many_kept_as_wanted(tmp_path: Path) -> None:
    fill(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["patroni.log", "patroni.log.1", "patroni.log.2"]
    assert "line number 19" in (tmp_path / "patroni.log").read_text()


@pytest.mark.parametrize(("mode", "found"), [(0o600, 0o600), (0o664, 0o664), (None, 0o640)])
def test_files_after_a_rotation_have_the_wanted_mode_too(tmp_path: Path, mode: int | None, found: int) -> None:
    before = os.umask(0o027)
    try:
        fill(tmp_path, mode=mode)
    finally:
        os.umask(before)
    assert len(os.listdir(tmp_path)) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {found}


def test_a_directory_that_is_missing_is_an_error_and_the_log_goes_on_as_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure()
    with pytest.raises(OSError):
        log.configure(directory=str(tmp_path / "missing"))
    logger.info("still there")
    assert lines(capsys)[-1].endswith("still there")
