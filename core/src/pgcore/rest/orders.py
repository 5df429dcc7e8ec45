"""``/restart`` and ``/reinitialize``: what is wrong with the request, a letter to the heartbeat, its answer (rest-api 8.1, 8.3).

The rules check everything that can change until the moment of execution.
"""

from __future__ import annotations

import re
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from pgcore.clock import Deadline
from pgcore.config.values import parse_bool, parse_int
from pgcore.daemon.board import Board, Status
from pgcore.daemon.mailbox import CancelRestart, CarryOut, Mailbox, ScheduleRestart
from pgcore.model.basics import Json
from pgcore.model.orders import ReinitOrder, RestartOrder
from pgcore.rest.manage import SHOWN_S, SLICE_S, Reply, moment_of

PATIENCE_S = 900.0
"""A restart ends by itself long before: its stop and its start have limits."""
ROLES = ("primary", "standby_leader", "replica")
_KEYS = ("schedule", "role", "postgres_version", "timeout", "restart_pending")


class NodeOrders:
    """Carries out what is asked of this node alone. Any number of threads may call."""

    def __init__(self, board: Board, mailbox: Mailbox, stopping: threading.Event) -> None:
        self._board, self._mailbox, self._stopping = board, mailbox, stopping

    def restart(self, body: dict[str, Json]) -> Reply:
        """``POST /restart``: now, answered when it has ended, or at a moment, answered at once."""
        order = restart_order(body)
        if isinstance(order, Reply):
            return order
        if "schedule" in body:
            return self._schedule(order, body)
        answer = self._wait(self._mailbox.ask(CarryOut(order)), (order.timeout_s or 0.0) + PATIENCE_S)
        if answer is None:
            return Reply(503, "restart status unknown")
        return Reply(503, answer) if answer else Reply(200, "restarted successfully")

    def _schedule(self, order: RestartOrder, body: dict[str, Json]) -> Reply:
        status = self._board.status
        if status is not None and status.paused:
            return Reply(500, "Can't schedule restart in the paused state")
        moment = moment_of(str(body["schedule"]), "restart")
        if isinstance(moment, Reply):
            return moment
        shown = {key: body[key] for key in _KEYS if key in body and key not in ("schedule", "timeout")}
        if order.timeout_s is not None:
            shown["timeout"] = int(order.timeout_s)
        letter = ScheduleRestart(order, moment.timestamp(), {"schedule": moment.isoformat(), **shown})
        answer = self._wait(self._mailbox.ask(letter), _beat_s(status))
        if answer is None:
            return Reply(503, "restart status unknown")
        if not answer:
            return Reply(409, "Another restart is already scheduled")
        self._board.until(lambda status: status.scheduled_restart is not None, SHOWN_S)
        return Reply(202, "Restart scheduled")

    def cancel_restart(self) -> Reply:
        """``DELETE /restart``."""
        answer = self._wait(self._mailbox.ask(CancelRestart()), _beat_s(self._board.status))
        if answer is None:
            return Reply(503, "the heartbeat did not answer: the scheduled restart may or may not be deleted")
        if not answer:
            return Reply(404, "no restarts are scheduled")
        self._board.until(lambda status: status.scheduled_restart is None, SHOWN_S)
        return Reply(200, "scheduled restart deleted")

    def reinitialize(self, body: dict[str, Json]) -> Reply:
        """``POST /reinitialize``: answered when the copy has begun."""
        order = ReinitOrder(parse_bool(body.get("force")) is True, parse_bool(body.get("from_leader")) is True)
        # a forced one first waits for the end of what it cancels
        answer = self._wait(self._mailbox.ask(CarryOut(order)), _beat_s(self._board.status) + 60.0)
        if answer is None:
            return Reply(503, "reinitialize status unknown")
        return Reply(503, answer) if answer else Reply(200, "reinitialize started")

    def _wait(self, future: Future[Json], seconds: float) -> Json:
        """What the heartbeat said; None when it did not in time, or the server ends."""
        deadline = Deadline.after(seconds)
        while not self._stopping.is_set() and not deadline.expired:
            try:
                return future.result(min(SLICE_S, deadline.left()))
            except FutureTimeoutError:
                continue
        return None


def _beat_s(status: Status | None) -> float:
    """Seconds within which the heartbeat collects its letters."""
    return 30.0 if status is None else float(status.timing.retry_timeout + status.timing.loop_wait)


def restart_order(body: dict[str, Json]) -> RestartOrder | Reply:
    """What the body of ``POST /restart`` asks for, or what is wrong with it (rest-api 8.1)."""
    unknown = next((key for key in body if key not in _KEYS), None)
    if unknown is not None:
        return Reply(400, f"Unknown filter for the scheduled restart: {unknown}")
    role, version, timeout = body.get("role"), body.get("postgres_version"), body.get("timeout")
    if role is not None and role not in ROLES:
        return Reply(400, "PostgreSQL role should be either primary, standby_leader, or replica")
    number = _version(str(version)) if version is not None else None
    if isinstance(number, str):
        return Reply(400, number)
    seconds = parse_int(timeout, "s") if timeout is not None else None
    if timeout is not None and (seconds is None or seconds <= 0):
        return Reply(400, "Timeout should be a positive number of seconds")
    return RestartOrder(role, number, "restart_pending" in body, None if seconds is None else float(seconds))


def _version(text: str) -> int | str:
    """``15.6`` as 150006, ``9.6.24`` as 90624; else what is wrong with it."""
    parts = text.split(".")
    if len(parts) not in (2, 3):
        return f"Invalid PostgreSQL version format: {text}, it must be X.Y or X.Y.Z"
    if not all(re.fullmatch(r"[0-9]{1,4}", part) for part in parts):
        return f"Invalid PostgreSQL version: {text}, its parts must be numbers"
    numbers = [int(part) for part in parts]
    major, minor = numbers[0] * 10000 + (numbers[1] * 100 if len(numbers) == 3 else 0), numbers[-1]
    return major + minor
