"""What of pysyncobj is replaced, in one place: its pickling, its journal, and how its dump gets its name.

The library has no parameter for these, and looks each of them up where it is replaced here, at every use (0.3.16, 0.3.17).
"""

from __future__ import annotations

from typing import IO, Any

import pysyncobj.pickle  # type: ignore[import-untyped]
import pysyncobj.serializer  # type: ignore[import-untyped]
import pysyncobj.syncobj  # type: ignore[import-untyped]
from pysyncobj.journal import MemoryJournal  # type: ignore[import-untyped]

from pgcore_dcs_raft.journal import Damaged, Journal, read_dump, replace_durably
from pgcore_dcs_raft.wire import decode, encode


def adapt() -> None:
    """Make pysyncobj use ours, in this whole process. Doing it again changes nothing."""
    pysyncobj.pickle.dumps, pysyncobj.pickle.loads = _dumps, decode
    pysyncobj.pickle.dump, pysyncobj.pickle.load = _dump, _load
    pysyncobj.syncobj.createJournal = _journal
    pysyncobj.serializer.atomicReplace = _replace


def follow_members(raft: Any, journal: Journal) -> None:
    """Take the changes of members in the log as made, decided or not: the library does so when they come, not at a start."""
    for command, _, _ in journal[:]:
        change = raft._SyncObj__parseChangeClusterRequest(command)
        if change is not None:
            raft._SyncObj__doChangeCluster(change)


def _dumps(value: Any, protocol: int | None = None) -> bytes:
    return encode(value)


def _dump(value: Any, file: IO[bytes], protocol: int | None = None) -> None:
    file.write(encode(value))


def _load(file: IO[bytes]) -> Any:
    return decode(file.read())


def _journal(opened: Journal | None) -> Any:
    """The configuration carries the opened journal where the library expects a name. An observer has none."""
    return MemoryJournal() if opened is None else opened


def _replace(temporary: str, path: str) -> None:
    """A dump that cannot be read never takes the place of one that can."""
    try:
        read_dump(temporary)
    except Damaged as error:
        raise OSError(f"{temporary}: {error}") from error
    replace_durably(temporary, path)
