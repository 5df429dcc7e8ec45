"""What the tests of the daemon share: real plugins on the path, real node files, worlds that the store and the ports can act on.

It holds no tests; the name keeps it beside them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from pgcore.clock import now
from pgcore.config.document import patch
from pgcore.config.load import LocalConfig, load_local
from pgcore.daemon.callbacks import CallbackLane
from pgcore.daemon.configuration import Configuration
from pgcore.daemon.mailbox import Mailbox
from pgcore.daemon.peers import Peers
from pgcore.daemon.perform import Performer, Ports
from pgcore.daemon.tasks import Tasks
from pgcore.dcs.store import Store
from pgcore.decide.advance import fresh_world
from pgcore.model.basics import Role, State, Timing
from pgcore.model.node import DataDir, NodeView, TaskResult
from pgcore.model.world import Memory, World
from pgcore.postgres.server import Postgres
from pgcore.registry import Registry
from pgcore.testing.memory_store import MemoryServer, MemoryStore

SHORT = Timing(ttl=5, loop_wait=1, retry_timeout=1)


def eventually(question: Callable[[], Any], seconds: float = 5.0) -> Any:
    """The first true answer; fails when none comes in time."""
    end = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
    return answer


def result_of(tasks: Tasks, seconds: float = 5.0) -> TaskResult:
    """The result of the long action that runs or has ended; looking at it takes it away."""
    result: TaskResult = eventually(lambda: tasks.look()[1], seconds)
    return result


def running(pid: int) -> bool:
    """The process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def write_script(path: Path, body: str) -> str:
    """An executable shell script; the answer is its path."""
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(0o755)
    return str(path)


class Plugins:
    """Distributions with one entry point and one module each, put on the path as pip would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def install(self, name: str, source: str) -> None:
        """Make a plugin available under this name."""
        (self.folder / f"pgcore_daemontest_{name}.py").write_text("from pgcore.plugin import *\n" + source)
        info = self.folder / f"their_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: their-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[pgcore]\n{name} = pgcore_daemontest_{name}\n")

    def module(self, name: str) -> ModuleType:
        """The imported module of an active plugin."""
        return sys.modules[f"pgcore_daemontest_{name}"]

    def registry(self, **sources: str) -> Registry:
        """A registry in which these plugins are active."""
        for name, source in sources.items():
            self.install(name, source)
        registry = Registry()
        registry.activate(["callback_command", *sources])
        return registry


@contextmanager
def plugins_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins]:
    """A place for plugins that is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(folder))
    yield Plugins(folder)
    for name in [name for name in sys.modules if name.startswith("pgcore_daemontest_")]:
        del sys.modules[name]


def node_document(folder: Path) -> dict[str, Any]:
    """A node file of a node that may not initialise a cluster; its data directory is ``folder/data``."""
    users = {name: {"username": name, "password": "secret"} for name in ("superuser", "replication")}
    return {
        "scope": "demo",
        "name": "a",
        "restapi": {"listen": "127.0.0.1:8999"},
        "etcd3": {"hosts": ["127.0.0.1:2379"]},
        "postgresql": {
            "listen": "127.0.0.1:5999",
            "data_dir": str(folder / "data"),
            "pgpass": str(folder / "pgpass"),
            "authentication": users,
            "parameters": {"work_mem": "4MB"},
        },
    }


def write_node_file(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """Write ``folder/node.yml``; None in ``changes`` removes a key."""
    path = folder / "node.yml"
    path.write_text(yaml.safe_dump(patch(node_document(folder), changes or {})))
    return path


def local(folder: Path, changes: dict[str, Any] | None = None) -> LocalConfig:
    """The configuration read from a real file."""
    return load_local(str(write_node_file(folder, changes)), {}, {})


def configured(folder: Path, changes: dict[str, Any] | None = None) -> Configuration:
    """A ``Configuration`` over a real file."""
    return Configuration(local(folder, changes), 5, None)


class Counting(Mailbox):
    """A mailbox that remembers every wake-up, also those of the same reason."""

    def __init__(self) -> None:
        super().__init__()
        self.woken: list[str] = []

    def wake(self, reason: str) -> None:
        """Note it and wake."""
        self.woken.append(reason)
        super().wake(reason)


class Bench:
    """One member's ports: everything real, PostgreSQL without a running server, the store in memory."""

    def __init__(
        self,
        folder: Path,
        *,
        registry: Registry | None = None,
        changes: dict[str, Any] | None = None,
        store: Store | None = None,
        server: MemoryServer | None = None,
        postgres: type[Postgres] = Postgres,
    ) -> None:
        self.configuration = configured(folder, changes)
        self.server = server or MemoryServer()
        self.store = store or MemoryStore(self.server, "a", SHORT)
        self.mailbox = Counting()
        self.postgres = postgres(self.configuration.server)
        self.tasks = Tasks(self.mailbox, lambda: self.ports.postgres.user)
        self.registry = registry or Registry()
        self.callbacks = CallbackLane(self.registry)
        self.ports = Ports(
            self.store,
            self.postgres,
            self.tasks,
            Peers(self.configuration.peer_access()),
            self.callbacks,
            self.registry,
            self.mailbox,
            self.configuration,
        )
        self.performer = Performer(self.ports)

    def world(self, *, memory: Memory | None = None, timing: Timing = SHORT, **node: Any) -> World:
        """This member's world with a node like ``node``, nothing read from the store yet."""
        known: dict[str, Any] = {"data_dir": DataDir.PRESENT, "role": Role.REPLICA, "state": State.RUNNING}
        settings = replace(self.configuration.settings(), timing=timing)
        return fresh_world(memory or Memory(managed=True), settings, NodeView(now(), **known | node), now(), time.time())

    def close(self) -> None:
        """Nothing is left running."""
        self.tasks.cancel()
        self.postgres.close()


def is_root() -> bool:
    """The tests run as root and must give files to others."""
    return os.geteuid() == 0
