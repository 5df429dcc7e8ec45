"""Fixtures of the Raft tests: free loopback addresses, sections with quick timing, nodes that are always closed."""

from __future__ import annotations

import dataclasses
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgcore.plugin import Deadline, Store, StoreRequest, Timing
from pgcore.testing.processes import freeze
from pgcore_dcs_raft.plugin import RaftSection, open_store

QUICK = {"min_timeout": 0.3, "max_timeout": 0.7, "append_entries_period": 0.08}
"""Elections in half the time; how fast and how costly a cluster with the defaults is, is measured apart."""


@pytest.fixture(scope="session")
def free_addresses() -> Callable[[int], list[str]]:
    """Picks that many unused loopback addresses."""

    def pick(count: int) -> list[str]:
        probes = [socket.socket() for _ in range(count)]
        try:
            for probe in probes:
                probe.bind(("127.0.0.1", 0))
            return [f"127.0.0.1:{probe.getsockname()[1]}" for probe in probes]
        finally:
            for probe in probes:
                probe.close()

    return pick


@pytest.fixture
def quick() -> Timing:
    """Short leases: these tests open the backend below the agents' floor for ttl."""
    return Timing(ttl=3, loop_wait=1, retry_timeout=1)


@pytest.fixture
def sections(free_addresses: Callable[[int], list[str]], tmp_path: Any) -> Callable[..., list[RaftSection]]:
    """The sections of a cluster of that many members."""

    def make(count: int, **keys: Any) -> list[RaftSection]:
        addresses = free_addresses(count)
        return [RaftSection(**{"self_addr": address, "partner_addrs": tuple(a for a in addresses if a != address),
                               "data_dir": str(tmp_path / f"raft{number}"), "connection_retry_time": 0.3} | QUICK | keys)
                for number, address in enumerate(addresses)]

    return make


@pytest.fixture
def start(quick: Timing) -> Iterator[Callable[..., Store]]:
    """Opens stores as the agent does, and closes them after the test."""
    opened: list[Store] = []

    def open_member(section: RaftSection, member: str, observer: bool = False) -> Store:
        store = open_store(StoreRequest(section, "/service/demo", member, quick, observer))
        opened.append(store)
        return store

    yield open_member
    for store in opened:
        store.close()


@pytest.fixture
def soon() -> Callable[[], Deadline]:
    """A deadline for a verb of a cluster that works or is about to."""
    return lambda: Deadline.after(10)


class Member:
    """One child process."""

    def __init__(self, name: str, section: RaftSection, timing: Timing) -> None:
        described = {"member": name, "section": dataclasses.asdict(section), "timing": dataclasses.asdict(timing)}
        self.name = name
        program = str(Path(__file__).with_name("member_process.py"))
        self.process = subprocess.Popen([sys.executable, program, json.dumps(described)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(self, verb: str, seconds: float = 10.0) -> Any:
        self.process.stdin.write(json.dumps([verb, seconds]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def freeze(self) -> None:
        freeze(self.process.pid)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="session")
def run_member() -> type[Member]:
    """Starts a member in a process of its own; the caller ends it."""
    return Member
