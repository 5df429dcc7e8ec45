"""Actions that read: the node, the store, the other members."""

from __future__ import annotations

from dataclasses import dataclass

from pgcore.model.basics import Role
from pgcore.model.cluster import Member
from pgcore.model.server import Upstream


@dataclass(frozen=True, slots=True)
class ObserveNode:
    """Look at the local server; the value is a NodeView."""


@dataclass(frozen=True, slots=True)
class ReadCluster:
    """Read the whole scope; the value is a ClusterReading. Not ok: the store did not answer in time."""

    fresh: bool = False


@dataclass(frozen=True, slots=True)
class PollPeers:
    """Ask these members for their status over REST, in parallel; the value maps names to PeerView."""

    members: tuple[Member, ...]
    timeout_s: float = 2.0
    brief: frozenset[str] = frozenset()
    """Members that have been silent of late: they get BRIEF_S only, so that nobody waits for a dead node."""


@dataclass(frozen=True, slots=True)
class ProbePeers:
    """Ask these members in the background; who stays silent is seen in the next looks as ``NodeView.silent``."""

    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class CompareTimelines:
    """Ask the leader for its timeline and history; the value is a LeaderTimeline. Not ok: undecided."""

    source: Upstream


@dataclass(frozen=True, slots=True)
class CompareRecovery:
    """Compare the recovery settings in force with those wanted; the value is ``none``, ``reload`` or ``restart``."""

    upstream: Upstream | None
    role: Role


@dataclass(frozen=True, slots=True)
class ReadHistory:
    """Read the local history file of a timeline; the value is a tuple of HistoryEntry, oldest first."""

    timeline: int
