"""The one monitoring query: everything a heartbeat wants to know of a running server, in a single round trip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pgcore.clock import Deadline
from pgcore.model.basics import Lsn
from pgcore.model.node import Slot, WalReceiver, WalSender
from pgcore.postgres.connection import Session

_TIME = "'YYYY-MM-DD HH24:MI:SS.USTZH:TZM'"


@dataclass(frozen=True, slots=True)
class Monitoring:
    """The answer. Positions that do not apply to the server's role are None."""

    in_recovery: bool
    server_version: int
    system_id: str
    postmaster_start: str
    primary_timeline: int | None
    flushed: Lsn | None
    received: Lsn | None
    replayed: Lsn | None
    replayed_at: str | None
    replay_paused: bool
    restore_command: str
    minimum_recovery_timeline: int
    receiver: WalReceiver | None
    receiver_conninfo: str | None
    senders: tuple[WalSender, ...]
    slots: tuple[Slot, ...]
    pending_restart: frozenset[str]
    standby_names: str
    synchronous_commit: str
    hot_standby_feedback: bool
    archiving: bool


@lru_cache
def query_text(version: int) -> str:
    """The query for a server of this version. Functions that fail in the wrong role are behind CASE."""
    written = ", 'written', written_lsn" if version >= 130000 else ""
    lost = ", 'wal_status', wal_status" if version >= 130000 else ""
    synced = ", 'failover', failover, 'synced', synced" if version >= 170000 else ""
    return f"""SELECT r, pg_catalog.current_setting('server_version_num')::int,
 (SELECT system_identifier::text FROM pg_catalog.pg_control_system()),
 pg_catalog.to_char(pg_catalog.pg_postmaster_start_time(), {_TIME}),
 CASE WHEN r THEN NULL
   ELSE ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int END,
 CASE WHEN r THEN NULL ELSE pg_catalog.pg_current_wal_flush_lsn() END::text,
 CASE WHEN r THEN pg_catalog.pg_last_wal_receive_lsn() END::text,
 CASE WHEN r THEN pg_catalog.pg_last_wal_replay_lsn() END::text,
 pg_catalog.to_char(pg_catalog.pg_last_xact_replay_timestamp(), {_TIME}),
 CASE WHEN r AND pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_is_wal_replay_paused() ELSE false END,
 pg_catalog.current_setting('restore_command', true),
 (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()),
 (SELECT pg_catalog.json_build_object('status', status, 'host', sender_host, 'port', sender_port, 'slot', slot_name,
   'timeline', received_tli, 'end', latest_end_lsn, 'conninfo', conninfo{written}) FROM pg_catalog.pg_stat_wal_receiver LIMIT 1),
 (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('name', application_name, 'state', state, 'user', usename,
   'addr', pg_catalog.host(client_addr), 'sync_state', sync_state, 'sync_priority', sync_priority, 'write', write_lsn,
   'flush', flush_lsn, 'replay', replay_lsn)) FROM pg_catalog.pg_stat_replication),
 (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('name', slot_name, 'type', slot_type, 'active', active,
   'restart', restart_lsn, 'confirmed', confirmed_flush_lsn, 'plugin', plugin, 'database', database,
   'xmin', xmin::text::bigint, 'catalog_xmin', catalog_xmin::text::bigint{lost}{synced}))
   FROM pg_catalog.pg_replication_slots WHERE NOT temporary),
 (SELECT pg_catalog.json_agg(name) FROM pg_catalog.pg_settings WHERE pending_restart),
 pg_catalog.current_setting('synchronous_standby_names'), pg_catalog.current_setting('synchronous_commit'),
 pg_catalog.current_setting('hot_standby_feedback'),
 pg_catalog.current_setting('archive_mode') <> 'off' AND pg_catalog.current_setting('archive_command') NOT IN ('', '(disabled)')
 FROM (SELECT pg_catalog.pg_is_in_recovery() AS r) AS role"""


def ask(session: Session, deadline: Deadline) -> Monitoring:
    """Run the query. Raises ServerUnavailableError or QueryFailedError."""
    row = session.query(query_text(session.server_version), deadline=deadline)[0]
    receiver: Mapping[str, Any] | None = row[12]
    received = _lsn(row[6])
    if receiver is not None and receiver.get("written"):
        received = max(received or Lsn(0), Lsn.parse(receiver["written"]))
    return Monitoring(
        in_recovery=row[0], server_version=row[1], system_id=row[2], postmaster_start=row[3], primary_timeline=row[4],
        flushed=_lsn(row[5]), received=received, replayed=_lsn(row[7]), replayed_at=row[8], replay_paused=bool(row[9]),
        restore_command=row[10] or "", minimum_recovery_timeline=row[11] or 0,
        receiver=_receiver(receiver) if receiver else None,
        receiver_conninfo=receiver.get("conninfo") if receiver else None,
        senders=tuple(_sender(sender) for sender in row[13] or ()),
        slots=tuple(_slot(slot) for slot in row[14] or ()),
        pending_restart=frozenset(row[15] or ()),
        standby_names=row[16], synchronous_commit=row[17], hot_standby_feedback=row[18] == "on",
        archiving=bool(row[19]),
    )


def ask_position(session: Session, deadline: Deadline) -> tuple[Lsn | None, Lsn | None, bool]:
    """Received, replayed and whether it is a primary (then both are the flushed position); nothing else, so it is quick."""
    written = "(SELECT written_lsn FROM pg_catalog.pg_stat_wal_receiver LIMIT 1)" if session.server_version >= 130000 else "NULL"
    row = session.query(f"""SELECT r,
        CASE WHEN r THEN pg_catalog.pg_last_wal_receive_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END::text,
        CASE WHEN r THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END::text, {written}::text
        FROM (SELECT pg_catalog.pg_is_in_recovery() AS r) AS role""", deadline=deadline)[0]
    received = max((lsn for lsn in (_lsn(row[1]), _lsn(row[3])) if lsn is not None), default=None)
    return received, _lsn(row[2]), not row[0]


def _lsn(text: str | None) -> Lsn | None:
    return Lsn.parse(text) if text else None


def _receiver(row: Mapping[str, Any]) -> WalReceiver:
    return WalReceiver(status=row["status"] or "", host=row["host"], port=row["port"], slot=row["slot"] or None,
                       timeline=row["timeline"] or None, latest_end=_lsn(row["end"]) or Lsn(0))


def _sender(row: Mapping[str, Any]) -> WalSender:
    return WalSender(
        application_name=row["name"] or "", state=row["state"] or "", usename=row["user"] or "", client_addr=row["addr"],
        sync_state=row["sync_state"] or "async", sync_priority=row["sync_priority"] or 0, write=_lsn(row["write"]),
        flush=_lsn(row["flush"]), replay=_lsn(row["replay"]))


def _slot(row: Mapping[str, Any]) -> Slot:
    return Slot(
        name=row["name"], physical=row["type"] == "physical", active=bool(row["active"]), restart_lsn=_lsn(row["restart"]),
        confirmed_flush=_lsn(row["confirmed"]), plugin=row["plugin"], database=row["database"], xmin=row["xmin"],
        catalog_xmin=row["catalog_xmin"],
        wal_status=row.get("wal_status"), failover=bool(row.get("failover")), synced=bool(row.get("synced")))
