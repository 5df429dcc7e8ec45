"""The documents of the first door: a node's status, the cluster, its history (rest-api 5 and 6). Built from the board alone."""

from __future__ import annotations

from pgcore import PATRONI_VERSION, __version__
from pgcore.daemon.board import DonePhase, Status
from pgcore.model.basics import Instant, Json, Lsn, Role, Tags
from pgcore.model.cluster import ClusterView, FailoverRequest
from pgcore.model.node import TaskKind, Writes
from pgcore.rest import checks
from pgcore.rest.answer import json_text
from pgcore.rest.members import ClusterMode, MemberRow, member_rows

LATELY_S = 60.0
Positions = tuple[Lsn | None, Lsn | None, bool]
"""Positions read this moment: received (flushed on a primary), replayed, and whether the server is out of recovery."""


def mode_of(status: Status) -> ClusterMode:
    """How the heartbeat understood the dynamic configuration."""
    return ClusterMode(status.synchronous, status.standby_cluster, status.paused, status.maximum_lag_on_failover)


def unseen_document(scope: str, name: str) -> dict[str, Json]:
    """The same before the first heartbeat has ended."""
    return {"state": "unknown", "role": "uninitialized", "cluster_unlocked": True, "dcs_last_seen": 0,
            "patroni": {"version": PATRONI_VERSION, "scope": scope, "name": name}, "pgcore": {"version": __version__}}


def node_document(status: Status, at: Instant, fresh: Positions | None = None, *, asked: bool = False) -> dict[str, Json]:
    """``GET /patroni`` in the order of rest-api 5.1, followed by an object ``pgcore`` of our own.

    ``asked``: the caller wanted positions of this moment. Without an answer there is no ``xlog`` then, which every peer
    takes for "unreachable": better than an old position in a race.
    """
    document = {"state": checks.api_state(status), **_server(status, fresh, asked=asked), **_situation(status)}
    document["pgcore"] = _ours(status, at, fresh)
    return document


class NodeText:
    """``node_document`` as text. What only a heartbeat changes is encoded once per published status, not for every answer."""

    def __init__(self, scope: str, name: str) -> None:
        """Of which node: said also before the first heartbeat has ended."""
        self._unseen = unseen_document(scope, name)
        self._last: tuple[Status, bool, str] | None = None

    def at(self, status: Status | None, at: Instant) -> str:
        """The document at this moment. Any number of threads may ask."""
        if status is None:
            return json_text(self._unseen)
        last, active = self._last, status.failsafe_active
        if last is None or last[0] is not status or last[1] != active:
            known = {"state": checks.api_state(status), **_server(status, None, asked=False), **_situation(status)}
            last = self._last = status, active, json_text(known)
        return f'{last[2][:-1]}, "pgcore": {json_text(_ours(status, at, None))}}}'


def _ours(status: Status, at: Instant, fresh: Positions | None) -> dict[str, Json]:
    """What Patroni does not tell; much of it passes with time."""
    return {
        "version": __version__,
        "rule": status.rule,
        "reason": status.reason,
        "lease_seconds_left": None if status.lease_until is None else round(max(0.0, status.lease_until - at), 3),
        "observed_age": 0.0 if fresh else round(checks.observed_age(status, at), 3),
        "task": _task(status, at),
        "promoting": status.node.role is Role.PROMOTED or status.task.get("kind") == TaskKind.PROMOTE,
        "writes": _writes(status.node.writes, at),
        **_phases(status.phases, at),
        "watchdog": str(status.node.watchdog),
    }


def _task(status: Status, at: Instant) -> Json:
    """The long action at this moment: kind, seconds, and what it reports."""
    seconds = {} if status.task_since is None else {"seconds": round(max(0.0, at - status.task_since), 1)}
    return {**status.task, **seconds} or None


def _phases(done: tuple[DonePhase, ...], at: Instant) -> dict[str, Json]:
    """The phases of long actions that have ended lately, for those who look on; absent when nothing has."""
    lately = [{"number": phase.number, "what": phase.what, "took": round(phase.ended - phase.began, 3),
               "ended": round(max(0.0, at - phase.ended), 3)} for phase in done if at - phase.ended < LATELY_S]
    return {"phases": lately} if lately else {}


def _writes(writes: Writes, at: Instant) -> Json:
    """Since how many seconds writes are accepted, or not, and how long the pause before lasted; null: this agent has not seen it.

    Ages and not times of day: the clocks of machines differ.
    """
    changed = writes.began if writes.accepted else writes.ceased
    paused = writes.began - writes.ceased if writes.accepted and writes.began is not None and writes.ceased is not None else None
    return {
        "accepted": writes.accepted,
        "seconds": None if changed is None else round(max(0.0, at - changed), 3),
        "paused": None if paused is None else round(paused, 3),
    }


