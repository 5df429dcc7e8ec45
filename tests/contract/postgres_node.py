"""A PostgreSQL server with the port that manages it, for the contract tests of the port."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.processes import free_shared_memory
from pgcore.builtin import basebackup, initdb
from pgcore.clock import Deadline
from pgcore.hookspecs import BootstrapMethod, ReplicaMethod
from pgcore.model.basics import Role
from pgcore.model.node import NodeView
from pgcore.model.server import Credentials, ServerSettings, Upstream
from pgcore.postgres import local, postmaster
from pgcore.postgres.connection import Session
from pgcore.postgres.programs import ProgramRunner, os_user
from pgcore.postgres.server import Postgres

BIN_DIR = os.environ.get("PGCORE_TEST_BIN_DIR") or next(
    (str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), "")

HBA = ("local all all trust", "local replication all trust",
       "host all all 127.0.0.1/32 scram-sha-256", "host replication all 127.0.0.1/32 scram-sha-256")
INITDB = BootstrapMethod("initdb", initdb.run)
INITDB_OPTIONS = ["data-checksums", {"encoding": "UTF8"}, {"locale": "C"}, {"auth-host": "scram-sha-256"}, "no-sync"]
BASEBACKUP: list[tuple[ReplicaMethod, Any]] = [(ReplicaMethod("basebackup", basebackup.run), ["no-sync"])]
PARAMETERS = {"max_connections": 30, "max_wal_senders": 6, "max_worker_processes": 4, "wal_level": "replica", "hot_standby": "on",
              "max_prepared_transactions": 0, "max_locks_per_transaction": 64, "max_replication_slots": 6, "wal_log_hints": "on",
              "track_commit_timestamp": "off", "shared_buffers": "8MB", "fsync": "off", "wal_keep_size": "64MB",
              "wal_receiver_status_interval": "1s", "wal_retrieve_retry_interval": "100ms"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Node:
    """A server under test with the context its slow actions get."""

    def __init__(self, root: Path, name: str, **changes: Any) -> None:
        self.port = free_port()
        self.reported: list[dict[str, Any]] = []
        parameters = {**PARAMETERS, "unix_socket_directories": str(root), **changes.pop("parameters", {})}
        self.settings = ServerSettings(
            name=name, scope="demo", listen=f"127.0.0.1:{self.port}", data_dir=str(root / name), bin_dir=BIN_DIR,
            pgpass=str(root / f"pgpass-{name}"), superuser=Credentials("admin", "sup'er %s"),
            replication=Credentials("replicator", "re:p\\l"), rewind=Credentials("rewinder", "rew ind"), parameters=parameters,
            pg_hba=HBA, use_pg_rewind=True, retry_timeout=4.0, **changes)
        self.server = Postgres(self.settings)
        self.ctx = ProgramRunner(os_user(self.settings), threading.Event(), lambda fact: self.reported.append(dict(fact)))

    @property
    def upstream(self) -> Upstream:
        return Upstream("127.0.0.1", self.port, self.settings.name)

    def bootstrap(self) -> Node:
        self.server.bootstrap(self.ctx, INITDB, INITDB_OPTIONS)
        self.server.post_bootstrap(self.ctx, None)
        return self

    def start(self, role: Role = Role.PRIMARY, upstream: Upstream | None = None) -> None:
        assert self.server.start(self.ctx, role=role, upstream=upstream, timeout_s=20)

    def stop(self, **options: Any) -> None:
        self.server.stop(self.ctx, **{"mode": "fast", "timeout_s": 20.0, **options})

    def look(self, seconds: float = 4.0) -> NodeView:
        return self.server.observe(Deadline.after(seconds))

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        deadline = Deadline.after(10)
        login = local.superuser(self.server.settings, os_user(self.settings), statement_timeout_s=10)
        session = Session(login, deadline)
        try:
            return session.query(text, deadline=deadline)
        finally:
            session.close()

    def configure(self, **changes: Any) -> None:
        self.settings = replace(self.settings, **changes)
        self.server.configure(self.settings)

    def standby_of(self, other: Node) -> Node:
        self.server.clone(self.ctx, BASEBACKUP, other.upstream)
        self.start(Role.REPLICA, other.upstream)
        return self

    def end(self) -> None:
        self.server.terminate()
        postmaster.clear_orphans(self.settings.data_dir)
        free_shared_memory(Path(self.settings.data_dir))
        self.server.close()


def eventually(question: Callable[[], Any], seconds: float = 10.0) -> Any:
    end = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return answer


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="pgcore-test-"))
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        os.chown(directory, account.pw_uid, account.pw_gid)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def make(root: Path) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def node(name: str, **changes: Any) -> Node:
        nodes.append(Node(root, f"{name}{len(os.listdir(root))}", **changes))
        return nodes[-1]

    yield node
    for each in nodes:
        each.end()


@pytest.fixture(scope="module")
def template(root: Path) -> Iterator[Node]:
    """One bootstrapped, running primary shared by the tests that do not harm it."""
    node = Node(root, "template").bootstrap()
    yield node
    node.end()
