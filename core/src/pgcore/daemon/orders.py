"""Orders of an operator between the mailbox and Memory: taken in, answered when the rules have dealt with them. (HA rules 24)"""

from __future__ import annotations

import logging
from dataclasses import replace

from pgcore.clock import now
from pgcore.daemon.mailbox import CancelRestart, CarryOut, Letter, ScheduleRestart
from pgcore.model.node import TaskResult
from pgcore.model.orders import RestartOrder, ScheduledRestart
from pgcore.model.world import Memory, World

logger = logging.getLogger(__name__)

STILL_STARTING = "postgres is still starting"
FAILED = "restart failed"


class Orders:
    """At most one order waits to be begun, and one restart to end. Used by the heartbeat thread only."""

    def __init__(self) -> None:
        self._waiting: Letter | None = None
        self._restarting: Letter | None = None

    def take(self, letter: Letter, memory: Memory, postmaster_start: str | None) -> Memory:
        """What is remembered from now on; what cannot be taken is answered at once."""
        request = letter.request
        if isinstance(request, CancelRestart):
            letter.reply.set_result(memory.scheduled_restart is not None)
            if memory.scheduled_restart is not None:
                logger.info("the scheduled restart was deleted on request: %s", _shown(memory.scheduled_restart))
            return replace(memory, scheduled_restart=None)
        if isinstance(request, ScheduleRestart):
            letter.reply.set_result(memory.scheduled_restart is None)
            scheduled = ScheduledRestart(request.order, request.due_at, request.shown, postmaster_start)
            if memory.scheduled_restart is None:
                logger.info("a restart is scheduled on request: %s", _shown(scheduled))
            return replace(memory, scheduled_restart=memory.scheduled_restart or scheduled)
        assert isinstance(request, CarryOut)
        if memory.order is not None:
            kind = "restart" if isinstance(memory.order, RestartOrder) else "reinitialize"
            letter.reply.set_result(f"{kind} already in progress")
            return memory
        self._waiting = letter
        return replace(memory, order=replace(request.order, asked_at=now()), order_refused="")

    def settle(self, world: World) -> None:
        """Answer what this beat has decided: an order that was refused, a new copy that was begun, a restart that has ended."""
        memory = world.memory
        if self._waiting is not None and memory.order is None:
            letter, self._waiting = self._waiting, None
            request = letter.request
            if memory.order_refused or not (isinstance(request, CarryOut) and isinstance(request.order, RestartOrder)):
                letter.reply.set_result(memory.order_refused)
            else:
                self._restarting = letter
        if self._restarting is not None and memory.restart_result is not None:
            letter, self._restarting = self._restarting, None
            letter.reply.set_result(_ended(memory.restart_result, world))


def _shown(scheduled: ScheduledRestart) -> str:
    return ", ".join(f"{name} {value}" for name, value in scheduled.shown.items())


def _ended(result: TaskResult, world: World) -> str:
    if not result.ok:
        return FAILED
    return STILL_STARTING if world.node.starting else ""
