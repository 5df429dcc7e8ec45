"""The log, the term and the vote of one member on disk, in one file that only grows until it is rewritten as a whole.

A change is made in memory and becomes durable with the next ``sync``, all that have gathered since in one frame and one
fdatasync. Whoever sends a message that others rely on calls ``sync`` first (``transport``).

The file: a line, a random number, then frames of mark, length, checksum and records. The checksum starts from the file's number,
so that no value can look like a frame. A frame follows only when the one before it is on disk, so a crash tears at most
the last one, which nobody was told about: it is dropped. A bad frame with a good one behind it is damage, and the member
refuses to start, because it would forget what it has promised.

Rewriting (at every start, for compaction and snapshots, after a failed write) makes a new file: written, fsynced, renamed, and
the directory fsynced. What a file of an earlier process or of a failed write has on disk is unknown, so that nothing is ever
appended to it again.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from pgcore.plugin import ConfigError
from pgcore_dcs_raft.wire import decode, encode

log = logging.getLogger(__name__)

Entry = tuple[bytes, int, int]
"""A command, its index, its term: the order of pysyncobj."""

HEADER = b"pgcore raft journal 1\n"
NUMBER_BYTES = 8
FULL = (errno.ENOSPC, errno.EDQUOT)
"""A member starts on a full disk, and takes part when there is room."""
MARK = b"\xf7RJ\xa5"
_FRAME = struct.Struct(">4sII")
_START = len(HEADER) + NUMBER_BYTES


class Damaged(Exception):
    """What a file holds cannot be what this member wrote."""


class Journal:
    """What pysyncobj takes for its log (``pysyncobj.journal.Journal``). Used by the Raft thread only."""

    def __init__(self, path: str) -> None:
        """Read the file if there is one. Raises Damaged, and OSError if it cannot be read. Writes nothing before ``sync``."""
        self._path = path
        self._entries: list[Entry] = []
        self._term: int = 0
        self._vote: str | None = None
        self._unwritten: list[tuple[Any, ...]] = []
        self._number = b""
        self._file: int | None = None
        if os.path.exists(path):
            with open(path, "rb") as file:
                self._replay(file.read())

    # -- what pysyncobj calls ------------------------------------------------------------------------------------------

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry."""
        self._entries.append((bytes(command), idx, term))
        self._unwritten.append(("entry", *self._entries[-1]))

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Cut the entry at this position, not index, and what follows it."""
        if entryFrom < len(self._entries):
            self._unwritten.append(("cut", self._entries[entryFrom][1]))
            del self._entries[entryFrom:]

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Drop the entries before this position; a dump has them."""
        del self._entries[:entryTo]
        self._abandon()

    def clear(self) -> None:
        """Drop all entries; a dump replaces them."""
        self._entries.clear()
        self._abandon()

    def __getitem__(self, position: Any) -> Any:
        return self._entries[position]

    def __len__(self) -> int:
        return len(self._entries)

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Remember the term, and the vote in it."""
        self._term, self._vote = term, votedForNodeId
        self._unwritten.append(("term", term, votedForNodeId))

    def getCurrentTerm(self) -> int:
        """The last term this member took part in."""
        return self._term

    def getVotedForNodeId(self) -> str | None:
        """The vote in that term."""
        return self._vote

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Not kept: a leader tells it."""

    def getRaftCommitIndex(self) -> int:
        """The first entry is the library's own, or in a dump: decided either way."""
        return self._entries[0][1] if self._entries else 1

    def onOneSecondTimer(self) -> None:
        """Nothing waits for a timer."""

    def _destroy(self) -> None:
        with contextlib.suppress(OSError):  # nobody was told about what is not written yet
            self.sync()
        self._close()

    # -- ours ----------------------------------------------------------------------------------------------------------

    def term_of(self, index: Any) -> int | None:
        """The term of the entry with this index, None if there is none."""
        position = index - self._entries[0][1] if self._entries and isinstance(index, int) else -1
        return self._entries[position][2] if 0 <= position < len(self._entries) else None

    @property
    def is_durable(self) -> bool:
        """Whether everything is on disk."""
        return self._file is not None and not self._unwritten

    def sync(self) -> None:
        """Bring everything to disk. Raises OSError; the next call writes a new file."""
        if self._file is None:
            self._rewrite()
        elif self._unwritten:
            try:
                _write_all(self._file, self._frame(self._unwritten))
                os.fdatasync(self._file)
            except OSError:
                self._abandon()
                raise
            self._unwritten.clear()

    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._file).st_size if self._file is not None else 0

    # -- the file ------------------------------------------------------------------------------------------------------

    def _abandon(self) -> None:
        """Never write to the present file again."""
        self._close()
        self._unwritten.clear()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _rewrite(self) -> None:
        temporary = self._path + ".tmp"
        self._number = os.urandom(NUMBER_BYTES)
        records = [("term", self._term, self._vote), *(("entry", *entry) for entry in self._entries)]
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            _write_all(file, HEADER + self._number + self._frame(records))
            replace_durably(temporary, self._path)
        except OSError:
            os.close(file)
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # on a full disk it would hold the last room
            raise
        self._file = file
        self._unwritten.clear()

    def _frame(self, records: list[tuple[Any, ...]]) -> bytes:
        payload = encode(records)
        return _FRAME.pack(MARK, len(payload), self._checksum(payload)) + payload

    def _checksum(self, payload: bytes) -> int:
        return zlib.crc32(payload, zlib.crc32(self._number))

    def _replay(self, data: bytes) -> None:
        """Take over what the file holds, without a torn end."""
        if data.startswith(b"PYSYNCOBJ"):
            raise Damaged("it was written by pysyncobj's own journal, which an earlier pgcore or Patroni used")
        if len(data) < _START or not data.startswith(HEADER):
            raise Damaged("it does not begin like a journal")
        self._number, at = data[len(HEADER):_START], _START
        while at < len(data):
            payload = self._payload(data, at)
            if payload is None:
                if any(self._payload(data, later) is not None for later in _places(data, MARK, at + 1)):
                    raise Damaged(f"the bytes from {at} are damaged, and intact ones follow them")
                log.warning("%s: the last %d bytes were not written completely when the member ended; nobody was told about them",
                            self._path, len(data) - at)
                break
            try:
                for record in decode(payload):
                    self._take(record)
            except (ValueError, TypeError) as error:
                raise Damaged(f"the bytes from {at} hold no records: {error}") from error
            at += _FRAME.size + len(payload)
        if at == _START:
            raise Damaged("it ends after its first line")

    def _payload(self, data: bytes, at: int) -> bytes | None:
        if len(data) - at < _FRAME.size:
            return None
        mark, length, checksum = _FRAME.unpack_from(data, at)
        payload = data[at + _FRAME.size:at + _FRAME.size + length]
        return payload if mark == MARK and len(payload) == length and self._checksum(payload) == checksum else None

    def _take(self, record: tuple[Any, ...]) -> None:
        match record:
            case ("term", int(term), vote):
                self._term, self._vote = term, vote
            case ("cut", int(index)):
                del self._entries[max(0, index - self._entries[0][1]) if self._entries else 0:]
            case ("entry", bytes(command), int(index), int(term)) if not self._entries or index == self._entries[-1][1] + 1:
                self._entries.append((command, index, term))
            case _:
                raise Damaged(f"the record {str(record)[:80]} does not fit what precedes it")


