"""Nobody holds the lock and PostgreSQL runs: may I take it? Every gate is one rule that may stop me. (HA rules 15)"""

from __future__ import annotations

from pgcore.decide import switchover
from pgcore.decide.candidates import lag_behind_status
from pgcore.decide.election import by_votes, claim_of, is_ahead, own_timeline, proof, same_name, sync_in_force, verdict
from pgcore.decide.failsafe import RACE_GATES, not_in_failsafe
from pgcore.decide.table import Table
from pgcore.model.actions import (
    AcquireLease,
    BeginDemotion,
    DemoteMode,
    Phase,
    PollPeers,
    ReadCluster,
    RewindState,
    SetRewind,
)
from pgcore.model.basics import Lsn
from pgcore.model.decision import Decision, act, rest
from pgcore.model.world import PeerView, World

AGAIN_S = 1.0
VIEW_AGE_S = 0.5
"""Votes that took longer to collect are only counted after another look at ``/sync``."""


def lost(w: World) -> Decision | None:
    """Another node was faster: read who leads; one that was named need not be the most advanced. (HA rules 12.1, 15.4, EC 42)"""
    if not w.race_lost:
        return None
    named = w.cluster.failover is not None and w.cluster.failover.candidate is not None and not w.paused
    check = (SetRewind(RewindState.CHECK),) if named else ()
    return act(*check, ReadCluster(fresh=True), because="another node took the lock first")


def beaten(w: World) -> Decision | None:
    """Another node was faster in this beat, and has let the lock go already: the next beat looks anew."""
    if w.beaten:
        return rest(because="the lock is free again after another node took it first: looking anew", wake_after=AGAIN_S / 2)
    return None


def failed_before(w: World) -> Decision | None:
    """I gave the lock up less than ttl ago because my promotion failed: others first. (HA rules 15.1.1)"""
    at = w.memory.promotion_failed_at
    if at is not None and w.now - at < w.settings.timing.ttl:
        return rest(because="my promotion failed a moment ago: standing back for ttl", wake_after=AGAIN_S)
    return None


def outdated_primary(w: World) -> Decision | None:
    """A primary on an older timeline than the cluster's: somebody was promoted since. (HA rules 15.2, EC 3)"""
    own = own_timeline(w)
    if w.node.is_primary and not w.paused and own is not None and own < w.cluster_timeline:
        return act(
            BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP),
            because=f"this primary is on timeline {own}, the cluster is on {w.cluster_timeline}",
        )
    return None


def primary_unsure(w: World) -> Decision | None:
    """A primary whose timeline is unknown in a cluster with a history: it may be outdated, so it does not take the lock."""
    own = own_timeline(w)
    if w.node.is_primary and own is None and w.cluster_timeline > 1:
        return rest(because=f"this primary's timeline is unknown, the cluster is on {w.cluster_timeline}", wake_after=AGAIN_S / 2)
    return None


def primary_not_named(w: World) -> Decision | None:
    """A running primary that ``/failsafe`` does not name: somebody has led since it did, and may still run. (EC 25, 29)"""
    return not_in_failsafe(w) if w.node.is_primary else None


def primary_takes_it(w: World) -> Decision | None:
    """A running primary on the newest timeline takes the free lock back. (HA rules 15.2, EC 4, 17, 29)"""
    if not w.node.is_primary:
        return None
    sync = sync_in_force(w)
    own = sync is not None and same_name(sync.leader, w.me)
    return act(AcquireLease(proof=proof(w) if own else None), because="the lock is free and this server is the primary")


def paused(w: World) -> Decision | None:
    """In maintenance mode no standby races but the one an operator has named. (HA rules 16.4, 23, EC 73, 190)"""
    request = w.cluster.failover
    named = request is not None and request.candidate == w.me and not request.scheduled_at
    return rest(because="paused: the lock is free but no standby takes it") if w.paused and not named else None


