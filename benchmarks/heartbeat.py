#!/usr/bin/env python
"""What a heartbeat itself costs: the rules, what outcomes change and the reading of the store's records, without a server.

    python benchmarks/heartbeat.py

A primary and a replica of three members with everything in order, each for many beats; every look, read and write has an outcome
made before. Prints microseconds per beat: resting, and with new WAL and a new member card in every beat.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

from pgcore.daemon.heartbeat import Beat, heartbeat
from pgcore.dcs import codec
from pgcore.dcs.store import Record, Snapshot
from pgcore.decide.advance import ClusterReading, fresh_world
from pgcore.model import actions as a
from pgcore.model.basics import Instant, Json, Lsn
from pgcore.model.changes import replace
from pgcore.model.cluster import ClusterStatus
from pgcore.model.node import NodeView, Slot
from pgcore.model.settings import Settings
from pgcore.model.world import LeaderTimeline, Memory, OwnTimeline
from pgcore.testing import builders

CYCLE = 100
"""After so many beats the same looks and records come again."""
ANSWERS: dict[type, object] = {
    a.RenewLease: "held",
    a.CompareRecovery: "none",
    a.CompareTimelines: LeaderTimeline(1, in_recovery=False, own=OwnTimeline(1)),
}
WARM_UP = 200


def card(name: str, position: int) -> str:
    """The member card of a node; ``a`` is the primary."""
    host = f"10.0.0.{ord(name) - 96}"
    fields: dict[str, Json] = {
        "conn_url": f"postgres://{host}:5432/postgres",
        "api_url": f"http://{host}:8008/patroni",
        "state": "running",
        "role": "primary" if name == "a" else "replica",
        "version": "4.1.0",
        "pgcore_version": "1",
        "xlog_location": position,
        "timeline": 1,
    }
    return codec.compact(fields if name == "a" else {**fields, "replication_state": "streaming", "receive_lsn": position})


def records(position: int) -> Snapshot:
    """What the store of a healthy cluster holds."""
    slots = {name: Lsn(position) for name in "abc"}
    status = codec.encode_status(ClusterStatus(Lsn(position), slots, ("b", "c")))
    config = codec.compact({"ttl": 30, "loop_wait": 10, "postgresql": {"parameters": {"max_connections": 100}}})
    values = {"initialize": builders.SYSTEM, "leader": "a", "config": config, "history": "[]", "status": status}
    values |= {f"members/{name}": card(name, position) for name in "abc"}
    return Snapshot({path: Record(value, "1") for path, value in values.items()}, str(position))


def look(role: str, at: float, position: int) -> NodeView:
    """What the node sees of itself."""
    others = "bc" if role == "primary" else "ac"
    slots = tuple(Slot(name, physical=True, active=role == "primary", restart_lsn=Lsn(position)) for name in others)
    node = (builders.primary if role == "primary" else builders.standby)(position, slots=slots, server_version=150004)
    return replace(node, at=Instant(at), postmaster_start="2026-11-23 12:00:00+00")


def settings_of(name: str) -> Settings:
    """The configuration of a node."""
    host = f"10.0.0.{ord(name) - 96}"
    conn_url, api_url = f"postgres://{host}:5432/postgres", f"http://{host}:8008/patroni"
    return Settings(name, "batman", conn_url=conn_url, api_url=api_url, dynamic={"ttl": 30})


class Bench:
    """One node whose beats are timed."""

    def __init__(self, role: str, step: int) -> None:
        self.role, self.step = role, step
        self.settings = settings_of("a" if role == "primary" else "b")
        self.memory = Memory()
        self.node = look(role, 0.0, 0)
        self.at = 1000.0
        self.looks = [look(role, self.at, 1 << 24 | step * number) for number in range(CYCLE)]
        self.stored = [records(1 << 24 | step * number) for number in range(CYCLE)]

    def beats(self, count: int) -> Beat:
        """So many heartbeats, ten seconds apart; the last one."""
        for number in range(count):
            self.at += 10.0
            now = Instant(self.at)
            node, snapshot = self.looks[number % CYCLE], self.stored[number % CYCLE]
            steps = heartbeat(fresh_world(self.memory, self.settings, self.node, now, self.at))
            action, _ = next(steps)
            try:
                while True:
                    value: object
                    if type(action) is a.ObserveNode:
                        value = node
                    elif type(action) is a.ReadCluster:
                        value = ClusterReading(codec.decode(snapshot), self.settings)
                    else:
                        value = ANSWERS.get(type(action))
                    action, _ = steps.send(a.Outcome(now, value=value, began=now))
            except StopIteration as ended:
                beat: Beat = ended.value
            self.memory, self.node = beat.world.memory, replace(beat.world.node, finished=None)
        return beat

    def microseconds(self, count: int) -> float:
        """Per beat, of the processor: the best of many short rounds, as whatever else runs on the machine only adds."""
        beat = self.beats(WARM_UP)
        wanted = "leader.keep" if self.role == "primary" else "replica.keep"
        assert beat.main is not None and beat.main.rule == wanted, f"the {self.role} rests in {beat.main}"
        return min(self._round() for _ in range(count // CYCLE)) / CYCLE * 1e6

    def _round(self) -> float:
        began = time.process_time()
        self.beats(CYCLE)
        return time.process_time() - began


def rows(count: int) -> Iterator[tuple[str, float]]:
    """What was measured, and its microseconds per beat."""
    for role in ("primary", "replica"):
        yield f"{role}, resting", Bench(role, 0).microseconds(count)
        yield f"{role}, new WAL in every beat", Bench(role, 8).microseconds(count)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beats", type=int, default=5000, metavar="N", help="heartbeats of each kind (5000)")
    for what, cost in rows(parser.parse_args().beats):
        print(f"{what:<36}{cost:7.1f} µs per heartbeat")
    return 0


if __name__ == "__main__":
    sys.exit(main())
