"""Repeating a store operation inside one deadline. Only for operations that may happen twice without harm."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pgcore import threads
from pgcore.clock import Deadline
from pgcore.errors import StoreUnavailableError

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 0.5


def retrying(call: Callable[[Deadline], T], deadline: Deadline) -> T:
    """Call until it answers. Raises the last StoreUnavailableError when the deadline is over; other errors at once."""
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return call(deadline)
        except StoreUnavailableError:
            if deadline.left() <= pause_s:
                raise
            threads.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
