"""Let one voter go on alone when the majority is lost for good: offline, on the files of a member that does not run.

All that changes is the dump: a snapshot of everything the survivor has, with itself as the only voter and every other voter
removed as ``pgcore raft remove`` does it. It gets its name in one rename, so that whatever interrupts this leaves the old dump or
the new one. The journal stays as it is; at the next start a dump that goes beyond it replaces it (``journal``), and its term and
vote still count.

The index jumps, so that neither a version a client remembers nor an entry of the lost voters can be taken for one of what the
survivor decides from now on.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pgcore.plugin import MEMBERS, ConfigError, Key, StoreRejectedError
from pgcore_dcs_raft.journal import Damaged, Journal, read_files, replace_durably
from pgcore_dcs_raft.library import dump_of, member_change, no_operation, text_to_apply
from pgcore_dcs_raft.lock import SUFFIX, FilesLock, give_to_owner
from pgcore_dcs_raft.machine import Machine
from pgcore_dcs_raft.membership import VOTERS, Identity, Known, moment, put_known
from pgcore_dcs_raft.plugin import RaftSection, checked, members, plain

JUMP = 1_000_000
"""Far beyond what the lost voters can have decided without the survivor."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What the survivor knows of one cluster, or one group of it."""

    path: str
    leader: str | None
    members: tuple[str, ...]
    written: float
    """The latest time a writer gave, in seconds of the epoch."""


class Survivor:
    """The files of one member that does not run: what they hold, and the recovery."""

    def __init__(self, section: RaftSection) -> None:
        """Read the files; the caller holds their lock. Raises ConfigError, and StoreRejectedError if it must not decide alone."""
        self.address = plain(section.self_addr or "")
        self._directory = section.data_dir
        self._base = _base(section)
        try:
            self._journal, dump = read_files(self._base)
        except (Damaged, OSError) as error:
            raise ConfigError("raft.data_dir", str(error), "recover with another voter that is left") from error
        self._machine, self._voters = _replayed(self._journal, dump, members(section))
        self.index: int = self._journal[-1][1] if len(self._journal) else 0
        self.term: int = self._journal[-1][2] if len(self._journal) else 0
        self._refuse_strangers(Identity(section, self.address))

    def _refuse_strangers(self, identity: Identity) -> None:
        """Only a directory that votes may decide who votes."""
        reason = identity.refused or self._known(self.address).objection(self.address, identity.incarnation)
        if not reason and (not identity.used or self.address not in self._voters):
            reason = f"this directory has never voted as {self.address}"
        if reason:
            raise StoreRejectedError(f"nothing was changed, recover with another voter that is left: {reason}")

    @property
    def others(self) -> tuple[str, ...]:
        """The other voters."""
        return tuple(sorted(self._voters - {self.address}))

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """Every cluster in the store."""
        entries = self._machine.dump()["data"]
        assert isinstance(entries, Mapping)
        found: dict[str, list[str]] = {}
        for path in entries:
            if not path.startswith(VOTERS):
                place = path.rpartition("/" + MEMBERS)[0] or path.rpartition("/")[0]
                found.setdefault(place, []).append(path)
        return tuple(_scope(place, {path.removeprefix(place + "/"): entries[path] for path in found[place]})
                     for place in sorted(found))

    def recover(self) -> str:
        """Make this the only voter; the directory with the files as they were. Raises ConfigError if the disk refuses."""
        try:
            backup = self._back_up()
            self._write()
        except OSError as error:
            raise ConfigError("raft.data_dir", f"the recovery ended with {error}",
                              "make room and the directory writable, and repeat it: it says if it is done already") from error
        return backup

    def _back_up(self) -> str:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        backup = tempfile.mkdtemp(prefix=f"{self.address}.before-recovery-{stamp}-", dir=self._directory or ".")
        give_to_owner(backup, self._directory)
        for path in glob.glob(glob.escape(self._base) + ".*"):
            if os.path.isfile(path) and not path.endswith(SUFFIX):
                copy = os.path.join(backup, os.path.basename(path))
                shutil.copy2(path, copy)
                give_to_owner(copy, self._directory)
                _sync(copy)
        for directory in (backup, self._directory or "."):
            _sync(directory)
        return backup

    def _write(self) -> None:
        at = self.index + JUMP
        for address in self.others:
            at += 1
            removed = self._known(address).after_removal(f"by the recovery of {self.address}, {moment()}")
            self._machine.apply(json.dumps(put_known(address, removed, self.address)), at)
        entries = no_operation(at + 1, self.term), no_operation(at + 2, self.term)
        temporary = self._base + ".dump.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(dump_of(self._machine.dump(), entries, [self.address]))
            give_to_owner(temporary, self._directory)
            replace_durably(temporary, self._base + ".dump")
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def _known(self, address: str) -> Known:
        entry = self._machine.entries(VOTERS).get(address)
        return Known() if entry is None else Known.read(*entry)


@contextlib.contextmanager
def survivor(section: RaftSection) -> Iterator[Survivor]:
    """The files of this member, locked. Raises ConfigError if a process uses them or there are none, and as ``Survivor``."""
    checked(section, observer=False)
    base = _base(section)
    for path in (base + ".journal", base + ".identity"):
        if not os.path.exists(path):
            raise ConfigError("raft.data_dir", f"there is no {path}", "run this on a voter that is left, with its configuration")
    lock = FilesLock(base)
    try:
        yield Survivor(section)
    finally:
        lock.release()


def _base(section: RaftSection) -> str:
    return os.path.join(section.data_dir, plain(section.self_addr or ""))


def _replayed(journal: Journal, dump: Any, configured: tuple[str, ...]) -> tuple[Machine, set[str]]:
    """What the member would know, and who would vote, if everything in its log were decided."""
    machine, voters, applied = Machine(), set(configured), 1
    if dump is not None:
        content, last, _, nodes = dump
        machine.restore(content[1])
        voters, applied = {node.id for node in nodes}, last[1]
    for command, index, _ in journal[:]:
        if change := member_change(command):
            kind, address = change
            (voters.add if kind == "add" else voters.discard)(address)
        elif index > applied and (text := text_to_apply(command)) is not None:
            machine.apply(text, index)
    return machine, voters


def _scope(place: str, entries: Mapping[str, Mapping[str, Any]]) -> Scope:
    leader = entries.get(Key.LEADER)
    return Scope(place, leader["value"] if leader else None,
                 tuple(sorted(key.removeprefix(MEMBERS) for key in entries if key.startswith(MEMBERS))),
                 max(entry["updated"] for entry in entries.values()))


def _sync(path: str) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
