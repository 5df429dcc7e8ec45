"""``synchronous_standby_names``: what the server shows, what its files say, and when the value really is in force.

A server shows a new value before commits wait by it: the checkpointer tells every backend whether to wait at all, and each WAL
sender counts confirmations by the value it has read itself. So each of them must have taken notice of the reload.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

from pgcore.clock import Deadline
from pgcore.errors import ServerError
from pgcore.model.synchronous import StandbyNames
from pgcore.postgres import files
from pgcore.postgres.connection import Session
from pgcore.postgres.monitor import Monitoring

if TYPE_CHECKING:
    from pgcore.postgres.configuration import Configuration

logger = logging.getLogger(__name__)

NAME = "synchronous_standby_names"
LOOK_EVERY_S = 0.005
TAKEN_OVER_S = 0.25
"""How long it is waited for right after a change; a checkpoint may take longer, later looks see its end."""
_AT_REST = ("CheckpointerMain", "CheckpointWriteDelay")
"""Where the checkpointer waits with nothing left of a reload."""
_SIGHUP = 1


class Watch:
    """Remembers for which run of the server and which value the processes were seen to have taken it over."""

    def __init__(self) -> None:
        self._proven: tuple[str, str] | None = None
        self._start = ""

    def forget(self) -> None:
        """The value is about to change."""
        self._proven = None

    def look(self, answer: Monitoring, configuration: Configuration, data_dir: str) -> StandbyNames:
        """What one answer of the server says; in force only if that was proven before the answer."""
        shown, ours = answer.standby_names, configuration.standby_names()
        self._start = answer.postmaster_start
        if not shown:
            self._proven = None
        return StandbyNames(
            text=shown,
            commit=answer.synchronous_commit,
            settled=(not shown and not ours) or on_disk(configuration, data_dir) == shown,
            in_force=not shown or self._proven == (answer.postmaster_start, shown),
            ours=ours is not None,
        )

    def prove(self, session: Session, names: StandbyNames, postmaster_pid: int, deadline: Deadline) -> None:
        """If it is not known yet whether the value shown is in force, find out for the next look."""
        try:
            if not names.in_force and taken_over(session, postmaster_pid, deadline):
                self._proven = (self._start, names.text)
        except ServerError as error:
            logger.info("whether %s is in force is not known: %s", NAME, error)

    def settle(self, session: Session, text: str, postmaster_pid: int, deadline: Deadline) -> bool:
        """After a reload: wait for the new value and write a little WAL; whether it is in force. Raises ServerError."""
        wait_until_shown(session, text, deadline)
        if text and wait_until_taken_over(session, postmaster_pid, deadline.within(TAKEN_OVER_S)):
            self._proven = (self._start, text)
        if text and not session.query("SELECT pg_catalog.pg_is_in_recovery()", deadline=deadline)[0][0]:
            emit_wal(session, deadline)
        return not text or self._proven is not None


def on_disk(configuration: Configuration, data_dir: str) -> str:
    """The value the next reload would give: of the last file that names it."""
    paths = configuration.paths
    for path in (os.path.join(data_dir, "postgresql.auto.conf"), paths.main, paths.base):
        found = files.settings_in(path).get(NAME)
        if found is not None:
            return found
    return ""


def wait_until_shown(session: Session, text: str, deadline: Deadline) -> None:
    """Return once this session shows the value. Raises ServerError with what it shows instead when the time is over."""
    while True:
        shown = str(session.query(f"SELECT pg_catalog.current_setting('{NAME}')", deadline=deadline)[0][0])
        if shown == text:
            return
        if deadline.left() < 2 * LOOK_EVERY_S:
            raise ServerError(
                f"{NAME} was set to {text!r} but the server shows {shown!r}: either it has not read its files yet, "
                "or ALTER SYSTEM has set it, which ALTER SYSTEM RESET takes back"
            )
        time.sleep(LOOK_EVERY_S)


def wait_until_taken_over(session: Session, postmaster_pid: int, deadline: Deadline) -> bool:
    """Whether every process took the value over in time; it is not an error if a checkpoint keeps one of them busy."""
    while not taken_over(session, postmaster_pid, deadline):
        if deadline.left() < 2 * LOOK_EVERY_S:
            return False
        time.sleep(LOOK_EVERY_S)
    return True


def taken_over(session: Session, postmaster_pid: int, deadline: Deadline) -> bool:
    """The value this session shows is known to all processes that decide whether a commit waits.

    The postmaster has told them (it rests, and no SIGHUP waits for it), nobody has a SIGHUP left to be seen, and only then is the
    checkpointer found waiting for work, so it is not in the middle of reading.
    """
    rows = session.query(
        "SELECT backend_type, pid FROM pg_catalog.pg_stat_activity WHERE backend_type IN ('checkpointer', 'walsender')",
        deadline=deadline,
    )
    checkpointer = [pid for kind, pid in rows if kind == "checkpointer"]
    if not checkpointer or not all(_rests(pid) for pid in (postmaster_pid, *checkpointer)):
        return False
    if any(_has_news(pid) for kind, pid in rows if kind == "walsender"):
        return False
    waits = session.query(
        "SELECT wait_event FROM pg_catalog.pg_stat_activity WHERE backend_type = 'checkpointer'", deadline=deadline
    )
    return bool(waits) and waits[0][0] in _AT_REST


def emit_wal(session: Session, deadline: Deadline) -> None:
    """A little WAL, so that standbys say how far they are; it must not wait for them itself. (HA rules 19.4)"""
    session.query("SELECT pg_catalog.set_config('synchronous_commit', 'off', true), pg_catalog.txid_current()", deadline=deadline)


def _rests(pid: int) -> bool:
    state, news = _process(pid)
    return state == "S" and not news


def _has_news(pid: int) -> bool:
    state, news = _process(pid)
    return news or state in ("T", "t")


def _process(pid: int) -> tuple[str, bool]:
    """The state of a process and whether a SIGHUP waits for it. One that is gone, or cannot be seen, rests."""
    state, pending = "S", 0
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name == "State":
                    state = value.split()[0]
                elif name in ("SigPnd", "ShdPnd"):
                    pending |= int(value, 16)
    except OSError:
        return "S", False
    return state, bool(pending & 1 << (_SIGHUP - 1))
