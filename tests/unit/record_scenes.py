"""Nodes whose heartbeats are recorded while a test says what the store, their server and the other members answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pgcore.decide.advance import ClusterReading
from pgcore.model.actions import ObserveNode, Outcome, PollPeers, ReadCluster
from pgcore.model.basics import Instant
from pgcore.model.cluster import ClusterView
from pgcore.model.node import NodeView
from pgcore.model.settings import Settings
from pgcore.model.world import World
from pgcore.record.beats import BeatRecord, Quiet, RecordEntry, line
from pgcore.record.recorder import Recorder
from pgcore.testing.builders import NOW, WALL, peers, standby, view, world


class Kept:
    """Entries in memory."""

    def __init__(self) -> None:
        self.entries: list[RecordEntry] = []

    def put(self, entry: RecordEntry) -> None:
        """Keep it."""
        self.entries.append(entry)

    @property
    def beats(self) -> list[BeatRecord]:
        """The heartbeats among them."""
        return [entry for entry in self.entries if isinstance(entry, BeatRecord)]

    @property
    def kinds(self) -> list[str]:
        """What they are, in order."""
        return [f"quiet {entry.beats}" if isinstance(entry, Quiet) else "beat" for entry in self.entries]


class Node:
    """A member called a, b or c. ``beat`` says what is so from then on and runs one heartbeat."""

    def __init__(self, name: str = "a", sink: Any = None, **settings: Any) -> None:
        self.kept = sink or Kept()
        self.recorder = Recorder(self.kept)
        given: dict[str, Any] = {"name": name, "scope": "demo", "use_slots": False, "dynamic": {"ttl": 30}}
        self.settings = Settings(**given | settings)
        self.world = replace(world(standby(), view("b")), settings=self.settings)
        self.seconds = 0.0
        self.node: NodeView = standby()
        self.cluster: ClusterView | None = view("b")
        self.answers: dict[str, Any] = {"CompareRecovery": "none", "RenewLease": "held", "AcquireLease": False, "PollPeers": {}}

    def beat(self, at: float | None = None, *, node: NodeView | None = None, cluster: ClusterView | None = None,
             lost: bool = False, **answers: Any) -> World:
        """One heartbeat, ``at`` so many seconds or a second after the last. ``answers``: values by the name of their action."""
        self.seconds = self.seconds + 1 if at is None else at
        self.node, self.cluster = node or self.node, None if lost else cluster or self.cluster or view("b")
        self.answers |= answers
        moment = Instant(NOW + self.seconds)
        before = self.world
        start = World(before.settings, before.memory, moment, WALL + self.seconds, before.node)
        steps = self.recorder.heartbeat(start)
        try:
            action, _ = next(steps)
            while True:
                action, _ = steps.send(self._answer(action, moment))
        except StopIteration as ended:
            self.world = ended.value.world
        return self.world

    def _answer(self, action: Any, at: Instant) -> Outcome:
        if isinstance(action, ObserveNode):
            return Outcome(at, value=replace(self.node, at=at), began=at)
        if isinstance(action, ReadCluster):
            if self.cluster is None:
                return Outcome(at, ok=False, error=f"no answer after {self.seconds} s", began=at)
            return Outcome(at, value=ClusterReading(self.cluster, self.settings), began=at)
        if isinstance(action, PollPeers):
            return Outcome(at, value=peers(*self.answers["PollPeers"]), began=at)
        return Outcome(at, value=self.answers.get(type(action).__name__), began=at)

    def save(self, folder: Path) -> str:
        """Write its record; the path."""
        path = folder / f"flight-demo-{self.settings.name}.jsonl"
        path.write_text("".join(line(entry) + "\n" for entry in self.kept.entries))
        return str(path)


def saved(folder: Path, nodes: Iterable[Node]) -> list[str]:
    """The records of several nodes."""
    return [node.save(folder) for node in nodes]
