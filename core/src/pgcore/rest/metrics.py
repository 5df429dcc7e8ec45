"""``GET /metrics``: the series of the contract in Prometheus' text form, from the board alone (metrics.md)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from pgcore import PATRONI_VERSION
from pgcore.config.values import parse_bool
from pgcore.daemon.board import Status
from pgcore.model.basics import Role, State, Tags
from pgcore.rest import checks

Series = tuple[str, str, str, float | int | str]
"""Name without prefix, type, help, value."""


def exposition(status: Status) -> str:
    """The page, every series with the labels ``scope`` and ``name``."""
    labels = f'{{scope="{status.scope}",name="{status.name}"}}'
    lines = []
    for name, kind, text, value in (*_server_series(status), *_cluster_series(status)):
        lines.append(f"# HELP patroni_{name} {text}")
        if name == "postgres_state":
            lines.append("# " + ", ".join(f"{state.number}={state.name.lower()}" for state in State))
        lines += [f"# TYPE patroni_{name} {kind}", f"patroni_{name}{labels} {value}"]
    return "\n".join(lines) + "\n"


def _server_series(status: Status) -> Iterator[Series]:
    node = status.node
    up = node.answering
    role = checks.api_role(status)
    standby = up and not node.is_primary
    yield "version", "gauge", "Version of the Patroni release line this node speaks.", _version_number()
    yield "postgres_running", "gauge", "1 if PostgreSQL is running and answers.", int(up and node.state == State.RUNNING)
    yield "postmaster_start_time", "gauge", "Epoch seconds of PostgreSQL's start.", _epoch(node.postmaster_start) if up else 0
    yield "primary", "gauge", "1 if this node is not in recovery.", int(role == Role.PRIMARY)
    yield "xlog_location", "counter", "Flushed WAL in bytes, 0 on a standby.", int((up and not standby and node.position) or 0)
    yield "standby_leader", "gauge", "1 if this node is the standby leader.", int(role == Role.STANDBY_LEADER)
    yield "replica", "gauge", "1 if this node is a replica.", int(role == Role.REPLICA)
    yield "sync_standby", "gauge", "1 if this node is a synchronous standby.", int(up and checks.is_sync_standby(status))
    yield "quorum_standby", "gauge", "1 if this node is a quorum standby.", int(up and checks.is_quorum_standby(status))
    yield ("xlog_received_location", "counter", "Received WAL in bytes, 0 on a primary.",
           int((standby and (node.received or node.replayed)) or 0))
    yield "xlog_replayed_location", "counter", "Replayed WAL in bytes, 0 on a primary.", int((standby and node.replayed) or 0)
    yield ("xlog_replayed_timestamp", "gauge", "Epoch seconds of the last replayed commit, 0 if none.",
           _epoch(node.replayed_at) if standby else 0)
    yield "xlog_paused", "gauge", "1 if replay is paused.", int(standby and node.replay_paused)
    if up and (node.server_version or 0) >= 90600:
        replication = node.replication_state
        yield "postgres_streaming", "gauge", "1 if this node streams.", int(replication == "streaming")
        yield ("postgres_in_archive_recovery", "gauge", "1 if this node replays from the archive.",
               int(replication == "in archive recovery"))
    yield "postgres_server_version", "gauge", "Version number of PostgreSQL.", int((up and node.server_version) or 0)


def _cluster_series(status: Status) -> Iterator[Series]:
    node, view = status.node, status.cluster
    up = node.answering
    failsafe = status.failsafe or {}
    yield "cluster_unlocked", "gauge", "1 if no leader is known.", int(view is None or view.unlocked)
    yield "failsafe_mode_is_active", "gauge", "1 if failsafe mode carries the cluster.", int(status.failsafe_active)
    enabled = parse_bool(status.dynamic.get("failsafe_mode")) is True
    yield "failsafe_mode_enabled", "gauge", "1 if failsafe_mode is configured.", int(enabled)
    yield "failsafe_member", "gauge", "1 if this node is named in the failsafe key.", int(status.name in failsafe)
    yield "postgres_timeline", "gauge", "Timeline of this node, 0 if unknown.", int((up and node.timeline) or 0)
    yield "dcs_last_seen", "gauge", "Epoch seconds of the last good read of the store.", status.dcs_last_seen
    yield "pending_restart", "gauge", "1 if PostgreSQL has to be restarted.", int(bool(node.pending_restart))
    yield "is_paused", "gauge", "1 in maintenance mode.", int(status.paused)
    state = -1 if checks.api_state(status) == "unknown" else node.state.number
    yield "postgres_state", "gauge", "What PostgreSQL is doing, as a number.", state
    tags = Tags(status.tags)
    yield "failover_priority", "gauge", "Priority in a failover, 0 is never.", 0 if tags.nofailover else tags.failover_priority


def _version_number() -> str:
    return "".join(part.zfill(2) for part in PATRONI_VERSION.split("."))


def _epoch(text: str | None) -> float | int:
    if not text:
        return 0
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0
