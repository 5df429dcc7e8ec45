"""Drives the real heartbeat with scripted outcomes: what is observed and read, what is answered, what fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pgcore.daemon.heartbeat import Beat, heartbeat
from pgcore.decide.advance import ClusterReading, fresh_world
from pgcore.model.actions import (
    AcquireLease,
    Action,
    ActivateWatchdog,
    ClaimInitialize,
    CompareRecovery,
    FeedWatchdog,
    ObserveNode,
    Outcome,
    PollPeers,
    ReadCluster,
    ReadHistory,
    RenewLease,
    WriteConfig,
    WriteInitialize,
)
from pgcore.model.basics import Instant
from pgcore.model.world import World

MOST_STEPS = 80
"""More actions than any beat can need: a beat that goes on after them does not end."""

VALUES: dict[type[Action], object] = {
    RenewLease: "held",
    AcquireLease: True,
    PollPeers: {},
    CompareRecovery: "none",
    ReadHistory: (),
    ActivateWatchdog: "",
    FeedWatchdog: "",
    ClaimInitialize: "5",
    WriteInitialize: True,
    WriteConfig: True,
}


@dataclass(slots=True)
class Played:
    """What one beat did: every action with the world it was meant for, and how it ended."""

    beat: Beat
    steps: list[tuple[Action, World]]

    @property
    def rules(self) -> list[str]:
        """The rules that answered, in order."""
        return [decision.rule for decision in self.beat.decisions]

    def did(self, *kinds: type[Action]) -> list[Action]:
        """The actions of these kinds, in order."""
        return [action for action, _ in self.steps if isinstance(action, kinds)]


@dataclass(slots=True)
class Script:
    """Answers for actions. ``fails`` says of the n-th action whether it fails; ``values`` overrides what actions return."""

    values: Mapping[type[Action], object] = field(default_factory=dict)
    fails: Callable[[int, Action], bool] = lambda number, action: False

    def play(self, world: World) -> Played:
        """One beat in which ``world.node`` is observed and ``world.cluster`` read, unless the store is lost in it."""
        start = fresh_world(world.memory, world.settings, world.node, world.now, world.wall)
        steps = heartbeat(start)
        trace: list[tuple[Action, World]] = []
        action, at = next(steps)
        while True:
            trace.append((action, at))
            assert len(trace) < MOST_STEPS, f"the beat does not end: {[type(each).__name__ for each, _ in trace]}"
            try:
                action, at = steps.send(self._answer(len(trace), action, at, world))
            except StopIteration as ended:
                return Played(ended.value, trace)

    def _answer(self, number: int, action: Action, at: World, world: World) -> Outcome:
        now = Instant(at.now + 0.001)
        if isinstance(action, ObserveNode):
            return Outcome(now, value=world.node)
        if isinstance(action, ReadCluster) and world.store_lost:
            return Outcome(now, ok=False, error="the store does not answer")
        if self.fails(number, action):
            return Outcome(now, ok=False, error="scripted", began=at.now)
        value: Any = self.values[type(action)] if type(action) in self.values else VALUES.get(type(action))
        if isinstance(action, ReadCluster) and value is None:
            value = ClusterReading(world.cluster, world.settings)
        return Outcome(now, value=value, began=at.now)


def play(world: World, **values: object) -> Played:
    """One beat in which everything succeeds; ``AcquireLease=False`` and the like say what an action returns."""
    kinds = {kind.__name__: kind for kind in Action.__args__}
    return Script({kinds[name]: value for name, value in values.items()}).play(world)


def after(played: Played, *, seconds: float = 1.0, **changes: Any) -> World:
    """The world of the next beat: what was remembered, the node as given or as it was, so many seconds later."""
    world = played.beat.world
    at = Instant(world.now + seconds)
    node = replace(changes.pop("node", world.node), at=at)
    return replace(world, node=node, now=at, wall=world.wall + seconds, **changes)
