"""Repeating one call inside its deadline, with growing pauses once every server was asked. Shared by both APIs."""

from __future__ import annotations

import threading

from pgcore.plugin import Deadline, StoreUnavailableError
from pgcore_dcs_etcd.discovery import Locator

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
CARDS = 8
"""How many versions of the member card are remembered whose writing went unanswered."""


class Attempts:
    """The attempts of one call called ``what``."""

    def __init__(self, what: str, deadline: Deadline, locator: Locator, closing: threading.Event) -> None:
        self._what, self._deadline, self._locator, self._closing = what, deadline, locator, closing
        self._failed = 0
        self.repeated = False
        """An earlier attempt got no clear answer and may have been carried out."""

    def failed(self, problem: Exception, *, perhaps_done: bool) -> None:
        """Note a failure and wait before the next attempt. Raises StoreUnavailableError when there is no time for one."""
        self.repeated = self.repeated or perhaps_done
        self._failed += 1
        rounds = self._failed - len(self._locator.endpoints.urls)
        if rounds >= 0:  # everybody was asked: do not storm an election
            self._locator.lost()
            self._closing.wait(min(FIRST_PAUSE_S * 2 ** min(rounds, 5), LONGEST_PAUSE_S, self._deadline.left()))
        if self._deadline.expired or self._closing.is_set():
            others = [url for url in self._locator.endpoints.urls if url not in str(problem)]
            asked = f"; also asked: {', '.join(others)}" if others else ""
            raise StoreUnavailableError(f"etcd gave no answer to {self._what} in time: {problem}{asked}") from problem
