"""What would happen if: trouble in words, struck on a world that begins where a live cluster stands, and what came of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from pgcore.testing.simulation import operators  # noqa: F401  registers what operators do
from pgcore.testing.simulation.faults import KINDS, resolve
from pgcore.testing.simulation.present import Present, address, world_of
from pgcore.testing.simulation.schedule import Fault, Schedule, ScheduleError

if TYPE_CHECKING:
    from pgcore.testing.simulation.wal import Commit
    from pgcore.testing.simulation.world import World

VERBS = {
    "stop": ("power-loss", "NODE: its machine loses power"),
    "crash": ("crash", "NODE: the processes of its PostgreSQL are killed"),
    "hang": ("hang", "NODE: its PostgreSQL neither answers nor ends"),
    "kill-agent": ("kill-agent", "NODE: its agent is killed, PostgreSQL goes on"),
    "end-agent": ("end-agent", "NODE: its agent is asked to end (systemctl stop)"),
    "freeze": ("freeze", "NODE: the machine stands still"),
    "freeze-agent": ("freeze-agent", "NODE: its agent stands still"),
    "cut": ("partition", "NODE: it reaches nobody and nobody reaches it"),
    "cut-store": ("store-cut", "NODE: it does not reach the store"),
    "lose-store": ("store-away", "the store answers nobody"),
    "switchover": ("switchover", "an operator asks for a switchover"),
    "switchover-to": ("switchover-to", "NODE: an operator asks for a switchover to it"),
    "failover-to": ("failover", "NODE: an operator names it the new primary by hand"),
    "restart": ("restart", "NODE: an operator restarts its PostgreSQL"),
    "pause": ("pause", "maintenance mode"),
}
"""The words of ``--from-cluster``: kind of fault, and what it says."""

FOR_EVER_S = 1e7
BEFORE_S = 12.0
"""So long the agents go on as they are before anything happens: a live cluster may be in the middle of something."""
CALM_WAITS = 3
_SECONDS = r"(?P<{}>\d+(?:\.\d+)?)\s*s?"
_CLAUSE = re.compile(
    r"(?P<verb>[a-z-]+)(?:\s+(?!for\s|after\s)(?P<target>\S+))?"
    rf"(?:\s+for\s+{_SECONDS.format('lasts')})?(?:\s+after\s+{_SECONDS.format('at')})?$"
)


def read_what(text: str, names: Sequence[str]) -> Schedule:
    """``stop node2``, ``cut-store node1 for 20s; crash node2 after 5s``. Raises ScheduleError naming words and members."""
    faults = []
    for clause in filter(None, (part.strip() for part in text.split(";"))):
        found = _CLAUSE.match(clause)
        if found is None or found["verb"] not in VERBS:
            words = "\n".join(f"  {verb} {says}" for verb, (_, says) in VERBS.items())
            form = "WORD [NODE] [for SECONDS] [after SECONDS] [; ...]"
            raise ScheduleError(f"{clause!r} is not understood. Wanted: {form}, with\n{words}")
        kind, says = VERBS[found["verb"]]
        target = found["target"] or ""
        if says.startswith("NODE") != bool(target):
            raise ScheduleError(f"{clause!r}: " + (f"{target!r} is one word too many" if target else "which node?"))
        if target and target not in (*names, "leader"):
            raise ScheduleError(f"{clause!r}: there is no member {target}; there are {', '.join(names)} (and the word leader)")
        lasts = float(found["lasts"]) if found["lasts"] else FOR_EVER_S if KINDS[kind].lasts else 0.0
        faults.append(Fault(float(found["at"] or 0.0), kind, target or "all", lasts))
    if not faults:
        raise ScheduleError("say what happens, for example 'stop node2'")
    return tuple(sorted(faults, key=lambda each: each.at))


@dataclass(slots=True)
class Course:
    """One run. Moments are seconds since the first fault struck."""

    seed: int
    leader: str | None = None
    """Whom the lock names at the end."""
    writable: tuple[str, ...] = ()
    took_s: float | None = None
    """When another server than before began to accept writes."""
    gap_s: float = 0.0
    """The longest time without an acknowledged commit."""
    still_down: bool = False
    """Nobody accepts writes at the end."""
    lost: int = 0
    """Acknowledged commits that the primary at the end does not have."""
    rests: dict[str, str] = field(default_factory=dict)
    """What each member rests at, and why."""
    lines: list[tuple[float, str, str]] = field(default_factory=list)
    before: str = ""
    """What happened although nothing had struck yet."""


def what_if(present: Present, faults: Schedule, seed: int) -> Course:
    """Let it happen once."""
    course = Course(seed)
    def told(at: float, who: str, what: str) -> None:
        if who != "checker":
            course.lines.append((at, who, what))

    with world_of(present, seed, told=told) as world:
        watch = _Watch(world)
        world.run(BEFORE_S)
        if world.leader != present.view.leader:
            course.before = f"already without it the lock goes from {present.view.leader} to {world.leader}"
        zero, first = world.now, world.writable()
        _strike(world, faults)
        _until_calm(world, faults)
        watch.end(course, zero, first)
    course.lines = [(at - zero, who, _real(what, present)) for at, who, what in course.lines if at >= zero]
    return course


def _strike(world: World, faults: Schedule) -> None:
    zero = world.now
    for fault in faults:
        world.run(max(0.0, zero + fault.at - world.now))
        undo = KINDS[fault.kind].strike(world, resolve(world, fault.target), fault)
        world.tell("you", str(fault).split(None, 1)[1])
        if undo is not None and fault.lasts < FOR_EVER_S:
            world.scheduler.after(fault.lasts, undo)


def _until_calm(world: World, faults: Schedule) -> None:
    """Until nothing but resting heartbeats was seen for a while, but a few ttl at most."""
    timing = next((machine.agent.settings.timing for machine in world if machine.agent is not None), None)
    ttl, wait = (timing.ttl, timing.loop_wait) if timing is not None else (30, 10)
    longest = max((fault.lasts for fault in faults if fault.lasts < FOR_EVER_S), default=0.0)
    world.run(longest + ttl + CALM_WAITS * wait)
    world.run_until(lambda: not world.unsettled(), 3.0 * ttl + 30.0)
    world.run(CALM_WAITS * wait)


class _Watch:
    """Listens to clients and servers."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._told: list[tuple[float, Commit]] = []
        self._writable: list[tuple[float, str]] = []
        world.on_acknowledged.append(lambda server, commit: self._told.append((world.now, commit)))
        world.on_writable.append(lambda server: self._writable.append((world.now, server.name)))

    def end(self, course: Course, zero: float, first: list[str]) -> None:
        """What came of it."""
        world = self._world
        course.leader, course.writable = world.leader, tuple(world.writable())
        course.took_s = next((at - zero for at, name in self._writable if at >= zero and name not in first), None)
        moments = [zero, *(at for at, _ in self._told if at > zero), world.now]
        course.gap_s = max(later - earlier for earlier, later in pairwise(moments))
        primary = next((world[name].server for name in course.writable), None)
        course.still_down = primary is None
        if primary is not None:
            course.lost = sum(not primary.at.contains(commit) for _, commit in self._told)
        for machine in world:
            status = machine.life.board.status if machine.life is not None else None
            if machine.agent_runs and status is not None:
                course.rests[machine.name] = f"{status.rule}: {status.reason}"
            else:
                course.rests[machine.name] = "no agent runs"


