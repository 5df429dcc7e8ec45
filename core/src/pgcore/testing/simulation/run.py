"""One run: a cluster comes up, a schedule strikes it, the faults end, and everything must be well again within the bound.

Where a settled cluster would only rest until the next fault, that time is left out and counted as skipped.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from pgcore.model.basics import Json
from pgcore.testing.simulation import operators, remote, watchdog_faults  # noqa: F401  the others register their kinds
from pgcore.testing.simulation.checker import Violation
from pgcore.testing.simulation.faults import KINDS, Undo, resolve
from pgcore.testing.simulation.moments import MOMENTS
from pgcore.testing.simulation.profiles import Profile, profile_named
from pgcore.testing.simulation.schedule import AWAIT_S, Fault, Schedule, ScheduleError, in_order
from pgcore.testing.simulation.world import World

if TYPE_CHECKING:
    from pgcore.daemon.heartbeat import Beat
    from pgcore.record.beats import BeatRecord

Told = Callable[[float, str, str], None]

LOOK_S = 0.05
"""How often a fault that awaits a moment looks whether it has come."""
IDLE_WAITS = 3
"""Nothing but resting heartbeats for so many loop_waits: the cluster is idle."""
TEND_S = 45.0
"""When all is calm, operators look so often for replicas that ask to be copied anew."""
LIVELOCK_STEPS = 200_000
"""So many steps within one stretch of time are a loop without end."""


@dataclass(slots=True)
class Result:
    """What came of a run. Times in seconds of cluster time; ``cpu_s`` is what the run took."""

    profile: str
    seed: int
    faults: Schedule = ()
    simulated_s: float = 0.0
    skipped_s: float = 0.0
    cycles: int = 0
    skipped_cycles: int = 0
    struck: dict[str, int] = field(default_factory=dict)
    failovers: int = 0
    switchovers: int = 0
    unnecessary: int = 0
    tended: int = 0
    """Replicas that an operator had to have copied anew, as they had asked for."""
    acknowledged: int = 0
    gaps: list[float] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    settled_s: float = 0.0
    """How long it took from the end of the last fault until all was well."""
    cpu_s: float = 0.0
    digest: str = ""

    @property
    def total_s(self) -> float:
        """Cluster time that passed, skipped stretches included."""
        return self.simulated_s + self.skipped_s

    @property
    def total_cycles(self) -> int:
        """Heartbeats, skipped ones included."""
        return self.cycles + self.skipped_cycles

    def document(self) -> dict[str, Json]:
        """For ``-o json``."""
        return {**asdict(self), "faults": [each.document() for each in self.faults]}


class LivelockError(Exception):
    """Time stands still while things happen."""


class Drive:
    """Strikes a schedule on a world."""

    def __init__(self, world: World, profile: Profile, *, first_violation: bool = False) -> None:
        self.world, self.profile = world, profile
        self._first_violation = first_violation
        self.skipped_s, self.skipped_cycles = 0.0, 0
        self.struck: Counter[str] = Counter()
        self._began = 0.0
        self._ends: list[tuple[float, int, Undo]] = []
        """Moments of the world at which faults end, in the order they struck for the same moment."""
        self._awaiting: list[tuple[float, Fault]] = []
        self._count = 0
        self.tended = 0

    @property
    def cluster_now(self) -> float:
        """Cluster time since the first settling."""
        return self.world.now - self._began + self.skipped_s

    @property
    def over(self) -> bool:
        """Whoever runs it has seen enough."""
        return self._first_violation and bool(self.world.checker.violations)

    # -- time ----------------------------------------------------------------------------------------------------------------

    def _pass(self, until: float) -> None:
        """Let the world go on until that moment of its own time."""
        scheduler = self.world.scheduler
        limit = scheduler.steps + LIVELOCK_STEPS + int(2000 * max(0.0, until - scheduler.now))
        scheduler.run(until, lambda: scheduler.steps > limit)
        if scheduler.steps > limit:
            raise LivelockError(f"{LIVELOCK_STEPS} steps without end at {scheduler.now:.3f} s")

    def strike_all(self, faults: Schedule) -> None:
        """All faults, one after the other, each until its end."""
        self._began = self.world.now
        operators.remember(self.world)
        pending = deque(in_order(faults))
        while (pending or self._awaiting or self._ends) and not self.over:
            due = [end for end, _, _ in self._ends] + [limit for limit, _ in self._awaiting]
            due += [self._at(pending[0])] if pending else []
            self._go_on(min(due), idle=bool(pending) and not self._ends and not self._awaiting)
            while pending and self._at(pending[0]) <= self.world.now + 1e-9:
                self._strike_or_await(pending.popleft())
            self._look_for_moments()
            self._end_due()

    def _at(self, fault: Fault) -> float:
        return self._began + fault.at - self.skipped_s

    def _go_on(self, until: float, *, idle: bool) -> None:
        world = self.world
        if self._awaiting:
            self._pass(min(until, world.now + LOOK_S))
        elif idle:
            self._pass_idly(until)
        else:
            self._pass(until)

    def _pass_idly(self, until: float) -> None:
        """Until the next fault; what only rests is left out."""
        world = self.world
        wait = max((agent.settings.timing.loop_wait for agent in self._agents()), default=10)
        quiet, before = 0, self._trails()
        while world.now < until:
            if until - world.now > 2 * wait and quiet >= IDLE_WAITS:
                waits = int((until - world.now) // wait) - 1
                self.skipped_s += waits * wait
                self.skipped_cycles += waits * len(world.machines)
                return
            self._pass(min(until, world.now + wait))
            after = self._trails()
            quiet = quiet + 1 if after == before and not world.unsettled() else 0
            before = after

    def _agents(self) -> list[Any]:
        return [machine.agent for machine in self.world if machine.agent is not None]

    def _trails(self) -> list[Any]:
        """What changes when anybody decides anything but to go on as before."""
        return [(agent.trail[-1] if agent.trail else None, agent.node.task) for agent in self._agents()]

    # -- faults --------------------------------------------------------------------------------------------------------------

    def _strike_or_await(self, fault: Fault) -> None:
        if fault.awaits and not MOMENTS[fault.awaits](self.world):
            self._awaiting.append((self.world.now + AWAIT_S, fault))
        else:
            self._strike(fault)

    def _look_for_moments(self) -> None:
        for entry in tuple(self._awaiting):
            limit, fault = entry
            if limit <= self.world.now or MOMENTS[fault.awaits](self.world):
                self._awaiting.remove(entry)
                self._strike(fault)

    def _strike(self, fault: Fault) -> None:
        world = self.world
        kind = KINDS[fault.kind]
        machines = resolve(world, fault.target)
        who = machines[0].name if len(machines) == 1 and fault.target != "all" else ""
        named = fault.kind if fault.target == "all" else f"{fault.kind} {', '.join(machine.name for machine in machines)}"
        details = [f"{name}={value}" for name, value in sorted(fault.args.items())]
        world.tell("fault", " ".join(["begins:", named, *details]) + (f" for {fault.lasts:g} s" if fault.lasts else ""))
        self.struck[fault.kind] += 1
        world.checker.trouble(who, begins=True)
        undo = kind.strike(world, machines, fault)

        def over() -> None:
            if undo is not None:
                undo()
                world.tell("fault", f"ends: {named}")
            world.checker.trouble(who, begins=False)

        self._count += 1
        self._ends.append((world.now + fault.lasts, self._count, over))

    def _end_due(self) -> None:
        due = sorted((end for end in self._ends if end[0] <= self.world.now + 1e-9), key=lambda end: end[:2])
        for end in due:
            self._ends.remove(end)
            end[2]()

    def calm(self) -> float:
        """Every fault has ended: all must be well within the bound. The result is how long it took."""
        world = self.world
        store = world.store
        store.serving = store.writable = True
        operators.as_usual(world)
        world.tell("fault", "calm: there will be no more faults")
        began, tends = world.now, world.now + TEND_S
        while (why := world.unsettled()) and not self.over:
            if world.now - began > self.profile.bound_s:
                world.checker.violated("it settles once faults stop", f"after {self.profile.bound_s:g} s: {why}")
                break
            self._pass(world.now + 0.5)
            if world.now >= tends:
                self.tended += operators.tend(world)
                tends += TEND_S
        return world.now - began


def run(profile: Profile | str, seed: int, faults: Schedule | None = None, *, told: Told | None = None,
        first_violation: bool = False, recorded: Callable[[BeatRecord], None] | None = None) -> Result:
    """A whole run; the same arguments lead to the same result, except for ``cpu_s``. ``recorded`` takes every heartbeat."""
    chosen = profile_named(profile) if isinstance(profile, str) else profile
    schedule = chosen.draw(seed) if faults is None else in_order(faults)
    check(schedule)
    result = Result(chosen.name, seed, schedule)
    began = time.process_time()
    course = hashlib.blake2b(digest_size=16)
    world = World(chosen.setup(Random(f"{chosen.name}/{seed}/setup")), seed, told)
    drive = Drive(world, chosen, first_violation=first_violation)

    def beat(name: str, beat: Beat) -> None:
        decided = [(decision.rule, decision.because) for decision in beat.decisions]
        course.update(repr((world.now, name, decided)).encode())

    world.on_beat.append(beat)
    if recorded is not None:
        world.on_record.append(recorded)
    try:
        with world:
            _drive(drive, schedule, result)
            _note(result, drive)
    finally:
        result.cpu_s = time.process_time() - began
    course.update(repr((world.scheduler.steps, world.now, result.acknowledged, result.violations)).encode())
    result.digest = course.hexdigest()
    return result


def _drive(drive: Drive, schedule: Schedule, result: Result) -> None:
    """A bug of any code that runs in the world is a violation as well."""
    world = drive.world
    try:
        if drive.profile.settles_first:
            world.settle()
        drive.strike_all(schedule)
        result.settled_s = drive.calm()
        if not drive.over:
            world.checker.read_back()
    except ScheduleError:
        raise
    except Exception as error:
        world.checker.violated("no bugs", f"{type(error).__name__}: {error}")


def _note(result: Result, drive: Drive) -> None:
    world = drive.world
    result.simulated_s, result.skipped_s = world.now, drive.skipped_s
    result.cycles, result.skipped_cycles = world.cycles, drive.skipped_cycles
    result.struck = dict(sorted(drive.struck.items()))
    checker = world.checker
    result.failovers, result.switchovers, result.unnecessary = checker.failovers, checker.switchovers, checker.unnecessary
    result.tended = drive.tended
    result.acknowledged, result.gaps = world.clients.acknowledged, list(world.clients.gaps)
    result.violations = list(checker.violations)


def check(schedule: Schedule) -> None:
    """Raises ScheduleError for a fault of no kind, or one that awaits no known moment."""
    for each in schedule:
        if each.kind not in KINDS:
            raise ScheduleError(f"there is no kind of fault {each.kind!r}; there are {', '.join(sorted(KINDS))}")
        if each.awaits and each.awaits not in MOMENTS:
            raise ScheduleError(f"there is no moment {each.awaits!r}; there are {', '.join(MOMENTS)}")
