"""Watching an agent's heartbeats from inside the simulation: they are counted, and some are decided twice."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING

from pgcore.daemon.heartbeat import heartbeat
from pgcore.daemon.perform import Performer
from pgcore.model import actions as a
from pgcore.model.world import World as View

if TYPE_CHECKING:
    from pgcore.testing.simulation.world import World

TWICE_EVERY = 97
"""Of so many heartbeats one is decided again from the same view and the same answers."""


class WatchedPerformer(Performer):
    """The real performer; what passes through it is looked at."""

    world: World
    name: str
    _begun: View | None
    _steps: list[tuple[a.Action, a.Outcome]]

    @classmethod
    def of(cls, performer: Performer, world: World, name: str) -> WatchedPerformer:
        """Watch this one from now on."""
        performer.__class__ = cls
        watched: WatchedPerformer = performer  # type: ignore[assignment]
        watched.world, watched.name, watched._begun, watched._steps = world, name, None, []
        return watched

    def perform(self, action: a.Action, world: View) -> a.Outcome:
        """Do it; note it when this heartbeat is one of those that are decided again."""
        if isinstance(action, a.ObserveNode):
            self._decide_again()
            self.world.cycles += 1
            self._begun = world if self.world.cycles % TWICE_EVERY == 0 else None
            self._steps = []
        outcome = super().perform(action, world)
        if self._begun is not None:
            self._steps.append((action, outcome))
        if isinstance(action, a.ReleaseLease) and outcome.ok and outcome.value and action.status is not None:
            self._note_hand_over(world)
        return outcome

    def _note_hand_over(self, world: View) -> None:
        demotion = world.demotion
        if demotion is not None and demotion.end is not None:
            self.world.checker.handed_over(self.name)

    def _decide_again(self) -> None:
        """The same view and the same answers lead to the same actions."""
        if self._begun is None:
            return
        steps = heartbeat(self._begun)
        try:
            action, _ = next(steps)
            for done, outcome in self._steps:
                if action != done:
                    self.world.checker.violated("decisions are repeatable", f"{self.name}: {done} at first, then {action}")
                    return
                action, _ = steps.send(outcome)
            self.world.checker.violated("decisions are repeatable", f"{self.name}: another action at the end: {action}")
        except StopIteration:
            return


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
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._world.checker.violated("no bugs", f"{who}: {text}: {error!r} at {where.name}:{where.lineno}")
        elif "answered twice in one heartbeat" in text:
            self._world.checker.violated("no rule twice in a heartbeat", f"{who}: {text}")
