"""The JSON documents, field by field and in order (rest-api 5 and 6)."""

from __future__ import annotations

import time
from dataclasses import replace

from pgcore.clock import now
from pgcore.daemon.board import Board
from pgcore.model.basics import Instant, Lsn, Role
from pgcore.model.cluster import ConfigRecord, FailoverRequest, HistoryEntry
from pgcore.model.node import TaskKind, TaskView, Writes
from pgcore.rest.members import ClusterMode, member_rows
from pgcore.rest.status import cluster_document, history_document, node_document
from unit.rest_board import aged, member, primary_node, replica_node, status, view


def test_the_document_of_a_primary_has_the_fields_in_order() -> None:
    node = primary_node(pending_restart={"max_connections": {"old_value": "100", "new_value": "200"}})
    document = node_document(status("a", node, leads=True, tags={"zone": "a", "clonefrom": False}), now())
    assert list(document) == [
        "state",
        "postmaster_start_time",
        "role",
        "server_version",
        "xlog",
        "timeline",
        "replication",
        "dcs_last_seen",
        "tags",
        "database_system_identifier",
        "pending_restart",
        "pending_restart_reason",
        "patroni",
        "pgcore",
    ]
    assert document["role"] == "primary"
    assert document["xlog"] == {"location": 1000}
    assert document["tags"] == {"zone": "a"}
    assert document["patroni"] == {"version": "4.1.5", "scope": "demo", "name": "a"}
    assert document["replication"] == [
        {
            "usename": "replicator",
            "application_name": "b",
            "client_addr": "127.0.0.1",
            "state": "streaming",
            "sync_state": "async",
            "sync_priority": 0,
        }
    ]
    assert set(document["pgcore"]) == {"version", "rule", "reason", "lease_seconds_left", "observed_age", "task", "promoting",
                                       "watchdog", "writes"}


def test_the_time_of_the_last_write_is_told_as_an_age() -> None:
    at = now()
    never = Writes()
    ceased = Writes(began=Instant(at - 100), ceased=Instant(at - 1.5))
    told = [node_document(status("a", primary_node(writes=w)), at)["pgcore"]["writes"] for w in (
        never, never.seen(False, at), never.seen(True, Instant(at - 100)), ceased, ceased.seen(True, Instant(at - 1)))]
    assert told == [
        {"accepted": False, "seconds": None, "paused": None},
        {"accepted": False, "seconds": None, "paused": None},
        {"accepted": True, "seconds": 100.0, "paused": None},
        {"accepted": False, "seconds": 1.5, "paused": None},
        {"accepted": True, "seconds": 1.0, "paused": 0.5},
    ]


def test_a_long_action_shows_its_progress_between_two_heartbeats() -> None:
    board, since = Board(), Instant(now() - 5)
    board.show_task(TaskView(TaskKind.REINITIALIZE, since))  # before the first heartbeat there is nothing to show it in
    board.publish(status())
    seen = board.status
    board.show_task(TaskView(TaskKind.REINITIALIZE, since, {"phase": "basebackup", "bytes_done": 10}))
    assert seen is not None and board.status is not None and board.status.at == seen.at
    task = node_document(board.status, Instant(since + 7))["pgcore"]["task"]
    assert task == {"kind": "reinitialize", "seconds": 7.0, "phase": "basebackup", "bytes_done": 10}
    board.publish(seen)
    assert node_document(board.status, now())["pgcore"]["task"] is None


def test_a_scheduled_restart_is_shown_as_it_was_asked_for() -> None:
    scheduled = {"schedule": "2999-01-01T00:00:00+00:00", "role": "primary", "timeout": 30, "postmaster_start_time": "x"}
    document = node_document(status("a", primary_node(), leads=True, scheduled_restart=scheduled), now())
    assert document["scheduled_restart"] == {"schedule": "2999-01-01T00:00:00+00:00", "role": "primary", "timeout": 30}


def test_the_phases_of_the_last_minute_are_told_by_their_ages() -> None:
    board, since = Board(), now()
    board.publish(status())
    board.show_task(TaskView(TaskKind.STOP, since))  # at once followed by its first phase: not worth a word
    for phase in ("before_stop", "before_stop", "stopping"):
        board.show_task(TaskView(TaskKind.STOP, since, {"phase": phase}))
    board.show_task(None)
    board.show_task(TaskView(TaskKind.CHECKPOINT, now()))
    time.sleep(0.03)
    board.show_task(None)
    board.publish(status())  # the next heartbeat
    at = now()
    told = node_document(board.status or status(), at)["pgcore"]["phases"]
    whats = ["stop: before_stop", "stop: stopping", "checkpoint"]
    assert [(phase["number"], phase["what"]) for phase in told] == list(enumerate(whats, 1))
    assert 0.02 < told[2]["took"] < 10 and told[0]["ended"] >= told[2]["ended"] >= 0
    assert "phases" not in node_document(board.status or status(), Instant(at + 61))["pgcore"]
    for number in range(20):
        board.show_task(TaskView(TaskKind.STOP, since, {"phase": str(number)}))
    assert board.status is not None and len(board.status.phases) == 8


def test_the_document_of_a_sync_standby() -> None:
    document = node_document(status(cluster=view(sync=("b",)), synchronous="on"), now())
    assert list(document)[:8] == [
        "state",
        "postmaster_start_time",
        "role",
        "server_version",
        "xlog",
        "sync_standby",
        "timeline",
        "replication_state",
    ]
    assert document["xlog"] == {"received_location": 1000, "replayed_location": 900, "replayed_timestamp": None, "paused": False}


