"""What a walk is made of: servers that are a few numbers, and the machines they run on, with agent, guard and troubles."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from pgcore.model import actions as a
from pgcore.model.basics import Role, State
from pgcore.model.node import ControlState, TaskKind, TaskResult
from pgcore.model.settings import Settings
from pgcore.model.world import Memory, World
from pgcore.testing.memory_store import MemoryStore

Ended = Callable[[], TaskResult | None]


@dataclass(slots=True)
class Server:
    """PostgreSQL as far as the rules can tell: where its history branched, how far it has WAL, what it is doing."""

    running: bool = True
    primary: bool = False
    timeline: int = 1
    position: int = 1000
    switches: tuple[tuple[int, int], ...] = ()
    upstream: str | None = None
    control: ControlState = ControlState.IN_PRODUCTION
    stopping: bool = False
    ended: int | None = None
    """Where its WAL ends, once the shutdown checkpoint is written."""
    due: tuple[tuple[float, Callable[[], None]], ...] = ()
    """What it was told to do and will do, with or without its agent."""

    @property
    def writable(self) -> bool:
        """It accepts writes."""
        return self.running and self.primary and not self.stopping

    def contains(self, other: Server) -> bool:
        """The other's history is a part of this one's."""
        if other.timeline == self.timeline:
            return other.position <= self.position
        return any(ended == other.timeline and other.position <= at for ended, at in self.switches)

    def die(self) -> None:
        """No process is left; what it was doing is lost."""
        self.running, self.stopping, self.ended, self.due = False, False, None, ()


@dataclass(slots=True)
class Pending:
    """A beat that has stopped between two actions: the next one, and the world it was meant for."""

    steps: Generator[tuple[a.Action, World], a.Outcome, object]
    action: a.Action
    at: World


@dataclass(slots=True)
class Node:
    """A machine: its server, its agent's memory, its long action, its guard."""

    name: str
    store: MemoryStore
    server: Server = field(default_factory=Server)
    role: Role = Role.REPLICA
    state: State = State.RUNNING
    memory: Memory = field(default_factory=Memory)
    settings: Settings = field(default_factory=lambda: Settings("", ""))
    task: tuple[TaskKind, float, Ended] | None = None
    finished: TaskResult | None = None
    due: float = 0.0
    guard_until: float | None = None
    trail: list[str] = field(default_factory=list)
    exit: a.Exit | None = None
    stalled: Pending | None = None
    # what troubles it
    alive: bool = True
    """The machine runs; else nothing on it does, and it goes on later where it was."""
    agent: bool = True
    """The agent runs; else the server and the guard are alone."""
    cut: bool = False
    """Nothing streams to this node any more."""
    mute: bool = False
    """Its agent and those of the others cannot ask each other."""
    reaches_store: bool = True
    flaky: float = 0.0
    """How many of its writes to the store happen without an answer."""
    slow: int = 0
    """By how many ticks its server is slower than usual."""
    broken: bool = False
    """Its server cannot be started."""
    vetoes: bool = False
    """Its gate refuses each promotion."""