def nofailover(w: World) -> Decision | None:
    """Tagged ``nofailover``: never races; the new leader may be behind, so the history is compared. (HA rules 15.5, EC 54)"""
    if not w.settings.tags.nofailover:
        return None
    if w.memory.rewind in (RewindState.INITIAL, RewindState.NOT_NEED):
        return act(SetRewind(RewindState.CHECK), because="the lock is free; tagged nofailover")
    return rest(because="the lock is free; tagged nofailover, so others race", wake_after=AGAIN_S)


def unanswering(w: World) -> Decision | None:
    """The server does not tell its position. (HA rules 15.1)"""
    if w.node.position is None:
        return rest(because="the lock is free but the own WAL position is unknown", wake_after=AGAIN_S)
    return None


def watchdog_failed(w: World) -> Decision | None:
    """The watchdog is required and does not work: as primary this node could not be stopped. (HA rules 15.1.8, EC 53)"""
    if w.node.watchdog_failed:
        return rest(because="the lock is free, but the watchdog is required here and does not work", wake_after=AGAIN_S)
    return None


def backoff(w: World) -> Decision | None:
    """The agent of the old primary may only be frozen: wait while its WAL still arrives, primary_race_backoff at most.

    (HA rules 15.6, EC 59)
    """
    limit, since = w.settings.primary_race_backoff, w.memory.unlocked_since
    if limit <= 0 or since is None or w.settings.standby_cluster is not None or switchover.requested(w):
        return None
    loop_wait, grew = w.settings.timing.loop_wait, w.memory.grew_at
    until, why = since + min(limit, loop_wait), "looking whether its WAL still arrives"
    if w.node.replication_state == "streaming" and grew is not None and grew + loop_wait > until:
        until, why = min(since + limit, grew + loop_wait), f"its WAL still arrived {w.now - grew:.1f} s ago"
    if w.now >= until:
        return None
    return rest(
        because=f"the lock is free since {w.now - since:.1f} s; primary_race_backoff is {limit} s, {why}",
        wake_after=min(AGAIN_S, until - w.now),
    )


def not_synchronous(w: World) -> Decision | None:
    """Only nodes of ``/sync`` have every confirmed commit, and this is none of them. (HA rules 15.1.10, 16.3.2, EC 116)"""
    sync = sync_in_force(w)
    if sync is None or by_votes(sync, w.settings.synchronous_mode) or sync.covers(w.me):
        return None
    listed = ", ".join((sync.leader or "", *sync.standbys))
    return rest(because=f"this node is not in /sync, which only lets {listed} lead", wake_after=AGAIN_S)


def lagging(w: World) -> Decision | None:
    """Further behind the last known position than allowed. (HA rules 15.3.1, EC 41)"""
    lag, allowed = lag_behind_status(w), w.settings.maximum_lag_on_failover
    if lag > allowed:
        return rest(
            because=f"{lag} bytes behind the last known position of the leader, maximum_lag_on_failover is {allowed}",
            wake_after=AGAIN_S,
        )
    return None


def old_timeline(w: World) -> Decision | None:
    """Own timeline is known and older than the cluster's. (HA rules 15.3.2, 30.9; unknown counts only with check_timeline)"""
    own = own_timeline(w)
    if w.standby_cluster:
        return None
    if (own is not None and own < w.cluster_timeline) or (own is None and w.settings.check_timeline):
        return rest(because=f"own timeline {own or 'unknown'}, cluster timeline {w.cluster_timeline}", wake_after=AGAIN_S)
    return None


def ask_peers(w: World) -> Decision | None:
    """Everybody known is asked for role and position. (HA rules 15.3)"""
    peers = w.known_peers()
    if w.peers is None and peers:
        return act(PollPeers(peers, brief=w.node.silent), because="the lock is free; asking " + ", ".join(m.name for m in peers))
    return None


def _answers(w: World) -> list[PeerView]:
    return [p for _, p in sorted((w.peers or {}).items()) if p.reachable]


