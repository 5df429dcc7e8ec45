"""The second door behind a hinge: the framework is imported by the first unsafe request, not by every agent.

It weighs 8 MiB beside a database, and most agents are never asked for anything but checks (docs/decisions/0001). That it is
installed is made sure of at the start, so a node in trouble discovers no missing module.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pgcore.errors import FatalError
from pgcore.registry import OwnedRoute
from pgcore.rest.answer import Answer

if TYPE_CHECKING:
    from pgcore.rest.app import SecondDoor


class LazyDoor:
    """Looks like a ``SecondDoor``; makes it when it is first needed."""

    def __init__(self, make: Callable[[], SecondDoor]) -> None:
        if importlib.util.find_spec("cherrypy") is None:
            raise FatalError("the REST API needs CherryPy, which is not installed", "pip install 'CherryPy>=18.9,<19'")
        self._make = make
        self._lock = threading.Lock()
        self._opened: SecondDoor | None = None
        self._limit = 1

    def limit(self, count: int) -> None:
        """How many requests may be worked on at a time."""
        with self._lock:
            self._limit = count
            if self._opened is not None:
                self._opened.limit(count)

    def answer(self, environment: Mapping[str, Any], route: OwnedRoute | None = None) -> Answer:
        """Answer an unsafe request, or one to the endpoint of a plugin."""
        return self._open().answer(environment, route)

    def _open(self) -> SecondDoor:
        with self._lock:
            if self._opened is None:
                self._opened = self._make()
                self._opened.limit(self._limit)
            return self._opened
