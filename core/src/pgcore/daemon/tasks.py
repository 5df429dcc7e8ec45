"""The one long action beside the heartbeat: begin, progress, cancel, result. (architecture 7)"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType

from pgcore import threads
from pgcore.clock import now
from pgcore.daemon.mailbox import Mailbox
from pgcore.daemon.pace import Pace
from pgcore.errors import CancelledError, PgcoreError, ServerUnavailableError
from pgcore.hookspecs import TaskContext
from pgcore.model.basics import Json
from pgcore.model.node import TaskKind, TaskResult, TaskView
from pgcore.postgres.programs import OsUser, ProgramRunner

logger = logging.getLogger(__name__)

WAKING_PROGRESS = frozenset({"safe_point", "shut_down_end", "restart"})
"""Progress that a rule waits for; other progress is seen in the next beat."""
WORKED_OUT = frozenset({"percent", "bytes_per_second", "seconds_left"})
"""Progress that the bytes say."""
OF_A_PHASE = frozenset({"bytes_done", "bytes_total"}) | WORKED_OUT
"""Progress that ends with its phase."""


class Tasks:
    """Owns the task thread. ``begin``, ``look`` and ``cancel`` are called by the heartbeat only."""

    def __init__(self, mailbox: Mailbox, user: Callable[[], OsUser | None],
                 show: Callable[[TaskView | None], None] = lambda view: None) -> None:
        """``show`` is called at the beginning, with every progress and at the end, for those who look between heartbeats."""
        self._mailbox, self._user, self._show = mailbox, user, show
        self._lock = threads.condition()
        self._queued: tuple[TaskKind, Callable[[TaskContext], None]] | None = None
        self._view: TaskView | None = None
        self._result: TaskResult | None = None
        self._pace = Pace()
        self._cancelled = threads.event()
        threads.start("task", self._loop)

    def begin(self, kind: TaskKind, action: Callable[[TaskContext], None]) -> str:
        """Start an action; the answer is empty, or the name of the one that is still running."""
        with self._lock:
            if self._view is not None:
                return str(self._view.kind)
            self._cancelled = threads.event()
            self._result = None
            self._view, self._pace = TaskView(kind, now()), Pace()
            self._queued = (kind, action)
            self._show(self._view)
            self._lock.notify()
            return ""

    def look(self) -> tuple[TaskView | None, TaskResult | None]:
        """The running action with its progress, and the result of the one that ended since this was last asked; at one moment."""
        with self._lock:
            result, self._result = self._result, None
            return self._view, result

    @property
    def kind(self) -> TaskKind | None:
        """What runs at this moment."""
        view = self._view
        return view.kind if view is not None else None

    @property
    def view(self) -> TaskView | None:
        """The running action with its progress, without taking a result."""
        return self._view

    def cancel(self) -> None:
        """Ask the running action to end; its children are terminated, killed after 10 s."""
        self._cancelled.set()

    def _loop(self) -> None:
        while True:
            with self._lock:
                while self._queued is None:
                    self._lock.wait()
                kind, action = self._queued
                self._queued = None
                cancelled = self._cancelled
            result = self._run(kind, action, cancelled)
            with self._lock:
                self._result, self._view = result, None
                self._show(None)
            self._mailbox.wake(f"{kind} ended")

    def _run(self, kind: TaskKind, action: Callable[[TaskContext], None], cancelled: threads.Event) -> TaskResult:
        try:
            action(ProgramRunner(self._user(), cancelled, self._report))
        except CancelledError:
            logger.info("%s was cancelled", kind)
            return TaskResult(kind, cancelled=True)
        except PgcoreError as error:
            logger.error("%s failed: %s", kind, error)
            return TaskResult(kind, str(error), retriable=isinstance(error, ServerUnavailableError))
        except (Exception, SystemExit) as error:  # a plugin that calls sys.exit must not end the thread
            logger.exception("%s failed unexpectedly", kind)
            return TaskResult(kind, f"{type(error).__name__}: {error}")
        return TaskResult(kind)

    def _report(self, progress: Mapping[str, Json]) -> None:
        with self._lock:
            if self._view is None:
                return
            before = self._view.progress
            if progress.get("phase", before.get("phase")) != before.get("phase"):
                before = {name: value for name, value in before.items() if name not in OF_A_PHASE}
            said = {name: value for name, value in {**before, **progress}.items() if name not in WORKED_OUT}
            worked_out = self._pace.of(said, now())
            self._view = TaskView(self._view.kind, self._view.since, MappingProxyType({**said, **worked_out}))
            self._show(self._view)
        if WAKING_PROGRESS & progress.keys():
            self._mailbox.wake("progress")
