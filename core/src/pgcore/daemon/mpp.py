"""This node as one of a group of clusters: reads the other groups, and calls the handler at the moments it is for. (HA rules 29)

The handler is told, never asked: what it fails at is logged, and repaired by it with the next reading of the groups.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from pgcore.clock import Deadline
from pgcore.daemon.board import Board
from pgcore.daemon.peers import PeerAccess
from pgcore.dcs import codec
from pgcore.dcs.store import Snapshot, Store
from pgcore.errors import PgcoreError
from pgcore.model.basics import Json, Timing
from pgcore.model.cluster import ClusterView, Member
from pgcore.mpp import Group, GroupMember, MppHandler, SqlSession
from pgcore.net.http import Connector, HttpClient
from pgcore.postgres import local
from pgcore.postgres.connection import Session
from pgcore.postgres.server import Postgres
from pgcore.rest.access import hosts_of

logger = logging.getLogger(__name__)

CHECK_EVERY_S = 0.05


def groups_of(snapshot: Snapshot) -> dict[int, Group]:
    """The groups in everything below the path of a scope."""
    return {number: _group(number, codec.decode(found)) for number, found in codec.by_group(snapshot).items()}


def _group(number: int, view: ClusterView) -> Group:
    members = (_member(member) for member in view.members)
    return Group(number, view.leader, tuple(member for member in members if member is not None))


def _member(member: Member) -> GroupMember | None:
    if member.address is None:
        return None
    host, port = member.address
    return GroupMember(member.name, host, port, member.api_url, member.running, member.is_primary, member.tags.noloadbalance)


@dataclass(frozen=True, slots=True)
class Reach:
    """What the tools reach the world through. ``store`` is opened at the path above all groups and only ever read."""

    store: Store
    postgres: Postgres
    board: Board
    access: Callable[[], PeerAccess]


class Tools:
    """See ``pgcore.mpp.NodeTools``."""

    def __init__(self, reach: Reach, member: str, timing: Callable[[], Timing]) -> None:
        self._reach, self._member, self._timing = reach, member, timing
        self._groups: Mapping[int, Group] = {}
        self._reading = threading.Lock()

    @property
    def member(self) -> str:
        """Name of this node."""
        return self._member

    @property
    def host(self) -> str:
        """Host of ``connect_address``."""
        return (self._reach.postgres.settings.connect_address or self._reach.postgres.settings.listen).rpartition(":")[0]

    @property
    def port(self) -> int:
        """Port of ``connect_address``."""
        return int((self._reach.postgres.settings.connect_address or self._reach.postgres.settings.listen).rpartition(":")[2])

    @property
    def ttl(self) -> int:
        """Of this group."""
        return self._timing().ttl

    @property
    def retry_timeout(self) -> int:
        """Of this group."""
        return self._timing().retry_timeout

    def groups(self, *, fresh: bool = False) -> Mapping[int, Group]:
        """As last read, or read now."""
        if fresh or not self._groups:
            with self._reading:
                try:
                    self._groups = groups_of(self._reach.store.read(fresh=True, deadline=Deadline.after(self.retry_timeout)))
                except PgcoreError as error:
                    logger.warning("the other groups could not be read: %s", error)
        return self._groups

    @property
    def last_read(self) -> Mapping[int, Group]:
        """The groups as they were when last read; empty before."""
        return self._groups

    def leads(self) -> bool:
        """By the last published observation."""
        status = self._reach.board.status
        return status is not None and status.is_leader

    def session(self, database: str, deadline: Deadline) -> SqlSession:
        """A connection of its own."""
        postgres = self._reach.postgres
        parameters = local.superuser(postgres.settings, postgres.user, application_name="pgcore groups", statement_timeout_s=0)
        return Session(parameters | {"dbname": database}, deadline)

    def post(self, member: GroupMember, path: str, body: Json, timeout_s: float) -> int | None:
        """One try."""
        parts, access = urlsplit(member.api_url or ""), self._reach.access()
        if not parts.hostname:
            return None
        context = access.context() if parts.scheme == "https" else None
        client = HttpClient((f"{parts.scheme}://{parts.netloc}",), Connector(_context=context))
        try:
            headers = {"Content-Type": "application/json", **access.headers()}
            deadline = Deadline.after(timeout_s)
            return client.request("POST", path, json.dumps(body).encode(), headers=headers, deadline=deadline,
                                  idempotent=False).status
        except PgcoreError as error:
            logger.warning("POST %s to %s: %s", path, member.name, error)
            return None
        finally:
            client.close()


class Mpp:
    """The handler of this node with its tools; without a handler every call is nothing."""

    def __init__(self, handler: MppHandler | None = None, tools: Tools | None = None) -> None:
        self.handler, self.tools = handler, tools
        self._moments: queue.SimpleQueue[str] = queue.SimpleQueue()

    @property
    def rest_path(self) -> str:
        """Where other groups report; empty without a handler."""
        return self.handler.rest_path if self.handler is not None else ""

    def member_hosts(self) -> set[str]:
        """The hosts at which the members of all groups answer REST, as last read."""
        groups = self.tools.last_read.values() if self.tools is not None else ()
        return hosts_of(member.api_url for group in groups for member in group.members)

    def keeps_slot(self, name: str, plugin: str | None, database: str | None) -> bool:
        """The slot belongs to the handler; if that cannot be said, it does."""
        if self.handler is None:
            return False
        try:
            return self.handler.keeps_slot(name, plugin, database)
        except Exception:  # a plugin's bug must not end a heartbeat, nor cost a slot
            logger.exception("the handler of group %d failed in keeps_slot", self.handler.group)
            return True

    def bootstrapped(self) -> None:
        """The new cluster is up. Raises ServerError: the bootstrap fails."""
        if self.handler is not None and self.tools is not None:
            self.handler.bootstrapped(self.tools)

    def before_demote(self, check: Callable[[], None]) -> None:
        """The primary is about to be stopped: wait until its clients may lose it, ttl at most.

        ``check`` raises when the wait must end at once, as the lock is lost meanwhile and the server still accepts writes.
        """
        if self.handler is None or self.tools is None:
            return
        told = threading.Thread(target=self._tell, args=("before_demote",), name="before-demote", daemon=True)
        told.start()
        deadline = Deadline.after(self.tools.ttl)
        while told.is_alive() and not deadline.expired:
            check()
            told.join(min(CHECK_EVERY_S, deadline.left()))

    def before_promote(self) -> None:
        """The promotion is about to be asked for; told beside it, as nothing waits for the answer."""
        self._moments.put("before_promote")

    def promoted(self) -> None:
        """The server accepts writes; told beside whatever comes next."""
        self._moments.put("promoted")

    def reported(self, report: Mapping[str, Json]) -> None:
        """A report came over REST."""
        self._tell("reported", report)

    def _tell(self, what: str, *arguments: object) -> None:
        if self.handler is None or self.tools is None:
            return
        try:
            getattr(self.handler, what)(self.tools, *arguments)
        except Exception:  # a plugin's bug must not stop a promotion or a shutdown
            logger.exception("the handler of group %d failed in %s", self.handler.group, what)

    def watch(self, pause_s: Callable[[], float]) -> None:
        """Read the groups again and again, and tell the handler of them and of what happened, on a thread of its own."""
        if self.handler is None or self.tools is None:
            return
        tools = self.tools

        def loop() -> None:
            while True:
                try:
                    moment = self._moments.get(timeout=pause_s())
                except queue.Empty:
                    moment = "groups_seen"
                tools.groups(fresh=True)
                self._tell(moment)

        threading.Thread(target=loop, name="groups", daemon=True).start()
