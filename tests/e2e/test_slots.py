"""Replication slots through a switchover, the death of the primary and the absence of a member. (HA rules 21)"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import psycopg2
import psycopg2.extras
import pytest

from harness import Cluster, wait_for
from harness.configuration import dsn
from harness.node import Node

LOGICAL, PHYSICAL, OTHERS = "cdc", "archive", "somebodys"
DYNAMIC = {
    "member_slots_ttl": 600,
    "slots": {LOGICAL: {"type": "logical", "database": "postgres", "plugin": "test_decoding"}, PHYSICAL: {"type": "physical"}},
    "ignore_slots": [{"name": OTHERS}],
    "postgresql": {"parameters": {"wal_level": "logical"}},
}
NUMBER = re.compile(r"INSERT: number\[bigint\]:(\d+)")


@pytest.fixture(scope="module")
def slot_cluster() -> Iterator[Cluster]:
    """Three nodes with a logical and a physical permanent slot, everything copied and proven."""
    from e2e.conftest import closed, opened
    from harness.agents import chosen_agent

    # The slots come last: a node whose copy was made later than a slot lacks the WAL that its consumer has yet to read.
    cluster = opened(Cluster(agent=chosen_agent(), dynamic={name: value for name, value in DYNAMIC.items() if name != "slots"}))
    cluster.bootstrap().configure({"slots": DYNAMIC["slots"]})
    yield cluster
    closed(cluster)


def slot(node: Node, name: str) -> tuple[Any, ...] | None:
    """Position and kind of a slot on this node."""
    try:
        rows = node.query("SELECT coalesce(confirmed_flush_lsn, restart_lsn) - '0/0', slot_type, active "
                          "FROM pg_replication_slots WHERE slot_name = %s", name)
    except psycopg2.Error:
        return None
    return rows[0] if rows else None


def everywhere(cluster: Cluster, name: str, without: tuple[Node, ...] = ()) -> bool:
    """Every node has this slot."""
    return all(slot(node, name) is not None for node in cluster.others(*without))


class Consumer:
    """A client of the logical slot over the streaming protocol, which remembers what it confirmed itself."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.confirmed = 0

    def read(self, node: Node, until: int, timeout_s: float = 20.0) -> None:
        """Read from this node until the number has come, confirming every transaction; start where it stopped before."""
        link = psycopg2.connect(dsn([(node.host, node.pg_port)]), connection_factory=psycopg2.extras.LogicalReplicationConnection)
        try:
            cursor = link.cursor()
            cursor.start_replication(slot_name=LOGICAL, decode=True, start_lsn=self.confirmed)
            deadline = time.monotonic() + timeout_s
            done = False
            while not done:
                assert time.monotonic() < deadline, f"{until} did not come, the last were {self.numbers[-3:]}"
                message = cursor.read_message()
                if message is None:
                    time.sleep(0.01)
                    continue
                if found := NUMBER.search(message.payload):
                    self.numbers.append(int(found.group(1)))
                if message.payload.startswith("COMMIT"):
                    self.confirmed = message.data_start
                    cursor.send_feedback(flush_lsn=self.confirmed, force=True)
                    done = self.numbers[-1:] == [until]
        finally:
            link.close()


def insert(node: Node, first: int, last: int) -> None:
    """These numbers, each in a transaction of its own."""
    with node.connection() as link, link.cursor() as cursor:
        for number in range(first, last + 1):
            cursor.execute("INSERT INTO written VALUES (%s)", (number,))


def all_replayed(cluster: Cluster, primary: Node) -> bool:
    """Every standby has replayed what the primary has written so far."""
    end = primary.query("SELECT pg_current_wal_lsn()::text")[0][0]
    return all(node.ask("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", end) for node in cluster.others(primary))


def wait_proven(cluster: Cluster) -> None:
    """Until the primary keeps catalog rows for each standby, and these have had the time to see it."""
    primary = cluster.primary()
    held = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = ANY(%s) AND catalog_xmin IS NOT NULL"
    names = [node.name for node in cluster.others(primary)]
    wait_for(lambda: primary.ask(held, names) == len(names), 30, "the primary keeps what the standbys' slots need")
    time.sleep(4 * cluster.loop_wait)


def wait_slots(cluster: Cluster) -> None:
    """Until every node has both permanent slots and all stream."""
    wait_for(lambda: everywhere(cluster, LOGICAL) and everywhere(cluster, PHYSICAL), 40, "both slots exist on every node")
    cluster.wait_healthy()


