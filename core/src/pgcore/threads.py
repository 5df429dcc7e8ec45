"""Threads, waiting and sleeping behind one door, so that the simulator can run the agent without real time. (docs/simulation.md)

The agent's code starts threads, waits and sleeps through this module and reads clocks through ``pgcore.clock``. The system's own
are used unless ``use`` put something else in their place: ``pgcore.testing.simulation`` does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Condition(Protocol):
    """As ``threading.Condition``."""

    def __enter__(self) -> bool: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None: ...

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until notified, false when ``timeout`` seconds passed first."""

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until the predicate is true; its last value."""

    def notify(self, n: int = 1) -> None:
        """Wake one that waits."""

    def notify_all(self) -> None:
        """Wake all that wait."""


class Event(Protocol):
    """As ``threading.Event``."""

    def is_set(self) -> bool:
        """It was set."""

    def set(self) -> None:
        """Set it, waking those that wait."""

    def clear(self) -> None:
        """Take it back."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; false when ``timeout`` seconds passed first."""


class System(Protocol):
    """What a world must offer for agents to live in it."""

    def start(self, name: str, loop: Callable[[], None]) -> None:
        """Run ``loop`` beside the caller. Raises RuntimeError when no thread is to be had."""

    def condition(self) -> Condition:
        """A new condition with a lock of its own."""

    def event(self) -> Event:
        """A new event."""

    def future(self) -> Future[Any]:
        """A new future that may be waited on."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""


class _Real:
    """Daemon threads of this process."""

    def start(self, name: str, loop: Callable[[], None]) -> None:
        threading.Thread(target=loop, name=name, daemon=True).start()

    def condition(self) -> Condition:
        return threading.Condition()

    def event(self) -> Event:
        return threading.Event()

    def future(self) -> Future[Any]:
        return Future()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


REAL: System = _Real()
_system = REAL


def use(system: System) -> None:
    """From now on threads, waits and sleeps are this system's; for simulations."""
    global _system
    _system = system


def start(name: str, loop: Callable[[], None]) -> None:
    """Run ``loop`` on a thread that does not keep the process alive. Raises RuntimeError when none is to be had."""
    _system.start(name, loop)


def condition() -> Condition:
    """A new condition."""
    return _system.condition()


def event() -> Event:
    """A new event."""
    return _system.event()


def future() -> Future[Any]:
    """A new future."""
    return _system.future()


def sleep(seconds: float) -> None:
    """Let time pass."""
    _system.sleep(seconds)


class Queue:
    """A queue without an end; ``get`` waits."""

    def __init__(self) -> None:
        self._filled = condition()
        self._items: list[Any] = []

    def put(self, item: Any) -> None:
        """Add an item."""
        with self._filled:
            self._items.append(item)
            self._filled.notify()

    def get(self) -> Any:
        """The oldest item."""
        with self._filled:
            while not self._items:
                self._filled.wait()
            return self._items.pop(0)
