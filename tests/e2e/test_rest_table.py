"""The status tables of the REST API against running nodes: each endpoint on a node of each kind, each field of the status JSON.

One cluster with a standby cluster beside it is led through all conditions once; every test looks at what was answered then.
(rest-api 3.4, 4, 5)
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from harness import Cluster, Node, wait_for
from harness.processes import send

CONDITIONS = ("primary", "standby leader", "async", "sync", "quorum", "noloadbalance", "stopped", "no lock")
TABLE = """
/ /primary /master /read-write                   200 503 503 503 503 503 503 503
/leader                                          200 200 503 503 503 503 503 503
/standby-leader /standby_leader                  503 200 503 503 503 503 503 503
/replica                                         503 503 200 200 200 503 503 503
/read-only                                       200 200 200 200 200 503 503 503
/sync /synchronous                               503 503 503 200 503 503 503 503
/quorum                                          503 503 503 503 200 503 503 503
/async /asynchronous                             503 503 200 503 503 503 503 503
/read-only-sync /read-only-synchronous           200 200 503 200 503 503 503 503
/read-only-quorum                                200 200 503 503 200 503 503 503
/health                                          200 200 200 200 200 200 503 200
/replica?lag=1GB /async?lag=1GB                  503 503 200 - - 503 503 503
/replica?replication_state=streaming             503 503 200 200 200 503 503 503
/replica?replication_state=nothing               503 503 503 503 503 503 503 503
/replica?tag_rack=a1 /read-only?tag_rack=b2      - - - - - 503 503 503
/health?tag_rack=a1                              503 503 200 200 200 503 503 503
/health?tag_rack=b2                              503 503 503 503 503 200 503 503
/liveness                                        200 200 200 200 200 200 200 200
/readiness /readiness?lag=1GB&mode=write         200 200 200 200 200 200 503 503
/patroni /metrics                                200 200 200 200 200 200 200 200
/cluster /config /history                        200 200 200 200 200 200 200 200
/switchover /restart /reload /citus /mpp /nosuch 503 503 503 503 503 503 503 503
"""
"""Codes of GET in the order of the conditions; - is not looked at."""
GET_ALONE = ("/liveness", "/readiness", "/patroni", "/metrics", "/cluster", "/config", "/history")
"""Every other verb gets 503 there (rest-api 2)."""
WALK_S = 60.0

ROWS = [(path, condition, int(code)) for line in TABLE.strip().splitlines()
        for words in [line.split()] for path in words if path.startswith("/")
        for condition, code in zip(CONDITIONS, words[-len(CONDITIONS):], strict=True) if code != "-"]


@dataclass
class Walk:
    """What was answered: codes by condition and request, status documents by condition."""

    codes: dict[str, dict[tuple[str, str], int]] = field(default_factory=dict)
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    identifier: str = ""

    def note(self, condition: str, node: Node, **wanted: Any) -> None:
        """Ask this node everything once its status shows what is wanted (None: not there)."""
        self.show(condition, node, **wanted)
        if condition in ("async", "sync", "quorum", "noloadbalance"):
            wait_for(lambda: node.status_of("/readiness") == 200, WALK_S, f"{node.name} has caught up")
        paths = {path for path, where, _ in ROWS if where == condition}
        answers = {(verb, path): node.request(verb, path, authenticated=False)
                   for path in paths for verb in ("GET", "HEAD", "OPTIONS")}
        self.codes[condition] = {asked: answer.status if answer else 0 for asked, answer in answers.items()}

    def show(self, condition: str, node: Node, **wanted: Any) -> None:
        """Keep the status document once it shows what is wanted."""

        def shown() -> dict[str, Any] | None:
            document = node.status()
            return document if document and all(document.get(name) == value for name, value in wanted.items()) else None

        self.documents[condition] = wait_for(shown, WALK_S, f"{node.name} shows {wanted} ({condition})")


@pytest.fixture(scope="module")
def walk(make_shared_cluster: Callable[..., Cluster]) -> Walk:
    """Lead the nodes through all conditions; n3 is for nobody, n2 the standby of every kind, s1 leads the standby cluster."""
    archive = {"postgresql": {"recovery_conf": {"restore_command": "false"}}}
    tags = {"rack": "b2", "noloadbalance": True, "nosync": True}
    cluster = make_shared_cluster(dynamic=archive, per_node={
        "n2": {"tags": {"rack": "a1", "clonefrom": False}},
        "n3": {"tags": tags, "watchdog": {"mode": "required", "device": "/none"}},
    })
    cluster.start_store()
    n1, n2, n3 = cluster.nodes
    n1.start()
    assert cluster.primary() is n1
    remote = {"standby_cluster": {"host": n1.host, "port": n1.pg_port}}
    beside = make_shared_cluster(size=1, names=("s1",), scope="beside", beside=cluster, dynamic=remote)
    for node in (n2, n3, *beside.nodes):
        node.start()
    cluster.wait_healthy()
    walk = Walk(identifier=str(n1.system_identifier()))
    _walk_through(walk, cluster, beside.nodes[0])
    return walk


def _walk_through(walk: Walk, cluster: Cluster, standby_leader: Node) -> None:
    n1, n2, n3 = cluster.nodes
    walk.note("standby leader", standby_leader, role="standby_leader", replication_state="streaming")
    wait_for(lambda: len(_streaming(n1.status().get("replication", []))) >= 2, WALK_S, "the primary has seen its standbys")
    walk.note("primary", n1, role="primary")
    walk.note("async", n2, replication_state="streaming", sync_standby=None)
    walk.note("noloadbalance", n3, replication_state="streaming", watchdog_failed=True)

    cluster.configure({"synchronous_mode": True, "postgresql": {"parameters": {"max_connections": 70}}})
    walk.note("sync", n2, sync_standby=True)
    walk.show("pending", n1, pending_restart=True)
    cluster.configure({"synchronous_mode": "quorum"})
    walk.note("quorum", n2, quorum_standby=True)
    cluster.configure({"synchronous_mode": None})

    schedule = {"schedule": "2999-01-01T00:00:00+00:00", "role": "replica", "postgres_version": "99.0", "timeout": "1min",
                "restart_pending": True}
    answer = n2.request("POST", "/restart", schedule)
    assert answer is not None and (answer.status, answer.text) == (202, "Restart scheduled"), answer
    n2.query("SELECT pg_wal_replay_pause()")
    wait_for(lambda: n2.status()["xlog"]["paused"], WALK_S, "the pause of the replay is shown")
    walk.show("scheduled", n2)
    n2.query("SELECT pg_wal_replay_resume()")

    cluster.configure({"pause": True})
    for node in cluster.nodes:
        walk.show("paused", node, pause=True)
    assert cluster.etcd is not None
    cluster.etcd.put(cluster.leader_key(), "nobody")
    wait_for(lambda: n1.status_of("/primary") == 503, WALK_S, "the primary has seen that its lock is gone")
    walk.note("no lock", n1, role="primary", state="running")
    cluster.etcd.delete(cluster.leader_key())
    wait_for(lambda: n1.status_of("/primary") == 200, WALK_S, "the primary leads again")
    pid = n1.postmaster_pid()
    assert pid is not None
    send(pid, signal.SIGINT)
    walk.note("stopped", n1, state="stopped", cluster_unlocked=True)
    walk.show("archive", n2, replication_state="in archive recovery")


@pytest.mark.parametrize(("path", "condition", "code"), ROWS)
def test_every_endpoint_answers_as_the_table_says(walk: Walk, path: str, condition: str, code: int) -> None:
    assert walk.codes[condition]["GET", path] == code
    others = {walk.codes[condition][verb, path] for verb in ("HEAD", "OPTIONS")}
    assert others == {503 if path.partition("?")[0] in GET_ALONE else code}


def _time(value: Any) -> bool:
    """As PostgreSQL prints it, with a space and a whole offset."""
    return re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}[+-]\d\d:\d\d", value) is not None


def _position(value: Any) -> bool:
    return type(value) is int and value > 0


def _true(value: Any) -> bool:
    return value is True


def _streaming(rows: list[dict[str, Any]]) -> set[str]:
    """Which of the primary's own standbys stream."""
    return {row["application_name"] for row in rows if row["state"] == "streaming"} & {"n2", "n3"}


