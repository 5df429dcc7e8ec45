"""The files of one member: what survives a torn end, what is refused, and that no promise is lost between two files."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path

import pytest

from pgcore.plugin import ConfigError
from pgcore_dcs_raft.journal import HEADER, Damaged, Journal, open_journal
from pgcore_dcs_raft.wire import decode, encode


def log(journal: Journal) -> list[tuple[bytes, int, int]]:
    return [journal[position] for position in range(len(journal))]


def written(path: str, count: int) -> Journal:
    """A journal with that many entries, each synced, and a vote."""
    journal = Journal(path)
    journal.setCurrentTerm(3, "127.0.0.1:2")
    for index in range(1, count + 1):
        journal.add(b"\x00command %d" % index, index, 3)
        journal.sync()
    return journal


@pytest.fixture
def base(tmp_path):
    return str(tmp_path / "127.0.0.1:1")


def test_term_vote_and_entries_are_back_after_a_restart(base):
    before = written(base + ".journal", 5)
    before.deleteEntriesFrom(3)
    before.add(b"other", 4, 4)
    before.setCurrentTerm(4, None)
    before.sync()
    after = Journal(base + ".journal")
    assert (after.getCurrentTerm(), after.getVotedForNodeId(), log(after)) == (4, None, log(before))
    assert log(after)[-1] == (b"other", 4, 4)


def test_what_was_not_synced_is_not_there(base):
    journal = written(base + ".journal", 2)
    journal.add(b"unsynced", 3, 3)
    journal.setCurrentTerm(9, "127.0.0.1:3")
    assert not journal.is_durable
    after = Journal(base + ".journal")
    assert (len(after), after.getCurrentTerm(), after.getVotedForNodeId()) == (2, 3, "127.0.0.1:2")


def test_an_end_torn_at_any_byte_costs_only_what_was_being_written(base):
    journal = written(base + ".journal", 4)
    whole = journal.size()
    journal.add(b"torn", 5, 3)
    journal.setCurrentTerm(7, "127.0.0.1:3")
    journal.sync()
    data = Path(base + ".journal").read_bytes()
    for end in range(whole, len(data)):
        for tail in (b"", b"\x00" * (len(data) - end)):  # cut, or longer than what reached the disk
            Path(base + ".journal").write_bytes(data[:end] + tail)
            after = Journal(base + ".journal")
            assert (len(after), after.getCurrentTerm()) == (4, 3), (end, tail)


def test_a_torn_end_is_gone_before_anything_is_appended(base):
    journal = written(base + ".journal", 3)
    with open(base + ".journal", "ab") as file:
        file.write(b"\xf7RJ\xa5 half a frame")
    after = open_journal(base)
    after.add(b"next", 4, 3)
    after.sync()
    assert log(Journal(base + ".journal")) == [*log(journal), (b"next", 4, 3)]


def test_a_damaged_byte_before_the_last_frame_is_never_taken_for_a_torn_end(base):
    journal = written(base + ".journal", 3)
    before_last = journal.size()
    journal.add(b"last", 4, 3)
    journal.sync()
    data = Path(base + ".journal").read_bytes()
    for at in range(before_last):
        Path(base + ".journal").write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1:])
        with pytest.raises(Damaged):
            Journal(base + ".journal")
    with pytest.raises(ConfigError, match=r"raft\.data_dir.*127\.0\.0\.1:1\.journal cannot be used.*remove this member"):
        open_journal(base)
    assert not os.path.exists(base + ".journal.tmp")


def test_a_value_that_looks_like_a_frame_does_not_pass_for_one(base):
    journal = written(base + ".journal", 1)
    image = Path(base + ".journal").read_bytes()[len(HEADER) + 8:]
    other = written(base + ".other", 1)
    other.add(b"\x00" + image, 2, 3)
    other.sync()
    data = Path(base + ".other").read_bytes()
    Path(base + ".other").write_bytes(data[:-1])
    assert len(Journal(base + ".other")) == len(journal) == 1


def dumped(base: str, last: int, entries: list[tuple[bytes, int, int]], term: int = 3) -> None:
    by_index = {index: (command, index, term) for command, index, _ in entries}
    content = ([{}, {}], by_index[last], by_index[last - 1], {"127.0.0.1:1"})
    Path(base + ".dump").write_bytes(gzip.compress(encode(content)))


def test_a_crash_between_dump_and_journal_forgets_no_entry_after_the_dump(base):
    entries = log(written(base + ".journal", 9))
    dumped(base, 6, entries)
    after = open_journal(base)
    assert log(after) == entries[4:], "pysyncobj drops the journal unless it begins with the last two entries of the dump"
    assert log(Journal(base + ".journal")) == entries[4:]


@pytest.mark.parametrize("last", [9, 12])
def test_a_snapshot_that_goes_beyond_the_log_replaces_it(base, last):
    entries = log(written(base + ".journal", 8)) + [(b"new", index, 3) for index in range(9, 13)]
    dumped(base, last, entries)
    after = open_journal(base)
    assert log(after) == log(Journal(base + ".journal")) == entries[last - 2:last]
    assert (after.getCurrentTerm(), after.getVotedForNodeId()) == (3, "127.0.0.1:2")


@pytest.mark.parametrize(("spoil", "named"), [
    (lambda base: os.unlink(base + ".journal"), r"\.dump cannot be used: it is there, but .*\.journal is not"),
    (lambda base: os.unlink(base + ".dump"), r"\.dump cannot be used: it is missing"),
    (lambda base: os.truncate(base + ".journal", 0), r"\.journal cannot be used: it does not begin"),
    (lambda base: os.truncate(base + ".dump", 30), r"\.dump cannot be used"),
    (lambda base: shutil.copy(base + ".old", base + ".dump"), r"\.dump cannot be used: it is older"),
    (lambda base: Path(base + ".journal").write_bytes(b"PYSYNCOBJ" + bytes(99)), r"\.journal cannot be used: it was written by"),
], ids=["no journal", "no dump", "empty journal", "torn dump", "old dump", "earlier format"])
def test_files_that_do_not_belong_together_are_refused_by_name_and_left_alone(base, spoil, named):
    entries = log(written(base + ".journal", 9))
    dumped(base, 3, entries)
    shutil.copy(base + ".dump", base + ".old")
    dumped(base, 6, entries)
    open_journal(base)
    spoil(base)
    before = {path: path.read_bytes() for path in Path(base).parent.iterdir()}
    with pytest.raises(ConfigError, match=named):
        open_journal(base)
    assert before == {path: path.read_bytes() for path in Path(base).parent.iterdir()}


@pytest.mark.parametrize("value", [None, True, 0, -(2**70), 1.5, "ä", b"\xff\x00", [], (1, (2,)), {"a": [b"x"], 1: None}, {1, 2}])
def test_a_value_comes_back_as_it_was(value):
    back = decode(encode(value))
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize("data", [b"", b"x", b"NN", b"s\x00\x00\x00\x05abc", b"l\xff\xff\xff\xff",
                                  b"l\x00\x00\x00\x01" * 40 + b"N", b"d\x00\x00\x00\x01l\x00\x00\x00\x00N",
                                  b"i\x00\x00\x00\x01x", b"f\x00"])
def test_bytes_that_are_no_value_are_refused(data):
    with pytest.raises(ValueError):
        decode(data)
