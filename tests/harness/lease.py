"""Watches from outside how punctually a leader renews its lease."""

from __future__ import annotations

import threading
from types import TracebackType

from harness.node import Node

LOOK_S = 0.05


class LeaseWatch:
    """Asks a leader for the seconds left, over and over, in a thread, until the end of the ``with`` block."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.least_left_s = float("inf")
        """The least that was ever left: right before the latest of all renewals. 0 when the agent did not answer."""

    def _run(self) -> None:
        while not self._ending.is_set():
            left = self._node.status().get("pgcore", {}).get("lease_seconds_left") or 0.0
            self.least_left_s = min(self.least_left_s, left)
            self._ending.wait(LOOK_S)

    def __enter__(self) -> LeaseWatch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ending.set()
        self._thread.join(15)
