"""History files of later timelines on disk: which are seen, how they are set aside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgcore.errors import ServerError
from pgcore.model.basics import Lsn
from pgcore.postgres import timeline

ENDED = "1\t0/3000060\tno recovery target specified\n"
SWITCH = (1, Lsn(0x3000060), "no recovery target specified")


@pytest.fixture
def wal(tmp_path: Path) -> Path:
    """pg_wal with the files of timelines 2, 3, 5 and 7."""
    directory = tmp_path / "pg_wal"
    (directory / "archive_status").mkdir(parents=True)
    for number in (2, 3, 5, 7):
        (directory / f"0000000{number}.history").write_text(ENDED)
    return directory


@pytest.mark.parametrize(("own", "upto", "found"), [
    (1, 1, [2, 3]), (2, 1, [3]), (1, 5, [2, 3, 5]), (3, 3, []), (3, 5, [5]), (1, 6, [2, 3, 5, 7]), (7, 7, []), (9, 1, [])])
def test_later_files_are_found_up_to_the_leaders_and_on_from_there(wal: Path, own: int, upto: int, found: list[int]) -> None:
    assert timeline.newer_histories(str(wal.parent), own, upto) == dict.fromkeys(found, (SWITCH,))


def test_an_unfinished_file_counts_as_one_without_a_history(wal: Path) -> None:
    (wal / "00000002.history").write_text("")
    assert timeline.newer_histories(str(wal.parent), 1, 1) == {2: (), 3: (SWITCH,)}


def test_a_file_set_aside_is_renamed_and_its_marks_for_the_archiver_go(wal: Path, caplog: pytest.LogCaptureFixture) -> None:
    marks = wal / "archive_status"
    for name in ("00000002.history.ready", "00000003.history.done", "00000005.history.done"):
        (marks / name).touch()
    timeline.set_histories_aside(str(wal.parent), (2, 3))
    left = ["00000002.history.aside1", "00000003.history.aside1", "00000005.history", "00000007.history", "archive_status"]
    assert sorted(os.listdir(wal)) == left and os.listdir(marks) == ["00000005.history.done"]
    assert (wal / "00000002.history.aside1").read_text() == ENDED
    assert f"{wal}/00000002.history is kept as 00000002.history.aside1" in caplog.text


def test_what_is_aside_already_is_never_overwritten_by_something_else(wal: Path) -> None:
    """The same file, fetched again and set aside again, is kept once."""
    path = wal / "00000002.history"
    for content in (ENDED, ENDED, "another", ENDED, "another"):
        path.write_text(content)
        timeline.set_histories_aside(str(wal.parent), (2,))
    assert {each.name: each.read_text() for each in wal.glob("*.aside*")} == {
        "00000002.history.aside1": ENDED, "00000002.history.aside2": "another"}


def test_a_file_that_cannot_be_renamed_is_complained_of(wal: Path) -> None:
    with pytest.raises(ServerError, match=r"00000004\.history can't be set aside: No such file or directory"):
        timeline.set_histories_aside(str(wal.parent), (4,))
