"""A cluster under test: its store, its nodes, its clients, and the certainty that nothing of it outlives the test."""

from __future__ import annotations

import atexit
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import psycopg2

from harness.agents import POSTGRES_USER, AgentKind, pgcore_agent
from harness.configuration import dsn, merged, node_document
from harness.etcd import EtcdServer
from harness.logs import newest_first
from harness.network import Network
from harness.node import Node, RestAnswer
from harness.processes import free_port, kill_marked, wait_for
from harness.store_server import StoreServer
from harness.stores import SERVERS, StoreKind
from harness.witness import Witness
from harness.writer import Writer

LOG_TAIL_LINES = 60
WITNESS = "witness"
HEALTHY_TIMEOUT_S = 90.0


class Cluster:
    """``size`` nodes named n1, n2, ... on loopback addresses of their own, or in namespaces of ``network``.

    ``dynamic`` is laid over the bootstrap configuration, ``per_node`` (name to document) over single node files. ``timing`` is
    ``"quick"`` for the shortest the agent allows or ``"default"`` for what a new cluster gets without being told. ``names`` are
    used in place of n1, n2, ...; a cluster ``beside`` another uses that one's store, under a scope of its own. ``agents`` (by
    name) run single nodes in place of ``agent``; the timing is then what all of them accept. With ``witness`` a further voter
    without PostgreSQL takes part in the raft store.
    """

    def __init__(self, *, size: int = 3, store: StoreKind = "etcd3", agent: AgentKind | None = None,
                 dynamic: Mapping[str, Any] | None = None, per_node: Mapping[str, Mapping[str, Any]] | None = None,
                 timing: Literal["quick", "default"] = "quick", network: Network | None = None, scope: str = "demo",
                 names: Sequence[str] = (), beside: Cluster | None = None,
                 agents: Mapping[str, AgentKind] | None = None, witness: bool = False) -> None:
        self.agent = agent or pgcore_agent()
        self._agents = dict(agents or {})
        self.store, self.scope, self.network = store, scope, network
        self.mark = uuid.uuid4().hex
        # Not below pytest's own directory: the user postgres must be able to enter every parent.
        self.directory = Path(tempfile.mkdtemp(prefix="pgcore-e2e-"))
        self.directory.chmod(0o755)
        self._closed = False
        reaper = [sys.executable, str(Path(__file__).with_name("reaper.py")), self.mark, str(self.directory)]
        self._reaper = subprocess.Popen(reaper, stdin=subprocess.PIPE, start_new_session=True)
        atexit.register(self.close)
        self._base = f"127.{random.randrange(1, 255)}.{random.randrange(1, 255)}"
        self._dynamic = dict(dynamic or {})
        self.ttl, self.loop_wait, self.retry_timeout = 30, 10, 10
        if timing == "quick":
            timings = [kind.quick_timing for kind in (self.agent, *self._agents.values())]
            self.ttl, self.loop_wait, self.retry_timeout = (max(each) for each in zip(*timings, strict=True))
            self.ttl = max(self.ttl, SERVERS[store].ttl_floor_s if store in SERVERS else 0)
            self._dynamic = {"ttl": self.ttl, "loop_wait": self.loop_wait, "retry_timeout": self.retry_timeout, **self._dynamic}
        self._guest = beside is not None
        self.server: StoreServer | None = beside.server if beside else self._make_server()
        self._per_node = dict(per_node or {})
        self._writers: list[Writer] = []
        names = list(names) or [f"n{number}" for number in range(1, size + 1)]
        self._hosts = {name: self._host(name, number) for number, name in enumerate(names, start=2)}
        voters = [*names, WITNESS] if witness else names
        self._hosts |= {WITNESS: self._host(WITNESS, len(names) + 2)} if witness else {}
        self._raft_ports = {name: self._port(name) for name in voters} if store == "raft" else {}
        self.nodes = [self._make_node(name) for name in names]
        self.witness = self._make_witness() if witness else None

    # making

    def _host(self, name: str, number: int) -> str:
        return self.network.add(name) if self.network else f"{self._base}.{number}"

    def _port(self, name: str) -> int:
        # In a namespace of its own every port is free, and this process could not bind the address anyway.
        return 20000 + random.randrange(10000) if self.network else free_port(self._hosts[name])

    def _make_server(self) -> StoreServer | None:
        if self.store == "raft":
            return None
        if self.network is None:
            return SERVERS[self.store](directory=self.directory, host=f"{self._base}.1")
        assert self.store == "etcd3", f"no {self.store} in a namespace yet"
        address = self.network.add("etcd")
        return EtcdServer(self.directory, address, self.network.prefix("etcd"), 2379, 2380)

    @property
    def etcd(self) -> EtcdServer | None:
        """The store if it is etcd, to look inside."""
        return self.server if isinstance(self.server, EtcdServer) else None

    def _store_section(self, name: str, directory: Path) -> dict[str, Any]:
        if self.server is not None:
            return self.server.section()
        addresses = {peer: f"{self._hosts[peer]}:{port}" for peer, port in self._raft_ports.items()}
        return {"raft": {"data_dir": str(directory / "raft"), "self_addr": addresses[name],
                         "partner_addrs": [address for peer, address in addresses.items() if peer != name]}}

    def _make_node(self, name: str) -> Node:
        directory, host = self.directory / name, self._hosts[name]
        pg_port, rest_port = self._port(name), self._port(name)
        document = node_document(scope=self.scope, name=name, host=host, pg_port=pg_port, rest_port=rest_port,
                                 directory=directory, store=self._store_section(name, directory), dynamic=self._dynamic,
                                 client_network=f"{self.network.subnet}.0/24" if self.network else "127.0.0.0/8")
        directory.mkdir()
        if self.server is not None:
            self.server.expect(self.scope, name, directory)
        if self.store == "raft":
            (directory / "raft").mkdir()
            shutil.chown(directory / "raft", POSTGRES_USER, POSTGRES_USER)
        return Node(name=name, host=host, pg_port=pg_port, rest_port=rest_port, directory=directory, mark=self.mark,
                    agent=self._agents.get(name, self.agent), document=merged(document, self._per_node.get(name, {})),
                    prefix=self.network.prefix(name) if self.network else ())

    def _make_witness(self) -> Witness:
        directory = self.directory / WITNESS
        return Witness(directory, self._store_section(WITNESS, directory), self.mark)

    def add_node(self, name: str, change: Mapping[str, Any] | None = None) -> Node:
        """A further node of the same cluster, not started yet (not with raft, where the members are fixed)."""
        self._per_node[name] = change or {}
        self._hosts[name] = self._host(name, len(self.nodes) + 2)
        node = self._make_node(name)
        self.nodes.append(node)
        return node

    def start_store(self) -> None:
        """Start the store's server; with raft the agents are the store, and the witness."""
        if self.server is not None and not self._guest:
            self.server.start()
        if self.witness is not None:
            self.witness.start()

    def bootstrap(self) -> Cluster:
        """Start store and all agents, wait until all stream, and create the table of the writers."""
        self.start_store()
        for node in self.nodes:
            node.start()
        self.wait_healthy()
        self.create_table()
        return self

    def create_table(self) -> None:
        """The table ``written`` on the primary."""
        self.primary().query("CREATE TABLE IF NOT EXISTS written (number bigint PRIMARY KEY)")

    # asking

    def node(self, name: str) -> Node:
        """The node of this name."""
        return next(node for node in self.nodes if node.name == name)

    def others(self, *nodes: Node) -> list[Node]:
        """All nodes but these."""
        return [node for node in self.nodes if node not in nodes]

    def find_primary(self) -> Node | None:
        """The node whose server is writable and whose REST says so."""
        return next((node for node in self.nodes if node.is_writable() and node.status_of("/primary") == 200), None)

    def primary(self, timeout_s: float = HEALTHY_TIMEOUT_S) -> Node:
        """The primary, once there is one."""
        return wait_for(self.find_primary, timeout_s, "one node is primary")

    def wait_primary_other_than(self, node: Node, timeout_s: float) -> Node:
        """Another node as primary, looked for without asking ``node``, which may be frozen or cut off."""

        def other() -> Node | None:
            return next((peer for peer in self.others(node) if peer.is_writable()), None)

        return wait_for(other, timeout_s, f"a node other than {node.name} is primary", interval_s=0.02)

    def streaming(self, *, without: tuple[Node, ...] = ()) -> bool:
        """Whether one node is primary and every other one streams on its timeline and answers /replica (unless noloadbalance)."""
        primary = self.find_primary()
        if primary is None:
            return False
        timeline = primary.timeline()
        standbys = [node for node in self.nodes if node is not primary and node not in without]
        return all(node.streams() and node.timeline() == timeline and node.status_of("/health") == 200 for node in standbys)

    def repair(self) -> None:
        """Undo what a test may have left: thaw, start what does not run, and wait until all stream."""
        for writer in self._writers:
            writer.stop()
        if self.server is not None:
            self.server.thaw()
            if self.server.process is None:
                self.server.start()
        if self.witness is not None:
            self.witness.start()
        for node in self.nodes:
            if node.running:
                node.thaw_agent()
            else:
                node.start()
        self.wait_healthy()

    def wait_healthy(self, timeout_s: float = HEALTHY_TIMEOUT_S, *, without: tuple[Node, ...] = ()) -> None:
        """Wait until ``streaming`` holds."""
        wait_for(lambda: self.streaming(without=without), timeout_s, "one primary, all others streaming", interval_s=0.1)

    def wait_aware(self, *nodes: Node) -> None:
        """Wait until each of these agents (default: all) has read the store after this moment and ended that heartbeat.

        What stood there before is then known to it, and what it had to do about that is done or was tried.
        """
        asked = time.time()
        for node in nodes or self.nodes:
            # Whole seconds, cut off: a greater one was read later.
            wait_for(lambda node=node: node.status().get("dcs_last_seen", 0) > asked,  # type: ignore[misc]
                     3 * self.loop_wait + 5, f"{node.name} has read the store")

    def present(self, node: Node | None = None, table: str = "written") -> set[int]:
        """The numbers the writers' table holds on ``node`` (default: the primary)."""
        return {row[0] for row in (node or self.primary()).query(f"SELECT number FROM {table}")}

    def connection_string(self, nodes: Sequence[Node] | None = None) -> str:
        """A libpq string over these nodes (default: all) that connects to the one which is writable."""
        return dsn([(node.host, node.pg_port) for node in nodes or self.nodes], read_write=True)

    def writer(self, connection: str | None = None, **options: Any) -> Writer:
        """A writer, not started; by default to whichever node is writable. The cluster stops what a test forgets."""
        writer = Writer(connection or self.connection_string(), self.directory, self.mark, **options)
        self._writers.append(writer)
        return writer

    def direct_writer(self, node: Node, **options: Any) -> Writer:
        """A writer that knows one node only, in that node's namespace if it has one."""
        return self.writer(dsn([(node.host, node.pg_port)]), prefix=node.prefix, **options)

    def key(self, name: str) -> str:
        """A key of this cluster in etcd."""
        return f"/service/{self.scope}/{name}"

    def leader_key(self) -> str:
        """The key of the leader lock in etcd."""
        return self.key("leader")

    def configure(self, change: Mapping[str, Any]) -> None:
        """Lay ``change`` over the dynamic configuration in etcd, as an operator's tool would; ``None`` removes a key."""
        assert self.etcd is not None
        self.etcd.put(self.key("config"), json.dumps(merged(json.loads(self.etcd.get(self.key("config")) or "{}"), change)))

    def switchover(self, leader: Node, candidate: Node | None = None, timeout_s: float = 60.0,
                   via: Node | None = None) -> RestAnswer | None:
        """``POST /switchover`` and its answer."""
        body = {"leader": leader.name} | ({"candidate": candidate.name} if candidate else {})
        return (via or leader).request("POST", "/switchover", body, timeout_s=timeout_s)

    # ending

    def used_since(self, moment_s: float) -> bool:
        """Whether a test has had to do with one of the nodes since this moment of the monotonic clock."""
        return any(node.used_s >= moment_s for node in self.nodes)

    def log_tails(self, lines: int = LOG_TAIL_LINES) -> str:
        """The last lines of every log for the report of a failed test, which may be cut at its end.

        So first what all agents and servers said together, newest line first, then each alone.
        """
        agents = {node.name: node.log() for node in self.nodes} | ({WITNESS: self.witness.log()} if self.witness else {})
        servers = {f"{node.name} postgres": node.postgres_log() for node in self.nodes}
        alone = [*((f"{name} agent", text) for name, text in agents.items()), *servers.items()]
        tails = ["\n".join((f"--- {title}", *text.splitlines()[-lines:])) for title, text in alone]
        return "\n".join(("--- all together, newest line first", *newest_first(agents | servers, 2 * lines), *tails))

    def keep_logs(self, directory: Path) -> None:
        """Copy all logs and writers' notes below ``directory``."""
        target = directory / f"{self.store}-{self.mark[:8]}"
        target.mkdir(parents=True, exist_ok=True)
        for node in self.nodes:
            (target / f"{node.name}.log").write_text(node.log())
            (target / f"{node.name}-postgres.log").write_text(node.postgres_log())
        for notes in self.directory.glob("writer-*"):
            shutil.copy(notes, target)

    def stop_agents(self) -> None:
        """SIGTERM all agents, standbys first, and wait for them."""
        running = [node for node in self.nodes if node.running]
        for node in sorted(running, key=lambda node: node.is_writable()):
            node.stop()

    def close(self) -> None:
        """Kill everything this cluster started and remove its directory. May be called twice."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        try:
            kill_marked(self.mark, self.directory)
            self._reaper.kill()
            self._reaper.wait(5)
            for writer in self._writers:
                writer.stop()
            for node in self.nodes:
                if node.process is not None:
                    node.process.wait(5)
            if self.server is not None and not self._guest:
                self.server.kill()
        finally:
            if not os.environ.get("PGCORE_E2E_KEEP"):
                shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def lost_commits(cluster: Cluster, writer: Writer) -> list[int]:
    """Stop the writer; the acknowledged numbers that the present primary does not hold. Waits for a primary that answers."""
    report = writer.stop()
    deadline = time.monotonic() + 30
    while True:
        try:
            return report.missing(cluster.present())
        except psycopg2.Error:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
