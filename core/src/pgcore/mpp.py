"""Clusters of clusters (MPP): several scopes under one name, numbered groups, of which group 0 coordinates. (HA rules 29)

The core knows groups only as part of the path in the store. What a coordinator must be told, and what it does about it, belongs
to a handler that a plugin brings; these are the words between the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pgcore.clock import Deadline
from pgcore.model.basics import Json

COORDINATOR_GROUP = 0


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A member of a group as its card tells. ``primary``: its server runs as one."""

    name: str
    host: str
    port: int
    api_url: str | None = None
    running: bool = False
    primary: bool = False
    noloadbalance: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """One group: the holder of its lock, if any, and the members that can be connected to."""

    number: int
    leader: str | None = None
    members: tuple[GroupMember, ...] = ()

    @property
    def leader_member(self) -> GroupMember | None:
        """The card of the holder."""
        return next((member for member in self.members if member.name == self.leader), None)


class SqlSession(Protocol):
    """A superuser's connection to the local server, with automatic commit. Raises ServerError."""

    def query(self, sql: str, arguments: Sequence[Any] | None = None, *, deadline: Deadline) -> list[tuple[Any, ...]]:
        """The rows of one statement."""

    def close(self) -> None:
        """Drop the connection; an open transaction is rolled back."""


class NodeTools(Protocol):
    """What a handler may use of its node. Any thread may call."""

    @property
    def member(self) -> str:
        """Name of this node."""

    @property
    def host(self) -> str:
        """Where other nodes reach this server."""

    @property
    def port(self) -> int:
        """The port there."""

    @property
    def ttl(self) -> int:
        """Seconds, of this group."""

    @property
    def retry_timeout(self) -> int:
        """Seconds, of this group."""

    def groups(self, *, fresh: bool = False) -> Mapping[int, Group]:
        """Every group of the cluster, by number, as last read; ``fresh``: read again now, the last reading if that fails."""

    def leads(self) -> bool:
        """This node's lock is proven at this moment."""

    def session(self, database: str, deadline: Deadline) -> SqlSession:
        """Connect to the local server. Raises ServerError."""

    def post(self, member: GroupMember, path: str, body: Json, timeout_s: float) -> int | None:
        """The status of a POST to a member's REST API, None without an answer."""


class MppHandler(Protocol):
    """What a plugin does for one node of such a cluster. Made once, by ``pgcore_mpp_handler``.

    Calls come from different threads. None of them may veto: a failure is logged, and what was missed must be made good by a
    later ``groups_seen``.
    """

    group: int
    rest_path: str
    """First segment of the REST path at which members of other groups report, such as ``citus``."""

    def keeps_slot(self, name: str, plugin: str | None, database: str | None) -> bool:
        """A logical slot of this name is the handler's: it is never dropped as unknown."""

    def bootstrapped(self, tools: NodeTools) -> None:
        """The new cluster of this group accepts connections. Raises ServerError, and so lets the bootstrap fail."""

    def before_demote(self, tools: NodeTools) -> None:
        """This group's primary is about to be stopped; returns when its clients may lose it, within ``ttl`` seconds."""

    def before_promote(self, tools: NodeTools) -> None:
        """This node is about to be promoted; returns at once or within two seconds."""

    def promoted(self, tools: NodeTools) -> None:
        """This node accepts writes as its group's primary."""

    def reported(self, tools: NodeTools, report: Mapping[str, Json]) -> None:
        """A member of another group has sent a report over REST; returns when it has been acted upon."""

    def groups_seen(self, tools: NodeTools) -> None:
        """The groups were read again: repair what reports have missed. Called on a thread of its own."""
