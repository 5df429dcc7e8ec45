"""Predicates over members and their answers, shared by the race and the switchover. (HA rules 15.3, 16.5)"""

from __future__ import annotations

from collections.abc import Iterable

from pgcore.decide.election import by_votes, own_timeline, same_name, sync_in_force
from pgcore.model.actions import PollPeers
from pgcore.model.basics import Lsn
from pgcore.model.cluster import FailoverRequest, Member
from pgcore.model.decision import Decision, act
from pgcore.model.world import PeerView, World


def could_lead(w: World, request: FailoverRequest | None = None) -> tuple[Member, ...]:
    """Members that may take over from me: with a REST URL, not ``nofailover``; only the named candidate if there is one."""
    named = request.candidate if request else None
    return tuple(
        m
        for m in w.others
        if m.api_url and not m.tags.nofailover and (named is None or m.name == named) and _sync_allows(w, m, request)
    )


def _sync_allows(w: World, member: Member, request: FailoverRequest | None) -> bool:
    manual = request is not None and not request.is_switchover
    sync = sync_in_force(w)
    return sync is None or manual or sync.covers(member.name)


def another_could_lead(w: World) -> bool:
    """Some other member runs and may lead, so that giving the lock away is not only an outage. (HA rules 16.5)

    By its own answer if it was asked, before that by its card.
    """
    if w.peers is not None:
        return any(fit(w.peers.get(m.name)) for m in could_lead(w))
    return any(m.running for m in could_lead(w))


def ask_them(w: World, why: str) -> Decision | None:
    """Before the lock is given away those who could lead by their cards are asked; None when they were. (HA rules 16.5)

    Whom a request names is asked as well: these are the only answers of the beat.
    """
    if w.peers is not None or not another_could_lead(w):
        return None
    asked = tuple({m.name: m for m in (*could_lead(w), *could_lead(w, w.cluster.failover))}.values())
    return act(PollPeers(asked), because=f"{why}: asking {', '.join(m.name for m in asked)} before giving way")


def fit(peer: PeerView | None) -> bool:
    """The member answers and may lead: not ``nofailover``, its watchdog works, it is a standby."""
    return peer is not None and peer.reachable and not peer.nofailover and not peer.watchdog_failed and not peer.is_primary


def on_timeline(w: World, peer: PeerView, timeline: int) -> bool:
    """It is not on an older timeline than this one; with ``check_timeline`` it must say so. (HA rules 15.3.2, 16.5, EC 52)"""
    if peer.timeline is None:
        return not w.settings.check_timeline or w.settings.standby_cluster is not None
    return peer.timeline >= timeline


def caught_up(w: World, names: Iterable[str], end: Lsn) -> tuple[str, ...]:
    """Of these members the fit ones that have received everything up to ``end``, on this timeline: highest priority first.

    (HA rules 30.2) Positions of an abandoned timeline do not count.
    """
    timeline = (w.node.control.checkpoint_timeline if w.node.control else None) or w.memory.last_timeline or 0
    asked = [p for name in names if (p := (w.peers or {}).get(name)) is not None]
    peers = [p for p in asked if fit(p) and p.position >= end and on_timeline(w, p, timeline)]
    return tuple(p.name for p in sorted(peers, key=lambda p: (-p.failover_priority, -p.position, p.name)))


def able_instead_of_me(w: World, sick: str | None) -> tuple[str, ...]:
    """Who could take over from this old leader: has all that I have, and where votes decide would get them; empty: nobody.

    My own vote is theirs as well, so ``quorum`` of them are enough. (HA rules 16.3.3, 16.5)
    """
    sync, timeline = sync_in_force(w), max(w.cluster_timeline, own_timeline(w) or 0)
    all_of_it = max(w.cluster.status.optime or 0, w.node.position or 0)
    names = tuple(
        name
        for name, peer in sorted((w.peers or {}).items())
        if fit(peer)
        and not same_name(name, sick)
        and peer.position >= all_of_it
        and on_timeline(w, peer, timeline)
        and (sync is None or sync.covers(name))
    )
    voting = sync is not None and by_votes(sync, w.settings.synchronous_mode)
    return () if voting and sync is not None and len(names) < sync.quorum else names


def candidates_needed(w: World, request: FailoverRequest | None) -> int:
    """How many must be fit before the leader gives way: ``quorum + 1`` where votes decide and nobody is named. (HA rules 16.5)"""
    sync = sync_in_force(w)
    named = request is not None and request.candidate is not None
    if sync is None or named or not by_votes(sync, w.settings.synchronous_mode):
        return 1
    return max(0, sync.quorum) + 1


def describe(w: World, names: Iterable[str]) -> str:
    """What each of these members answered, for an operator."""

    def one(name: str) -> str:
        peer = (w.peers or {}).get(name)
        if peer is None or not peer.reachable:
            return f"{name} does not answer"
        if peer.is_primary:
            return f"{name} runs as a primary"
        if peer.nofailover:
            return f"{name} is tagged nofailover"
        if peer.watchdog_failed:
            return f"{name} has no working watchdog"
        return f"{name} is at {peer.position}"

    return ", ".join(one(name) for name in names) or "there is no other member"


def lag_behind_status(w: World) -> int:
    """Bytes I lack of the last position the leader stored; 0 when either is unknown."""
    optime, position = w.cluster.status.optime, w.node.position
    return max(0, optime - position) if optime is not None and position is not None else 0
