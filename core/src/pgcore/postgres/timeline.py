"""Timelines: what a server says it is on, and the history of how it got there (HA rules 11.5, 12.2)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pgcore.clock import Deadline
from pgcore.errors import ServerError, ServerUnavailableError
from pgcore.model.basics import Lsn
from pgcore.model.server import Upstream
from pgcore.postgres.connection import Session

_BEHIND = ("SELECT timeline_id <> ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))"
           "::pg_catalog.bit(32)::pg_catalog.int4 FROM pg_catalog.pg_control_checkpoint()")
"""Whether pg_control still shows an older timeline than the WAL that is being written."""

Switch = tuple[int, Lsn, str]
"""A timeline, the position where the next one branched off, the reason PostgreSQL gave."""


@dataclass(frozen=True, slots=True)
class LeaderTimeline:
    """What a leader says about itself. ``history`` holds its earlier timelines, oldest first."""

    timeline: int
    in_recovery: bool
    history: tuple[Switch, ...] = ()
    system_id: str = ""


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
    try:
        with open(os.path.join(data_dir, "pg_wal", f"{timeline:08X}.history"), encoding="utf-8", errors="replace") as file:
            return parse_history(file.read())
    except OSError:
        return ()


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
        in_recovery = _in_recovery({**ordinary, **target, "dbname": source.dbname}, deadline)
        session = Session({**replication, **target, "replication": "true", "options": "-c datestyle=ISO"}, deadline)
        try:
            system_id, timeline = (str(field) for field in session.query("IDENTIFY_SYSTEM", deadline=deadline)[0][:2])
            history: tuple[Switch, ...] = ()
            if int(timeline) > 1:
                content = session.query(f"TIMELINE_HISTORY {timeline}", deadline=deadline)[0][1]
                history = parse_history(bytes(content).decode(errors="replace") if not isinstance(content, str) else content)
        finally:
            session.close()
    except ServerUnavailableError:
        raise
    except ServerError as error:
        raise ServerUnavailableError(f"the timeline of {source.label} is undecided: {error}") from error
    return LeaderTimeline(int(timeline), in_recovery, history, system_id)


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


def _in_recovery(parameters: Mapping[str, Any], deadline: Deadline) -> bool:
    session = Session({**parameters, "options": "-c statement_timeout=2000"}, deadline)
    try:
        return bool(session.query("SELECT pg_catalog.pg_is_in_recovery()", deadline=deadline)[0][0])
    finally:
        session.close()