def _senders(value: Any) -> bool:
    keys = ["usename", "application_name", "client_addr", "state", "sync_state", "sync_priority"]
    fits = all(list(row) == keys and row["usename"] == "replicator" and row["sync_state"] == "async" and row["sync_priority"] == 0
               for row in value)
    return fits and _streaming(value) == {"n2", "n3"}


SERVER = ("primary", "standby leader", "async", "sync", "quorum", "noloadbalance", "no lock")
STANDBY = ("standby leader", "async", "sync", "quorum", "noloadbalance", "archive")
FIELDS: list[tuple[str, tuple[str, ...], tuple[str, ...], Callable[[Any], bool]]] = [
    ("state", SERVER, (), lambda value: value == "running"),
    ("state", ("stopped",), (), lambda value: value == "stopped"),
    ("postmaster_start_time", SERVER, ("stopped",), _time),
    ("role", ("primary", "no lock"), (), lambda value: value == "primary"),
    ("role", ("async", "sync", "quorum", "noloadbalance", "archive"), (), lambda value: value == "replica"),
    ("role", ("standby leader",), (), lambda value: value == "standby_leader"),
    ("role", ("stopped",), (), lambda value: value in ("primary", "demoted", "replica")),
    ("server_version", SERVER, ("stopped",), lambda value: type(value) is int and value >= 90600),
    ("xlog", (), ("stopped",), bool),
    ("xlog.location", ("primary", "no lock"), STANDBY, _position),
    ("xlog.received_location", STANDBY, ("primary",), _position),
    ("xlog.replayed_location", STANDBY, ("primary",), _position),
    ("xlog.replayed_timestamp", STANDBY, ("primary",), lambda value: value is None or _time(value)),
    ("xlog.paused", STANDBY, ("primary",), lambda value: value is False),
    ("xlog.paused", ("scheduled",), (), _true),
    ("sync_standby", ("sync",), ("primary", "async", "quorum", "noloadbalance", "standby leader"), _true),
    ("quorum_standby", ("quorum",), ("primary", "async", "sync", "noloadbalance", "standby leader"), _true),
    ("timeline", SERVER, ("stopped",), lambda value: value == 1),
    ("replication_state", ("standby leader", "async", "sync", "noloadbalance"), ("primary", "stopped"),
     lambda value: value == "streaming"),
    ("replication_state", ("archive",), (), lambda value: value == "in archive recovery"),
    ("replication", ("primary",), ("async", "stopped"), _senders),
    ("pause", ("paused", "no lock", "stopped"), ("primary", "async"), _true),
    ("cluster_unlocked", ("stopped",), ("primary", "async"), _true),
    ("failsafe_mode_is_active", (), (*SERVER, "stopped"), bool),
    ("dcs_last_seen", (*SERVER, "stopped"), (), lambda value: type(value) is int and value > 1_700_000_000),
    ("tags", ("async",), ("primary",), lambda value: value == {"rack": "a1"}),
    ("tags", ("noloadbalance",), (), lambda value: value == {"rack": "b2", "noloadbalance": True, "nosync": True}),
    ("database_system_identifier", (*SERVER, "stopped"), (), str.isdigit),
    ("pending_restart", ("pending",), ("primary",), _true),
    ("pending_restart_reason", ("pending",), ("primary",),
     lambda value: value == {"max_connections": {"old_value": "60", "new_value": "70"}}),
    ("patroni", (*SERVER, "stopped"), (), lambda value: list(value) == ["version", "scope", "name"]),
    ("patroni.version", ("primary",), (), lambda value: re.fullmatch(r"4\.\d+\.\d+", value) is not None),
    ("patroni.scope", ("standby leader",), (), lambda value: value == "beside"),
    ("patroni.name", ("async",), (), lambda value: value == "n2"),
    ("scheduled_restart", ("scheduled",), ("primary", "async"),
     lambda value: value == {"schedule": "2999-01-01T00:00:00+00:00", "role": "replica", "postgres_version": "99.0",
                             "restart_pending": True, "timeout": 60}),
    ("watchdog_failed", ("noloadbalance",), ("primary", "async"), _true),
    ("logger_queue_size", (), (*SERVER, "stopped"), bool),
    ("logger_records_lost", (), (*SERVER, "stopped"), bool),
    ("pgcore.version", (*SERVER, "stopped"), (), lambda value: isinstance(value, str)),
    ("pgcore.observed_age", (*SERVER, "stopped"), (), lambda value: 0 <= value < 8),
    ("pgcore.lease_seconds_left", ("primary", "standby leader"), (), lambda value: 0 < value <= 8),
]
"""Name, conditions under which it is there and fits, conditions under which it is absent (rest-api 5.1)."""


