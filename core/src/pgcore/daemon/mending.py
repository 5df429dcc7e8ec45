"""Comparing histories and mending a data directory: what the rules of ``decide.divergence`` ask for. (HA rules 12, 13.3)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pgcore.clock import Deadline
from pgcore.daemon.long_actions import begin
from pgcore.decide.histories import own_timeline
from pgcore.errors import ServerError, ServerUnavailableError
from pgcore.hookspecs import TaskContext
from pgcore.model import actions as a
from pgcore.model.basics import Lsn
from pgcore.model.node import NodeView, TaskKind
from pgcore.model.world import LeaderTimeline, OwnTimeline, Switches, World

if TYPE_CHECKING:
    from pgcore.daemon.perform import Ports

COMPARE_S = 3.0
SOURCE_S = 5.0
"""How long the source of a pg_rewind is asked whether it is a primary, before and after a failed one."""


class Mending:
    """Performs CompareTimelines, SetHistoriesAside, CrashRecover and Rewind."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self.handlers: dict[type, Callable[[Any, World], Any]] = {
            a.CompareTimelines: self._compare,
            a.SetHistoriesAside: self._set_aside,
            a.CrashRecover: self._crash_recover,
            a.Rewind: self._rewind,
        }

    def _compare(self, action: a.CompareTimelines, world: World) -> LeaderTimeline:
        deadline = Deadline.after(COMPARE_S)
        found = self._ports.postgres.leader_timeline(action.source, deadline)
        own = self._own(world.node, found.timeline, deadline)
        if own is not None and own.timeline <= found.timeline:
            own = replace(own, begins_alike=self._ports.postgres.begins_alike(found, own.timeline))
        return LeaderTimeline(found.timeline, found.in_recovery, _switches(found.history), own)

    def _own(self, node: NodeView, leaders: int, deadline: Deadline) -> OwnTimeline | None:
        postgres = self._ports.postgres
        try:
            if node.running and node.answering:
                timeline = postgres.local_timeline(deadline)
            elif node.control is not None:
                timeline = own_timeline(node.control)
            else:
                return None
        except ServerUnavailableError:
            return None
        history = postgres.history(timeline)
        newer = tuple((later, _switches(found)) for later, found in sorted(postgres.newer_histories(timeline, leaders).items()))
        return OwnTimeline(timeline, _switches(history) if history or timeline == 1 else None, newer=newer)

    def _set_aside(self, action: a.SetHistoriesAside, world: World) -> None:
        self._ports.postgres.set_histories_aside(action.timelines)

    def _crash_recover(self, action: a.CrashRecover, world: World) -> None:
        begin(self._ports, TaskKind.CRASH_RECOVERY, self._ports.postgres.crash_recover)

    def _rewind(self, action: a.Rewind, world: World) -> None:
        postgres, source = self._ports.postgres, action.source

        def run(ctx: TaskContext) -> None:
            postgres.ready_for_rewind(source, Deadline.after(SOURCE_S))
            try:
                postgres.rewind(ctx, source)
            except ServerError as error:
                if postgres.disk_full():
                    # Started as a standby it would read on in WAL of the old timeline, and pg_rewind would see nothing to do.
                    full = "the disk is full, and pg_rewind is tried again until there is room"
                    raise ServerUnavailableError(f"{error}: {full}") from error
                if postgres.leader_timeline(source, Deadline.after(SOURCE_S)).in_recovery:
                    raise ServerUnavailableError(f"{source.name or source.host} is not a primary any more") from None
                raise

        begin(self._ports, TaskKind.REWIND, run)


def _switches(history: tuple[tuple[int, Lsn, str], ...]) -> Switches:
    return tuple((timeline, lsn) for timeline, lsn, _ in history)
