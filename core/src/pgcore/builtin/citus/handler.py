"""One node of a Citus cluster: makes the extension, reports as a worker, keeps the metadata as the coordinator. (HA rules 29)"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from pgcore.builtin.citus.coordinator import Coordinator
from pgcore.plugin import COORDINATOR_GROUP, Deadline, Json, NodeTools, ServerError

log = logging.getLogger(__name__)

HINT_S = 2.0
"""How long a report that nobody waits for may take."""


class CitusHandler:
    """See ``pgcore.mpp.MppHandler``."""

    rest_path = "citus"

    def __init__(self, group: int, database: str) -> None:
        self.group, self._database = group, database
        self._coordinator = Coordinator(database)

    def keeps_slot(self, name: str, plugin: str | None, database: str | None) -> bool:
        """Slots with which Citus moves and splits shards."""
        moving = name.startswith("citus_shard_move_slot_") and plugin == "pgoutput"
        splitting = name.startswith("citus_shard_split_slot_") and plugin == "citus"
        return database == self._database and (moving or splitting)

    def bootstrapped(self, tools: NodeTools) -> None:
        """Create the database and the extension, once. Raises ServerError if the extension is not installed."""
        deadline = Deadline.after(60)
        self._create_database(tools, deadline)
        session = tools.session(self._database, deadline)
        try:
            session.query("CREATE EXTENSION IF NOT EXISTS citus", deadline=deadline)
            if self.group == COORDINATOR_GROUP:
                session.query("SELECT pg_catalog.citus_set_coordinator_host(%s, %s, 'primary', 'default')",
                              (tools.host, tools.port), deadline=deadline)
        finally:
            session.close()

    def _create_database(self, tools: NodeTools, deadline: Deadline) -> None:
        session = tools.session("postgres", deadline)
        try:
            if not session.query("SELECT 1 FROM pg_catalog.pg_database WHERE datname = %s", (self._database,), deadline=deadline):
                quoted = self._database.replace('"', '""')
                session.query(f'CREATE DATABASE "{quoted}"', deadline=deadline)
        finally:
            session.close()

    # -- what happens to this node -------------------------------------------------------------------------------------

    def before_demote(self, tools: NodeTools) -> None:
        """A worker lets the coordinator hold back statements and waits for it; the coordinator gives up an open change."""
        if self.group == COORDINATOR_GROUP:
            self._coordinator.stop()
        else:
            self._report(tools, "before_demote", float(tools.ttl))

    def before_promote(self, tools: NodeTools) -> None:
        """A worker that takes over without a report of its predecessor."""
        if self.group != COORDINATOR_GROUP:
            self._report(tools, "before_promote", HINT_S)

    def promoted(self, tools: NodeTools) -> None:
        """The held back statements may go on, at the new place."""
        if self.group != COORDINATOR_GROUP:
            self._report(tools, "after_promote", HINT_S)

    def _report(self, tools: NodeTools, kind: str, timeout_s: float) -> None:
        coordinators = tools.groups().get(COORDINATOR_GROUP)
        leader = coordinators.leader_member if coordinators is not None else None
        if leader is None:
            log.info("citus: nobody leads the coordinators, so nobody is told %s; the next coordinator will see for itself", kind)
            return
        body = {"type": kind, "group": self.group, "leader": tools.member, "timeout": tools.ttl, "cooldown": tools.retry_timeout}
        if tools.post(leader, f"/{self.rest_path}", body, timeout_s) != 200:
            log.warning("citus: %s did not take %s; the coordinator sees the change when it reads the store", leader.name, kind)

    # -- what others tell ----------------------------------------------------------------------------------------------

    def reported(self, tools: NodeTools, report: Mapping[str, Json]) -> None:
        """Only the coordinator that leads acts upon reports."""
        if self.group == COORDINATOR_GROUP and tools.leads():
            self._guarded(lambda: self._coordinator.reported(tools, report), "a report")

    def groups_seen(self, tools: NodeTools) -> None:
        """The leading coordinator makes its metadata fit."""
        if self.group == COORDINATOR_GROUP:
            self._guarded(lambda: self._coordinator.repair(tools) if tools.leads() else self._coordinator.stop(), "the groups")

    @staticmethod
    def _guarded(work: Callable[[], None], what: str) -> None:
        try:
            work()
        except ServerError as error:
            log.warning("citus: pg_dist_node could not be changed after %s, the next reading tries again: %s", what, error)