def _places(data: bytes, what: bytes, at: int) -> Iterator[int]:
    while (at := data.find(what, at)) >= 0:
        yield at
        at += 1


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view):]


def replace_durably(temporary: str, path: str) -> None:
    """Rename over ``path`` so that after a crash one of both files is there, whole. Raises OSError."""
    for name in (temporary, os.path.dirname(path) or "."):
        _fsync(name)  # the directory also before: what a new journal leaves out is in a dump that must have got its name
    os.rename(temporary, path)
    _fsync(os.path.dirname(path) or ".")


def _fsync(path: str) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


# -- start ---------------------------------------------------------------------------------------------------------------

def read_dump(path: str) -> Any:
    """The content of a dump, which gzip has put a checksum behind. Raises Damaged, and OSError if it cannot be read."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        content = decode(gzip.decompress(data))
        (_, last, previous, _) = content
        if not last[1] == previous[1] + 1:
            raise ValueError("its last two entries do not follow each other")
    except (ValueError, EOFError, OSError, zlib.error, TypeError, IndexError) as error:
        raise Damaged(f"{error}") from error
    return content


def open_journal(base: str) -> Journal:
    """The journal of a member's directory, fitting its dump, on disk. Raises ConfigError that names the file and the remedy."""
    try:
        journal, _ = read_files(base)
        try:
            journal.sync()
        except OSError as error:
            if error.errno not in FULL:
                raise
    except Damaged as error:
        raise ConfigError("raft.data_dir", str(error),
                          "while a majority of the other members runs, remove this member from the cluster, move its files in "
                          "the directory away, and start it: it joins anew. Do not only delete the files: the member would "
                          "have forgotten its votes") from error
    except OSError as error:
        raise ConfigError("raft.data_dir", f"{error.filename or base + '.journal'} cannot be opened or written: {error}",
                          "make the directory writable for the user pgcore runs as, with room for a few megabytes") from error
    return journal


def read_files(base: str) -> tuple[Journal, Any]:
    """The journal of a member's directory, fitting its dump, and the dump's content or None. Writes nothing.

    Raises Damaged that names the file, and OSError if one cannot be read.
    """
    journal_path = path = base + ".journal"
    try:
        if not os.path.exists(journal_path):
            for path in (base + ".dump", journal_path + ".meta"):
                if os.path.exists(path):
                    raise Damaged(f"it is there, but {journal_path} is not")
        path = journal_path
        journal = Journal(journal_path)
        path = base + ".dump"
        dump = read_dump(path) if os.path.exists(path) else None
        _fit(journal, dump)
    except Damaged as error:
        raise Damaged(f"{path} cannot be used: {error}") from error
    return journal, dump


def _fit(journal: Journal, dump: Any) -> None:
    """Drop from the journal what the dump has. A crash between the two would make pysyncobj drop what only the journal has.

    A dump that goes on from another log, or beyond this one, replaces it: a snapshot of the leader, or of ``recovery``.
    """
    if dump is None:
        if len(journal) and journal[0][1] > 1:
            raise Damaged("it is missing, but the journal goes on from it")
        return
    (_, last, previous, _) = dump
    if len(journal) and journal[0][1] > previous[1]:
        raise Damaged("it is older than the beginning of the journal")
    if journal.term_of(previous[1]) == previous[2] and journal.term_of(last[1]) == last[2]:
        dropped = previous[1] - journal[0][1]
        if dropped:
            journal.deleteEntriesTo(dropped)
    else:
        journal.clear()
        journal.add(*previous)
        journal.add(*last)
