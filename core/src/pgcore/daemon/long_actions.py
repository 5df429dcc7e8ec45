"""The long actions as functions for the task thread: start, stop, promote, follow, clone, bootstrap. (architecture 7)"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from pgcore.clock import now
from pgcore.daemon.failsafe import nobody_accepted
from pgcore.daemon.methods import chosen_bootstrap, replica_methods
from pgcore.errors import CancelledError, PgcoreError, ServerError
from pgcore.hookspecs import GateRequest, TaskContext
from pgcore.model import actions as a
from pgcore.model.basics import Instant, Json, Role
from pgcore.model.node import ControlData, TaskKind
from pgcore.model.server import Upstream
from pgcore.model.world import World

if TYPE_CHECKING:
    from pgcore.daemon.perform import Ports
    from pgcore.hookspecs import ReplicaMethod

logger = logging.getLogger(__name__)

GATE_TIMEOUT_S = 60.0
PROMOTE_LEAST_LEASE_S = 0.5
"""A promotion is not begun with less of the lease proven than this."""


def begin(ports: Ports, kind: TaskKind, action: Callable[[TaskContext], None]) -> None:
    """Start the one long action. Raises ServerError naming the one that still runs."""
    running = ports.tasks.begin(kind, action)
    if running:
        raise ServerError(f"{kind} cannot begin: {running} is still running")


def tell(ports: Ports, event: str, role: Role) -> None:
    """Queue an event for the callbacks."""
    from pgcore.daemon.perform import event_for

    ports.callbacks.tell(event_for(ports, event, role))


@dataclass(frozen=True, slots=True)
class StartTold:
    """What to tell as soon as the server was launched, and what once it accepts connections."""

    when_launched: Callable[[], None] = lambda: None
    when_up: Callable[[], None] = lambda: None


class LongActions:
    """Begins long actions; ``lease_until`` tells the end of the proven lease at any moment."""

    def __init__(self, ports: Ports, lease_until: Callable[[], Instant | None]) -> None:
        self._ports = ports
        self._lease_until = lease_until
        self.handlers: dict[type, Callable[[Any, World], None]] = {
            a.StartServer: self._start,
            a.StopServer: self._stop,
            a.Checkpoint: self._checkpoint,
            a.Promote: self._promote,
            a.FollowByRestart: self._follow,
            a.ArchiveShutdownWal: self._archive,
            a.Clone: self._clone,
            a.Bootstrap: self._bootstrap,
            a.PostBootstrap: self._post_bootstrap,
            a.RemoveDataDir: self._remove,
        }

    def _begin(self, kind: TaskKind, action: Callable[[TaskContext], None]) -> None:
        begin(self._ports, kind, action)

    def _tell(self, event: str, role: Role) -> None:
        tell(self._ports, event, role)

    def _start_told(self, world: World, role: Role, event: str) -> StartTold:
        """What the callbacks are told of a start: a changed role instead of the start itself. (HA rules 25, EC 218)"""
        before = world.memory.told
        if before is None:
            return StartTold()
        if before.role is not role:
            return StartTold(when_launched=partial(self._tell, "on_role_change", role))
        if world.role_changed:
            return StartTold()
        return StartTold(when_up=partial(self._tell, event, role))

    def _start(self, action: a.StartServer, world: World) -> None:
        postgres, told = self._ports.postgres, self._start_told(world, action.role, "on_start")

        def run(ctx: TaskContext) -> None:
            if postgres.start(
                ctx, role=action.role, upstream=action.upstream, timeout_s=action.timeout_s, launched=told.when_launched
            ):
                told.when_up()

        self._begin(TaskKind.START_PRIMARY if action.after_crash else TaskKind.START, run)

    def _stop(self, action: a.StopServer, world: World) -> None:
        postgres, role, before_stop = self._ports.postgres, world.node.role, self.before_stop(world)
        handing_over = world.holds and world.node.is_primary and action.mode is a.StopMode.FAST
        told = world.bootstrapping is None
        tell_once = cache(partial(self._tell, "on_stop", role))

        def run(ctx: TaskContext) -> None:
            if action.mode is a.StopMode.FAST:
                before_stop(ctx, action.timeout_s)

            def shut_down(control: ControlData) -> None:
                if told:  # before the hand-over that this begins: the change of the role is told after the stop
                    tell_once()
                if control.checkpoint_end is not None:
                    ctx.report(shut_down_end=int(control.checkpoint_end))

            if handing_over:
                self._ports.mpp.before_demote(ctx.check)
            signalled = postgres.stop(
                ctx,
                mode=action.mode.value,
                timeout_s=action.timeout_s,
                sessions_s=action.sessions_s,
                on_shut_down=shut_down,
            )
            if signalled and told:
                tell_once()

        self._begin(TaskKind.STOP, run)

    def before_stop(self, world: World) -> Callable[[TaskContext, float | None], None]:
        """Tells the gates of an orderly stop, within half of its limit; their answers do not count. (HA rules 25)"""
        command, scope, name = self._ports.configuration.server.before_stop, world.settings.scope, world.me

        def tell(ctx: TaskContext, stop_limit_s: float | None) -> None:
            if command:
                ctx.report(phase="before_stop")
                limit = GATE_TIMEOUT_S if stop_limit_s is None else min(GATE_TIMEOUT_S, stop_limit_s / 2)
                request = GateRequest(scope, name, limit, command, lambda: _cancelled(ctx))
                self._ports.registry.tell("pgcore_before_stop", request=request)
                ctx.check()

        return tell

    def _checkpoint(self, action: a.Checkpoint, world: World) -> None:
        self._begin(TaskKind.CHECKPOINT, self._ports.postgres.checkpoint)

    def _promote(self, action: a.Promote, world: World) -> None:
        command, received = self._ports.configuration.server.pre_promote, world.node.received
        scope, name = world.settings.scope, world.me
        nobody_accepted(self._ports.failsafe)

        def run(ctx: TaskContext) -> None:
            request = GateRequest(scope, name, GATE_TIMEOUT_S, command, lambda: _cancelled(ctx))
            vetoes = self._ports.registry.ask("pgcore_before_promote", request=request)
            ctx.check()
            if vetoes:
                raise ServerError("no promotion: " + "; ".join(veto.reason for veto in vetoes))
            self._ports.mpp.before_promote()
            ctx.report(promoting=True, phase="promoting")
            # the gates may have taken long: ownership is proven right before the command (HA rules 30.4)
            until = self._lease_until()
            if until is None or until - now() < PROMOTE_LEAST_LEASE_S:
                raise ServerError("no promotion: the lock is not proven to be ours any more")
            told = partial(self._tell, "on_role_change", Role.PRIMARY)
            self._ports.postgres.promote(ctx, timeout_s=action.timeout_s, accepted=told, received=received)
            self._ports.mpp.promoted()

        self._begin(TaskKind.PROMOTE, run)

    def _follow(self, action: a.FollowByRestart, world: World) -> None:
        postgres, limit = self._ports.postgres, float(world.settings.primary_start_timeout or 300)
        told = self._start_told(world, action.role, "on_restart")

        def run(ctx: TaskContext) -> None:
            postgres.stop(ctx, mode="fast", timeout_s=None)
            if postgres.start(
                ctx, role=action.role, upstream=action.upstream, timeout_s=limit, launched=told.when_launched
            ):
                told.when_up()

        self._begin(TaskKind.FOLLOW, run)

    def _archive(self, action: a.ArchiveShutdownWal, world: World) -> None:
        self._begin(TaskKind.ARCHIVE, self._ports.postgres.archive_shutdown_wal)

    def _clone(self, action: a.Clone, world: World) -> None:
        methods = self.methods()

        self._begin(TaskKind.CLONE, lambda ctx: self.copy(ctx, methods, action.source, _claim(world)))

    def copy(self, ctx: TaskContext, methods: list[tuple[ReplicaMethod, Json]], source: Upstream | None, claim: str = "") -> None:
        """Fill the empty data directory; a half-made copy is removed, unless its method goes on with what it has."""
        try:
            self._ports.postgres.clone(ctx, methods, source, claim)
        except PgcoreError:
            if not any(method.keeps_data(options) for method, options in methods):
                self._ports.postgres.remove_data_dir()  # a half-made copy is nobody's only one
            raise

    def methods(self, *, basebackup_only: bool = False) -> list[tuple[ReplicaMethod, Json]]:
        """The replica methods in order, with their options; those that no active plugin brings are left out."""
        wanted = self._ports.configuration.methods(basebackup_only=basebackup_only)
        return replica_methods(self._ports.registry, wanted)

    def _bootstrap(self, action: a.Bootstrap, world: World) -> None:
        method, options = chosen_bootstrap(self._ports.registry, self._ports.configuration.local)
        self._begin(TaskKind.BOOTSTRAP, lambda ctx: self._ports.postgres.bootstrap(ctx, method, options, _claim(world)))

    def _post_bootstrap(self, action: a.PostBootstrap, world: World) -> None:
        section = self._ports.configuration.local.bootstrap
        command = section.post_bootstrap if section else None

        def run(ctx: TaskContext) -> None:
            self._ports.postgres.post_bootstrap(ctx, command, section.post_bootstrap_stall_timeout if section else 0)
            self._ports.mpp.bootstrapped()

        self._begin(TaskKind.POST_BOOTSTRAP, run)

    def _remove(self, action: a.RemoveDataDir, world: World) -> None:
        logger.warning("removing the data directory %s: %s", self._ports.configuration.server.data_dir, action.because)
        self._begin(TaskKind.REMOVE, lambda ctx: self._ports.postgres.remove_data_dir())


def _claim(world: World) -> str:
    return (world.bootstrapping.claim or "") if world.bootstrapping is not None else ""


def _cancelled(ctx: TaskContext) -> bool:
    try:
        ctx.check()
    except CancelledError:
        return True
    return False
