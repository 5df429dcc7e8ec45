"""Physical replication slots of the local server. Slots are read by the monitoring query."""

from __future__ import annotations

from typing import Any

from pgcore.clock import Deadline
from pgcore.model.basics import Lsn
from pgcore.postgres.connection import QueryFailedError, Session

_EXISTS, _ABSENT = "42710", "42704"

Rows = list[tuple[Any, ...]]


def create(session: Session, name: str, deadline: Deadline) -> None:
    """Make a slot that keeps WAL from now on; one that exists already is fine. Raises ServerError."""
    try:
        session.query("SELECT pg_catalog.pg_create_physical_replication_slot(%s, true)", (name,), deadline=deadline)
    except QueryFailedError as error:
        if error.sqlstate != _EXISTS:
            raise


def drop(session: Session, name: str, deadline: Deadline) -> None:
    """Remove a slot; an absent one is fine. Raises ServerError, also for a slot that is in use."""
    try:
        session.query("SELECT pg_catalog.pg_drop_replication_slot(%s)", (name,), deadline=deadline)
    except QueryFailedError as error:
        if error.sqlstate != _ABSENT:
            raise


def advance(session: Session, name: str, lsn: Lsn, deadline: Deadline) -> None:
    """Let a slot forget WAL before a position. Raises ServerError, also for a slot that is ahead already."""
    session.query("SELECT pg_catalog.pg_replication_slot_advance(%s, %s::pg_catalog.pg_lsn)", (name, str(lsn)), deadline=deadline)
