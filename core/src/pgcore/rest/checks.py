"""Health decisions over one ``Status``: which code a load balancer, a kubelet or an operator gets (rest-api 3 and 4).

Nothing here reads PostgreSQL or the store. A check never says 200 on the strength of an observation that a lease would not have
outlived.
"""

from __future__ import annotations

from collections.abc import Mapping

from pgcore.config.values import parse_int
from pgcore.daemon.board import Status
from pgcore.model.basics import Instant, Json, Lsn, Role, State, Tags

OK, UNAVAILABLE = 200, 503
START_S = 60.0
"""How long the first heartbeat may take before liveness gives up on it."""

Parameters = Mapping[str, str]


def observed_age(status: Status, at: Instant) -> float:
    """Seconds since the node was looked at."""
    return max(0.0, at - status.at)


def is_fresh(status: Status, at: Instant) -> bool:
    """The observation is young enough to vouch for a server: no older than a lease may be."""
    return observed_age(status, at) <= status.timing.ttl


def api_state(status: Status) -> str:
    """``state`` of the status document: ``unknown`` when it should run but does not answer (rest-api 5.2)."""
    node = status.node
    return "unknown" if node.state == State.RUNNING and not node.answering else str(node.state)


def api_role(status: Status) -> str:
    """``role`` of the status document: what the server says, or the cached role when it says nothing (rest-api 5.1)."""
    node = status.node
    if not node.answering or (status.standby_cluster and not node.is_primary):
        return str(node.role)
    return str(Role.PRIMARY if node.is_primary else Role.REPLICA)


def is_sync_standby(status: Status) -> bool:
    """A replica named in ``/sync`` while ``synchronous_mode`` is on (rest-api 3.4)."""
    return status.synchronous == "on" and _listed(status)


def is_quorum_standby(status: Status) -> bool:
    """The same for ``synchronous_mode: quorum``."""
    return status.synchronous == "quorum" and _listed(status)


def leader_lsn(status: Status) -> Lsn:
    """How far the leader is known to be: the ``/status`` key or the WAL receiver, whichever is ahead (rest-api 3.3)."""
    optime = status.cluster.status.optime if status.cluster else None
    receiver = status.node.receiver
    return max(optime or Lsn(0), receiver.latest_end if receiver else Lsn(0))


def health(status: Status | None, path: str, parameters: Parameters, at: Instant) -> int:
    """The code of ``GET|HEAD|OPTIONS <path>`` (rest-api 3.1)."""
    if status is None:
        return UNAVAILABLE
    path = "/primary" if path == "/" else path
    if "standby_leader" in path or "standby-leader" in path:
        return _standby_leader(status, at)
    if "leader" in path:
        return _leader(status, at)
    if "master" in path or "primary" in path or "read-write" in path:
        return _primary(status, at)
    code = _standby_check(status, path, parameters, at)
    return code if code != OK or _tags_match(status, parameters) else UNAVAILABLE


def liveness(status: Status | None, started_at: Instant, at: Instant) -> int:
    """Whether the heartbeat still beats (rest-api 4). Before the first beat the start counts as one."""
    if status is None:
        return OK if at < started_at + START_S else UNAVAILABLE
    if status.paused:
        return OK
    ttl = status.timing.ttl
    grace = ttl if status.node.role == Role.PRIMARY and status.node.running else 2 * ttl
    due = status.next_beat_due if status.next_beat_due is not None else status.at + status.timing.loop_wait
    return OK if due + grace > at else UNAVAILABLE


def readiness(status: Status | None, parameters: Parameters, at: Instant) -> int:
    """Whether a rolling update may go on: the leader, or a standby that streams and keeps up (rest-api 4)."""
    if status is None:
        return UNAVAILABLE
    if status.is_leader:
        return OK
    node = status.node
    if not is_fresh(status, at) or api_state(status) != State.RUNNING or node.replication_state != "streaming":
        return UNAVAILABLE
    if status.cluster is None and not (node.receiver and node.receiver.latest_end):
        return OK if status.failsafe_active else UNAVAILABLE
    limit = parse_int(parameters.get("lag"), "bytes")
    limit = status.maximum_lag_on_failover if limit is None else limit
    location = node.received if parameters.get("mode") == "write" else node.replayed
    return UNAVAILABLE if leader_lsn(status) - (location or 0) > limit else OK