def cluster_document(view: ClusterView, scope: str, mode: ClusterMode) -> dict[str, Json]:
    """``GET /cluster`` (rest-api 6)."""
    document: dict[str, Json] = {"members": [_member(row) for row in member_rows(view, mode)]}
    if mode.paused:
        document["pause"] = True
    if view.failover and view.failover.scheduled_at:
        document["scheduled_switchover"] = _scheduled(view.failover)
    document["scope"] = scope
    return document


def history_document(view: ClusterView) -> list[Json]:
    """``GET /history``: the lines as stored (rest-api 6)."""
    return [list(e.raw) if e.raw else [e.timeline, int(e.lsn), e.reason, e.timestamp, e.new_leader] for e in view.history or ()]


def _server(status: Status, fresh: Positions | None, *, asked: bool) -> dict[str, Json]:
    """What the server itself says; without its answer only the cached role."""
    node = status.node
    if not node.answering:
        return {"role": checks.api_role(status)}
    primary = fresh[2] if fresh else node.is_primary
    document: dict[str, Json] = {"postmaster_start_time": node.postmaster_start}
    document["role"] = "primary" if primary else checks.api_role(status) if primary == node.is_primary else "replica"
    document["server_version"] = node.server_version
    if fresh or not asked:
        document["xlog"] = _xlog(status, fresh, primary=primary)
    if checks.is_sync_standby(status):
        document["sync_standby"] = True
    if checks.is_quorum_standby(status):
        document["quorum_standby"] = True
    document["timeline"] = node.timeline
    if node.replication_state and not primary:
        document["replication_state"] = node.replication_state
    if node.senders:
        document["replication"] = [
            {"usename": s.usename, "application_name": s.application_name, "client_addr": s.client_addr, "state": s.state,
             "sync_state": s.sync_state, "sync_priority": s.sync_priority} for s in node.senders]
    return document


def _xlog(status: Status, fresh: Positions | None, *, primary: bool) -> dict[str, Json]:
    """Positions as integers, never null: peers compare them (rest-api 14)."""
    node = status.node
    received, replayed = (fresh[0], fresh[1]) if fresh else (node.position if primary else node.received, node.replayed)
    if primary:
        return {"location": int(received or node.position or 0)}
    return {
        "received_location": int(received or replayed or 0),
        "replayed_location": int(replayed or 0),
        "replayed_timestamp": node.replayed_at,
        "paused": node.replay_paused,
    }


def _situation(status: Status) -> dict[str, Json]:
    """What the agent knows beside the server."""
    node, view = status.node, status.cluster
    document: dict[str, Json] = {}
    if status.paused:
        document["pause"] = True
    if view is None or view.unlocked:
        document["cluster_unlocked"] = True
    if status.failsafe_active:
        document["failsafe_mode_is_active"] = True
    document["dcs_last_seen"] = status.dcs_last_seen
    if tags := Tags(status.tags).published():
        document["tags"] = tags
    if node.system_id:
        document["database_system_identifier"] = node.system_id
    if node.pending_restart:
        document["pending_restart"] = True
        document["pending_restart_reason"] = {name: dict(change) for name, change in node.pending_restart.items()}
    document["patroni"] = {"version": PATRONI_VERSION, "scope": status.scope, "name": status.name}
    if status.scheduled_restart:
        document["scheduled_restart"] = {k: v for k, v in status.scheduled_restart.items() if k != "postmaster_start_time"}
    if node.watchdog_failed:
        document["watchdog_failed"] = True
    return document


def _member(row: MemberRow) -> dict[str, Json]:
    member = row.member
    document: dict[str, Json] = {"name": member.name, "role": row.role, "state": row.state, "api_url": member.api_url}
    if row.host:
        document.update(host=row.host, port=row.port)
    if member.timeline is not None:
        document["timeline"] = member.timeline
    for name in ("pending_restart", "pending_restart_reason", "scheduled_restart", "tags"):
        if member.data.get(name):
            document[name] = member.data[name]
    if not row.leads:
        pairs = (("receive_", row.receive_lag, member.receive_lsn), ("replay_", row.replay_lag, member.replay_lsn),
                 ("", row.lag, member.xlog_location))
        for prefix, lag, lsn in pairs:
            document[f"{prefix}lag"] = "unknown" if lag is None else lag
            document[f"{prefix}lsn"] = "unknown" if lsn is None else str(lsn)
    return document


def _scheduled(request: FailoverRequest) -> dict[str, Json]:
    parts = {"at": request.scheduled_at, "from": request.leader, "to": request.candidate}
    return {name: value for name, value in parts.items() if value}
