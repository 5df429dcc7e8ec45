"""Whose the contents of a tablespace's directory are: only what carries the note's own mark may be removed. Real files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pgcore.postgres import tablespaces, unfinished
from pgcore.postgres.unfinished import Note
from unit.test_daemon_kit import is_root


def fill(place: Path) -> Path:
    """As PostgreSQL does."""
    file = place / "PG_15_202209061" / "5" / "16384"
    file.parent.mkdir(parents=True)
    file.touch()
    return file


def test_what_a_killed_copy_left_is_removed_by_its_mark(tmp_path: Path) -> None:
    """The descriptors of a killed agent are closed, its marks stay."""
    directory, empty, missing = str(tmp_path / "data"), tmp_path / "empty", tmp_path / "not" / "there"
    others = tmp_path / "others"
    empty.mkdir()
    kept = fill(others)
    note = unfinished.begin(directory, Note("basebackup", tablespaces=(str(empty), str(missing), str(others))))
    claims = tablespaces.claim(note.tablespaces, note.mark, None)
    assert [claim.path for claim in claims] == [str(empty), str(missing)]
    fill(empty), fill(missing)
    for claim in claims:
        os.close(claim.descriptor)
    found = unfinished.read(directory)
    assert found == note
    unfinished.empty_places(directory, found)
    assert (list(empty.iterdir()), list(missing.iterdir()), kept.exists()) == ([], [], True)


def test_what_another_node_put_there_since_stays(tmp_path: Path) -> None:
    """The killed copy had not yet begun in the directory, another node of this machine made its own there. (EC 173)"""
    place = tmp_path / "space"
    place.mkdir()
    note = Note("basebackup", tablespaces=(str(place),))
    [stale] = tablespaces.claim(note.tablespaces, note.mark, None)
    assert tablespaces.claim([str(place)], "other", None) == [], "the first agent still lives"
    os.close(stale.descriptor)
    [theirs] = tablespaces.claim([str(place)], "other", None)
    kept = fill(place)
    unfinished.empty_places(str(tmp_path / "data"), note)
    assert kept.exists()
    theirs.end()
    assert kept.exists() and os.listxattr(place) == []
    unfinished.empty_places(str(tmp_path / "data"), note)
    assert kept.exists()


def test_a_claim_that_ends_takes_back_what_it_made(tmp_path: Path) -> None:
    """A method that maps the tablespace to another place did not need the directory."""
    made, filled = tmp_path / "a" / "b", tmp_path / "c"
    claims = tablespaces.claim([str(made), str(filled)], "mark", None)
    fill(filled)
    for claim in claims:
        claim.end()
    assert sorted(tmp_path.iterdir()) == [filled] and os.listxattr(filled) == []


@pytest.mark.skipif(not is_root(), reason="only root can mount")
def test_where_no_attribute_can_be_set_nothing_is_claimed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """ramfs has none."""
    subprocess.run(["mount", "-t", "ramfs", "ramfs", str(tmp_path)], check=True)
    try:
        place = tmp_path / "space"
        place.mkdir()
        assert tablespaces.claim([str(place)], "mark", None) == []
        assert f"{place} can't be claimed (Operation not supported)" in caplog.text
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_path_that_is_no_directory_is_left_to_the_copy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert tablespaces.claim([str(tmp_path / "file"), str(tmp_path / "file" / "below")], "mark", None) == []
