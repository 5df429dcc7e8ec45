"""Records of a store to a ``ClusterView`` and back: exactly Patroni 4.1's wire format, tolerant on reading (dcs-layout 2, 3)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from urllib.parse import parse_qs, urlsplit

from pgcore.dcs.store import MEMBERS, Key, Record, Snapshot
from pgcore.model.basics import Json, Lsn, Tags
from pgcore.model.cluster import (
    ClusterStatus,
    ClusterView,
    ConfigRecord,
    FailoverRequest,
    HistoryEntry,
    Member,
    SyncView,
)

_CARDS, _OTHERS = 64, 8
"""For so many texts it is remembered what they say: a record that has not changed is not parsed again."""

_GROUP = re.compile(r"(0|[1-9][0-9]*)/(.+)", re.DOTALL)

_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def scope_path(namespace: str, scope: str) -> str:
    """``/<namespace>/<scope>`` with runs of slashes collapsed and none at the end (dcs-layout 1)."""
    parts = [part for part in f"{namespace}/{scope}".split("/") if part]
    return "/" + "/".join(parts)


def compact(value: Json) -> str:
    """JSON as every key holds it: no blanks, ASCII."""
    return _ENCODER.encode(value)


def by_group(snapshot: Snapshot) -> dict[int, Snapshot]:
    """The groups in everything below the path of a scope, by number (dcs-layout 1); other keys are left out."""
    records: dict[int, dict[str, Record]] = {}
    for path, record in snapshot.records.items():
        if match := _GROUP.fullmatch(path):
            records.setdefault(int(match[1]), {})[match[2]] = record
    return {number: Snapshot(found, snapshot.revision) for number, found in sorted(records.items())}


def decode(snapshot: Snapshot) -> ClusterView:
    """The cluster as these records describe it. Never raises: a malformed value counts as its key's table says."""
    records = snapshot.records
    initialize, leader, status, failsafe = (records.get(key) for key in (Key.INITIALIZE, Key.LEADER, Key.STATUS, Key.FAILSAFE))
    config, failover, sync, history = (records.get(key) for key in (Key.CONFIG, Key.FAILOVER, Key.SYNC, Key.HISTORY))
    return ClusterView(
        initialize=initialize.value if initialize else None,
        initialize_version=initialize.version if initialize else None,
        leader=(leader.value or None) if leader else None,
        members=tuple(
            decode_member(path.removeprefix(MEMBERS), records[path].value) for path in sorted(records) if path.startswith(MEMBERS)
        ),
        config=_config(config.value, config.version) if config else None,
        status=_status(status.value) if status else _optime(records.get(Key.OPTIME)),
        failover=_failover(failover.value, failover.version) if failover else None,
        sync=_sync(sync.value, sync.version) if sync else SyncView(),
        history=_history(history.value) if history else None,
        failsafe=_failsafe(failsafe.value) if failsafe else None,
        failsafe_version=failsafe.version if failsafe else None,
        revision=snapshot.revision,
    )


@lru_cache(maxsize=_CARDS)
def decode_member(name: str, text: str) -> Member:
    """One member card; bad JSON makes a member without data, the ancient URL form is understood."""
    if text.startswith("postgres"):
        return _ancient_member(name, text)
    data = _object(text) or {}
    tags = data.get("tags")
    conn_url = data.get("conn_url")
    if not conn_url and isinstance(data.get("conn_kwargs"), dict):
        conn_url = "postgres://{host}:{port}/postgres".format(**{"host": "", "port": 5432, **data["conn_kwargs"]})
    return Member(
        name,
        conn_url=conn_url if isinstance(conn_url, str) and conn_url else None,
        api_url=data["api_url"] if isinstance(data.get("api_url"), str) and data["api_url"] else None,
        state=str(data.get("state") or ""),
        role=str(data.get("role") or ""),
        version=data.get("version"),
        tags=Tags(tags if isinstance(tags, dict) else {}),
        xlog_location=_lsn(data.get("xlog_location")),
        receive_lsn=_lsn(data.get("receive_lsn")),
        replay_lsn=_lsn(data.get("replay_lsn")),
        timeline=_int(data.get("timeline")),
        replication_state=data.get("replication_state"),
        checkpoint_pending=data.get("checkpoint_after_promote") is False,
        pause=data.get("pause") is True,
        data=data,
    )


def _ancient_member(name: str, text: str) -> Member:
    try:
        parts = urlsplit(text)
    except ValueError:
        return Member(name)
    api_url = next(iter(parse_qs(parts.query).get("application_name", ())), None)
    return Member(name, conn_url=parts._replace(query="").geturl(), api_url=api_url)


