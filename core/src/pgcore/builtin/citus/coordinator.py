"""The coordinator's side: one change of ``pg_dist_node`` at a time, opened by one report, closed by the next. (HA rules 29)

While a worker's primary changes, a transaction that has renamed its row stays open: statements that need the worker wait instead
of failing. Reports are hints. What they miss is repaired from the store's word whenever that has been read.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from pgcore.builtin.citus import nodes
from pgcore.plugin import Deadline, Group, Instant, Json, NodeTools, SqlSession, now

log = logging.getLogger(__name__)

QUERY_S = 5.0
ROWS = ("SELECT nodeid, groupid, nodename, nodeport, noderole = 'primary' FROM pg_catalog.pg_dist_node "
        "WHERE nodecluster = 'default' AND isactive")
MOVE = "SELECT pg_catalog.citus_update_node(%s, %s, %s, %s, %s)"
STATEMENTS = {
    nodes.AddPrimary: "SELECT pg_catalog.citus_add_node(%(host)s, %(port)s, %(group)s, 'primary')",
    nodes.AddSecondary: "SELECT pg_catalog.citus_add_secondary_node(%(host)s, %(port)s, %(primary_host)s, %(primary_port)s)",
    nodes.Remove: "SELECT pg_catalog.citus_remove_node(%(host)s, %(port)s)",
}


@dataclass(slots=True)
class _Change:
    """The open transaction: whose primary changes, the row, and when it is given up."""

    group: int
    row: nodes.Row
    session: SqlSession
    until: Instant
    cooldown_s: float


class Coordinator:
    """Owns the metadata of one coordinator. Any thread may call; one works at a time."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._change: _Change | None = None

    def reported(self, tools: NodeTools, report: Mapping[str, Json]) -> None:
        """Act upon a worker's report; ``before_demote`` returns when the transaction is open."""
        kind, group = report.get("type"), tools.groups(fresh=True).get(_number(report.get("group")))
        if group is None or group.leader != report.get("leader"):
            log.info("citus: %s of group %s is ignored: %s does not hold its lock", kind, report.get("group"),
                     report.get("leader"))
            return
        with self._lock:
            self._give_up_overdue()
            if kind in ("before_demote", "before_promote"):
                self._open(tools, group, _seconds(report.get("timeout"), tools.ttl),
                           _seconds(report.get("cooldown"), tools.retry_timeout))
            elif kind == "after_promote":
                self._finish(tools, group)

    def repair(self, tools: NodeTools) -> None:
        """Compare ``pg_dist_node`` with the store and change what differs, unless a change is open. (EC 226, 227)"""
        with self._lock:
            self._give_up_overdue()
            if not tools.leads():
                self._close("this node does not lead any more")
                return
            session = tools.session(self._database, Deadline.after(QUERY_S))
            try:
                changing = (self._change.group,) if self._change is not None else ()
                for step in nodes.steps(rows(session), tools.groups(), changing=changing):
                    log.info("citus: %s", step)
                    perform(session, step, tools.retry_timeout)
            finally:
                session.close()

    def stop(self) -> None:
        """The coordinator is demoted or ends: an open change is rolled back."""
        with self._lock:
            self._close("the coordinator is stopped")

    def _open(self, tools: NodeTools, group: Group, timeout_s: float, cooldown_s: float) -> None:
        if self._change is not None:
            if self._change.group == group.number:
                self._change.until = Instant(now() + timeout_s)
            return
        session = tools.session(self._database, Deadline.after(QUERY_S))
        try:
            row = next((row for row in rows(session) if row.group == group.number and row.primary), None)
            if row is None:
                session.close()
                return
            session.query("BEGIN", deadline=Deadline.after(QUERY_S))
            move = (row.node_id, row.host.removesuffix(nodes.DEMOTED) + nodes.DEMOTED, row.port, True, int(cooldown_s * 1000))
            session.query("SET LOCAL statement_timeout = 0", deadline=Deadline.after(QUERY_S))
            session.query(MOVE, move, deadline=Deadline.after(timeout_s))
        except BaseException:
            session.close()
            raise
        self._change = _Change(group.number, row, session, Instant(now() + timeout_s), cooldown_s)
        log.info("citus: statements that need group %d wait for its new primary, %.0f s at most", group.number, timeout_s)

    def _finish(self, tools: NodeTools, group: Group) -> None:
        change, leader = self._change, group.leader_member
        if change is None or change.group != group.number or leader is None:
            return  # the next reading of the groups repairs what this report would have said
        try:
            move = (change.row.node_id, leader.host, leader.port, True, int(change.cooldown_s * 1000))
            deadline = Deadline.after(max(QUERY_S, change.until - now()))
            for row in rows(change.session):
                if not row.primary and (row.host, row.port) == (leader.host, leader.port):
                    perform(change.session, nodes.Remove(row.host, row.port), tools.retry_timeout)
            change.session.query(MOVE, move, deadline=deadline)
            change.session.query("COMMIT", deadline=deadline)
            log.info("citus: the primary of group %d is %s at %s:%d", group.number, leader.name, leader.host, leader.port)
        finally:
            change.session.close()
            self._change = None

    def _give_up_overdue(self) -> None:
        if self._change is not None and self._change.until <= now():
            self._close(f"no new primary was reported for group {self._change.group} in time")

    def _close(self, reason: str) -> None:
        if self._change is not None:
            log.warning("citus: the open change of group %d is rolled back: %s", self._change.group, reason)
            self._change.session.close()
            self._change = None


def rows(session: SqlSession) -> list[nodes.Row]:
    """``pg_dist_node`` as it is. Raises ServerError."""
    found = session.query(ROWS, deadline=Deadline.after(QUERY_S))
    return [nodes.Row(int(each[0]), int(each[1]), str(each[2]), int(each[3]), bool(each[4])) for each in found]


def perform(session: SqlSession, step: nodes.Step, cooldown_s: float) -> None:
    """One change. Raises ServerError."""
    deadline = Deadline.after(QUERY_S + cooldown_s)
    if isinstance(step, nodes.MovePrimary):
        session.query(MOVE, (step.node_id, step.host, step.port, True, int(cooldown_s * 1000)), deadline=deadline)
        return
    names = {name: getattr(step, name) for name in step.__slots__}
    session.query(STATEMENTS[type(step)], names, deadline=deadline)  # type: ignore[arg-type]


def _number(value: Json) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return -1


def _seconds(value: Json, otherwise: float) -> float:
    try:
        return min(3600.0, max(1.0, float(value)))
    except (TypeError, ValueError):
        return float(otherwise)
