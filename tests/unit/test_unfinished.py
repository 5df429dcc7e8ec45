"""What an agent that was killed in the middle of a copy or a bootstrap leaves to the next one: real processes, real files."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from pgcore.errors import CommandFailedError
from pgcore.postgres import unfinished
from pgcore.postgres.programs import ProgramRunner
from pgcore.postgres.unfinished import Note
from unit.test_daemon_kit import eventually, is_root, running


def test_a_note_is_read_as_it_was_written_and_ends(tmp_path: Path) -> None:
    directory = str(tmp_path / "data")
    note = unfinished.begin(directory, Note("wal_g", keeps_data=True, claim="7", places=("/a", "/b")))
    assert unfinished.read(directory + "/") == note
    unfinished.end(directory)
    unfinished.end(directory)
    assert unfinished.read(directory) is None and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", "{", '{"method": "x"}', '{"method": "x", "places": [], "more": 1}', '{"places": 5}'])
def test_a_note_that_makes_no_sense_is_none(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "data.unfinished").write_text(text)
    assert unfinished.take_over(str(tmp_path / "data")) is None
    assert "is ignored, it can't be read" in caplog.text


def test_a_note_is_out_of_date_once_a_server_has_run(tmp_path: Path) -> None:
    """Then it is somebody's data, perhaps the only copy."""
    directory = tmp_path / "data"
    directory.mkdir()
    unfinished.begin(str(directory), Note("basebackup"))
    (directory / "postmaster.opts").touch()
    os.utime(directory / "postmaster.opts", (time.time() - 60,) * 2)
    assert unfinished.read(str(directory)) is not None, "the copy brought it along"
    os.utime(directory / "postmaster.opts", (time.time() + 60,) * 2)
    assert unfinished.read(str(directory)) is None


@pytest.mark.skipif(not is_root(), reason="only root can give a file away")
def test_a_note_of_another_account_counts_for_nothing(tmp_path: Path) -> None:
    """Or whoever may write beside the data directory could make an agent that runs as root empty any directory."""
    directory = str(tmp_path / "data")
    unfinished.begin(directory, Note("basebackup", places=("/etc",)))
    os.chown(unfinished.path_of(directory), 12345, 12345)
    assert unfinished.read(directory) is None


@pytest.mark.skipif(not is_root(), reason="only root can mount")
def test_where_nothing_can_be_written_it_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A container with a read-only root and the data directory as a volume in it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)], check=True)
    try:
        unfinished.begin(str(tmp_path / "data"), Note("basebackup"))
        assert "the next one will not know that basebackup was at work" in caplog.text
        assert unfinished.take_over(str(tmp_path / "data")) is None
        unfinished.end(str(tmp_path / "data"))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.skipif(not is_root(), reason="only root can give a directory away")
def test_only_directories_of_the_same_owner_are_emptied(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    for place in (mine, other):
        place.mkdir()
        (place / "file").touch()
    os.chown(other, 12345, 12345)
    unfinished.empty_places(str(tmp_path / "data"), Note("x", places=(str(mine), str(other), str(tmp_path / "absent"))))
    assert list(mine.iterdir()) == [] and len(list(other.iterdir())) == 1


def test_what_still_runs_is_ended_with_everything_it_has_started(tmp_path: Path) -> None:
    """A shell that hides from its session, and a child that ignores SIGTERM, of an agent that is no more."""
    directory, note = str(tmp_path / "data"), Note("restore")
    unfinished.begin(directory, note)
    body = f"""
    setsid sh -c 'echo $$ >{tmp_path}/hidden; exec sleep 600' &
    sh -c 'trap "" TERM; echo $$ >{tmp_path}/deaf; while :; do sleep 0.1; done' &
    sleep 600"""
    process = subprocess.Popen(["sh", "-c", body], env={**os.environ, unfinished.MARK: note.mark}, start_new_session=True)
    pids = [int(eventually(lambda name=name: (tmp_path / name).exists() and (tmp_path / name).read_text()))  # type: ignore[misc]
            for name in ("hidden", "deaf")]
    stranger = subprocess.Popen(["sleep", "600"], env={**os.environ, unfinished.MARK: Note("other").mark})
    try:
        assert unfinished.take_over(directory) == note
        process.wait(10)
        assert not any(running(pid) for pid in pids)
        assert stranger.poll() is None, "what another agent of this machine does is not ours"
    finally:
        stranger.kill()
        stranger.wait()
    assert json.loads((tmp_path / "data.unfinished").read_text())["mark"] == note.mark


def test_the_programs_of_a_note_carry_its_mark_and_keep_their_own_environment(tmp_path: Path) -> None:
    note = Note("x")
    ctx = note.marked(ProgramRunner())
    assert ctx.run(["sh", "-c", f"echo $A ${unfinished.MARK}"], env={"A": "b"}).split() == ["b", note.mark]
    with pytest.raises(CommandFailedError, match="printed nothing"):
        ctx.run(["sleep", "60"], stall_timeout=0.1)
