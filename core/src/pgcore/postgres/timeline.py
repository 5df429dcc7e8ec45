"""Timelines: what a server says it is on, and the history of how it got there (HA rules 11.5, 12.2)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pgcore.clock import Deadline
from pgcore.errors import ServerError, ServerUnavailableError
from pgcore.model.basics import Lsn
from pgcore.model.server import Upstream
from pgcore.postgres.connection import QueryFailedError, Session

logger = logging.getLogger(__name__)

_BEHIND = ("SELECT timeline_id <> ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))"
           "::pg_catalog.bit(32)::pg_catalog.int4 FROM pg_catalog.pg_control_checkpoint()")
"""Whether pg_control still shows an older timeline than the WAL that is being written."""

Switch = tuple[int, Lsn, str]
"""A timeline, the position where the next one branched off, the reason PostgreSQL gave."""


BEGINNING_BYTES = 64
"""Enough for the checksum of the first record, page header included."""
_SKIPPED = 8
"""At the border of a segment ``pg_walfile_name_offset`` names the one before it, so the bytes are read from behind it."""
_BEGINNING = ("SELECT w.file, w.file_offset, pg_catalog.pg_read_binary_file('pg_wal/' || w.file, w.file_offset, %s, true) "
              "FROM (SELECT pg_catalog.lpad(pg_catalog.upper(pg_catalog.to_hex(%s)), 8, '0') || pg_catalog.substr(file_name, 9) "
              "AS file, file_offset FROM pg_catalog.pg_walfile_name_offset(%s::pg_catalog.pg_lsn)) AS w "
              "WHERE pg_catalog.pg_current_wal_flush_lsn() >= %s::pg_catalog.pg_lsn")
NEWEST = 8
"""Of so many timelines the first records are compared; segments of older ones are hardly there any more."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first record of a timeline, which holds a time in microseconds: where it stands in pg_wal, and what it is."""

    file: str
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class LeaderTimeline:
    """What a leader says about itself. ``history`` holds its earlier timelines, oldest first."""

    timeline: int
    in_recovery: bool
    history: tuple[Switch, ...] = ()
    system_id: str = ""
    beginnings: Mapping[int, Beginning] = field(default_factory=dict)
    """By timeline, its own and earlier ones; without those that are not written yet or whose segment is gone."""


def parse_history(text: str) -> tuple[Switch, ...]:
    """The lines of a ``.history`` file; comments and garbage are skipped."""
    found = []
    for line in text.splitlines():
        fields = line.strip().split(None, 2)
        if len(fields) < 2 or not fields[0].isdigit():
            continue
        try:
            found.append((int(fields[0]), Lsn.parse(fields[1]), fields[2] if len(fields) > 2 else ""))
        except ValueError:
            continue
    return tuple(found)


def local_history(data_dir: str, timeline: int) -> tuple[Switch, ...]:
    """The history of a timeline as this node knows it; empty for the first one or an absent file."""
    return parse_history(_content(_path(data_dir, timeline)) or "")


def newer_histories(data_dir: str, timeline: int, upto: int) -> dict[int, tuple[Switch, ...]]:
    """The history files of later timelines: those up to this one, and from there on as long as there is another one."""
    found, number = {}, timeline + 1
    while (content := _content(_path(data_dir, number))) is not None or number <= upto:
        if content is not None:
            found[number] = parse_history(content)
        number += 1
    return found


def set_histories_aside(data_dir: str, timelines: Iterable[int]) -> None:
    """Rename these history files within pg_wal; what the archiver was to do with them is forgotten. Raises ServerError."""
    for path in (_path(data_dir, number) for number in timelines):
        aside, (directory, name) = _aside(path), os.path.split(path)
        try:
            os.rename(path, aside)
            for mark in (".ready", ".done"):
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(directory, "archive_status", name + mark))
        except OSError as error:
            raise ServerError(f"{path} can't be set aside: {error.strerror or error}") from error
        logger.warning("%s is kept as %s", path, os.path.basename(aside))


def _aside(path: str) -> str:
    """A free name, or that of the same content."""
    number, content = 1, _content(path)
    while os.path.lexists(name := f"{path}.aside{number}") and _content(name) != content:
        number += 1
    return name


def _path(data_dir: str, timeline: int) -> str:
    return os.path.join(data_dir, "pg_wal", f"{timeline:08X}.history")


