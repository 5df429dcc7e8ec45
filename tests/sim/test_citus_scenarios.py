"""The coordinator of a Citus cluster beside a worker group of real agents: reports get lost, a primary vanishes half way.

``pg_dist_node`` is a model with transactions; the SQL itself is proven in tests/contract/test_citus_metadata.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pgcore import threads
from pgcore.builtin.citus.coordinator import Coordinator
from pgcore.builtin.citus.nodes import DEMOTED
from pgcore.clock import Deadline
from pgcore.daemon.mpp import groups_of
from pgcore.dcs.store import Record, Snapshot
from pgcore.mpp import Group
from pgcore.testing.simulation.scheduler import Process
from pgcore.testing.simulation.world import World
from sim.conftest import Simulate
from sim.scene import always, cast, expect_trouble

EVERY_S, TIMEOUT_S = 3.0, 8.0
Rows = dict[int, tuple[int, str, int, bool]]
"""By node id: group, host, port, whether it is the primary."""


class Metadata:
    """``pg_dist_node`` of the coordinator, and a connection to it; what is not committed is gone when it is closed."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self._open = rows, dict(rows)
        self._in_transaction = False

    def query(self, sql: str, arguments: Sequence[Any] | Mapping[str, Any] | None = None, *, deadline: Deadline) -> list[Any]:
        given = arguments if arguments is not None else ()
        if sql.startswith("SELECT nodeid"):
            return [(number, *row) for number, row in sorted(self._seen().items())]
        if sql == "BEGIN":
            self._in_transaction, self._open = True, dict(self.rows)
        elif sql == "COMMIT":
            self.rows.clear()
            self.rows.update(self._open)
            self._in_transaction = False
        elif "citus_update_node" in sql and not isinstance(given, Mapping):
            number, host, port = given[:3]
            group, _, _, primary = self._seen()[number]
            self._seen()[number] = (group, host, port, primary)
        elif "citus_add_node" in sql and isinstance(given, Mapping):
            self._seen()[len(self._seen()) + 1] = (given["group"], given["host"], given["port"], True)
        return []

    def _seen(self) -> Rows:
        return self._open if self._in_transaction else self.rows

    def close(self) -> None:
        self._in_transaction = False


class Side:
    """The coordinator: its real code on a process of its own, which compares each ``EVERY_S`` seconds."""

    member, host, port, ttl, retry_timeout = "c1", "10.1.0.1", 5432, 10, 3

    def __init__(self, world: World) -> None:
        self._world = world
        self.rows: Rows = {}
        self.coordinator = Coordinator("postgres")
        self.process = Process(world.scheduler, "coordinator")
        self.process.start(self._loop)

    def _loop(self) -> None:
        while True:
            self.coordinator.repair(self)
            threads.sleep(EVERY_S)

    def report(self, kind: str, leader: str) -> None:
        """A worker's report arrives."""
        told = {"type": kind, "group": 1, "leader": leader, "timeout": TIMEOUT_S, "cooldown": 1.0}
        self.process.start(lambda: self.coordinator.reported(self, told))

    @property
    def place(self) -> str | None:
        """Where the coordinator sends what group 1 has to do."""
        return next((host for group, host, _, primary in self.rows.values() if group == 1 and primary), None)

    # -- pgcore.mpp.NodeTools --

    def groups(self, *, fresh: bool = False) -> Mapping[int, Group]:
        entries = self._world.store.entries.items()
        return groups_of(Snapshot({f"1/{path}": Record(entry.value, str(entry.revision)) for path, entry in entries}, ""))

    def leads(self) -> bool:
        return True

    def session(self, database: str, deadline: Deadline) -> Metadata:
        return Metadata(self.rows)

    def post(self, *arguments: Any) -> int | None:
        raise AssertionError("a coordinator reports to nobody")


def test_a_lost_last_report_is_made_good_by_what_the_store_says(simulate: Simulate) -> None:
    """The worker said that it steps down and never that another one took over; the group is not blocked for long. (EC 226)"""
    world = simulate()
    side = Side(world)
    old, new, _ = cast(world)
    assert world.run_until(lambda: side.place == old.host, 10)
    side.report("before_demote", old.name)
    world.ask_switchover(old.name, new.name)
    assert world.run_until(lambda: world.writable() == [new.name], 10)
    assert side.place == old.host, "the change is still open, and the last report is lost"
    assert world.run_until(lambda: side.place == new.host, TIMEOUT_S + 2 * EVERY_S)
    world.settle()
    assert [row for row in side.rows.values() if row[0] == 1 and row[1].endswith(DEMOTED)] == []


def test_a_change_whose_worker_vanished_is_rolled_back_after_its_time(simulate: Simulate) -> None:
    """Its primary loses power in the middle: the row comes back, and goes to whoever is elected. (EC 227)"""
    world = simulate()
    side = Side(world)
    old, *others = cast(world)
    assert world.run_until(lambda: side.place == old.host, 10)
    expect_trouble(world, old)
    side.report("before_demote", old.name)
    world.run(0.2)
    old.power_off()
    assert always(world, lambda: side.place == old.host, TIMEOUT_S - 1), "what others see does not change in the middle"
    assert world.run_until(lambda: side.place in [machine.host for machine in others], 30)
    assert side.place == world[world.leader or ""].host
