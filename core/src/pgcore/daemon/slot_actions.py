"""Performing actions on replication slots, and the thread that serves logical ones. (HA rules 21)"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pgcore import threads
from pgcore.errors import PgcoreError, ServerError, ServerUnavailableError
from pgcore.hookspecs import TaskContext
from pgcore.model import actions as a
from pgcore.model.basics import Lsn
from pgcore.model.node import SlotReport, TaskKind
from pgcore.model.world import World

if TYPE_CHECKING:
    from pgcore.daemon.perform import Ports

logger = logging.getLogger(__name__)

T = TypeVar("T")

ASK_S = 3.0
"""How long the leader has to answer what its slots keep."""


class SlotActions:
    """Changes physical slots at once, hands logical ones to their thread, begins copies."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._worker = SlotWorker(ports)
        self._trouble = Trouble()
        self.handlers: dict[type, Callable[[Any, World], Any]] = {
            a.ChangeSlots: self._change,
            a.ServeSlots: lambda action, world: self._worker.serve(action),
            a.CopySlots: self._copy,
            a.ForceFeedback: lambda action, world: ports.configuration.force_feedback(action.on),
            a.ComplainAboutSlots: self._complain,
        }

    def _change(self, action: a.ChangeSlots, world: World) -> None:
        postgres = self._ports.postgres
        steps: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
            *((postgres.drop_slot, (name,)) for name in action.drop),
            *((postgres.create_slot, (name,)) for name in action.create),
            *((postgres.advance_slot, (name, Lsn(lsn))) for name, lsn in action.advance.items()),
        ]
        for step, arguments in steps:
            try:
                step(*arguments)
            except ServerUnavailableError:
                raise  # the others would wait just as long
            except PgcoreError as error:
                self._trouble.note(arguments[0], error)
            else:
                self._trouble.over(arguments[0])

    def _complain(self, action: a.ComplainAboutSlots, world: World) -> None:
        for text in action.texts:
            logger.warning("%s", text)

    def _copy(self, action: a.CopySlots, world: World) -> None:
        postgres, limit = self._ports.postgres, float(world.settings.primary_start_timeout or 300)

        def run(ctx: TaskContext) -> None:
            postgres.copy_slots(ctx, action.source, action.slots, action.upstream, timeout_s=limit)

        running = self._ports.tasks.begin(TaskKind.COPY_SLOTS, run)
        if running:
            raise ServerError(f"{TaskKind.COPY_SLOTS} cannot begin: {running} is still running")


class Trouble:
    """Failures of slots; the same failure of the same slot is logged once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def note(self, name: str, error: PgcoreError) -> None:
        """It failed."""
        if self._known.get(name) != str(error):
            self._known[name] = str(error)
            logger.warning("slot %s: %s; it is tried again", name, error)

    def over(self, name: str) -> None:
        """It worked."""
        self._known.pop(name, None)


class SlotWorker:
    """Serves logical slots on a thread that exists from the start: decoding may take minutes, the heartbeat may not."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._lock = threads.condition()
        self._work: a.ServeSlots | None = None
        self._report = SlotReport()
        self._trouble = Trouble()
        threads.start("slots", self._loop)

    def serve(self, work: a.ServeSlots) -> SlotReport:
        """Begin this work unless some is under way; what was found out since the last call."""
        with self._lock:
            if self._work is None:
                self._work = work
                self._lock.notify()
            report, self._report = self._report, SlotReport()
            return report

    def _loop(self) -> None:
        while True:
            with self._lock:
                while self._work is None:
                    self._lock.wait()
                work = self._work
            report, news = SlotReport(), ""
            try:
                report, news = self._do(work)
            except Exception:
                logger.exception("serving logical slots failed unexpectedly")
            with self._lock:
                latest = self._report if report.leader is None else report
                self._report = replace(latest, broken=self._report.broken | report.broken)
                self._work = None
            if news:
                logger.info("%s", news)
                self._ports.mailbox.wake(news)

    def _do(self, work: a.ServeSlots) -> tuple[SlotReport, str]:
        """The work, and what must not wait for the next heartbeat to be noticed."""
        postgres = self._ports.postgres
        made = [slot.name for slot in work.create if self._tried(slot.name, partial(postgres.create_logical_slot, slot))]
        broken = frozenset(
            slot.name
            for slot, lsn in work.advance
            if self._tried(slot.name, partial(postgres.advance_logical_slot, slot, lsn)) is False
        )
        question, leader = work.ask, None
        if question is not None:
            leader = self._tried("of the leader", lambda: postgres.leader_slots(question.source, question.names, ASK_S))
        news = [f"logical slots were created: {', '.join(made)}"] if made else []
        news += [f"logical slots are broken: {', '.join(sorted(broken))}"] if broken else []
        return SlotReport(broken, leader, question.source.name if question is not None else None), "; ".join(news)

    def _tried(self, name: str, step: Callable[[], T]) -> T | None:
        """What it returned; None if it failed."""
        try:
            value = step()
        except PgcoreError as error:
            self._trouble.note(name, error)
            return None
        self._trouble.over(name)
        return value
