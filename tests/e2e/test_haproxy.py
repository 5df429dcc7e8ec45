"""Clients behind a real HAProxy follow the primary, with the configuration everybody has and with the one that reacts faster.

Both run at the same time in front of one cluster, so that both see the very same switchover and the very same dead primary.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import psycopg2
import pytest

from harness import Cluster, Gap, Node, Writer, wait_for
from harness.haproxy import HaProxy

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy")

USUAL, FAST = "haproxy.cfg", "haproxy-fast.cfg"
FOLLOWS_S = 90.0


class Reader:
    """A client of the replicas: a new connection for every read, until told to end."""

    def __init__(self, connection: str) -> None:
        self._connection = connection
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._reads: list[tuple[float, str]] = []

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(15)

    def _run(self) -> None:
        while not self._ending.wait(0.02):
            with suppress(psycopg2.Error), closing(psycopg2.connect(self._connection)) as link, link.cursor() as cursor:
                asked = time.monotonic()
                cursor.execute("SELECT host(inet_server_addr())")
                self._reads.append((asked, cursor.fetchone()[0]))

    def since(self, moment: float) -> set[str]:
        """The addresses of the servers that answered reads sent after this moment."""
        return {server for asked, server in self._reads if asked > moment}


class Door:
    """One HAProxy with a writer at its primary port, a reader and idle sessions at its replicas' port."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.proxy = cluster, HaProxy(cluster, name)
        self.table = f"through_{name.partition('.')[0].replace('-', '_')}"
        # The server notes where each row was written; the writer gives its number alone.
        cluster.primary().query(
            f"CREATE TABLE {self.table} (number bigint PRIMARY KEY, server text DEFAULT host(inet_server_addr()),"
            " standby boolean DEFAULT pg_is_in_recovery())")

    def writer(self) -> Writer:
        """A client of the primary, not started."""
        return self.cluster.writer(self.proxy.primary_dsn, table=self.table)

    def wait_settled(self, primary: Node, standbys: list[Node]) -> None:
        """HAProxy sends writers to the primary and readers to the standbys, and nobody elsewhere."""
        names = {node.name for node in standbys}
        wait_for(lambda: self.proxy.up("primary") == {primary.name} and self.proxy.up("replicas") == names, FOLLOWS_S,
                 f"{self.proxy.name} leads writers to {primary.name} and readers to {names}")

    def sessions(self) -> dict[str, Any]:
        """Open sessions by the address of their server: one through the primary's port, on each standby one through the other."""
        found: dict[str, Any] = {}
        wanted = {node.host for node in self.cluster.nodes}
        for connection in (self.proxy.primary_dsn, *[self.proxy.replicas_dsn] * 50):
            link = psycopg2.connect(connection)
            link.autocommit = True
            found.setdefault(_ask(link, "SELECT host(inet_server_addr())"), link)
            if found.keys() == wanted:
                return found
        raise AssertionError(f"no session was led to {wanted - found.keys()}")

    def servers(self, primary: Node) -> list[str]:
        """The addresses of the servers that took the rows, in the order of the rows, each named when it begins."""
        rows = primary.query(f"SELECT server, standby FROM {self.table} ORDER BY number")
        assert not any(standby for _, standby in rows)
        return [server for number, (server, _) in enumerate(rows) if number == 0 or rows[number - 1][0] != server]


def _ask(link: Any, statement: str) -> Any:
    with link.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


def _is_cut(link: Any) -> bool:
    try:
        _ask(link, "SELECT 1")
    except psycopg2.OperationalError:
        return True
    return False


@pytest.fixture(scope="module")
def cluster(make_shared_cluster: Callable[..., Cluster]) -> Cluster:
    # Synchronous: so that not a single acknowledged write may be missing, whoever is killed.
    return make_shared_cluster(dynamic={"synchronous_mode": True}).bootstrap()


@pytest.fixture(scope="module")
def doors(cluster: Cluster) -> Iterator[list[Door]]:
    """Both configurations, in front of the same cluster."""
    made = [Door(cluster, name) for name in (USUAL, FAST)]
    with ExitStack() as stack:
        for door in made:
            stack.enter_context(door.proxy)
        yield made


@pytest.mark.parametrize("event", ["switchover", "dead primary", "frozen primary"])
def test_clients_follow_the_primary(cluster: Cluster, doors: list[Door], measured: Callable[[str, Gap | float], None],
                                    event: str) -> None:
    cluster.repair()
    old = cluster.primary()
    wait_for(lambda: old.ask("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"), 30, "a synchronous standby")
    with ExitStack() as stack:
        for door in doors:
            door.wait_settled(old, cluster.others(old))
        sessions = [door.sessions() for door in doors]
        readers = [stack.enter_context(Reader(door.proxy.replicas_dsn)) for door in doors]
        writers = [stack.enter_context(door.writer()) for door in doors]
        time.sleep(1)
        said = {node: len(node.log()) for node in cluster.nodes}
        began = time.monotonic()
        if event == "switchover":
            answer = cluster.switchover(old)
            assert answer is not None and answer.status == 200, answer
        elif event == "dead primary":
            old.kill_everything()
        else:
            old.freeze_everything()
        for writer in writers:
            writer.wait_resumed(began, FOLLOWS_S)
        new = cluster.wait_primary_other_than(old, FOLLOWS_S)
        _check_sessions(sessions, cluster, old, new, lambda node: "diverged from" in node.log()[said[node]:])
        standbys = cluster.others(new) if event == "switchover" else cluster.others(new, old)
        for door in doors:
            door.wait_settled(new, standbys)
        settled = time.monotonic()
        wait_for(lambda: all(reader.since(settled) >= {node.host for node in standbys} for reader in readers), 30,
                 "every standby is read from")
    gaps = []
    for door, writer, reader in zip(doors, writers, readers, strict=True):
        report = writer.report()
        assert report.missing(cluster.present(new, door.table)) == []
        assert door.servers(new)[-2:] == [old.host, new.host], "one change of server, and no row from anywhere else"
        assert new.host not in reader.since(settled)
        gaps.append(report.longest_gap(after_s=began))
        measured(f"{event} through {door.proxy.name}: write gap", gaps[-1])
    assert gaps[1].seconds < gaps[0].seconds, "the faster configuration is the faster one"


def _check_sessions(sessions: list[dict[str, Any]], cluster: Cluster, old: Node, new: Node,
                    rewound: Callable[[Node], bool]) -> None:
    """Whoever is on the old primary is cut, and so are a standby's clients on the new one, which would be writable; no others.

    But an asynchronous standby may have received more than the synchronous one that now leads: then it must rewind.
    """
    for found in sessions:
        for node in (old, new):
            gone = found.pop(node.host)
            wait_for(lambda link=gone: _is_cut(link), FOLLOWS_S, f"the sessions on {node.name} are cut")  # type: ignore[misc]
            gone.close()
        for host, link in found.items():
            node = next(each for each in cluster.nodes if each.host == host)
            assert not _is_cut(link) or rewound(node), f"the session on {node}, a standby before and after, had no reason to end"
            link.close()
