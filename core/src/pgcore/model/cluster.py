"""What the store says about the cluster, parsed and immutable. ``pgcore.dcs.codec`` makes it from raw records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

from pgcore.model.basics import Json, Lsn, Role, State, Tags, slot_name
from pgcore.model.changes import once


@dataclass(frozen=True, slots=True)
class Member:
    """One member card: what a node published about itself. ``data`` keeps every field, known or not."""

    name: str
    conn_url: str | None = None
    api_url: str | None = None
    state: str = ""
    role: str = ""
    version: str | None = None
    tags: Tags = field(default_factory=Tags)
    xlog_location: Lsn | None = None
    receive_lsn: Lsn | None = None
    replay_lsn: Lsn | None = None
    timeline: int | None = None
    replication_state: str | None = None
    checkpoint_pending: bool = False
    """The card carries ``checkpoint_after_promote: false``: its pg_control may still show the old timeline."""
    pause: bool = False
    data: Mapping[str, Json] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        """Published state is exactly ``running``."""
        return self.state == State.RUNNING

    @property
    def is_primary(self) -> bool:
        """Published role says primary (``master`` in old releases)."""
        return self.role in (Role.PRIMARY, "master")

    @property
    def is_pgcore(self) -> bool:
        """The card was written by pgcore, which adds ``pgcore_version``; ``version`` is Patroni's with both. (dcs-layout 11.1)"""
        return bool(self.data.get("pgcore_version"))

    @property
    def is_patroni(self) -> bool:
        """The card was written by Patroni. Of a member without a readable card nobody knows who runs it."""
        return bool(self.data) and not self.is_pgcore

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port of ``conn_url``; None when the member cannot be followed."""
        return address_in(self.conn_url) if self.conn_url else None

    @property
    def slot(self) -> str:
        """Name of this member's physical slot."""
        return slot_name(self.name)


@lru_cache(maxsize=256)
def address_in(conn_url: str) -> tuple[str, int] | None:
    """Host and port of a connection URL; None when it has no host or cannot be read."""
    try:
        parts = urlsplit(conn_url)
        return (parts.hostname, parts.port or 5432) if parts.hostname else None
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class ConfigRecord:
    """The ``/config`` key: the document and the version for a compare-and-set. ``document`` is None when unreadable."""

    version: str
    document: Mapping[str, Json] | None


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """The ``/status`` key: the leader's last position and what it knows of slots (dcs-layout 2.1)."""

    optime: Lsn | None = None
    slots: Mapping[str, Lsn] = field(default_factory=dict)
    retain_slots: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FailoverRequest:
    """The ``/failover`` key when it asks for something: with ``leader`` a switchover, without a manual failover.

    ``scheduled_at`` is the text as stored, ISO 8601 with a zone, None for "now". ``due_at`` is the same moment in epoch
    seconds, None when it could not be read (such a request is dropped).
    """

    version: str
    leader: str | None = None
    candidate: str | None = None
    scheduled_at: str | None = None
    due_at: float | None = None

    @property
    def is_switchover(self) -> bool:
        """Names the leader it moves away from."""
        return self.leader is not None


@dataclass(frozen=True, slots=True)
class SyncView:
    """The ``/sync`` key. Names compare case-insensitively (dcs-layout 2.3)."""

    version: str | None = None
    leader: str | None = None
    standbys: tuple[str, ...] = ()
    quorum: int = 0

    @property
    def active(self) -> bool:
        """Synchronous replication is in force: the key names a leader."""
        return bool(self.leader)

    def covers(self, name: str) -> bool:
        """The name is the leader or one of the standbys of the key."""
        return name.lower() in {n.lower() for n in (self.leader or "", *self.standbys)}


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One line of ``/history``: the end of a timeline. ``raw`` is kept as stored (3 to 5 items)."""

    timeline: int
    lsn: Lsn
    reason: str
    timestamp: str | None = None
    new_leader: str | None = None
    raw: tuple[Json, ...] = ()


@dataclass(frozen=True)
class ClusterView:
    """The whole scope as read at one time. ``leader`` None means unlocked."""

    initialize: str | None = None
    """None: the key is absent; empty: somebody is bootstrapping right now; else the system identifier."""
    initialize_version: str | None = None
    leader: str | None = None
    members: tuple[Member, ...] = ()
    config: ConfigRecord | None = None
    status: ClusterStatus = ClusterStatus()
    failover: FailoverRequest | None = None
    sync: SyncView = SyncView()
    history: tuple[HistoryEntry, ...] | None = None
    """None: absent or unreadable; empty: still on timeline 1."""
    failsafe: Mapping[str, str] | None = None
    failsafe_version: str | None = None
    revision: str = ""

    def member(self, name: str | None) -> Member | None:
        """The card of that name, None if it has none."""
        for member in self.members:
            if member.name == name:
                return member
        return None

    @once
    def besides(self, name: str) -> tuple[Member, ...]:
        """Every member but the one of that name."""
        return tuple(m for m in self.members if m.name != name)

    @property
    @once
    def leader_member(self) -> Member | None:
        """The card of the lock holder."""
        return self.member(self.leader)

    @property
    def unlocked(self) -> bool:
        """Nobody holds the lock."""
        return not self.leader

    @property
    def initialized(self) -> bool:
        """``/initialize`` holds a valid system identifier: at least ten digits (HA rules 1)."""
        return bool(self.initialize) and len(self.initialize or "") >= 10 and (self.initialize or "").isdigit()

    @property
    def timeline(self) -> int:
        """Cluster timeline for comparisons: last ``/history`` entry plus 1, 1 for ``[]``, 0 when unknown (HA rules 1)."""
        if self.history is None:
            return 0
        return self.history[-1].timeline + 1 if self.history else 1

    @property
    def patroni_present(self) -> bool:
        """A Patroni member is published, so Patroni's limits hold for everybody."""
        return any(m.is_patroni for m in self.members)
