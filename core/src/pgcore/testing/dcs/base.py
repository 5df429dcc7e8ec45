"""The fixtures and helpers of the store kit (``pgcore.testing.dcs``)."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import pytest

from pgcore.clock import Deadline
from pgcore.dcs.store import ANYTHING, Key, Renewal, Store, Stored
from pgcore.model.basics import Timing


class OpenStore(Protocol):
    """What the ``cluster`` fixture returns: opens the store of one member of one fresh, empty scope.

    The same member opened twice stands for a process and its successor. The kit closes what it opened.
    """

    def __call__(self, member: str, timing: Timing, observer: bool = False) -> Store: ...


class Line(Protocol):
    """What lies between a client and the store and can be spoilt; ``pgcore.testing.line.HttpLine`` is one."""

    lost: bool
    """The answer that was to be lost is lost."""
    meanwhile: Callable[[], object]
    """Called when an answer was lost, before the client notices."""

    def lose(self, number: int) -> None:
        """Of the requests from now on, let this one (1: the next) be carried out, but not answered. 0: none any more."""

    def cut(self) -> None:
        """End the connections that are open; new ones work."""


@dataclass(frozen=True)
class Wire:
    """``cluster`` opens stores, on the scope of the test, whose requests travel by ``line``."""

    cluster: OpenStore
    line: Line


@dataclass(frozen=True)
class Minority:
    """``cluster`` opens stores on servers that lose their majority while ``alone`` is entered."""

    cluster: OpenStore
    alone: contextlib.AbstractContextManager[object]


SPURIOUS_WAKE_UPS = 5
Kit = TypeVar("Kit", bound="type[StoreKit]")


def without(*cases: str, unless: str) -> Callable[[Kit], Kit]:
    """Leaves cases of the kit to another class that shares the code they prove, unless the environment says ``<unless>=all``."""

    def cut(kit: Kit) -> Kit:
        for case in cases if os.environ.get(unless) != "all" else ():
            assert callable(getattr(kit, case, None)), f"the kit has no {case} any more"
            setattr(kit, case, None)
        return kit

    return cut


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
    hurry_s = 0.3
    """Time given to a verb that must not succeed."""
    names: tuple[str, ...] = ("n", "Knoten 語.%2F+&?#:ü", "n" * 200)
    """Member names that must come back as they are; override them where the backend gives rules for names."""
    races = 1000
    """How often ten nodes race for the lock; fewer, with the reason, where that takes long. ``PGCORE_TEST_RACES`` goes first."""

    # -- fixtures ------------------------------------------------------------------------------------------------------

    @pytest.fixture
    def cluster(self) -> OpenStore:
        """Override: a callable that opens a member's store on an empty scope of this test's own."""
        raise NotImplementedError("define the fixture `cluster` in your subclass of StoreContract")

    @pytest.fixture
    def outage(self) -> contextlib.AbstractContextManager[object]:
        """Override: a context manager that freezes the store while entered, or makes it unreachable, without losing its data."""
        pytest.skip("not proven: this backend's tests have no `outage` fixture (freeze the store)")

    @pytest.fixture
    def restart(self) -> Callable[[], object]:
        """Override: kills the store as a crash would and starts it again, with its data; returns when it answers."""
        pytest.skip("not proven: this backend's tests have no `restart` fixture (kill the store and start it again)")

    @pytest.fixture
    def wipe(self) -> Callable[[], object]:
        """Override: as ``restart``, without its data."""
        pytest.skip("not proven: this backend's tests have no `wipe` fixture (start the store again without its data)")

    @pytest.fixture
    def wire(self) -> Wire:
        """Override: stores that reach the scope of ``cluster`` by a line that loses answers and can be cut."""
        pytest.skip("not proven: this backend's tests have no `wire` fixture (a line between client and store)")

    @pytest.fixture
    def minority(self) -> Minority:
        """Override: stores on a server that can be cut off from the majority of its peers."""
        pytest.skip("not proven: this backend's tests have no `minority` fixture (a server without its peers)")

    @pytest.fixture
    def stranger(self) -> OpenStore:
        """Override: opens stores with credentials that the store does not accept."""
        pytest.skip("not proven: this backend's tests have no `stranger` fixture (wrong credentials)")

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

    def verbs(self, store: Store, deadline: Callable[[], Deadline]) -> dict[str, Callable[[], object]]:
        """Every verb of a store as a call."""
        return {
            "read": lambda: store.read(fresh=False, deadline=deadline()),
            "fresh read": lambda: store.read(fresh=True, deadline=deadline()),
            "put": lambda: store.put(Key.CONFIG, "x", expect=ANYTHING, deadline=deadline()),
            "delete": lambda: store.delete(Key.SYNC, expect=ANYTHING, deadline=deadline()),
            "announce": lambda: store.announce("news", deadline=deadline()),
            "withdraw": lambda: store.withdraw(deadline=deadline()),
            "clear": lambda: store.clear(deadline=deadline()),
            "acquire": lambda: store.acquire(force=False, deadline=deadline()),
            "renew": lambda: store.renew({}, deadline=deadline()),
            "release": lambda: store.release({}, deadline=deadline()),
        }

    def change(self, store: Store, key: Key) -> None:
        """Change one key in the way a member does."""
        if key is Key.LEADER:
            assert self.acquire(store)
        else:
            self.put(store, key, "changed")

    def latency(self, watcher: Store, change: Callable[[], object], timeout: float = 15.0) -> float:
        """Seconds from the change to the return of ``watch``. A spurious wake-up before the change is forgiven a few times."""

        def sit(seen: str) -> float:
            assert watcher.watch(seen, timeout=timeout) is True
            return time.monotonic()

        with ThreadPoolExecutor(1) as pool:
            for _ in range(SPURIOUS_WAKE_UPS):
                waiting = pool.submit(sit, watcher.read(fresh=True, deadline=self.soon).revision)
                time.sleep(0.3)  # let the watch reach the server
                if not waiting.done():
                    break
            else:
                pytest.fail("the watch returned again and again though nothing had changed")
            before = time.monotonic()
            change()
            return waiting.result() - before
