"""A store whose plugin may have bugs: what its library raises unexpectedly counts as "did not answer". (EC 37)

An outage brings errors to light that nobody has seen before. They must lead to what an outage leads to, failsafe mode or a
demotion in time, not to a heartbeat that ends early until the lease is over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from pgcore.clock import Deadline, now
from pgcore.dcs.store import Expect, Key, Refused, Renewal, Snapshot, Store, Stored
from pgcore.errors import PgcoreError, StoreUnavailableError
from pgcore.model.basics import Timing

T = TypeVar("T")
logger = logging.getLogger(__name__)
WATCH_PAUSE_S = 1.0
Note = Callable[[str, float, bool], None]
"""Told of each request: its verb, the seconds it took, whether it was answered."""


class ShieldedStore:
    """Every verb of ``Store``; raises what ``Store`` promises and nothing else."""

    def __init__(self, store: Store, note: Note = lambda verb, seconds, answered: None) -> None:
        self._store, self._note = store, note
        self._told: set[tuple[str, str]] = set()
        self.carries = store.carries

    def _shielded(self, verb: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except PgcoreError:
            raise
        except Exception as error:
            kind = type(error).__name__
            if (verb, kind) not in self._told:
                self._told.add((verb, kind))
                logger.exception("the store plugin raised an unexpected %s in %s; it counts as an outage", kind, verb)
            raise StoreUnavailableError(f"the store plugin failed in {verb}: {kind}: {error}") from error

    def _request(self, verb: str, call: Callable[[], T]) -> T:
        began, answered = now(), False
        try:
            value = self._shielded(verb, call)
            answered = True
            return value
        finally:
            self._note(verb, now() - began, answered)

    def read(self, *, fresh: bool, deadline: Deadline) -> Snapshot:
        """As in ``Store``."""
        return self._request("read", lambda: self._store.read(fresh=fresh, deadline=deadline))

    def put(self, key: Key, value: str, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """As in ``Store``."""
        return self._request("put", lambda: self._store.put(key, value, expect=expect, deadline=deadline))

    def delete(self, key: Key, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        """As in ``Store``."""
        return self._request("delete", lambda: self._store.delete(key, expect=expect, deadline=deadline))

    def announce(self, card: str, *, deadline: Deadline) -> None:
        """As in ``Store``."""
        self._request("announce", lambda: self._store.announce(card, deadline=deadline))

    def withdraw(self, *, deadline: Deadline) -> None:
        """As in ``Store``."""
        self._request("withdraw", lambda: self._store.withdraw(deadline=deadline))

    def acquire(self, *, force: bool, deadline: Deadline) -> bool:
        """As in ``Store``."""
        return self._request("acquire", lambda: self._store.acquire(force=force, deadline=deadline))

    def renew(self, riders: Mapping[Key, str], *, deadline: Deadline) -> Renewal:
        """As in ``Store``."""
        return self._request("renew", lambda: self._store.renew(riders, deadline=deadline))

    def release(self, riders: Mapping[Key, str], *, deadline: Deadline) -> bool:
        """As in ``Store``."""
        return self._request("release", lambda: self._store.release(riders, deadline=deadline))

    def clear(self, *, deadline: Deadline) -> None:
        """As in ``Store``."""
        self._request("clear", lambda: self._store.clear(deadline=deadline))

    def watch(self, seen: str, *, timeout: float) -> bool:
        """As in ``Store``: never raises; after an unexpected error it looks again a moment later."""
        try:
            return self._shielded("watch", lambda: self._store.watch(seen, timeout=timeout))
        except PgcoreError:
            time.sleep(min(timeout, WATCH_PAUSE_S))
            return False

    def retime(self, timing: Timing) -> None:
        """As in ``Store``."""
        self._shielded("retime", lambda: self._store.retime(timing))

    def close(self) -> None:
        """As in ``Store``."""
        self._shielded("close", self._store.close)
