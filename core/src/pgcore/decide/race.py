"""Nobody holds the lock and PostgreSQL runs: may I take it? Every gate is one rule that may stop me. (HA rules 15)"""

from __future__ import annotations

from pgcore.decide import switchover
from pgcore.decide.candidates import lag_behind_status
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
from pgcore.model.decision import Decision, act, rest
from pgcore.model.world import PeerView, World

AGAIN_S = 1.0


def lost(w: World) -> Decision | None:
    """Another node was faster: read who leads, and follow. (HA rules 15.4, EC 42)"""
    if w.race_lost:
        return act(ReadCluster(fresh=True), because="another node took the lock first")
    return None


def failed_before(w: World) -> Decision | None:
    """I gave the lock up less than ttl ago because my promotion failed: others first. (HA rules 15.1.1)"""
    at = w.memory.promotion_failed_at
    if at is not None and w.now - at < w.settings.timing.ttl:
        return rest(because="my promotion failed a moment ago: standing back for ttl", wake_after=AGAIN_S)
    return None


def outdated_primary(w: World) -> Decision | None:
    """A primary on an older timeline than the cluster's: somebody was promoted since. (HA rules 15.2, EC 3)"""
    own = w.node.timeline or w.memory.last_timeline
    if w.node.is_primary and not w.paused and own is not None and own < w.cluster.timeline:
        return act(
            BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP),
            because=f"this primary is on timeline {own}, the cluster is on {w.cluster.timeline}",
        )
    return None


def primary_unsure(w: World) -> Decision | None:
    """A primary whose timeline is unknown in a cluster with a history: it may be outdated, so it does not take the lock."""
    own = w.node.timeline or w.memory.last_timeline
    if w.node.is_primary and own is None and w.cluster.timeline > 1:
        return rest(because=f"this primary's timeline is unknown, the cluster is on {w.cluster.timeline}", wake_after=AGAIN_S / 2)
    return None


def primary_takes_it(w: World) -> Decision | None:
    """A running primary on the newest timeline takes the free lock back. (HA rules 15.2, EC 4, 17, 29)"""
    if w.node.is_primary:
        return act(AcquireLease(), because="the lock is free and this server is the primary")
    return None


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


def not_synchronous(w: World) -> Decision | None:
    """Synchronous replication is in force and this node is not part of it. (HA rules 15.1.10)"""
    if w.cluster.sync.active and w.cluster.sync.quorum == 0 and not w.cluster.sync.covers(w.me):
        return rest(because="synchronous replication is active and this node is not in /sync", wake_after=AGAIN_S)
    return None


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
    own = w.node.timeline or w.memory.last_timeline
    if (own is not None and own < w.cluster.timeline) or (own is None and w.settings.check_timeline):
        return rest(because=f"own timeline {own or 'unknown'}, cluster timeline {w.cluster.timeline}", wake_after=AGAIN_S)
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


def _rivals(w: World) -> list[PeerView]:
    """Answers that count against me: eligible, and not on a timeline the cluster has left."""
    return [
        peer
        for peer in _answers(w)
        if not peer.nofailover and not peer.watchdog_failed and (peer.timeline is None or peer.timeline >= w.cluster.timeline)
    ]


def peer_ahead(w: World) -> Decision | None:
    """An eligible peer has more WAL; that of an abandoned timeline does not count. (HA rules 15.3.3, EC 43)"""
    assert w.node.position is not None
    for peer in _rivals(w):
        if peer.position > w.node.position:
            return rest(because=f"{peer.name} is ahead: {peer.position} against {w.node.position}", wake_after=AGAIN_S)
    return None


def peer_may_have_more(w: World) -> Decision | None:
    """I lack WAL the leader had, and a member that may have it is just starting: wait, ttl at most. (principles, safety 2)

    So a cluster that was shut down in order and is started again does not lose what one standby had not received.
    """
    since = w.memory.unlocked_since
    if lag_behind_status(w) == 0 or since is None or w.now - since > w.settings.timing.ttl:
        return None
    names = [name for name, peer in sorted((w.peers or {}).items()) if peer.starting and not peer.nofailover]
    if names:
        return rest(
            because=f"{lag_behind_status(w)} bytes behind the last known position and {', '.join(names)} is just starting: "
            f"waiting for it ({w.now - since:.1f} of {w.settings.timing.ttl} s)",
            wake_after=AGAIN_S / 4,
        )
    return None


def peer_preferred(w: World) -> Decision | None:
    """An eligible peer is as far and has a higher priority; not the former leader. (HA rules 15.3.3, EC 44)"""
    former = w.memory.old_cluster.leader if w.memory.old_cluster else None
    mine = w.settings.tags.failover_priority
    for peer in _rivals(w):
        if peer.position == w.node.position and peer.failover_priority > mine and peer.name != former:
            return rest(
                because=f"{peer.name} is as far and has priority {peer.failover_priority} against {mine}",
                wake_after=AGAIN_S / 2,
            )
    return None


def acquire(w: World) -> Decision | None:
    """Nothing speaks against me: the atomic create of the lock decides. (HA rules 15.3, 15.4, EC 42)"""
    heard = ", ".join(f"{p.name} at {p.position}" for p in _answers(w)) or "nobody else answers"
    return act(AcquireLease(), because=f"healthy at {w.node.position} ({heard}): taking the lock")


RACE = Table(
    "race",
    lost,
    outdated_primary,
    primary_unsure,
    primary_takes_it,
    failed_before,
    paused,
    nofailover,
    unanswering,
    *switchover.RACE_RULES,
    not_synchronous,
    lagging,
    old_timeline,
    ask_peers,
    primary_alive,
    peer_ahead,
    peer_may_have_more,
    peer_preferred,
    acquire,
)