def primary_alive(w: World) -> Decision | None:
    """Somebody runs as a primary: never promote beside it, whatever its tags. (HA rules 15.3.3, 30.3, EC 46)"""
    for peer in _answers(w):
        if peer.is_primary:
            return rest(because=f"{peer.name} still runs as a primary", wake_after=AGAIN_S / 2)
    return None


def primary_counts_on_lock(w: World) -> Decision | None:
    """A primary that does not answer queries counts on its lock, which somebody has removed: it may be accepting writes.

    By its own account that ends within ttl. (HA rules 15.3.3, EC 17, principles, safety 1)
    """
    for name, peer in sorted((w.peers or {}).items()):
        if peer.counts_on_lock:
            return rest(
                because=f"{name} says that its lock is proven for now, although nobody holds it: it may be accepting writes",
                wake_after=AGAIN_S / 2,
            )
    return None


def peer_promoting(w: World) -> Decision | None:
    """Somebody removed the lock of a node that was being promoted: it stops, but may accept writes before. For ttl at most.

    (HA rules 15.3.3, EC 17, principles, safety 1)
    """
    since = w.memory.unlocked_since
    if since is not None and w.now - since > w.settings.timing.ttl:
        return None
    for name, peer in sorted((w.peers or {}).items()):
        if peer.promoting:
            return rest(because=f"{name} was being promoted: it may accept writes until it has stopped", wake_after=AGAIN_S / 5)
    return None


def wiped(w: World) -> Decision | None:
    """The lock vanished with everything else: that does not end the lease of a leader that cannot be asked; ttl does.

    (HA rules 15.3.3, EC 17, principles, safety 1)
    """
    old, since, ttl = w.memory.old_cluster, w.memory.unlocked_since, w.settings.timing.ttl
    former = old.leader if old is not None else None
    if w.cluster.initialize is not None or former is None or same_name(former, w.me) or since is None or w.now - since >= ttl:
        return None
    answer = (w.peers or {}).get(former)
    if answer is not None and (answer.reachable or answer.starting):
        return None
    return rest(
        because=f"the store was emptied, with it the lock of {former}, which does not answer: it may count on its lease for "
        f"{ttl - (w.now - since):.1f} s more",
        wake_after=AGAIN_S,
    )


def _rivals(w: World) -> list[PeerView]:
    """Answers that count against me: eligible, of ``/sync`` when that is in force, not on a timeline that was left."""
    sync, newest = sync_in_force(w), max(w.cluster_timeline, own_timeline(w) or 0)
    return [
        peer
        for peer in _answers(w)
        if not peer.nofailover
        and not peer.watchdog_failed
        and (sync is None or sync.covers(peer.name))
        and (peer.timeline is None or peer.timeline >= newest)
    ]


def peer_ahead(w: World) -> Decision | None:
    """An eligible peer has more WAL or a newer timeline; what the former leader of ``/sync`` has more was never confirmed.

    (HA rules 15.3.3, 30.9, EC 43, 126)
    """
    mine, sync = claim_of(w), sync_in_force(w)
    for peer in _rivals(w):
        newer = peer.timeline is not None and mine.timeline is not None and peer.timeline > mine.timeline
        former = sync is not None and same_name(sync.leader, peer.name) and not newer
        if is_ahead(mine, peer) and not former:
            return rest(
                because=f"{peer.name} is ahead: {_at(peer.position, peer.timeline)} against {_at(mine.position, mine.timeline)}",
                wake_after=AGAIN_S,
            )
    return None


def _at(position: Lsn, timeline: int | None) -> str:
    return f"{position} on timeline {timeline or 'unknown'}"