def _real(text: str, present: Present) -> str:
    """With the members' real addresses."""
    for number, seen in enumerate(present.members, 1):
        text = text.replace(f"10.0.0.{number}:5432", address(seen))
    return text


def answer(present: Present, courses: Sequence[Course]) -> Iterable[str]:
    """What came of it in all runs, in words."""
    first, count = courses[0], len(courses)
    for before in sorted({course.before for course in courses if course.before}):
        yield f"Note: {before}."
    ends = Counter(course.writable for course in courses)
    for writable, times in sorted(ends.items(), key=lambda each: (-each[1], each[0])):
        often = "" if len(ends) == 1 else f" in {times} of {count} runs"
        yield f"{' and '.join(writable) or 'Nobody'} accepts writes at the end{often}."
    took = sorted(course.took_s for course in courses if course.took_s is not None)
    if took:
        yield f"Another primary than before accepted writes after {_range(took)} s."
    gaps = sorted(course.gap_s for course in courses if not course.still_down)
    if gaps:
        yield f"Clients that write all the time had to wait for {_range(gaps)} s at most."
    lost = max(course.lost for course in courses)
    mode = "" if present.dynamic.get("synchronous_mode") else " (replication is asynchronous)"
    yield f"Up to {lost} acknowledged commits were lost{mode}." if lost else "No acknowledged commit was lost."
    yield "In the end, in the first run:"
    for name, why in first.rests.items():
        yield f"  {name}  {_real(why, present)}"


def _range(values: list[float]) -> str:
    low, high = f"{values[0]:.1f}", f"{values[-1]:.1f}"
    return low if low == high else f"{low} to {high}"
