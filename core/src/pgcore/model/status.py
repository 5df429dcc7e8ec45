"""A member's status JSON, the answer to ``GET /patroni``, as values of the model (rest-api 5, 14)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pgcore.model.basics import Instant, Json, Lsn, Role, State, Tags
from pgcore.model.node import DataDir, NodeView, TaskKind, TaskView, WalSender
from pgcore.model.world import PeerView

UP = (State.RUNNING, State.STARTING, State.RESTARTING, State.STOPPING, State.STOP_FAILED)
_MAY_WRITE = (State.RUNNING, State.STARTING, State.RESTARTING, State.CRASHED, "unknown")
"""A primary that counts on its lock is started again in place; unknown: its agent has not heard of it for a while."""
T = TypeVar("T", Role, State)


def parse_status(name: str, document: Json) -> PeerView:
    """A member's status JSON as the race reads it; without WAL fields it counts as unreachable. (HA rules 1, rest-api 14)"""
    if not isinstance(document, Mapping):
        return PeerView(name, False)
    found = document.get("tags")
    tags = Tags(found if isinstance(found, Mapping) else {})
    wal = document.get("xlog") or document.get("wal")
    mine = document.get("pgcore")
    own = mine if isinstance(mine, Mapping) else {}
    leads = document.get("role") in ("primary", "master")
    promoting = own.get("promoting") is True
    if not isinstance(wal, Mapping):
        starting = document.get("state") in (State.STARTING, State.RESTARTING, State.CRASHED, State.STOPPED)
        left = own.get("lease_seconds_left")
        proven = leads and document.get("state") in _MAY_WRITE and isinstance(left, int | float) and left > 0
        return PeerView(name, False, nofailover=tags.nofailover, starting=starting, counts_on_lock=proven, promoting=promoting)
    primary = bool(wal.get("location")) or leads
    position = max(integer(wal.get("received_location")), integer(wal.get("replayed_location")))
    return PeerView(
        name,
        True,
        is_primary=primary,
        position=Lsn(0 if primary else position),
        timeline=integer(document.get("timeline")) or None,
        nofailover=tags.nofailover,
        failover_priority=tags.failover_priority,
        watchdog_failed=document.get("watchdog_failed") is True,
        promoting=promoting,
        failsafe_leader=str(own["failsafe_leader"]) if own.get("failsafe_leader") else None,
        failsafe_unknown=own.get("failsafe_unknown") is True,
    )


def integer(value: Json) -> int:
    """A number, also as text; 0 for everything else."""
    try:
        return int(value or 0)
    except (TypeError, ValueError, OverflowError):
        return 0


def parse_node(document: Mapping[str, Json], at: Instant) -> NodeView:
    """What its agent sees of the node, as far as it tells; what it does not tell is as if there were nothing of it."""
    found = document.get("xlog")
    wal = found if isinstance(found, Mapping) else {}
    primary = document.get("role") in ("primary", "master")
    received, replayed = (Lsn(integer(wal.get(f"{what}_location"))) for what in ("received", "replayed"))
    state = _word(State, document.get("state"), State.RUNNING if document.get("state") == "unknown" else State.STOPPED)
    return NodeView(
        at,
        DataDir.PRESENT,
        Role.PRIMARY if primary else _word(Role, document.get("role"), Role.REPLICA),
        state,
        running=state in UP,
        answering=bool(wal),
        accepting=bool(wal),
        is_primary=primary,
        server_version=integer(document.get("server_version")) or None,
        postmaster_start=document.get("postmaster_start_time"),
        timeline=integer(document.get("timeline")) or None,
        recovery_files=not primary,
        received=received,
        replayed=replayed,
        position=Lsn(integer(wal.get("location"))) if primary else max(received, replayed),
        replay_paused=wal.get("paused") is True,
        senders=_senders(document.get("replication")),
        pending_restart=document.get("pending_restart_reason") or ({"?": {}} if document.get("pending_restart") else {}),
        task=_task(document.get("pgcore"), at),
    )


def _word(kind: type[T], text: Json, otherwise: T) -> T:
    try:
        return kind(text)
    except ValueError:
        return otherwise


def _senders(rows: Json) -> tuple[WalSender, ...]:
    found = rows if isinstance(rows, list) else []
    return tuple(WalSender(str(row.get("application_name")), str(row.get("state"))) for row in found if isinstance(row, Mapping))


def _task(own: Json, at: Instant) -> TaskView | None:
    task = own.get("task") if isinstance(own, Mapping) else None
    kind = task.get("kind") if isinstance(task, Mapping) else None
    return TaskView(TaskKind(kind), at) if kind in set(TaskKind) else None
