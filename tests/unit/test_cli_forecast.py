"""``--dry-run`` of switchover, failover, restart and reinit: the agents' rules on what the members tell; nothing is written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from pgcore.clock import Deadline, now
from pgcore.daemon.board import Board, Status
from pgcore.daemon.mailbox import Mailbox
from pgcore.dcs.store import Key
from pgcore.model.basics import Lsn, Role
from pgcore.model.node import TaskKind, WalReceiver, WalSender
from pgcore.rest.server import RestServer
from pgcore.rest.settings import RestSettings
from unit.rest_board import primary_node, replica_node, status
from unit.test_cli_commands import Cluster

MEGA = 1024 * 1024
SENDERS = (WalSender("b", "streaming"), WalSender("c", "streaming"))


class Members(Cluster):
    """Every member has a REST API that tells of its node."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.boards, self.servers = {name: Board() for name in "abc"}, {}
        self.nodes = {"a": primary_node(senders=SENDERS, position=Lsn(100 * MEGA)),
                      **{name: replica_node(received=Lsn(100 * MEGA), replayed=Lsn(100 * MEGA),
                                            receiver=WalReceiver("streaming")) for name in "bc"}}
        for name, board in self.boards.items():
            server = RestServer(RestSettings("127.0.0.1:0"), board, Mailbox(), lambda seconds, name=name: self.position(name))
            server.start()
            self.servers[name] = server
        for name in "abc":
            self.tell(name)

    def position(self, name: str) -> tuple[Lsn | None, Lsn | None, bool]:
        """As the server says at this moment."""
        node = self.nodes[name]
        return (node.position if node.is_primary else node.received), node.replayed, node.is_primary

    def tell(self, name: str, tags: Mapping[str, object] | None = None, **changes: object) -> Status:
        """What its agent publishes, on its card and over REST."""
        self.nodes[name] = node = replace(self.nodes[name], at=now(), **changes)  # type: ignore[arg-type]
        found = status(name, node, leads=node.is_primary, tags=tags or {})
        self.boards[name].publish(found)
        self.card(name, "primary" if node.is_primary else "replica", tags=dict(tags or {}),
                  api_url=f"http://127.0.0.1:{self.servers[name].bound[0][1]}/patroni")
        return found

    def dry(self, *arguments: str, code: int) -> str:
        """The output of a dry run; nothing may have been written."""
        before = self.stores["a"].read(fresh=True, deadline=Deadline.after(1))
        result: Result = self.run(*arguments, "--dry-run")
        assert self.stores["a"].read(fresh=True, deadline=Deadline.after(1)).records == before.records
        assert result.exit_code == code, result.output
        assert "Dry run, nothing is changed: " in result.stdout
        return result.stdout

    def stop(self) -> None:
        """The REST APIs."""
        for server in self.servers.values():
            server.stop()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Members]:
    made = Members(tmp_path)
    yield made
    made.stop()


def test_who_would_lead_and_how_each_candidate_stands(cluster: Members) -> None:
    cluster.tell("c", {"failover_priority": 3}, received=Lsn(100 * MEGA - 4096), replayed=Lsn(99 * MEGA))
    told = cluster.dry("switchover", code=0)
    assert "  a: leads, timeline 1\n  b: streaming, timeline 1, 0 bytes behind\n" in told
    assert "  c: streaming, timeline 1, 4096 bytes behind, tags failover_priority: 3\n" in told
    assert "Result: c would lead; if it has not received everything when a has stopped: b" in told


def test_a_candidate_that_lags_too_much_would_be_refused(cluster: Members) -> None:
    cluster.tell("b", received=Lsn(90 * MEGA), replayed=Lsn(1 * MEGA), replay_paused=True,
                 pending_restart={"max_connections": {"old_value": "1", "new_value": "2"}})
    told = cluster.dry("switchover", "--candidate", "b", code=1)
    assert "Result: it would be refused: no good candidate: b is at 0/5A00000" in told
    assert "! the replay of WAL is paused on b" in told and "! b has 89 MB to replay before it accepts writes" in told
    assert "! b waits for a restart (max_connections)" in told
    assert "c would lead" in cluster.dry("switchover", code=0)


def test_a_candidate_that_does_not_stream_would_be_waited_for(cluster: Members) -> None:
    cluster.tell("a", senders=SENDERS[1:])
    assert "Result: b would lead" in cluster.dry("switchover", "--candidate", "b", code=0)  # by its own word it streams
    cluster.tell("b", receiver=None)
    assert "it would wait, switchover: b does not stream from a" in cluster.dry("switchover", "--candidate", "b", code=1)


