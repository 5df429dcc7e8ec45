"""Replication slots of the local server, which the monitoring query reads, and what the leader says of its own."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgcore.clock import Deadline
from pgcore.errors import ServerError
from pgcore.model.basics import Lsn
from pgcore.model.settings import PermanentSlot
from pgcore.postgres.connection import QueryFailedError, Session
from pgcore.postgres.programs import OsUser

logger = logging.getLogger(__name__)

_EXISTS, _ABSENT = "42710", "42704"
_BROKEN = ("58P01", "55000")
"""The WAL a slot needs is gone, or the server has invalidated it."""
_LARGEST_STATE = 1_000_000

Check = Callable[[], None]
"""Called while a statement runs; raises to give it up."""


def create(session: Session, name: str, deadline: Deadline) -> None:
    """Make a physical slot that keeps WAL from now on; one that exists already is fine. Raises ServerError."""
    _unless(_EXISTS, session, "SELECT pg_catalog.pg_create_physical_replication_slot(%s, true)", (name,), deadline)


def create_logical(session: Session, slot: PermanentSlot, deadline: Deadline, check: Check) -> bool:
    """Make a logical slot in the database of this session, once every transaction of now has ended; false if one was there.

    Raises ServerError, and what ``check`` raises.
    """
    sql = "SELECT pg_catalog.pg_create_logical_replication_slot(%s, %s)"
    return _unless(_EXISTS, session, sql, (slot.name, slot.plugin), deadline, check)


def drop(session: Session, name: str, deadline: Deadline) -> None:
    """Remove a slot; an absent one is fine. Raises ServerError, also for a slot that is in use."""
    _unless(_ABSENT, session, "SELECT pg_catalog.pg_drop_replication_slot(%s)", (name,), deadline)


def advance(session: Session, name: str, lsn: Lsn, deadline: Deadline, check: Check | None = None) -> None:
    """Let a slot forget WAL before a position. Raises ServerError, also for a slot that is ahead already."""
    sql = "SELECT pg_catalog.pg_replication_slot_advance(%s, %s::pg_catalog.pg_lsn)"
    session.query(sql, (name, str(lsn)), deadline=deadline, check=check)


def advance_logical(session: Session, slot: PermanentSlot, lsn: Lsn, deadline: Deadline, check: Check) -> bool:
    """Move a logical slot of this session's database; false when it can never be moved again.

    Raises ServerError, and what ``check`` raises.
    """
    try:
        advance(session, slot.name, lsn, deadline, check)
    except QueryFailedError as error:
        if error.sqlstate not in _BROKEN:
            raise
        logger.warning("slot %s cannot be used any more: %s", slot.name, error)
        return False
    return True


def _unless(sqlstate: str, session: Session, sql: str, arguments: Sequence[Any], deadline: Deadline,
            check: Check | None = None) -> bool:
    """Run it; false when it fails with this code, which means that it was done already."""
    try:
        session.query(sql, arguments, deadline=deadline, check=check)
    except QueryFailedError as error:
        if error.sqlstate != sqlstate:
            raise
        return False
    return True


# -- the leader's slots ---------------------------------------------------------------------------------------------------


def catalog_xmins(session: Session, names: Iterable[str], deadline: Deadline) -> dict[str, int | None]:
    """The oldest transaction whose catalog rows each of these slots keeps, if the server is a primary. Raises ServerError."""
    rows = session.query("""SELECT slot_name, catalog_xmin::text::bigint FROM pg_catalog.pg_replication_slots
        WHERE NOT pg_catalog.pg_is_in_recovery() AND slot_name = ANY(%s)""", (list(names),), deadline=deadline)
    return {str(name): xmin for name, xmin in rows}


@dataclass(frozen=True, slots=True)
class SlotState:
    """A primary's logical slot: its state file, and the segment in which decoding begins (its file name without the timeline)."""

    content: bytes
    segment: str


def read_states(session: Session, slots: Iterable[PermanentSlot], deadline: Deadline) -> Mapping[str, SlotState]:
    """Those logical slots that a primary has in the wanted form. Raises ServerError.

    One of another form is left out with a warning: as a copy it would be dropped and copied again and again (edge case 161).
    """
    wanted = {slot.name: slot for slot in slots}
    failover = "failover" if session.server_version >= 170000 else "false"
    rows = session.query(f"""SELECT slot_name, database, plugin, {failover}, CASE WHEN slot_type = 'logical' THEN
        pg_catalog.pg_read_binary_file('pg_replslot/' || slot_name || '/state', 0, {_LARGEST_STATE}, false) END,
        pg_catalog.substr(pg_catalog.pg_walfile_name(restart_lsn), 9)
        FROM pg_catalog.pg_replication_slots
        WHERE NOT pg_catalog.pg_is_in_recovery() AND slot_name = ANY(%s)""", (list(wanted),), deadline=deadline)
    states = {}
    for name, database, plugin, synchronised, content, segment in rows:
        slot = wanted[name]
        if (database, plugin) != (slot.database, slot.plugin):
            logger.warning("slot %s is not copied: on the leader it is for %s with %s, configured are %s with %s", name, database,
                           plugin, slot.database, slot.plugin)
        elif not synchronised:
            states[name] = SlotState(bytes(content), str(segment or ""))
    return states


def readable_here(states: Mapping[str, SlotState], data_dir: str) -> Mapping[str, SlotState]:
    """Those whose WAL this standby has from the beginning on; decoding restores nothing. Raises ServerError."""
    try:
        segments = {name[8:24] for name in os.listdir(os.path.join(data_dir, "pg_wal"))}
    except OSError as error:
        raise ServerError(f"the WAL of {data_dir} can't be listed: {error.strerror or error}") from error
    for name in sorted(name for name, state in states.items() if state.segment not in segments):
        logger.warning("slot %s is not copied: this standby is younger than the WAL its consumer has yet to read (segment %s); "
                       "it is copied when the consumer has gone on", name, states[name].segment)
    return {name: state for name, state in states.items() if state.segment in segments}


def on_disk(data_dir: str) -> set[str]:
    """The slots that a server of this directory restores when it starts. Raises ServerError."""
    try:
        return {name for name in os.listdir(os.path.join(data_dir, "pg_replslot")) if not name.endswith(".tmp")}
    except OSError as error:
        raise ServerError(f"the slots of {data_dir} can't be listed: {error.strerror or error}") from error


def write_state(data_dir: str, name: str, content: bytes, user: OsUser | None) -> None:
    """Put the state of a logical slot into a stopped server's directory, whole or not at all. Raises ServerError."""
    parent = os.path.join(data_dir, "pg_replslot")
    final, scratch = os.path.join(parent, name), os.path.join(parent, f"{name}.tmp")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        os.mkdir(scratch, 0o700)
        path = os.path.join(scratch, "state")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if user is not None:
            os.chown(scratch, user.uid, user.gid)
            os.chown(path, user.uid, user.gid)
        _sync_directory(scratch)
        if os.path.lexists(final):
            shutil.rmtree(final)
        os.rename(scratch, final)
        _sync_directory(parent)
    except OSError as error:
        raise ServerError(f"the slot {name} can't be written into {parent}: {error.strerror or error}") from error


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
