"""Watching agents from inside: heartbeats are counted, some are decided twice, errors in their log are violations."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Generator
from typing import TYPE_CHECKING

from pgcore.daemon.heartbeat import Beat, heartbeat
from pgcore.daemon.heartbeat import Step as Asked
from pgcore.model import actions as a
from pgcore.model.actions import Outcome
from pgcore.model.world import World as View
from pgcore.record.beats import BeatRecord, Step
from pgcore.record.recorder import Recorder

if TYPE_CHECKING:
    from pgcore.testing.simulation.world import World

TWICE_EVERY = 97
"""Of so many heartbeats one is decided again from the same view and the same answers."""


class StagedError(Exception):
    """An error on order of a scenario, as a bug would raise it."""


class Watch(Recorder):
    """Stands where an agent has its flight recorder."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__()
        self._world, self._name = world, name

    def heartbeat(self, world: View) -> Generator[Asked, Outcome, Beat]:
        """A heartbeat that is watched."""
        beat, steps, ours = Beat(world), [], self._world
        ours.cycles += 1
        if ours[self._name].bug:
            raise StagedError
        course = heartbeat(world, beat)
        try:
            asked = next(course)
            while True:
                outcome = yield asked
                steps.append((asked[0], outcome))
                if isinstance(asked[0], a.ReleaseLease) and outcome.ok and outcome.value:
                    self._released(asked[1], asked[0])
                proven = isinstance(asked[0], a.RenewLease | a.AcquireLease)
                asked = course.send(outcome)
                if proven:
                    ours.checker.lease_proven(self._name, asked[1])
        except StopIteration:
            pass
        if ours.cycles % TWICE_EVERY == 0:
            self._decide_again(world, steps, beat)
        ours.decided(self._name, beat)
        if ours.on_record:
            record = BeatRecord(world, tuple(Step(*step) for step in steps), tuple(beat.decisions))
            for taken in ours.on_record:
                taken(record)
        return beat

    def _released(self, view: View, action: a.ReleaseLease) -> None:
        demotion = view.demotion
        if demotion is not None and demotion.end is not None and action.status is not None:
            self._world.checker.handed_over(self._name)

    def _decide_again(self, view: View, steps: list[tuple[a.Action, Outcome]], beat: Beat) -> None:
        """The same view and the same answers lead to the same actions, for the same reasons."""
        again, complain = Beat(view), self._world.checker.violated
        course = heartbeat(view, again)
        try:
            action, _ = next(course)
            for done, outcome in steps:
                if action != done:
                    complain("decisions are repeatable", f"{self._name}: {done} at first, then {action}")
                    return
                action, _ = course.send(outcome)
            complain("decisions are repeatable", f"{self._name}: another action at the end: {action}")
        except StopIteration:
            if again.decisions != beat.decisions:
                complain("decisions are repeatable", f"{self._name}: {beat.decisions} at first, then {again.decisions}")


class Listener(logging.Handler):
    """Hears what agents log: errors with a traceback are violations, decisions become part of the story."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self._logger = logging.getLogger("pgcore")
        self._before = (self._logger.level, self._logger.propagate, self._logger.handlers)

    def begin(self, *, everything: bool) -> None:
        """Listen instead of whoever listened before; ``everything``: to what is no error as well."""
        self._logger.handlers, self._logger.propagate = [self], False
        self._logger.setLevel(logging.INFO if everything else logging.ERROR)

    def end(self) -> None:
        """Listen no more."""
        level, self._logger.propagate, self._logger.handlers = self._before
        self._logger.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        """A line that some agent logged."""
        who, text = self._world.scheduler.current.name.partition("/")[0], record.getMessage()
        self._world.tell(who, text)
        if record.exc_info and record.exc_info[1] is not None and not isinstance(record.exc_info[1], StagedError):
            error = record.exc_info[1]
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._world.checker.violated("no bugs", f"{who}: {text}: {error!r} at {where.name}:{where.lineno}")
        elif "answered twice in one heartbeat" in text:
            self._world.checker.violated("no rule twice in a heartbeat", f"{who}: {text}")
