"""Virtual time: greenlets instead of threads, a heap of moments instead of a clock. One seed, one course of events.

A ``Process`` is what a real machine would call one: it has a clock of its own, its threads are greenlets, it can be frozen
(SIGSTOP, a stalled virtual machine), thawed and killed. Nothing in here waits for anything real.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

from pgcore import clock, threads

T = TypeVar("T")


class DeadlockError(Exception):
    """The scheduler itself was asked to wait: a bug in a simulation."""


class Process:
    """Threads that live and die together, on one machine's clock.

    ``rate``: seconds this machine's clock counts in a second of virtual time; ``offset``: its wall clock less the true one.
    """

    __slots__ = ("alive", "born", "deferred", "frozen", "name", "offset", "rate", "scheduler")

    def __init__(self, scheduler: Scheduler, name: str, rate: float = 1.0, offset: float = 0.0) -> None:
        self.scheduler, self.name, self.rate, self.offset = scheduler, name, rate, offset
        self.alive, self.frozen = True, False
        self.born = scheduler.now
        self.deferred: list[Wakeup] = []

    def start(self, loop: Callable[[], None]) -> None:
        """Run ``loop`` as a thread of this process, from this moment on."""
        self.scheduler.spawn(self, loop)

    def freeze(self) -> None:
        """Nothing in it runs until it is thawed; what was to happen meanwhile happens then."""
        self.frozen = True

    def thaw(self) -> None:
        """It goes on where it was."""
        self.frozen = False
        waiting, self.deferred = self.deferred, []
        for wakeup in waiting:
            self.scheduler.put(self.scheduler.now, wakeup)

    def kill(self) -> None:
        """SIGKILL: nothing of it ever runs again, not even what it would do at its end."""
        self.alive = False
        self.deferred = []


class Wakeup:
    """A thread or a call that is to go on at some moment, unless it is taken back."""

    __slots__ = ("cancelled", "process", "run")

    def __init__(self, process: Process, run: Callable[[], None]) -> None:
        self.process, self.run = process, run
        self.cancelled = False


class Scheduler:
    """The heap of moments. ``now`` is the true time in seconds since the world began."""

    EPOCH = 1_800_000_000.0
    """The true wall clock when the world began."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self._heap: list[tuple[float, int, Wakeup]] = []
        self._count = 0
        self._hub = getcurrent()
        self._closed = False
        self._threads: list[greenlet] = []
        self.world = Process(self, "world")
        self.current = self.world
        """Whose code runs at this moment."""
        self.failure: BaseException | None = None
        """What a thread ended with although it should not have."""

    # -- clocks --

    def steady(self) -> float:
        """The clock of the machine whose code is running."""
        return 1000.0 + self.now * self.current.rate

    def wall(self) -> float:
        """Its clock on the wall."""
        return self.EPOCH + self.now + self.current.offset

    # -- moments --

    def put(self, at: float, wakeup: Wakeup) -> Wakeup:
        """Let it go on at ``at``."""
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, wakeup))
        return wakeup

    def after(self, seconds: float, call: Callable[[], None], process: Process | None = None) -> Wakeup:
        """Call this in so many true seconds, as code of that process (the world's own when None); it must not wait."""
        return self.put(self.now + seconds, Wakeup(process or self.world, call))

    def spawn(self, process: Process, loop: Callable[[], None]) -> None:
        """A new thread of that process."""
        thread = greenlet(self._life(loop), self._hub)
        self._threads.append(thread)
        self.put(self.now, Wakeup(process, thread.switch))

    def _life(self, loop: Callable[[], None]) -> Callable[[], None]:
        def life() -> None:
            try:
                loop()
            except GreenletExit:
                raise
            except BaseException as error:
                self.failure = self.failure or error

        return life

    def wait(self, seconds: float | None) -> Wakeup:
        """Let the running thread sleep, for good when None; another wakes it with ``wake``. Returns what it slept on."""
        wakeup = self.parked()
        if seconds is not None:
            self.put(self.now + max(0.0, seconds) / self.current.rate, wakeup)
        self.switch()
        return wakeup

    def parked(self) -> Wakeup:
        """Something that lets the running thread go on, not planned yet."""
        thread = getcurrent()
        if thread is self._hub:
            raise DeadlockError("the world itself cannot wait: only threads of a process can")
        return Wakeup(self.current, thread.switch)

    def switch(self) -> None:
        """Let others run until somebody wakes this thread."""
        if self._closed:
            raise GreenletExit
        self._hub.switch()

    def run(self, until: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Let time pass until ``until``, or until ``stop`` says so after some moment. Raises what a thread ended with."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            at, _, wakeup = heapq.heappop(heap)
            if wakeup.cancelled:
                continue
            if at > self.now:
                self.now = at
            process = wakeup.process
            if not process.alive:
                continue
            if process.frozen:
                process.deferred.append(wakeup)
                continue
            self.steps += 1
            self.current = process
            wakeup.run()
            self.current = self.world
            if self.failure is not None:
                raise self.failure
            if stop():
                return
        self.now = max(self.now, until)

    def next_moment(self) -> float:
        """When something happens next; infinite if never."""
        while self._heap and (self._heap[0][2].cancelled or not self._heap[0][2].process.alive):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")

    def close(self) -> None:
        """End every thread."""
        self._closed = True
        self._heap.clear()
        for thread in self._threads:
            thread.throw(GreenletExit)
        self._threads.clear()


class Condition:
    """``threading.Condition`` for greenlets. Nobody else runs between two waits, so its lock has nothing to do."""

    __slots__ = ("_scheduler", "_waiting")

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._waiting: deque[tuple[Wakeup, list[bool]]] = deque()

    def __enter__(self) -> bool:
        return True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    acquire = __enter__

    def release(self) -> None:
        """Nothing is held."""

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until notified or ``timeout`` seconds have passed."""
        scheduler = self._scheduler
        wakeup, notified = scheduler.parked(), [False]
        if timeout is not None:
            scheduler.put(scheduler.now + max(0.0, timeout) / scheduler.current.rate, wakeup)
        entry = (wakeup, notified)
        self._waiting.append(entry)
        scheduler.switch()
        if not notified[0]:
            self._waiting.remove(entry)
        return notified[0]

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Sleep until the predicate is true or ``timeout`` seconds have passed."""
        end = None if timeout is None else clock.now() + timeout
        while not (found := predicate()):
            left = None if end is None else end - clock.now()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return found

    def notify(self, n: int = 1) -> None:
        """Wake the longest waiting."""
        scheduler = self._scheduler
        while n > 0 and self._waiting:
            wakeup, notified = self._waiting.popleft()
            notified[0] = wakeup.cancelled = True  # its time-out is void
            scheduler.put(scheduler.now, Wakeup(wakeup.process, wakeup.run))
            n -= 1

    def notify_all(self) -> None:
        """Wake all."""
        self.notify(len(self._waiting))


class Event:
    """``threading.Event`` for greenlets."""

    __slots__ = ("_changed", "_set")

    def __init__(self, scheduler: Scheduler) -> None:
        self._changed, self._set = Condition(scheduler), False

    def is_set(self) -> bool:
        """It was set."""
        return self._set

    def set(self) -> None:
        """Set it, waking those that wait."""
        self._set = True
        self._changed.notify_all()

    def clear(self) -> None:
        """Take it back."""
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set or ``timeout`` seconds have passed."""
        return self._changed.wait_for(self.is_set, timeout)


class _Future(Future[Any]):
    """``concurrent.futures.Future`` whose waiters are greenlets."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._condition = Condition(scheduler)  # type: ignore[assignment]


class VirtualSystem:
    """What ``pgcore.threads`` asks for, inside a simulation."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def start(self, name: str, loop: Callable[[], None]) -> None:
        """A new thread of the process whose code is running."""
        self._scheduler.spawn(self._scheduler.current, loop)

    def condition(self) -> Condition:
        """A condition."""
        return Condition(self._scheduler)

    def event(self) -> Event:
        """An event."""
        return Event(self._scheduler)

    def future(self) -> Future[Any]:
        """A future."""
        return _Future(self._scheduler)

    def sleep(self, seconds: float) -> None:
        """Sleep by the clock of the running process."""
        self._scheduler.wait(seconds)


class inside:
    """``with inside(scheduler):`` the agent's code lives in virtual time."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def __enter__(self) -> Scheduler:
        clock.use(self._scheduler.steady, self._scheduler.wall)
        threads.use(VirtualSystem(self._scheduler))
        return self._scheduler

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._scheduler.close()
        threads.use(threads.REAL)
        clock.use()
