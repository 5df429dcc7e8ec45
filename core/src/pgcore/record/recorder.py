"""The flight recorder: which heartbeats of this agent are worth keeping, at next to no cost while nothing happens.

A beat that rests and equals the one before is only counted. One that acts, rests elsewhere, sees another cluster or fails is
kept with the last few before it. Nothing here waits: lines are made and written on the writer's own thread.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator
from typing import Protocol

from pgcore.daemon.heartbeat import Beat, heartbeat
from pgcore.daemon.heartbeat import Step as Asked
from pgcore.decide.explain import loud
from pgcore.model.actions import Outcome
from pgcore.model.settings import Settings
from pgcore.model.world import World
from pgcore.record.beats import BeatRecord, Note, Quiet, RecordEntry, Step
from pgcore.record.writer import Place, Writer

logger = logging.getLogger(__name__)

BEFORE = 3
"""Beats kept in memory, to be written with the first one that differs."""
REPEATS = 20
"""A beat that acts as the one before is kept so often; after that it is counted too, or it would wash away the rest."""
MARK_S = 60.0
"""While nothing happens a line says so this often, so that the record tells until when the agent lived."""


class Sink(Protocol):
    """Where entries of the record go; must not block."""

    def put(self, entry: RecordEntry) -> None:
        """Take an entry, or drop it."""


class Recorder:
    """Runs heartbeats and keeps those worth it. Without a sink it runs them and that is all."""

    def __init__(self, sink: Sink | None = None) -> None:
        self.sink = sink
        self._place: Place | None = None
        self._before: deque[BeatRecord] = deque(maxlen=BEFORE)
        self._seen: object = None
        self._repeats = self._quiet = 0
        self._quiet_since = self._marked_at = 0.0
        self._open: tuple[World, list[Step], Beat] | None = None

    def record_to(self, place: Place | None, wait_s: float = 0.0) -> None:
        """Write to this place from now on, None: nowhere. What waits for the old one is written: meanwhile, or in ``wait_s``."""
        if place == self._place:
            return
        self._place = place
        if isinstance(self.sink, Writer):
            self.sink.close(wait_s)
        self.sink = None
        try:
            self.sink = Writer(place) if place is not None else None
        except RuntimeError as error:
            logger.warning("no flight recorder until the next reload: %s", error)
            self._place = None

    def heartbeat(self, world: World) -> Generator[Asked, Outcome, Beat]:
        """A heartbeat that is recorded when it ends."""
        return heartbeat(world) if self.sink is None else self._watched(world)

    def _watched(self, world: World) -> Generator[Asked, Outcome, Beat]:
        beat, done = Beat(world), list[Step]()
        self._open = world, done, beat
        steps = heartbeat(world, beat)
        asked: Asked | None = next(steps)
        while asked is not None:
            outcome = yield asked
            done.append(Step(asked[0], outcome))
            try:
                asked = steps.send(outcome)
            except StopIteration:
                asked = None
        self._over("")
        return beat

    def failed(self, error: str) -> None:
        """A bug has ended the heartbeat under way."""
        if self.sink is not None:
            self._over(error)

    def note(self, settings: Settings, at: float, text: str) -> None:
        """Record something that happened outside of a heartbeat."""
        if self.sink is not None:
            self.sink.put(Note(settings.name, settings.scope, at, text))

    def _over(self, error: str) -> None:
        if self._open is None:
            return
        (start, steps, beat), self._open = self._open, None
        try:
            self._take(BeatRecord(start, tuple(steps), tuple(beat.decisions), error), beat)
        except Exception:  # whatever it is, the heartbeat must not notice
            logger.exception("bug in the flight recorder: it is switched off until the agent is started again")
            self.sink = None

    def _take(self, record: BeatRecord, beat: Beat) -> None:
        assert self.sink is not None
        seen = _gist(record, beat)
        acts = any(loud(step.action) for step in record.steps)
        self._repeats = self._repeats + 1 if seen == self._seen else 0
        if self._repeats and not (self._repeats <= REPEATS and (acts or record.error)):
            self._count(record)
            return
        self._seen = seen
        self._mark()
        for earlier in self._before:
            self.sink.put(earlier)
        self._before.clear()
        self.sink.put(record)

    def _count(self, record: BeatRecord) -> None:
        if len(self._before) == BEFORE:
            oldest = self._before[0].start
            if not self._quiet:
                self._quiet_since = oldest.wall
            self._quiet += 1
            if not 0 <= oldest.wall - self._marked_at < MARK_S:
                self._mark()
        self._before.append(record)

    def _mark(self) -> None:
        """Say how many beats were only counted; those still in memory come after them."""
        if not self._quiet or self.sink is None:
            return
        last = self._before[0]
        rule = next((d.rule for d in last.decisions if not d.actions), "")
        settings = last.start.settings
        self.sink.put(Quiet(settings.name, settings.scope, last.start.wall, self._quiet_since, self._quiet, rule))
        self._quiet, self._marked_at = 0, last.start.wall


def _gist(record: BeatRecord, beat: Beat) -> object:
    """What makes one beat differ from another: rules, failures, who leads, who is there; no clocks and no positions."""
    world = beat.world
    node, cluster = world.node, world.cluster
    return (
        record.error,
        [d.rule for d in record.decisions if not d.actions or any(loud(action) for action in d.actions)],
        [type(step.action) for step in record.steps if not step.outcome.ok],
        (beat.repeated, world.store_lost, world.lease, world.paused, world.memory.stopping),
        (cluster.leader, cluster.failover, cluster.sync, cluster.config.version if cluster.config else None),
        [(m.name, m.role, m.state, m.timeline) for m in cluster.members],
        (node.role, node.state, node.running, node.answering, node.timeline, node.data_dir, node.task and node.task.kind),
        [(p.name, p.reachable, p.is_primary, p.timeline, p.starting) for p in (world.peers or {}).values()],
        world.memory.refusal,
    )
