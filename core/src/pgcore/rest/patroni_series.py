"""The series that Patroni's dashboards know, under their names and in their order (metrics, "Series in 4.1.5" and after)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from pgcore import PATRONI_VERSION
from pgcore.config.values import parse_bool
from pgcore.daemon.board import Status
from pgcore.model.basics import Role, State, Tags
from pgcore.rest import checks
from pgcore.rest.series import Number, Series, single

PREFIX = "patroni_"
OLDEST_STREAMING = 90600
"""Below this server version a standby's state of replication is not told."""
STATES = "Values: " + ", ".join(f"{state.number}={state.name.lower()}" for state in State)


class _Padded(int):
    """An integer that is written with the zeros in front of it."""

    def __str__(self) -> str:
        return f"{int(self):06d}"


def _gauge(name: str, text: str, number: Callable[[Status], Number | None], comment: str = "") -> Series:
    return Series(PREFIX + name, "gauge", text, single(number), comment=comment)


def _counter(name: str, text: str, number: Callable[[Status], Number | None]) -> Series:
    return Series(PREFIX + name, "counter", text, single(number))


def _up(number: Callable[[Status], Number]) -> Callable[[Status], Number]:
    """0 while PostgreSQL does not answer."""
    return lambda s: number(s) if s.node.answering else 0


def _standby(number: Callable[[Status], Number]) -> Callable[[Status], Number]:
    """0 on a primary, too."""
    return _up(lambda s: 0 if s.node.is_primary else number(s))


def _replication(state: str) -> Callable[[Status], Number | None]:
    """Absent unless the version of the server is known and new enough."""

    def number(status: Status) -> Number | None:
        node = status.node
        known = node.answering and (node.server_version or 0) >= OLDEST_STREAMING
        return int(node.replication_state == state) if known else None

    return number


def _version(status: Status) -> Number:
    return _Padded("".join(part.zfill(2) for part in PATRONI_VERSION.split(".")))


def _epoch(text: str | None) -> Number:
    try:
        return datetime.fromisoformat(text).timestamp() if text else 0
    except ValueError:
        return 0


def _state(status: Status) -> Number:
    return -1 if checks.api_state(status) == "unknown" else status.node.state.number


def _priority(status: Status) -> Number:
    tags = Tags(status.tags)
    return 0 if tags.nofailover else tags.failover_priority


def _role(role: Role) -> Callable[[Status], Number]:
    return lambda s: int(checks.api_role(s) == role)


PATRONI = (
    _gauge("version", "Version of the Patroni release whose interface this node speaks.", _version),
    _gauge("postgres_running", "1 if PostgreSQL runs and answers.", _up(lambda s: int(s.node.state == State.RUNNING))),
    _gauge("postmaster_start_time", "When PostgreSQL was started, in epoch seconds.",
           _up(lambda s: _epoch(s.node.postmaster_start))),
    _gauge("primary", "1 if PostgreSQL is not in recovery; says nothing about the lock.", _role(Role.PRIMARY)),
    _counter("xlog_location", "Flushed WAL in bytes, 0 on a standby.",
             _up(lambda s: int(s.node.position or 0) if s.node.is_primary else 0)),
    _gauge("standby_leader", "1 if this node leads a standby cluster.", _role(Role.STANDBY_LEADER)),
    _gauge("replica", "1 if this node is a replica and no standby leader.", _role(Role.REPLICA)),
    _gauge("sync_standby", "1 if this node is a synchronous standby.", _up(lambda s: int(checks.is_sync_standby(s)))),
    _gauge("quorum_standby", "1 if this node is a quorum standby.", _up(lambda s: int(checks.is_quorum_standby(s)))),
    _counter("xlog_received_location", "Received WAL in bytes, 0 on a primary.",
             _standby(lambda s: int(s.node.received or s.node.replayed or 0))),
    _counter("xlog_replayed_location", "Replayed WAL in bytes, 0 on a primary.", _standby(lambda s: int(s.node.replayed or 0))),
    _gauge("xlog_replayed_timestamp", "Time of the last replayed commit in epoch seconds, 0 if there is none.",
           _standby(lambda s: _epoch(s.node.replayed_at))),
    _gauge("xlog_paused", "1 if replay is paused.", _standby(lambda s: int(s.node.replay_paused))),
    _gauge("postgres_streaming", "1 if this node streams from another.", _replication("streaming")),
    _gauge("postgres_in_archive_recovery", "1 if this node replays from the archive.", _replication("in archive recovery")),
    _gauge("postgres_server_version", "Version of PostgreSQL as a number.", _up(lambda s: s.node.server_version or 0)),
    _gauge("cluster_unlocked", "1 if nobody holds the leader lock, or the store does not say who.",
           lambda s: int(s.cluster is None or s.cluster.unlocked)),
    _gauge("failsafe_mode_is_active", "1 while failsafe mode keeps a leader without the store.",
           lambda s: int(s.failsafe_active)),
    _gauge("failsafe_mode_enabled", "1 if failsafe_mode is configured.",
           lambda s: int(parse_bool(s.dynamic.get("failsafe_mode")) is True)),
    _gauge("failsafe_member", "1 if this node is named in the last known /failsafe key.",
           lambda s: int(s.name in (s.failsafe or {}))),
    _gauge("postgres_timeline", "Timeline of this node, 0 if unknown.", _up(lambda s: s.node.timeline or 0)),
    _gauge("dcs_last_seen", "Last good read of the store in epoch seconds, 0 if there was none.", lambda s: s.dcs_last_seen),
    _gauge("pending_restart", "1 if PostgreSQL has to be restarted.", lambda s: int(bool(s.node.pending_restart))),
    _gauge("is_paused", "1 in maintenance mode.", lambda s: int(s.paused)),
    _gauge("postgres_state", "What PostgreSQL is doing, as a number; -1 if it runs but does not answer.", _state, STATES),
    _gauge("failover_priority", "Priority in a failover; 0: never.", _priority),
)
