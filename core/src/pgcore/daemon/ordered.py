"""Performing what an operator asked of this node: restart and reinitialize, each one long action. (HA rules 24)"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pgcore.clock import Deadline, now
from pgcore.daemon.long_actions import LongActions, begin, tell
from pgcore.errors import ServerError
from pgcore.hookspecs import TaskContext
from pgcore.model import actions as a
from pgcore.model.basics import Instant, Role
from pgcore.model.node import TaskKind
from pgcore.model.world import World

if TYPE_CHECKING:
    from pgcore.daemon.perform import Ports

LEAST_LEASE_S = 0.5
"""A primary is not started again with less of the lease proven than this."""
SOURCE_S = 5.0
"""The source of a new copy has this long to answer right before the old data is removed."""
STOP_LIMIT_S = 300.0
"""A fast stop that has not ended after this becomes an immediate one; ``primary_stop_timeout`` shortens it."""


class OrderedActions:
    """Begins them; what they share with other long actions is lent by ``LongActions``."""

    def __init__(self, ports: Ports, long: LongActions, lease_until: Callable[[], Instant | None]) -> None:
        self._ports, self._long, self._lease_until = ports, long, lease_until
        self.handlers: dict[type, Callable[[Any, World], None]] = {
            a.Restart: self._restart,
            a.Reinitialize: self._reinitialize,
        }

    def _restart(self, action: a.Restart, world: World) -> None:
        postgres, stop_limit = self._ports.postgres, float(world.settings.primary_stop_timeout) or STOP_LIMIT_S
        before_stop = self._long.before_stop(world)
        needs_lock = action.role is Role.PRIMARY and not world.paused

        def proven() -> None:
            until = self._lease_until()
            if needs_lock and (until is None or until - now() < LEAST_LEASE_S):
                raise ServerError("not started again: the lock is not proven to be ours any more")

        def run(ctx: TaskContext) -> None:
            before_stop(ctx, stop_limit)
            if needs_lock:
                self._ports.mpp.before_demote(ctx.check)
            up = postgres.restart(
                ctx,
                role=action.role,
                upstream=action.upstream,
                stop_limit_s=stop_limit,
                start_limit_s=action.timeout_s,
                ready=proven,
            )
            if needs_lock:
                self._ports.mpp.promoted()
            if up:
                tell(self._ports, "on_restart", action.role)

        begin(self._ports, TaskKind.RESTART, run)

    def _reinitialize(self, action: a.Reinitialize, world: World) -> None:
        postgres, timing = self._ports.postgres, world.settings.timing
        methods = self._long.methods(basebackup_only=action.basebackup_only)
        limit = float(world.settings.primary_start_timeout or 300)

        def source_answers() -> None:
            postgres.leader_timeline(action.source, Deadline.after(SOURCE_S))

        def run(ctx: TaskContext) -> None:
            postgres.empty(ctx, stop_limit_s=float(timing.retry_timeout), ready=source_answers)
            self._long.copy(ctx, methods, action.source)
            if postgres.start(ctx, role=Role.REPLICA, upstream=action.upstream, timeout_s=limit):
                tell(self._ports, "on_start", Role.REPLICA)

        begin(self._ports, TaskKind.REINITIALIZE, run)