def _content(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def begins_alike(data_dir: str, beginning: Beginning | None) -> bool | None:
    """Whether the same timeline begins with the same record here; None if either is not known (any more)."""
    if beginning is None:
        return None
    try:
        with open(os.path.join(data_dir, "pg_wal", os.path.basename(beginning.file)), "rb") as file:
            file.seek(beginning.offset)
            return file.read(len(beginning.content)) == beginning.content
    except OSError:
        return None


def identify(parameters: Mapping[str, Any], deadline: Deadline) -> tuple[str, int]:
    """System identifier and timeline by IDENTIFY_SYSTEM. ``parameters`` are those of a replication connection.

    Raises ServerUnavailableError when undecided.
    """
    session = Session(parameters, deadline)
    try:
        row = session.query("IDENTIFY_SYSTEM", deadline=deadline)[0]
        return str(row[0]), int(row[1])
    finally:
        session.close()


def compare_timelines(source: Upstream, replication: Mapping[str, Any], ordinary: Mapping[str, Any],
                      deadline: Deadline) -> LeaderTimeline:
    """Timeline, history and role of a leader. The two mappings are the logins for its replication and ordinary connections.

    Raises ServerUnavailableError when anything is undecided.
    """
    target = {"host": source.host, "port": source.port, "application_name": "pgcore"}
    if source.read_write:  # of several hosts both connections must reach the same one
        target["target_session_attrs"] = "read-write"
    try:
        session = Session({**ordinary, **target, "dbname": source.dbname, "options": "-c statement_timeout=2000"}, deadline)
        try:  # the role comes first: who is not in recovery any more tells its final timeline (EC 104)
            in_recovery = bool(session.query("SELECT pg_catalog.pg_is_in_recovery()", deadline=deadline)[0][0])
            system_id, timeline, history = _identity({**replication, **target}, deadline)
            beginnings = {} if in_recovery else _beginnings(session, timeline, history, deadline)
        finally:
            session.close()
    except ServerUnavailableError as error:
        raise ServerUnavailableError(f"{source.label} cannot be asked for its timeline: {error}") from error
    except ServerError as error:
        raise ServerUnavailableError(f"the timeline of {source.label} is undecided: {error}") from error
    return LeaderTimeline(timeline, in_recovery, history, system_id, beginnings)


def _identity(parameters: Mapping[str, Any], deadline: Deadline) -> tuple[str, int, tuple[Switch, ...]]:
    session = Session({**parameters, "replication": "true", "options": "-c datestyle=ISO"}, deadline)
    try:
        system_id, timeline = session.query("IDENTIFY_SYSTEM", deadline=deadline)[0][:2]
        if int(timeline) == 1:
            return str(system_id), 1, ()
        content = session.query(f"TIMELINE_HISTORY {timeline}", deadline=deadline)[0][1]
        text = content if isinstance(content, str) else bytes(content).decode(errors="replace")
        return str(system_id), int(timeline), parse_history(text)
    finally:
        session.close()


def _beginnings(session: Session, timeline: int, history: tuple[Switch, ...], deadline: Deadline) -> dict[int, Beginning]:
    """Each timeline began where the one before it was left; one that was left soon tells no more than it has."""
    numbers = [*(number for number, _, _ in history), timeline]
    ends = [left for _, left, _ in history]
    spans = list(zip(numbers[1:], ends, [*ends[1:], None], strict=False))[-NEWEST:]
    found = ((number, _beginning(session, number, start, end, deadline)) for number, start, end in spans)
    return {number: beginning for number, beginning in found if beginning is not None}


def _beginning(session: Session, timeline: int, left: Lsn, end: Lsn | None, deadline: Deadline) -> Beginning | None:
    """What stands behind ``left`` on a timeline that goes up to ``end`` (None: it is the present one)."""
    start = Lsn(left + _SKIPPED)
    size = BEGINNING_BYTES if end is None else min(BEGINNING_BYTES, end - start)
    if size <= 0:
        return None
    arguments = (size, timeline, str(start), str(Lsn(start + size)))
    try:
        rows = session.query(_BEGINNING, arguments, deadline=deadline)
    except QueryFailedError as error:
        logger.debug("the beginning of the leader's timeline %d cannot be read, its history is all there is: %s", timeline, error)
        return None
    if not rows or rows[0][2] is None or len(bytes(rows[0][2])) < size:
        return None
    return Beginning(str(rows[0][0]), int(rows[0][1]), bytes(rows[0][2]))


def ready_for_rewind(source: Upstream, login: Mapping[str, Any], deadline: Deadline) -> None:
    """Whether pg_rewind can work against this server; see ``Postgres.ready_for_rewind``."""
    name = source.label
    target = {"host": source.host, "port": source.port, "application_name": "pgcore", "dbname": source.dbname,
              "options": "-c statement_timeout=0"}
    try:
        session = Session({**login, **target}, deadline)
        try:
            if bool(session.query("SELECT pg_catalog.pg_is_in_recovery()", deadline=deadline)[0][0]):
                raise ServerUnavailableError(f"{name} is in recovery: no pg_rewind against it yet")
            if session.query(_BEHIND, deadline=deadline)[0][0]:
                _write_checkpoint(session, name, deadline)
        finally:
            session.close()
    except ServerUnavailableError:
        raise
    except ServerError as error:
        raise ServerUnavailableError(f"{name} cannot be asked whether it is ready for pg_rewind: {error}") from error


def _write_checkpoint(session: Session, name: str, deadline: Deadline) -> None:
    """pg_rewind reads the source's timeline out of its pg_control, where it stands after the first checkpoint only."""
    superuser = session.query("SELECT current_setting('is_superuser') = 'on'", deadline=deadline)[0][0]
    if not superuser:
        raise ServerUnavailableError(f"{name} has not written a checkpoint on its timeline yet: no pg_rewind against it")
    session.query("CHECKPOINT", deadline=deadline)
