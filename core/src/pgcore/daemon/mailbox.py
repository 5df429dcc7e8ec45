"""How other threads reach the heartbeat: wake-ups with a reason, and requests that get an answer."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from pgcore import threads
from pgcore.clock import now
from pgcore.model.basics import Instant, Json
from pgcore.model.orders import Order, RestartOrder


@dataclass(frozen=True, slots=True)
class WriteFailover:
    """Write the ``/failover`` key. ``version`` None writes unconditionally; all fields empty clears a request."""

    leader: str | None = None
    candidate: str | None = None
    scheduled_at: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class ReloadConfig:
    """Re-read the local configuration (SIGHUP, ``POST /reload``)."""


@dataclass(frozen=True, slots=True)
class ChangeConfig:
    """Change the ``/config`` key: merge this document into it, or replace it. The answer is a ConfigChange."""

    document: Mapping[str, Json]
    merge: bool


@dataclass(frozen=True, slots=True)
class CarryOut:
    """Restart or reinitialize now. The answer is empty, or says why not; that of a restart comes when it has ended."""

    order: Order


@dataclass(frozen=True, slots=True)
class ScheduleRestart:
    """Restart at this moment (epoch seconds). Refused if one is scheduled already."""

    order: RestartOrder
    due_at: float
    shown: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class CancelRestart:
    """Drop the scheduled restart. Refused if there is none."""


Request = WriteFailover | ReloadConfig | ChangeConfig | CarryOut | ScheduleRestart | CancelRestart


@dataclass(slots=True)
class Letter:
    """A request with the future its sender waits on; the result is True, False (refused), an order's text or an exception."""

    request: Request
    reply: Future[Json] = field(default_factory=threads.future)


class Mailbox:
    """Wakes the heartbeat. Any thread posts; only the heartbeat thread waits and collects."""

    def __init__(self) -> None:
        self._condition = threads.condition()
        self._reasons: list[str] = []
        self._letters: list[Letter] = []

    def wake(self, reason: str) -> None:
        """Start the next heartbeat now; ``reason`` goes into the log of that beat."""
        with self._condition:
            if reason not in self._reasons:
                self._reasons.append(reason)
            self._condition.notify()

    def ask(self, request: Request) -> Future[Json]:
        """Hand a request to the heartbeat thread; wait on the future with a timeout of your own."""
        letter = Letter(request)
        with self._condition:
            self._letters.append(letter)
            self._condition.notify()
        return letter.reply

    def wait(self, until: Instant) -> tuple[tuple[str, ...], tuple[Letter, ...]]:
        """Sleep until something arrived or ``until`` passed; take everything that arrived."""
        with self._condition:
            while not self._reasons and not self._letters:
                left = until - now()
                if left <= 0 or not self._condition.wait(left):
                    break
            reasons, letters = tuple(self._reasons), tuple(self._letters)
            self._reasons.clear()
            self._letters.clear()
            return reasons, letters
