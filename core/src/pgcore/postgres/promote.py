"""Promotion: ask for it without waiting, then watch until the server accepts writes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from pgcore.clock import Deadline
from pgcore.errors import ServerError, ServerUnavailableError
from pgcore.model.node import ControlState
from pgcore.postgres import controldata, files
from pgcore.postgres.connection import Session
from pgcore.postgres.postmaster import Postmaster
from pgcore.postgres.programs import OsUser

_LOOK_EVERY_S = 0.005


def request(postmaster: Postmaster, data_dir: str, user: OsUser | None) -> None:
    """What ``pg_ctl promote`` does: a trigger file and a signal. Raises ServerError if the server is gone."""
    trigger = os.path.join(data_dir, "promote")
    files.write(trigger, "", mode=0o600, user=user)
    if not postmaster.signal(signal.SIGUSR1):
        files.remove_quietly(trigger)
        raise ServerError("PostgreSQL is not running, it can't be promoted")


def watch(postmaster: Postmaster, data_dir: str, connect: Callable[[Deadline], dict[str, Any]], deadline: Deadline,
          check: Callable[[], None]) -> None:
    """Return as soon as the server accepts writes: pg_control says "in production" and ``pg_is_in_recovery()`` is false.

    pg_control is looked at every 5 ms, which costs microseconds; SQL confirms. Raises ServerError when the time is over or the
    server has died.
    """
    session: Session | None = None
    try:
        while True:
            check()
            peeked = controldata.peek(data_dir)
            if peeked is not None and peeked[0] == ControlState.IN_PRODUCTION:
                session, writable = _writable(session, connect, deadline)
                if writable:
                    return
            if deadline.expired:
                raise ServerError("PostgreSQL was asked to promote but is still in recovery when the time is over")
            if postmaster.wait(_LOOK_EVERY_S):
                raise ServerError("PostgreSQL died during its promotion")
    finally:
        if session is not None:
            session.close()


def _writable(session: Session | None, connect: Callable[[Deadline], dict[str, Any]],
              deadline: Deadline) -> tuple[Session | None, bool]:
    try:
        session = session or Session(connect(deadline), deadline)
        return session, not session.query("SELECT pg_catalog.pg_is_in_recovery()", deadline=deadline)[0][0]
    except ServerUnavailableError:
        return None, False  # all connections may be in use: pg_control goes on telling, the deadline ends it
