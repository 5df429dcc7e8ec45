"""What of pysyncobj is replaced, in one place: pickling, journal, how a dump gets its name, host names. And what its entries say.

The library has no parameter for these, and looks each of them up where it is replaced here, at every use (0.3.16, 0.3.17).
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from typing import IO, Any

import pysyncobj.dns_resolver  # type: ignore[import-untyped]
import pysyncobj.pickle  # type: ignore[import-untyped]
import pysyncobj.serializer  # type: ignore[import-untyped]
import pysyncobj.syncobj  # type: ignore[import-untyped]
from pysyncobj.journal import MemoryJournal  # type: ignore[import-untyped]
from pysyncobj.node import TCPNode  # type: ignore[import-untyped]
from pysyncobj.syncobj import _COMMAND_TYPE

from pgcore_dcs_raft.journal import Damaged, Journal, read_dump, replace_durably
from pgcore_dcs_raft.names import Names
from pgcore_dcs_raft.wire import decode, encode


def adapt() -> None:
    """Make pysyncobj use ours, in this whole process. Doing it again changes nothing."""
    pysyncobj.pickle.dumps, pysyncobj.pickle.loads = _dumps, decode
    pysyncobj.pickle.dump, pysyncobj.pickle.load = _dump, _load
    pysyncobj.syncobj.createJournal = _journal
    pysyncobj.serializer.atomicReplace = _replace
    if not isinstance(pysyncobj.dns_resolver._g_resolver, Names):
        pysyncobj.dns_resolver._g_resolver = Names()


def member_change(command: bytes) -> tuple[str, str] | None:
    """What an entry of the log changes of the members: ``add`` or ``rem`` and the address; None if nothing."""
    if command[0] != _COMMAND_TYPE.MEMBERSHIP:
        return None
    change, address, *_ = decode(command[1:])
    return change, address


def text_to_apply(command: bytes) -> str | None:
    """The text that an entry of the log hands to the machine; None if it hands it nothing."""
    if command[0] != _COMMAND_TYPE.REGULAR:
        return None
    _, (text, *_) = decode(command[1:])
    return str(text)


def dump_of(state: Any, entries: tuple[Any, Any], voters: Iterable[str]) -> bytes:
    """A dump as the library writes and loads it: the machine's state after the second of these entries, and who votes."""
    previous, last = entries
    return gzip.compress(encode(([{}, state], last, previous, {TCPNode(address) for address in voters})))


def no_operation(index: int, term: int) -> tuple[bytes, int, int]:
    """An entry without effect."""
    return bytes([_COMMAND_TYPE.NO_OP]), index, term


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
