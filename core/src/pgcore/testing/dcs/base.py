"""The fixtures and helpers of the store kit (``pgcore.testing.dcs``)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from pgcore.clock import Deadline
from pgcore.dcs.store import ANYTHING, Key, Renewal, Store, Stored
from pgcore.model.basics import Timing


class OpenStore(Protocol):
    """What the ``cluster`` fixture returns: opens the store of one member of one fresh, empty scope.

    The same member opened twice stands for a process and its successor. The kit closes what it opened.
    """

    def __call__(self, member: str, timing: Timing, observer: bool = False) -> Store: ...


class StoreKit:
    """Fixtures and helpers all parts of the kit share; the attributes may be overridden."""

    timing = Timing(ttl=5, loop_wait=1, retry_timeout=2)
    """Timing of all members; choose the smallest ttl the backend honours."""
    expiry_slack_s = 3.0
    """How much later than ``ttl`` the store may drop a lease (its own housekeeping interval)."""
    deadline_s = 5.0
    """Time given to a verb of a healthy store."""
    promptly_s = 2.0
    """Upper bound of the time from a change to the return of ``watch``, generous for a busy machine."""

    # -- fixtures ------------------------------------------------------------------------------------------------------

    @pytest.fixture
    def cluster(self) -> OpenStore:
        """Override: a callable that opens a member's store on an empty scope of this test's own."""
        raise NotImplementedError("define the fixture `cluster` in your subclass of StoreContract")

    @pytest.fixture
    def outage(self) -> contextlib.AbstractContextManager[object]:
        """Override: a context manager that makes the store unreachable while entered, without losing its data."""
        pytest.skip("not proven: this backend's tests have no `outage` fixture")

    @pytest.fixture
    def elapse(self) -> Callable[[float], None]:
        """Override when the store runs on a clock of the test's own: lets that many seconds pass."""
        return time.sleep

    @pytest.fixture
    def join(self, cluster: OpenStore) -> Iterator[Callable[..., Store]]:
        """Opens stores as ``cluster`` does, with the kit's timing, and closes them after the test."""
        opened: list[Store] = []

        def open_store(member: str, timing: Timing | None = None, observer: bool = False) -> Store:
            store = cluster(member, timing or self.timing, observer)
            opened.append(store)
            return store

        yield open_store
        for store in opened:
            store.close()

    @pytest.fixture
    def until(self, elapse: Callable[[float], None]) -> Callable[..., None]:
        """Waits until a condition holds; fails after ``within`` seconds of the store's time."""

        def wait(condition: Callable[[], bool], within: float, beat: Callable[[], object] = lambda: None) -> None:
            end, passed, step = time.monotonic() + within, 0.0, 0.1
            while not condition():
                assert time.monotonic() < end and passed < within, f"did not happen within {within} s"
                beat()
                elapse(step)
                passed += step

        return wait

    @pytest.fixture
    def live(self, elapse: Callable[[float], None]) -> Callable[..., None]:
        """Lets time pass while something is done again and again, about four times per ttl."""

        def pass_time(seconds: float, beat: Callable[[], object]) -> None:
            step = self.timing.ttl / 4
            for _ in range(int(seconds / step) + 1):
                elapse(step)
                beat()

        return pass_time

    @property
    def soon(self) -> Deadline:
        """A fresh deadline for one verb."""
        return Deadline.after(self.deadline_s)

    @property
    def expiry_s(self) -> float:
        """After this many seconds an abandoned lease must be gone."""
        return self.timing.ttl + self.expiry_slack_s

    def value(self, store: Store, key: str) -> str | None:
        """The value of a key by a linearizable read."""
        record = store.read(fresh=True, deadline=self.soon).records.get(key)
        return None if record is None else record.value

    def put(self, store: Store, key: Key, value: str) -> str:
        """Write unconditionally and return the version."""
        result = store.put(key, value, expect=ANYTHING, deadline=self.soon)
        assert isinstance(result, Stored)
        return result.version

    def renew(self, store: Store) -> Renewal:
        """Renew without riders."""
        return store.renew({}, deadline=self.soon)

    def acquire(self, store: Store, force: bool = False) -> bool:
        """Acquire within the usual deadline."""
        return store.acquire(force=force, deadline=self.soon)