def peer_may_have_more(w: World) -> Decision | None:
    """I lack WAL the leader had, and a member that may have it is just starting: wait, ttl at most. (principles, safety 2)

    So a cluster that was shut down in order and is started again does not lose what one standby had not received.
    """
    since = w.memory.unlocked_since
    if lag_behind_status(w) == 0 or since is None or w.now - since > w.settings.timing.ttl:
        return None
    sync = sync_in_force(w)
    names = [
        name
        for name, peer in sorted((w.peers or {}).items())
        if peer.starting and not peer.nofailover and (sync is None or sync.covers(name))
    ]
    if names:
        return rest(
            because=f"{lag_behind_status(w)} bytes behind the last known position and {', '.join(names)} is just starting: "
            f"waiting for it ({w.now - since:.1f} of {w.settings.timing.ttl} s)",
            wake_after=AGAIN_S / 4,
        )
    return None


def peer_preferred(w: World) -> Decision | None:
    """An eligible peer is as far and has a higher priority; not the former leader. For ttl, as it may be unable to lead.

    (HA rules 15.3.3, EC 43-45)
    """
    sync, since, mine = sync_in_force(w), w.memory.unlocked_since, w.settings.tags.failover_priority
    if since is not None and w.now - since > w.settings.timing.ttl:
        return None
    former = sync.leader if sync is not None else w.memory.old_cluster.leader if w.memory.old_cluster else None
    for peer in _rivals(w):
        as_far = peer.position == w.node.position and peer.position > 0
        if as_far and peer.failover_priority > mine and not same_name(peer.name, former):
            return rest(
                because=f"{peer.name} is as far and has priority {peer.failover_priority} against {mine}",
                wake_after=AGAIN_S / 2,
            )
    return None


def too_few_votes(w: World) -> Decision | None:
    """Too few members are known not to be ahead: a confirmed commit may be missing here. (HA rules 15.3.4, EC 145-148)"""
    sync = sync_in_force(w)
    if sync is None:
        return None
    found = verdict(claim_of(w), sync, w.settings.synchronous_mode, _answers(w))
    return None if found.may_lead else rest(because=found.because, wake_after=AGAIN_S)


def look_again(w: World) -> Decision | None:
    """The answers took long, and ``/sync`` may have changed meanwhile: votes and its version must belong together."""
    if sync_in_force(w) is not None and w.read_at is not None and w.now - w.read_at > VIEW_AGE_S:
        return act(ReadCluster(fresh=True), because=f"asking took {w.now - w.read_at:.1f} s: reading /sync again")
    return None


def sync_changed(w: World) -> Decision | None:
    """Another ``/sync`` was written while the members were asked: their votes were for the old one."""
    if sync_in_force(w) is not None and w.peers is not None and w.asked_under != w.cluster.sync.version:
        return rest(because="/sync was changed while the members were asked: asking again", wake_after=0.0)
    return None


def acquire(w: World) -> Decision | None:
    """Nothing speaks against me: the atomic create of the lock decides. (HA rules 15.3, 15.4, EC 42)"""
    heard = ", ".join(f"{p.name} at {p.position}" for p in _answers(w)) or "nobody else answers"
    sync = sync_in_force(w)
    votes = verdict(claim_of(w), sync, w.settings.synchronous_mode, _answers(w)).because + "; " if sync is not None else ""
    healthy = f"{switchover.fallback(w)}healthy at {w.node.position} ({votes}{heard})"
    return act(AcquireLease(proof=proof(w)), because=f"{healthy}: taking the lock")


RACE = Table(
    "race",
    lost,
    outdated_primary,
    primary_unsure,
    beaten,
    primary_not_named,
    primary_takes_it,
    failed_before,
    paused,
    nofailover,
    unanswering,
    *RACE_GATES,
    *switchover.RACE_RULES,
    backoff,
    watchdog_failed,
    not_synchronous,
    lagging,
    old_timeline,
    ask_peers,
    primary_alive,
    primary_counts_on_lock,
    peer_promoting,
    wiped,
    peer_ahead,
    peer_may_have_more,
    peer_preferred,
    look_again,
    sync_changed,
    too_few_votes,
    acquire,
)
