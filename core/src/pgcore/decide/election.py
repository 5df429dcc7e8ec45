"""May this node lead under this ``/sync``, with these answers? The promise of synchronous replication, asked before the lock is
taken and again after it. (HA rules 15.1.10, 15.3.3, 15.3.4)

Pure functions over values. They judge whether every confirmed commit is here; who would be a better leader is for the race.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgcore.model.basics import Lsn
from pgcore.model.cluster import SyncView
from pgcore.model.world import PeerView, World


@dataclass(frozen=True, slots=True)
class Claim:
    """Who wants to lead, and what it has."""

    name: str
    position: Lsn
    timeline: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it may, and why, in words for an operator."""

    may_lead: bool
    because: str


def sync_in_force(w: World) -> SyncView | None:
    """The ``/sync`` that limits who may lead; None: nothing was promised. A standby cluster promises nothing. (HA rules 19)"""
    return w.cluster.sync if w.cluster.sync.active and w.settings.standby_cluster is None else None


def proof(w: World) -> str | None:
    """What ``AcquireLease`` carries of a node that is proven to have every confirmed commit: the version of that ``/sync``."""
    sync = sync_in_force(w)
    return sync.version if sync is not None else None


def own_timeline(w: World) -> int | None:
    """The timeline of this server, remembered while it does not answer."""
    return w.node.timeline or w.memory.last_timeline


def claim_of(w: World) -> Claim:
    """What I have."""
    return Claim(w.me, w.node.position or Lsn(0), own_timeline(w))


def same_name(one: str | None, other: str | None) -> bool:
    """Names in ``/sync`` compare case-insensitively. (dcs-layout 2.3)"""
    return bool(one) and (one or "").lower() == (other or "").lower()


def by_votes(sync: SyncView, mode: str) -> bool:
    """Votes decide. Else each listed node has every confirmed commit, and no other node may lead.

    What is written counts, not only what is configured: a ``quorum`` above 0 means that a listed node may lack a commit.
    """
    return sync.quorum > 0 or mode == "quorum"


def verdict(claim: Claim, sync: SyncView, mode: str, peers: Iterable[PeerView]) -> Verdict:
    """Does this node have every commit that was confirmed under this ``/sync``? (HA rules 15.3.4, EC 145-148)

    ``peers``: whoever was asked; only members of ``/sync`` count. ``mode``: the configured ``synchronous_mode``.
    """
    inside = sync.covers(claim.name)
    if not by_votes(sync, mode):
        listed = ", ".join((sync.leader or "", *sync.standbys))
        return Verdict(inside, f"{claim.name} is {'one' if inside else 'none'} of the nodes of /sync ({listed})")
    others = [p for p in peers if p.reachable and not same_name(p.name, claim.name) and sync.covers(p.name)]
    votes = sum(1 for peer in others if votes_for(claim, peer))
    ahead = [peer.name for peer in others if is_ahead(claim, peer)]
    needed = max(0, sync.quorum) + (0 if inside else 1)
    count = f"{votes} votes, {needed} needed" + ("" if inside else f", one more as {claim.name} is not in /sync")
    if votes >= needed:
        return Verdict(True, count)
    if same_name(sync.leader, claim.name):
        if not ahead:
            return Verdict(True, f"{count}, but {claim.name} is the leader of /sync and nobody is ahead of it")
        return Verdict(False, f"{count}, and {', '.join(ahead)} is ahead of the leader of /sync")
    return Verdict(False, count)


def votes_for(claim: Claim, peer: PeerView) -> bool:
    """All that this member has is here too. It votes whatever its tags; not while its server is down. (EC 48, 148)

    Whether what it has more on an older timeline was confirmed is not known, so it does not vote then.
    """
    return 0 < peer.position <= claim.position and not is_ahead(claim, peer)


def is_ahead(claim: Claim, peer: PeerView) -> bool:
    """It has WAL that is not here: it is on a newer timeline, or farther on the same one. (HA rules 30.9)

    A timeline that one of the two does not know is taken for the same.
    """
    if claim.timeline is not None and peer.timeline is not None and claim.timeline != peer.timeline:
        return peer.timeline > claim.timeline
    return peer.position > claim.position