@pytest.mark.parametrize(("name", "present", "absent", "fits"), FIELDS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_field_of_the_status_is_there_when_it_should_be(
    walk: Walk, name: str, present: tuple[str, ...], absent: tuple[str, ...], fits: Callable[[Any], bool]
) -> None:
    outer, _, inner = name.partition(".")

    def value(condition: str) -> Any:
        found = walk.documents[condition].get(outer)
        return found.get(inner) if inner and isinstance(found, dict) else found

    for condition in present:
        found = walk.documents[condition].get(outer)
        assert found is not None and (not inner or inner in found), f"{name} is missing: {condition}"
        assert fits(value(condition)), f"{name} of {condition}: {value(condition)!r}"
    for condition in absent:
        assert value(condition) is None, f"{name} of {condition}: {value(condition)!r}"


def test_the_identifier_is_that_of_the_cluster_and_positions_follow_each_other(walk: Walk) -> None:
    documents = walk.documents
    assert {documents[each]["database_system_identifier"] for each in (*SERVER, "stopped")} == {walk.identifier}
    assert documents["async"]["xlog"]["received_location"] >= documents["async"]["xlog"]["replayed_location"]
    fields = list(documents["primary"])
    assert fields[:5] == ["state", "postmaster_start_time", "role", "server_version", "xlog"]
    assert fields[-2:] == ["patroni", "pgcore"]
