"""A request that takes its time, on a thread of its own, so that what it does can be shown meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pgcore.cli.api import ApiAnswer, ApiError
from pgcore.cli.live import Live
from pgcore.cli.watch import Watch
from pgcore.clock import Deadline

Sending = Callable[[], None]
LOOK_S = 0.1
SETTLE_S = 1.0


class Request(threading.Thread):
    """It is sent, or withdrawn, never both. ``send`` calls its argument right before it sends; it may raise ApiError."""

    def __init__(self, send: Callable[[Sending], ApiAnswer]) -> None:
        super().__init__(daemon=True)
        self._send = send
        self._lock = threading.Lock()
        self._sent = self._withdrawn = False
        self.answer: ApiAnswer | ApiError = ApiError("it was not asked", sent=False, untrusted=True)

    def run(self) -> None:
        """Send it and keep the answer."""
        try:
            self.answer = self._send(self._sending)
        except ApiError as error:
            self.answer = error

    def _sending(self) -> None:
        with self._lock:
            if self._withdrawn:
                raise ApiError("it was withdrawn", sent=False)
            self._sent = True

    def withdraw(self) -> bool:
        """Do not send it any more; false if it is too late for that."""
        with self._lock:
            self._withdrawn = not self._sent
            return self._withdrawn


def show(live: Live, watch: Watch) -> None:
    """What the members have done and what they do."""
    for phase in watch.phases():
        live.line(f"{phase.member}: {phase.what}, {phase.ended - phase.began:.2f} s", phase.began)
    live.going_on(*watch.doing())


def answered(request: Request, live: Live, watch: Watch) -> ApiAnswer | ApiError:
    """Send it, and show what happens until there is an answer or none will come."""
    request.start()
    while request.is_alive():
        show(live, watch)
        request.join(LOOK_S)
    settled(live, watch)
    return request.answer


def settled(live: Live, watch: Watch) -> None:
    """The action has ended: what the members still seem to do ends as soon as they are seen again."""
    deadline = Deadline.after(SETTLE_S)
    while any(watch.doing()) and not deadline.expired:
        show(live, watch)
        watch.pause(LOOK_S)
    show(live, watch)
