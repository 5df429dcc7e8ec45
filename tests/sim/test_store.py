"""The simulated store does to its clients what real ones do, and nothing a ``Store`` must not do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import pytest

from pgcore.clock import Deadline
from pgcore.dcs.store import ABSENT, ANYTHING, Key, Refused, Renewal, Stored, version
from pgcore.errors import StoreUnavailableError
from pgcore.model.basics import Timing
from pgcore.testing.simulation.network import STORE, Network, Traffic
from pgcore.testing.simulation.scheduler import Process, Scheduler, inside
from pgcore.testing.simulation.store import SimulatedStore, StoreServer


class Bench:
    """Two clients of one store."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.network, self.server = Network(Random(1)), StoreServer(scheduler)
        self.results: list[object] = []
        self.a, self.b = self._client("a"), self._client("b")

    def _client(self, name: str) -> SimulatedStore:
        before, self.scheduler.current = self.scheduler.current, Process(self.scheduler, name)
        store = SimulatedStore(self.server, self.network, name, name, Timing(ttl=10))
        self.scheduler.current = before
        return store

    def ask(self, call: Callable[[], object], seconds: float = 20.0) -> object:
        """What a client gets that calls this, ``unavailable`` for a StoreUnavailableError."""
        found: list[object] = []

        def run() -> None:
            try:
                found.append(call())
            except StoreUnavailableError:
                found.append("unavailable")

        Process(self.scheduler, "client").start(run)
        self.scheduler.run(self.scheduler.now + seconds)
        return found[0] if found else "nothing yet"

    def line(self, name: str) -> tuple[object, object]:
        return self.network.line(Traffic.STORE, name, STORE), self.network.line(Traffic.STORE, STORE, name)

    def value(self, key: str) -> str | None:
        entry = self.server.entries.get(key)
        return entry.value if entry else None


@pytest.fixture
def bench() -> Iterator[Bench]:
    with inside(Scheduler()) as scheduler:
        yield Bench(scheduler)


def soon() -> Deadline:
    return Deadline.after(2.0)


def test_compare_and_set(bench: Bench) -> None:
    first = bench.ask(lambda: bench.a.put(Key.SYNC, "1", expect=ABSENT, deadline=soon()))
    assert isinstance(first, Stored)
    assert bench.ask(lambda: bench.b.put(Key.SYNC, "2", expect=ABSENT, deadline=soon())) == Refused()
    assert isinstance(bench.ask(lambda: bench.b.put(Key.SYNC, "2", expect=version(first.version), deadline=soon())), Stored)
    assert bench.ask(lambda: bench.a.put(Key.SYNC, "3", expect=version(first.version), deadline=soon())) == Refused()


def test_the_lock_ends_ttl_after_the_last_renewal_and_who_watches_is_told(bench: Bench) -> None:
    assert bench.ask(lambda: bench.a.acquire(force=False, deadline=soon()), 0.1) is True
    seen = str(bench.server.revision)
    began = bench.scheduler.now
    woken: list[float] = []

    def watch() -> None:
        while bench.b.watch(seen, timeout=30) is False:
            pass
        woken.append(bench.scheduler.now)

    Process(bench.scheduler, "b").start(watch)
    bench.scheduler.run(began + 5)
    assert bench.ask(lambda: bench.a.renew({}, deadline=soon()), 0.1) is Renewal.HELD
    bench.scheduler.run(began + 30)
    assert woken and 14.9 < woken[0] - began < 15.3
    assert bench.ask(lambda: bench.a.renew({}, deadline=soon())) is Renewal.GONE


def test_an_answer_that_is_lost_leaves_the_effect(bench: Bench) -> None:
    bench.line("a")[1].loss = 1.0  # type: ignore[attr-defined]
    assert bench.ask(lambda: bench.a.put(Key.SYNC, "x", expect=ABSENT, deadline=soon())) == "unavailable"
    assert bench.value(Key.SYNC) == "x"


def test_a_late_request_happens_after_its_sender_gave_up(bench: Bench) -> None:
    there = bench.line("a")[0]
    there.late = 1.0  # type: ignore[attr-defined]
    bench.network.dice = Random(3)
    assert bench.ask(lambda: bench.a.put(Key.SYNC, "x", expect=ABSENT, deadline=Deadline.after(0.3)), 0.4) == "unavailable"
    assert bench.value(Key.SYNC) is None
    bench.scheduler.run(bench.scheduler.now + 41)
    assert bench.value(Key.SYNC) == "x"


def test_a_store_without_a_majority_answers_nobody_and_keeps_the_leases(bench: Bench) -> None:
    bench.ask(lambda: bench.a.acquire(force=False, deadline=soon()), 0.1)
    bench.server.serving = False
    assert bench.ask(lambda: bench.b.read(fresh=True, deadline=soon()), 15) == "unavailable"
    bench.server.forgive(10)
    bench.server.serving = True
    assert bench.ask(lambda: bench.a.renew({}, deadline=soon())) is Renewal.HELD


def test_a_read_only_store(bench: Bench) -> None:
    bench.server.writable = False
    assert bench.ask(lambda: bench.a.put(Key.SYNC, "x", expect=ANYTHING, deadline=soon())) == "unavailable"
    assert bench.value(Key.SYNC) is None
    assert bench.ask(lambda: bench.a.read(fresh=False, deadline=soon())) != "unavailable"


def test_who_is_cut_off_gets_no_answer_while_others_do(bench: Bench) -> None:
    lines = bench.network.cut("a", [STORE])
    assert bench.ask(lambda: bench.a.read(fresh=True, deadline=soon())) == "unavailable"
    assert bench.ask(lambda: bench.b.read(fresh=True, deadline=soon())) != "unavailable"
    bench.network.mend(lines)
    assert bench.ask(lambda: bench.a.read(fresh=True, deadline=soon())) != "unavailable"


def test_a_stale_read_is_never_older_than_what_the_client_has_seen(bench: Bench) -> None:
    bench.server.stale = 1.0
    bench.ask(lambda: bench.b.put(Key.SYNC, "1", expect=ANYTHING, deadline=soon()), 0.1)
    bench.ask(lambda: bench.b.put(Key.SYNC, "2", expect=ANYTHING, deadline=soon()), 0.1)
    older = bench.ask(lambda: bench.a.read(fresh=False, deadline=soon()), 0.1)
    assert Key.SYNC not in older.records or older.records[Key.SYNC].value == "1"  # type: ignore[attr-defined]
    own = bench.ask(lambda: bench.b.read(fresh=False, deadline=soon()), 0.1)
    assert own.records[Key.SYNC].value == "2"  # type: ignore[attr-defined]
    fresh = bench.ask(lambda: bench.a.read(fresh=True, deadline=soon()), 0.1)
    assert fresh.records[Key.SYNC].value == "2"  # type: ignore[attr-defined]
    again = bench.ask(lambda: bench.a.read(fresh=False, deadline=soon()), 0.1)
    assert again.records[Key.SYNC].value == "2"  # type: ignore[attr-defined]


def test_a_wiped_store_is_empty(bench: Bench) -> None:
    bench.ask(lambda: bench.a.acquire(force=False, deadline=soon()), 0.1)
    bench.server.wipe()
    assert bench.server.entries == {}
    assert bench.ask(lambda: bench.a.renew({}, deadline=soon())) is Renewal.GONE
