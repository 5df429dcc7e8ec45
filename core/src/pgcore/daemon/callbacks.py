"""The callback lane: plugins are told what happened, in order, never in the way of the heartbeat. (HA rules 25)"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from pgcore.hookspecs import CallbackEvent
from pgcore.registry import Registry

logger = logging.getLogger(__name__)

QUEUE_LIMIT = 16


class CallbackLane:
    """One thread tells one event after the other. The last event is always delivered; when many wait, the oldest are dropped."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._waiting: deque[CallbackEvent | Callable[[], None]] = deque()
        self._condition = threading.Condition()
        self._active = False
        threading.Thread(target=self._loop, name="callbacks", daemon=True).start()

    def tell(self, event: CallbackEvent) -> None:
        """Queue an event."""
        with self._condition:
            if len(self._waiting) >= QUEUE_LIMIT:
                logger.warning(
                    "dropped, as %d newer events wait behind a slow callback: %s", QUEUE_LIMIT, self._waiting.popleft()
                )
            self._waiting.append(event)
            self._condition.notify()

    def run(self, call: Callable[[], None]) -> None:
        """Queue a call that tells plugins something else, in the same order."""
        with self._condition:
            self._waiting.append(call)
            self._condition.notify()

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything queued has been told; false when the time is over first."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._waiting and not self._active, timeout_s)

    def _loop(self) -> None:
        while True:
            with self._condition:
                while not self._waiting:
                    self._condition.wait()
                event = self._waiting.popleft()
                self._active = True
            try:
                if isinstance(event, CallbackEvent):
                    self._registry.tell("pgcore_callback", event=event)
                else:
                    event()
            finally:
                with self._condition:
                    self._active = False
                    self._condition.notify_all()
