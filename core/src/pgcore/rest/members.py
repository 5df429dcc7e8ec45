"""The members of a cluster as a table: role, state, positions and lag of each card. For ``GET /cluster`` and ``pgcore list``."""

from __future__ import annotations

from dataclasses import dataclass

from pgcore.config.values import parse_bool
from pgcore.model.basics import Json, Lsn
from pgcore.model.cluster import ClusterView, Member


@dataclass(frozen=True, slots=True)
class ClusterMode:
    """What the dynamic configuration says about how roles are to be named."""

    synchronous: str = "off"
    standby_cluster: bool = False
    paused: bool = False
    maximum_lag_on_failover: int = 1048576
    strict: bool = False
    """Writes wait rather than go on without a synchronous standby."""

    @classmethod
    def of(cls, view: ClusterView) -> ClusterMode:
        """Read from the ``/config`` key, with Patroni's defaults."""
        document = (view.config.document if view.config else None) or {}
        synchronous = document.get("synchronous_mode")
        standby = document.get("standby_cluster")
        lag = document.get("maximum_lag_on_failover")
        standby_cluster = isinstance(standby, dict) and any(standby.get(k) for k in ("host", "port", "restore_command"))
        return cls(
            synchronous="off" if standby_cluster else _synchronous(synchronous),
            standby_cluster=standby_cluster,
            paused=parse_bool(document.get("pause")) is True,
            maximum_lag_on_failover=lag if isinstance(lag, int) and not isinstance(lag, bool) else 1048576,
            strict=parse_bool(document.get("synchronous_mode_strict")) is True,
        )


@dataclass(frozen=True, slots=True)
class MemberRow:
    """One line of the table. Lags are bytes behind ``/status``, never negative, None when unknown."""

    member: Member
    role: str
    """``leader``, ``standby_leader``, ``sync_standby``, ``quorum_standby`` or ``replica``."""
    state: str
    host: str | None
    port: int | None
    receive_lag: int | None
    replay_lag: int | None
    lag: int | None

    @property
    def leads(self) -> bool:
        """Owns the leader key."""
        return self.role in ("leader", "standby_leader")


def member_rows(view: ClusterView, mode: ClusterMode) -> list[MemberRow]:
    """All cards of the view, by name (rest-api 6)."""
    return [_row(view, mode, member) for member in sorted(view.members, key=lambda m: m.name)]


def _row(view: ClusterView, mode: ClusterMode, member: Member) -> MemberRow:
    role = _role(view, mode, member.name)
    address = member.address
    optime = view.status.optime
    return MemberRow(
        member=member,
        role=role,
        state=(member.replication_state if role != "leader" else None) or member.state,
        host=address[0] if address else None,
        port=address[1] if address else None,
        receive_lag=_lag(optime, member.receive_lsn),
        replay_lag=_lag(optime, member.replay_lsn),
        lag=_lag(optime, member.xlog_location),
    )


def _role(view: ClusterView, mode: ClusterMode, name: str) -> str:
    if name == view.leader:
        return "standby_leader" if mode.standby_cluster else "leader"
    if mode.synchronous != "off" and name.lower() in {standby.lower() for standby in view.sync.standbys}:
        return "quorum_standby" if mode.synchronous == "quorum" else "sync_standby"
    return "replica"


def _lag(optime: Lsn | None, position: Lsn | None) -> int | None:
    return None if optime is None or position is None else max(0, int(optime) - int(position))


def _synchronous(value: Json) -> str:
    if isinstance(value, str) and value.lower() == "quorum":
        return "quorum"
    return "on" if parse_bool(value) else "off"
