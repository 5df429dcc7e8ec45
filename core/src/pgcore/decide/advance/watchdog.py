"""What a world becomes by an action on the watchdog. Each counts as done in this beat, so that no rule asks twice."""

from __future__ import annotations

from typing import Any

from pgcore.decide.advance.memory import Handlers
from pgcore.model.actions import ActivateWatchdog, DisableWatchdog, FeedWatchdog, Outcome
from pgcore.model.changes import replace
from pgcore.model.node import WatchdogState
from pgcore.model.world import World


def _asked(world: World, action: Any, outcome: Outcome) -> World:
    problem = str(outcome.value or "") if outcome.ok else outcome.error
    state = WatchdogState.CLOSED if problem else WatchdogState.ACTIVE
    failed = bool(problem) and world.settings.watchdog == "required"
    node = replace(world.node, watchdog=state, watchdog_problem=problem, watchdog_failed=failed)
    return replace(world, node=node, watchdog_tried=True, watchdog_fed=True)


HANDLERS: Handlers = {
    ActivateWatchdog: _asked,
    FeedWatchdog: _asked,
    DisableWatchdog: lambda w, a, o: replace(w, node=replace(w.node, watchdog=WatchdogState.CLOSED)),
}
