"""Fixtures of the Raft tests: free loopback addresses, sections with quick timing, nodes that are always closed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgcore.plugin import Deadline, Store, StoreRequest, Timing
from pgcore.testing.processes import freeze
from pgcore_dcs_raft.plugin import RaftSection, open_store

PASSWORD = "secret"
VOTERS_TTL_S = 3
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

    def __init__(self, name: str, section: RaftSection, timing: Timing, prefix: tuple[str, ...] = ()) -> None:
        described = {"member": name, "section": dataclasses.asdict(section), "timing": dataclasses.asdict(timing)}
        self.name = name
        program = str(Path(__file__).with_name("member_process.py"))
        self.process = subprocess.Popen([*prefix, sys.executable, program, json.dumps(described)],
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


class Voters:
    """Members of one cluster in processes of their own, by name, and the command line."""

    def __init__(self, sections: list[RaftSection], tmp_path: Path, run_member: Callable[..., Any]) -> None:
        self.sections = dict(zip("abcde", sections, strict=False))
        self.running: dict[str, Any] = {}
        self._files, self._run = tmp_path, run_member

    def address(self, name: str) -> str:
        return str(self.sections[name].self_addr)

    def file(self, name: str) -> str:
        """A configuration of this member with nothing but the section."""
        path = self._files / f"{name}.yml"
        section = dataclasses.asdict(self.sections[name])
        path.write_text(yaml.safe_dump({"raft": section | {"partner_addrs": list(section["partner_addrs"])}}))
        return str(path)

    def start(self, *names: str) -> None:
        for name in names:
            self.running[name] = self._run(name, self.sections[name], Timing(VOTERS_TTL_S, 1, 1))

    def kill(self, *names: str) -> None:
        for name in names:
            self.running.pop(name).end()

    def wipe(self, name: str) -> None:
        shutil.rmtree(self.sections[name].data_dir)

    def call(self, name: str, verb: str, seconds: float = 10.0) -> Any:
        return self.running[name].call(verb, seconds)

    def rejected(self, name: str, words: str) -> bool:
        """Whether that member refuses every verb with these words."""
        answers = [self.call(name, verb, 0.5) for verb in ("announce", "renew", "put", "read", "fresh")]
        return all(str(answer).startswith("rejected: ") and words in answer for answer in answers)

    def pgcore(self, name: str, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        """The command line with the configuration of a member."""
        command = [sys.executable, "-m", "pgcore", "-c", self.file(name), *words]
        return subprocess.run(command, input=typed, capture_output=True, text=True, timeout=60)

    def voters(self, name: str) -> dict[str, str]:
        """Address to state, as ``pgcore raft members`` tells them."""
        ended = self.pgcore(name, "raft", "members", "--format", "json")
        return {voter["address"]: voter["state"] for voter in json.loads(ended.stdout)["voters"]}


@pytest.fixture
def cluster(sections: Callable[..., list[RaftSection]], tmp_path: Path,
            run_member: Callable[..., Any]) -> Iterator[Callable[[int], Voters]]:
    """Makes clusters of that many members, none of them started."""
    made: list[Voters] = []

    def make(count: int) -> Voters:
        made.append(Voters(sections(count, password=PASSWORD), tmp_path, run_member))
        return made[-1]

    yield make
    for voters in made:
        voters.kill(*voters.running)