def test_a_streaming_consumer_sees_every_row_once_through_a_switchover(slot_cluster: Cluster) -> None:
    """The logical slot was copied to the new primary and moved along: no gap, and no repeat for who remembers his position."""
    wait_slots(slot_cluster)
    old, consumer = slot_cluster.primary(), Consumer()
    insert(old, 1, 50)
    consumer.read(old, 50)
    insert(old, 51, 100)  # committed, not read by anybody yet
    wait_proven(slot_cluster)
    answer = slot_cluster.switchover(old, slot_cluster.others(old)[0])
    assert answer is not None and answer.status == 200, answer
    new = slot_cluster.primary()
    assert new is not old
    insert(new, 101, 150)
    consumer.read(new, 150)
    assert consumer.numbers == list(range(1, 151))
    assert "not proven" not in new.log() and "not copied" not in new.log()
    slot_cluster.wait_healthy()


def test_nothing_is_missing_after_the_primary_died_and_only_the_latest_reads_repeat(slot_cluster: Cluster) -> None:
    """A consumer without a memory of its own: what it reads twice is what it read after the leader last spoke of the slot."""
    wait_slots(slot_cluster)
    old = slot_cluster.primary()
    read: list[tuple[int, float]] = []

    def take(node: Node) -> None:
        rows = node.query(f"SELECT data FROM pg_logical_slot_get_changes('{LOGICAL}', NULL, NULL)")
        read.extend((int(found.group(1)), time.monotonic()) for (data,) in rows if (found := NUMBER.search(data)))

    take(old)
    read.clear()
    begin = 1000
    last = begin
    end = time.monotonic() + 2.5 * slot_cluster.loop_wait + 1
    while time.monotonic() < end:
        insert(old, last, last + 9)
        last += 10
        take(old)
        time.sleep(0.1)
    insert(old, last, last + 9)  # never read from the old primary
    last += 9
    wait_for(lambda: all_replayed(slot_cluster, old), 30, "everything is replayed")
    before = len(read)
    killed = time.monotonic()
    old.kill_everything()
    new = slot_cluster.wait_primary_other_than(old, slot_cluster.ttl + 10)
    insert(new, last + 1, last + 10)
    take(new)
    numbers = [number for number, _ in read]
    assert set(range(begin, last + 11)) <= set(numbers), "every number came"
    assert numbers[:before] == list(range(begin, begin + before)), "in order, and once from the old primary"
    assert numbers[before:] == list(range(numbers[before], last + 11)), "from somewhere on once more, without a hole"
    repeated = [at for number, at in read[:before] if number >= numbers[before]]
    # What was confirmed is published in the next heartbeat and followed by the standby in its own next one.
    assert all(at > killed - 2 * slot_cluster.loop_wait - 2 for at in repeated), f"{len(repeated)} repeats, the oldest too old"
    assert len(repeated) < before, "what was confirmed long before the death does not come again"

    old.start()
    wait_slots(slot_cluster)


def test_permanent_slots_move_and_foreign_ones_stay(slot_cluster: Cluster) -> None:
    """The physical slot's client reads from the primary; standbys follow. A slot of ignore_slots stays, an unknown one goes."""
    wait_slots(slot_cluster)
    primary = slot_cluster.primary()
    standbys = slot_cluster.others(primary)
    for node in slot_cluster.nodes:
        node.query("SELECT pg_create_physical_replication_slot(%s, true)", OTHERS)
        node.query("SELECT pg_create_physical_replication_slot('unknown', true)")
    insert(primary, 5000, 5010)
    target = primary.query("SELECT pg_current_wal_flush_lsn()::text, pg_current_wal_flush_lsn() - '0/0'")[0]
    wait_for(lambda: all_replayed(slot_cluster, primary), 30, "everything is replayed")
    primary.query(f"SELECT pg_replication_slot_advance('{PHYSICAL}', '{target[0]}')")
    wait_for(lambda: all((slot(node, PHYSICAL) or (0,))[0] >= target[1] for node in standbys), 30, "the standbys followed")
    wait_for(lambda: not any(slot(node, "unknown") for node in slot_cluster.nodes), 20, "the unknown slot is dropped")
    assert everywhere(slot_cluster, OTHERS)


def test_the_slot_of_a_member_whose_agent_stopped_is_kept(slot_cluster: Cluster) -> None:
    """Its card is gone; primary and standby keep its place for member_slots_ttl (EC 152)."""
    wait_slots(slot_cluster)
    primary = slot_cluster.primary()
    leaving, other = slot_cluster.others(primary)
    assert leaving.stop() == 0
    wait_for(lambda: slot_cluster.etcd is not None and slot_cluster.etcd.key_gone(
        f"/service/{slot_cluster.scope}/members/{leaving.name}", slot_cluster.ttl + 5, leaving.name), 30, "the card is gone")
    insert(primary, 6000, 6005)
    time.sleep(2 * slot_cluster.loop_wait + 1)
    assert slot(primary, leaving.name) is not None and slot(other, leaving.name) is not None
    leaving.start()
    slot_cluster.wait_healthy()
