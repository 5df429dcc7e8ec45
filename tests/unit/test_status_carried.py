"""A status that is due travels with the renewal of the lock, where the store has both in one object: one request less."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pgcore.clock import Deadline
from pgcore.dcs.codec import encode_status
from pgcore.dcs.store import Expect, Key, Refused, Renewal, Stored
from pgcore.decide import upkeep
from pgcore.errors import StoreRejectedError
from pgcore.model import actions as a
from pgcore.model.basics import Lsn, Role
from pgcore.model.changes import replace
from pgcore.model.cluster import ClusterStatus
from pgcore.model.world import LeaseState, World
from pgcore.testing.memory_store import MemoryServer, MemoryStore
from unit.test_daemon_kit import SHORT, Bench

SYSTEM = "7300000000000000001"


class Carrying(MemoryStore):
    """Lock and status are one object, as with Kubernetes; it may be too small for both."""

    carries = frozenset({Key.STATUS})
    too_small = False

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server, "a", SHORT)
        self.requests: list[str] = []

    def renew(self, riders: Mapping[Key, str], *, deadline: Deadline) -> Renewal:
        self.requests.append("renew with status" if riders else "renew")
        if riders and self.too_small:
            raise StoreRejectedError("metadata.annotations: Too long")
        renewal = super().renew({}, deadline=deadline)
        if renewal is Renewal.HELD:
            for key, value in riders.items():
                super().put(key, value, expect=Expect(), deadline=deadline)
        return renewal

    def put(self, key: Key, value: str, *, expect: Expect, deadline: Deadline) -> Stored | Refused:
        self.requests.append(f"put {key}")
        return super().put(key, value, expect=expect, deadline=deadline)


@pytest.fixture
def store() -> Carrying:
    return Carrying(MemoryServer())


def leader(bench: Bench, position: int = 77) -> World:
    """A running primary that the lock names and that has not proven it in this beat."""
    world = bench.world(role=Role.PRIMARY, running=True, answering=True, is_primary=True, position=Lsn(position), timeline=1,
                        system_id=SYSTEM)
    cluster = replace(world.cluster, leader="a", initialize=SYSTEM)
    return replace(world, cluster=cluster, lease=LeaseState.UNRENEWED)


def due(world: World) -> ClusterStatus:
    """What the rule of the status writes once the lock is proven."""
    decision = upkeep.status(replace(world, lease=LeaseState.HELD))
    assert decision is not None
    [action] = decision.actions
    assert isinstance(action, a.WriteStatus)
    return action.status


def beat(bench: Bench, world: World) -> list[object]:
    """What the store was asked for a renewal and the status after it, and what became of these."""
    outcomes = [bench.performer.perform(action, world) for action in (a.RenewLease(), a.WriteStatus(due(world)))]
    return [outcome.value for outcome in outcomes]


@pytest.fixture
def bench(tmp_path: Path, store: Carrying) -> Any:
    made = Bench(tmp_path, store=store)
    yield made
    made.close()


def test_lock_and_status_are_one_request(bench: Bench, store: Carrying) -> None:
    store.acquire(force=False, deadline=Deadline.after(1))
    world = leader(bench)
    assert beat(bench, world) == ["held", True] and store.requests == ["renew with status"]
    found = store.read(fresh=True, deadline=Deadline.after(1)).records
    assert found[Key.STATUS].value == encode_status(due(world))
    bench.performer.perform(a.WriteStatus(ClusterStatus(Lsn(78))), world)
    assert store.requests[1:] == ["put status"], "what changed since is written"


def test_what_a_beat_before_has_carried_is_written_again(bench: Bench, store: Carrying) -> None:
    store.acquire(force=False, deadline=Deadline.after(1))
    world = leader(bench)
    beat(bench, world)
    bench.performer.perform(a.ReadCluster(), world)
    bench.performer.perform(a.WriteStatus(due(world)), world)
    assert store.requests == ["renew with status", "put status"]


def test_a_status_that_does_not_fit_does_not_cost_the_lock(bench: Bench, store: Carrying) -> None:
    store.acquire(force=False, deadline=Deadline.after(1))
    store.too_small = True
    assert beat(bench, leader(bench)) == ["held", True]
    assert store.requests == ["renew with status", "renew", "put status"]


def test_nothing_was_carried_where_the_lock_is_anothers(bench: Bench, store: Carrying) -> None:
    assert bench.performer.perform(a.RenewLease(), leader(bench)).value == "gone"
    bench.performer.perform(a.WriteStatus(ClusterStatus(Lsn(77))), leader(bench))
    assert store.requests == ["renew with status", "put status"]


def test_a_store_that_keeps_them_apart_is_asked_for_each(tmp_path: Path) -> None:
    store = Carrying(MemoryServer())
    store.carries = frozenset()  # type: ignore[misc]
    bench = Bench(tmp_path, store=store)
    store.acquire(force=False, deadline=Deadline.after(1))
    assert beat(bench, leader(bench)) == ["held", True] and store.requests == ["renew", "put status"]
    bench.close()


def test_what_is_carried_is_what_the_rule_would_write_and_nothing_of_foreign_data(bench: Bench) -> None:
    world = leader(bench)
    assert upkeep.status_to_carry(world) == due(world)
    known = replace(world, cluster=replace(world.cluster, status=due(world)),
                    memory=replace(world.memory, written_status=due(world)))
    assert upkeep.status_to_carry(known) is None, "it stands there already"
    foreign = replace(world, cluster=replace(world.cluster, initialize="7300000000000000009"))
    assert upkeep.status_to_carry(foreign) is None
    assert upkeep.status_to_carry(replace(world, node=replace(world.node, is_primary=False))) is None