def _leader(status: Status, at: Instant) -> int:
    if status.is_leader:
        return OK
    return _paused_without_store(status, at, Role.PRIMARY, Role.STANDBY_LEADER)


def _primary(status: Status, at: Instant) -> int:
    if status.is_leader:
        return UNAVAILABLE if status.standby_cluster else OK
    return _paused_without_store(status, at, Role.PRIMARY)


def _standby_leader(status: Status, at: Instant) -> int:
    if status.is_leader:
        return OK if status.standby_cluster and api_role(status) in (Role.REPLICA, Role.STANDBY_LEADER) else UNAVAILABLE
    return _paused_without_store(status, at, Role.STANDBY_LEADER)


def _paused_without_store(status: Status, at: Instant, *roles: Role) -> int:
    # In a pause nobody takes over by himself, and pauses are made to work on the store: the role decides (rest-api 3.2).
    by_role = status.paused and status.cluster is None and is_fresh(status, at) and api_role(status) in roles
    return OK if by_role else UNAVAILABLE


def _standby_check(status: Status, path: str, parameters: Parameters, at: Instant) -> int:
    """Rows 4 to 11 of rest-api 3.1."""
    replica = _replica(status, parameters, at)
    leads = OK in (_primary(status, at), _standby_leader(status, at))
    if "replica" in path:
        return replica
    if "read-only" in path and "sync" not in path and "quorum" not in path:
        return OK if leads else replica
    if "health" in path:
        return OK if is_fresh(status, at) and api_state(status) == State.RUNNING else UNAVAILABLE
    if status.cluster is None:
        return UNAVAILABLE
    sync, quorum = is_sync_standby(status), is_quorum_standby(status)
    if path in ("/sync", "/synchronous"):
        return replica if sync else UNAVAILABLE
    if path == "/quorum":
        return replica if quorum else UNAVAILABLE
    if path in ("/async", "/asynchronous"):
        return UNAVAILABLE if sync or quorum else replica
    if path in ("/read-only-sync", "/read-only-synchronous"):
        return OK if leads else replica if sync else UNAVAILABLE
    if path == "/read-only-quorum":
        return OK if leads else replica if quorum else UNAVAILABLE
    return UNAVAILABLE


def _replica(status: Status, parameters: Parameters, at: Instant) -> int:
    """REPLICA of rest-api 3.2."""
    node = status.node
    limit = parse_int(parameters.get("lag"), "bytes")
    wanted = parameters.get("replication_state")
    good = (
        is_fresh(status, at)
        and not Tags(status.tags).noloadbalance
        and api_role(status) == Role.REPLICA
        and api_state(status) == State.RUNNING
        and not (status.standby_cluster and status.is_leader)
        and (wanted is None or wanted == node.replication_state)
        and (limit is None or leader_lsn(status) == 0 or leader_lsn(status) <= (node.replayed or 0) + limit)
    )
    return OK if good else UNAVAILABLE


def _tags_match(status: Status, parameters: Parameters) -> bool:
    tags = Tags(status.tags).published()
    wanted = {name.removeprefix("tag_"): value for name, value in parameters.items() if name.startswith("tag_")}
    return all(name in tags and _tag_text(tags[name]) == value for name, value in wanted.items())


def _tag_text(value: Json) -> str:
    return value if isinstance(value, str) else str(value).lower()


def _listed(status: Status) -> bool:
    if status.cluster is None or api_role(status) != Role.REPLICA:
        return False
    return status.name.lower() in {name.lower() for name in status.cluster.sync.standbys}
