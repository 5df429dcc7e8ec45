"""The callback lanes: plugins are told what happened, in order, never in the way of the heartbeat. (HA rules 25, 30.6)"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from pgcore import threads
from pgcore.clock import Deadline
from pgcore.hookspecs import CallbackEvent
from pgcore.model.counts import CallbackResult
from pgcore.registry import Registry

logger = logging.getLogger(__name__)

QUEUE_LIMIT = 16
RELOAD = "on_reload"
Note = Callable[[str, str], None]
"""Told of each event how it ended: its name and a ``CallbackResult``."""


class CallbackLane:
    """Tells one event after the other; ``on_reload`` has a thread of its own, so that it neither delays nor ends a role change.

    The last event is always delivered; when many wait, the oldest are dropped. An event that is still being told is not disturbed
    by a newer one, unless that one says so: then it is asked to end, and those that wait are dropped.
    """

    def __init__(self, registry: Registry, note: Note = lambda event, result: None) -> None:
        self._changes, self._reloads = _Lane(registry, "callbacks", note), _Lane(registry, "reload callbacks", note)

    def tell(self, event: CallbackEvent) -> None:
        """Queue an event."""
        (self._reloads if event.action == RELOAD else self._changes).tell(event)

    def run(self, call: Callable[[], None]) -> None:
        """Queue a call that tells plugins something else, in the order of the events that are no reloads."""
        self._changes.run(call)

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything queued has been told; false when the time is over first."""
        end = Deadline.after(timeout_s)
        return self._changes.drain(end.left()) and self._reloads.drain(end.left())


class _Lane:
    """One thread and its queue."""

    def __init__(self, registry: Registry, name: str, note: Note) -> None:
        self._registry, self._note = registry, note
        self._waiting: deque[CallbackEvent | Callable[[], None]] = deque()
        self._condition = threads.condition()
        self._active = False
        self._cancelled = threads.event()
        threads.start(name, self._loop)

    def tell(self, event: CallbackEvent) -> None:
        """Queue an event, and end what is in its way if it says so."""
        with self._condition:
            if event.kills_running:
                self._cancelled.set()
                for each in self._waiting:
                    self._dropped(each)
                self._waiting = deque(each for each in self._waiting if not isinstance(each, CallbackEvent))
            elif len(self._waiting) >= QUEUE_LIMIT:
                oldest = self._waiting.popleft()
                self._dropped(oldest)
                logger.warning("dropped, as %d newer events wait behind a slow callback: %s", QUEUE_LIMIT, oldest)
            self._waiting.append(event)
            self._condition.notify()

    def run(self, call: Callable[[], None]) -> None:
        with self._condition:
            self._waiting.append(call)
            self._condition.notify()

    def _dropped(self, waiting: CallbackEvent | Callable[[], None]) -> None:
        if isinstance(waiting, CallbackEvent):
            self._note(waiting.action, CallbackResult.DROPPED)

    def drain(self, timeout_s: float) -> bool:
        with self._condition:
            return self._condition.wait_for(lambda: not self._waiting and not self._active, timeout_s)

    def _loop(self) -> None:
        while True:
            with self._condition:
                while not self._waiting:
                    self._condition.wait()
                event = self._waiting.popleft()
                self._cancelled = cancelled = threads.event()
                self._active = True
            try:
                if isinstance(event, CallbackEvent):
                    told = replace(event, cancelled=cancelled.is_set, report=partial(self._note, event.action))
                    self._registry.tell("pgcore_callback", event=told)
                else:
                    event()
            finally:
                with self._condition:
                    self._active = False
                    self._condition.notify_all()