def test_what_runs_on_the_leader_would_refuse_it(cluster: Members) -> None:
    cluster.boards["a"].publish(replace(cluster.tell("a"), task={"kind": str(TaskKind.CHECKPOINT)}))
    assert "checkpoint already in progress" in cluster.dry("switchover", code=1)


def test_synchronous_mode_and_maintenance_mode(cluster: Members) -> None:
    cluster.put(Key.CONFIG, json.dumps({"ttl": 30, "loop_wait": 10, "synchronous_mode": True, "pause": True}))
    cluster.put(Key.SYNC, '{"leader":"a","sync_standby":"b","quorum":0}')
    told = cluster.dry("switchover", code=1)
    assert "Switchover is possible only to a specific candidate in a paused state" in told and "! maintenance mode is on" in told
    assert "candidate name does not match with sync_standby" in cluster.dry("switchover", "--candidate", "c", code=1)
    assert "Result: b would lead" in cluster.dry("switchover", "--candidate", "b", code=0)
    told = cluster.dry("failover", "--candidate", "c", code=0)
    assert "Result: c would lead" in told and "! c is not synchronous: commits that were confirmed could be lost" in told


def test_a_leader_that_cannot_be_asked_would_act_on_nothing(cluster: Members) -> None:
    cluster.servers["a"].stop()
    told = cluster.dry("switchover", code=1)
    assert "! the agent of a does not answer: the request would be written into the store" in told
    assert "name a candidate" in told and "a: its agent does not answer" in told
    assert "Result: c would take the lock and be promoted" in cluster.dry("failover", "--candidate", "c", code=0)
    cluster.servers["c"].stop()
    assert "it would be refused: the agent of c does not answer" in cluster.dry("failover", "--candidate", "c", code=1)


def test_a_failover_without_a_leader(cluster: Members) -> None:
    cluster.stores["a"].release({}, deadline=Deadline.after(1))
    cluster.put(Key.FAILOVER, '{"member":"c"}')
    told = cluster.dry("failover", "--candidate", "b", code=1)
    assert "but a still runs as a primary" in told and "! it would replace the request that is in the store: to c" in told
    cluster.tell("a", running=False, answering=False, is_primary=False, role=Role.DEMOTED, position=None)
    cluster.servers["a"].stop()
    told = cluster.dry("failover", "--candidate", "b", code=0)
    assert "Result: b would take the lock and be promoted" in told
    assert "! replication is asynchronous: commits that b has not received could be lost" in told


def test_restarts(cluster: Members) -> None:
    told = cluster.dry("restart", "demo", "--pg-version", "15.21", code=0)
    assert "restart of a\n  a: leads, timeline 1\nResult: PostgreSQL would be restarted: nobody can write" in told
    assert "Result: PostgreSQL would be restarted, the primary goes on" in told
    told = cluster.dry("restart", "demo", "a", "--pg-version", "15.20", code=1)
    assert "restart conditions are not satisfied (a restart was asked for, but the server's version 150020 is not below" in told
    cluster.servers["b"].stop()
    assert "it would be refused: its agent does not answer" in cluster.dry("restart", "demo", "b", code=1)


def test_restart_of_a_synchronous_standby_and_at_a_time(cluster: Members) -> None:
    cluster.put(Key.CONFIG, json.dumps({"synchronous_mode": "on"}))
    cluster.put(Key.SYNC, '{"leader":"a","sync_standby":"b","quorum":0}')
    cluster.card("b", "replica", scheduled_restart={"schedule": "2099-01-01T00:00:00+00:00"},
                 api_url=f"http://127.0.0.1:{cluster.servers['b'].bound[0][1]}/patroni")
    told = cluster.dry("restart", "demo", "b", "--scheduled", "2098-01-01T00:00Z", code=0)
    assert "! it is a synchronous standby and would first ask to be released" in told
    assert "! another restart is scheduled there" in told and "restart of b at 2098-01-01T00:00:00+00:00" in told


def test_new_copies(cluster: Members) -> None:
    told = cluster.dry("reinit", "demo", "b", code=0)
    assert "Result: its data directory would be removed and replaced by a copy of a" in told
    cluster.tell("c", {"clonefrom": True})
    assert "replaced by a copy of c" in cluster.dry("reinit", "demo", "b", code=0)
    assert "replaced by a copy of a" in cluster.dry("reinit", "demo", "b", "--from-leader", code=0)
    cluster.boards["b"].publish(replace(cluster.tell("b"), task={"kind": str(TaskKind.REWIND)}))
    assert "it would be refused: pg_rewind already in progress" in cluster.dry("reinit", "demo", "b", code=1)
    cluster.tell("b")
    cluster.servers["a"].stop()
    assert "does not answer a replication connection" in cluster.dry("reinit", "demo", "b", code=1)