def test_positions_are_integers_even_when_nothing_was_received() -> None:
    xlog = node_document(status(node=replica_node(received=None, replayed=None)), now())["xlog"]
    assert (xlog["received_location"], xlog["replayed_location"]) == (0, 0)
    assert node_document(status(node=replica_node(received=None)), now())["xlog"]["received_location"] == 900


def test_a_silent_server_shows_its_cached_role_and_no_position() -> None:
    document = node_document(status(node=replica_node(answering=False), cluster=None), now())
    assert document["state"] == "unknown"
    assert document["role"] == "replica"
    assert document["cluster_unlocked"] is True
    assert not {"xlog", "timeline", "server_version"} & set(document)


def test_fresh_positions_replace_the_observed_ones_and_silence_removes_them() -> None:
    observed = aged(status(), 5)
    fresh = node_document(observed, now(), (Lsn(2000), Lsn(1500), False), asked=True)
    assert (fresh["xlog"]["received_location"], fresh["xlog"]["replayed_location"]) == (2000, 1500)
    assert fresh["pgcore"]["observed_age"] == 0.0
    assert "xlog" not in node_document(observed, now(), None, asked=True)
    promoted = node_document(observed, now(), (Lsn(2000), None, True), asked=True)
    assert (promoted["role"], promoted["xlog"]) == ("primary", {"location": 2000})


def test_a_standby_leader_is_called_so() -> None:
    observed = status("a", replica_node(role=Role.STANDBY_LEADER), leads=True, standby_cluster=True)
    assert node_document(observed, now())["role"] == "standby_leader"


def test_the_cluster_document_follows_the_contract() -> None:
    seen = view(sync=("b",), failover=FailoverRequest("1", "a", "b", "2030-01-01T00:00:00+00:00", 1.0))
    broken = replace(
        member("d", tags={"nofailover": True}, pending_restart=True), receive_lsn=None, replay_lsn=None, conn_url=None
    )
    document = cluster_document(replace(seen, members=(broken, *seen.members)), "demo", ClusterMode("on", paused=True))
    assert list(document) == ["members", "pause", "scheduled_switchover", "scope"]
    assert [(m["name"], m["role"], m["state"]) for m in document["members"]] == [
        ("a", "leader", "running"),
        ("b", "sync_standby", "streaming"),
        ("c", "replica", "streaming"),
        ("d", "replica", "streaming"),
    ]
    assert list(document["members"][0]) == ["name", "role", "state", "api_url", "host", "port", "timeline"]
    replica = document["members"][1]
    assert list(replica) == [
        "name",
        "role",
        "state",
        "api_url",
        "host",
        "port",
        "timeline",
        "receive_lag",
        "receive_lsn",
        "replay_lag",
        "replay_lsn",
        "lag",
        "lsn",
    ]
    assert (replica["receive_lag"], replica["receive_lsn"], replica["replay_lag"], replica["replay_lsn"]) == (
        0,
        "0/3E8",
        100,
        "0/384",
    )
    assert {k: document["members"][3][k] for k in ("receive_lag", "receive_lsn", "tags", "pending_restart")} == {
        "receive_lag": "unknown",
        "receive_lsn": "unknown",
        "tags": {"nofailover": True},
        "pending_restart": True,
    }
    assert document["scheduled_switchover"] == {"at": "2030-01-01T00:00:00+00:00", "from": "a", "to": "b"}


def test_the_leader_of_a_standby_cluster_shows_its_replication_state() -> None:
    seen = replace(view(), members=(member("a", "standby_leader"),))
    assert [(row.role, row.state) for row in member_rows(seen, ClusterMode(standby_cluster=True))] == [
        ("standby_leader", "streaming")
    ]


def test_the_mode_is_read_from_the_stored_configuration() -> None:
    config = {"synchronous_mode": "quorum", "standby_cluster": {"host": "x"}, "pause": True, "maximum_lag_on_failover": 5}
    assert ClusterMode.of(view(config=ConfigRecord("1", config))) == ClusterMode("off", True, True, 5)
    normal = config | {"standby_cluster": {}}
    assert ClusterMode.of(view(config=ConfigRecord("1", normal))) == ClusterMode("quorum", False, True, 5)
    assert ClusterMode.of(view()) == ClusterMode()


def test_a_standby_cluster_knows_no_synchronous_standby() -> None:
    """EC 198"""
    config = ConfigRecord("1", {"synchronous_mode": True, "standby_cluster": {"host": "x"}})
    seen = replace(view(sync=("b",), config=config), members=(member("a", "standby_leader"), member("b")))
    assert [row.role for row in member_rows(seen, ClusterMode.of(seen))] == ["standby_leader", "replica"]


def test_history_lines_keep_their_length() -> None:
    entries = (
        HistoryEntry(1, Lsn(5), "no recovery target specified", raw=(1, 5, "no recovery target specified")),
        HistoryEntry(2, Lsn(9), "r", "2026-01-01T00:00:00+00:00", "b"),
    )
    assert history_document(view(history=entries)) == [
        [1, 5, "no recovery target specified"],
        [2, 9, "r", "2026-01-01T00:00:00+00:00", "b"],
    ]