def encode_status(status: ClusterStatus) -> str:
    """The ``/status`` value; empty maps and lists are left out."""
    document: dict[str, Json] = {"optime": int(status.optime or 0)}
    if status.slots:
        document["slots"] = {name: int(lsn) for name, lsn in sorted(status.slots.items())}
    if status.retain_slots:
        document["retain_slots"] = sorted(status.retain_slots)
    return compact(document)


def encode_failover(leader: str | None = None, candidate: str | None = None, scheduled_at: str | None = None) -> str:
    """The ``/failover`` value; without arguments ``{}``, which means "no request"."""
    fields = {"leader": leader, "member": candidate, "scheduled_at": scheduled_at}
    return compact({name: value for name, value in fields.items() if value})


def encode_sync(leader: str, standbys: tuple[str, ...] = (), quorum: int = 0) -> str:
    """The ``/sync`` value, fields in the wire order."""
    return compact({"leader": leader, "quorum": quorum, "sync_standby": ",".join(sorted(standbys)) or None})


def encode_history(entries: tuple[HistoryEntry, ...]) -> str:
    """The ``/history`` value: lines as stored, new ones with five items."""
    return compact([list(e.raw) if e.raw else [e.timeline, int(e.lsn), e.reason, e.timestamp, e.new_leader] for e in entries])


def parse_moment(text: Json) -> float | None:
    """Epoch seconds of an ISO 8601 time with a zone; None for anything else."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo else None


def local_moment(epoch_s: float) -> str:
    """ISO 8601 in the local zone, as ``/history`` holds times."""
    return datetime.fromtimestamp(epoch_s).astimezone().isoformat()


def _object(text: str) -> dict[str, Json] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _int(value: Json) -> int | None:
    if type(value) is int:
        return value
    try:
        return None if value is None or isinstance(value, bool) else int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _lsn(value: Json) -> Lsn | None:
    number = _int(value)
    return None if number is None else Lsn(number)


@lru_cache(maxsize=_OTHERS)
def _config(text: str, version: str) -> ConfigRecord:
    return ConfigRecord(version, _object(text))


def _optime(legacy: Record | None) -> ClusterStatus:
    return ClusterStatus(optime=_lsn(legacy.value) if legacy else None)


@lru_cache(maxsize=_OTHERS)
def _status(text: str) -> ClusterStatus:
    document = _object(text)
    if document is None:
        return ClusterStatus(optime=_lsn(text))
    slots, retain = _maybe_text(document.get("slots")), _maybe_text(document.get("retain_slots"))
    return ClusterStatus(
        optime=_lsn(document.get("optime")),
        slots={str(k): _lsn(v) or Lsn(0) for k, v in slots.items()} if isinstance(slots, dict) else {},
        retain_slots=tuple(str(name) for name in retain) if isinstance(retain, list) else (),
    )


def _maybe_text(value: Json) -> Json:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return None


@lru_cache(maxsize=_OTHERS)
def _failover(text: str, version: str) -> FailoverRequest | None:
    document = _object(text)
    if document is None:
        before, colon, after = text.partition(":")
        document = {"leader": before.strip(), "member": after.strip()} if colon else {}
    leader, candidate = document.get("leader") or None, document.get("member") or None
    scheduled = document.get("scheduled_at") or None
    if not leader and not candidate:
        return None
    return FailoverRequest(version, leader, candidate, scheduled, parse_moment(scheduled) if scheduled else None)


@lru_cache(maxsize=_OTHERS)
def _sync(text: str, version: str) -> SyncView:
    document = _object(text) or {}
    names = document.get("sync_standby") or ""
    standbys = tuple(name for name in str(names).split(",") if name)
    if not document.get("leader"):
        return SyncView(version)
    return SyncView(version, str(document["leader"]), standbys, _int(document.get("quorum")) or 0)


@lru_cache(maxsize=_OTHERS)
def _history(text: str) -> tuple[HistoryEntry, ...] | None:
    try:
        lines = json.loads(text)
        return tuple(HistoryEntry(int(line[0]), Lsn(line[1]), str(line[2]), *_tail(line), raw=tuple(line)) for line in lines)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, RecursionError):
        return None


def _tail(line: list[Json]) -> tuple[str | None, str | None]:
    return (line[3] if len(line) > 3 else None, line[4] if len(line) > 4 else None)


@lru_cache(maxsize=_OTHERS)
def _failsafe(text: str) -> Mapping[str, str] | None:
    document = _object(text)
    return {str(k): str(v) for k, v in document.items()} if document is not None else None
