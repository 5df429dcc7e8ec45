"""Requests in ``/failover``: what the holder does with them, and what they mean in the race. (HA rules 16)"""

from __future__ import annotations

from pgcore.decide import failsafe
from pgcore.decide.candidates import (
    able_instead_of_me,
    candidates_needed,
    could_lead,
    describe,
    fit,
    lag_behind_status,
    on_timeline,
)
from pgcore.decide.election import claim_of, own_timeline, proof, sync_in_force, verdict
from pgcore.model.actions import (
    AcquireLease,
    BeginDemotion,
    DemoteMode,
    NoteRequest,
    Phase,
    PollPeers,
    Refuse,
    WriteFailover,
)
from pgcore.model.cluster import FailoverRequest
from pgcore.model.decision import Decision, act, rest
from pgcore.model.world import World

READY_WAIT_S = 10.0
"""How long a request waits for its candidate to be up and to stream before it is refused."""


def _refuse(request: FailoverRequest, reason: str) -> Decision:
    return act(Refuse(reason), WriteFailover(version=request.version), because="request dropped: " + reason)


# -- on the holder (HA rules 16.2) ---------------------------------------------------------------------------


def fulfilled(w: World) -> bool:
    """The request has brought me the lock, or I won over the candidate it names: it is over. (HA rules 15.4, EC 60)"""
    request = w.cluster.failover
    if request is None or request.scheduled_at or not w.is_holder or request.leader == w.me:
        return False
    return request.candidate in (None, w.me) or not w.serves_as_leader


def due(w: World) -> FailoverRequest | None:
    """The request that must be dealt with now: present, on a serving leader, scheduled for no later than now.

    In maintenance mode a schedule waits, and only a primary deals with requests. (HA rules 16.2, 23)
    """
    request = w.cluster.failover
    if request is None or not w.serves_as_leader or w.refused or fulfilled(w) or (w.paused and not w.node.is_primary):
        return None
    if request.scheduled_at and (w.paused or request.due_at is None or request.due_at > w.wall):
        return None
    return request


def _schedule(w: World) -> FailoverRequest | None:
    """The scheduled request; in maintenance mode it waits. (HA rules 23)"""
    request = w.cluster.failover
    return request if request is not None and request.scheduled_at and not w.paused else None


def unreadable_schedule(w: World) -> Decision | None:
    """A schedule without a time zone, or garbage: drop it. (EC 71)"""
    request = w.cluster.failover
    if request is not None and request.scheduled_at and request.due_at is None:
        return _refuse(request, f"the schedule {request.scheduled_at!r} cannot be read")
    return None


def stale_schedule(w: World) -> Decision | None:
    """Found more than one and a half loops too late: drop it. (HA rules 24.3, EC 70)"""
    request = _schedule(w)
    if request is not None and request.due_at is not None and request.due_at + 1.5 * w.settings.timing.loop_wait < w.wall:
        return _refuse(request, f"it was scheduled for {request.scheduled_at}, which is too long ago")
    return None


def scheduled(w: World) -> Decision | None:
    """Due within this loop: wake exactly then. (EC 70)"""
    request = _schedule(w)
    if request is not None and request.due_at is not None and 0 < request.due_at - w.wall <= w.settings.timing.loop_wait:
        return rest(because=f"a switchover is scheduled for {request.scheduled_at}", wake_after=request.due_at - w.wall)
    return None


def wrong_leader(w: World) -> Decision | None:
    """It names another leader. (HA rules 16.2, EC 69)"""
    request = due(w)
    if request is not None and request.leader not in (None, w.me):
        return _refuse(request, f"it names the leader {request.leader}, but the leader is {w.me}")
    return None


def candidate_is_leader(w: World) -> Decision | None:
    """It names me as the candidate. (HA rules 16.2, EC 69)"""
    request = due(w)
    if request is not None and request.candidate == w.me:
        return _refuse(request, f"the candidate {w.me} is already the leader")
    return None


def paused_without_candidate(w: World) -> Decision | None:
    """In maintenance mode a candidate must be named. (HA rules 16.2, EC 73)"""
    request = due(w)
    if request is not None and w.paused and not request.candidate:
        return _refuse(request, "in maintenance mode a candidate must be named")
    return None


def no_candidate(w: World) -> Decision | None:
    """Nobody could take over. (HA rules 16.5, EC 66, 68)"""
    request = due(w)
    if request is None or could_lead(w, request):
        return None
    return _refuse(request, _nobody(w, request))


def _nobody(w: World, request: FailoverRequest) -> str:
    sync, member = sync_in_force(w), w.cluster.member(request.candidate)
    standbys = ", ".join(sync.standbys) or "nobody" if sync is not None else ""
    if sync is not None and request.is_switchover and (member is None or not sync.covers(member.name)):
        if member is not None:
            return f"the candidate {member.name} is not synchronous ({standbys}); a manual failover to it could lose commits"
        if not request.candidate:
            return f"no synchronous member may lead; /sync lists {standbys}"
    if request.candidate:
        return f"the candidate {request.candidate} is not a member that may lead"
    return "no other member may lead"


def ask_candidates(w: World) -> Decision | None:
    """Ask those who could take over. (HA rules 16.5)"""
    request = due(w)
    if request is not None and w.peers is None:
        return act(PollPeers(could_lead(w, request)), because="a switchover is asked for; asking the candidates")
    return None


def _good(w: World, request: FailoverRequest) -> tuple[str, ...]:
    position = w.node.position or 0
    return tuple(
        m.name
        for m in could_lead(w, request)
        if fit(peer := (w.peers or {}).get(m.name))
        and peer is not None
        and position - peer.position <= w.settings.maximum_lag_on_failover
        and on_timeline(w, peer, w.cluster_timeline)
    )


def _enough(w: World, request: FailoverRequest) -> bool:
    return len(_good(w, request)) >= candidates_needed(w, request)


def _wait(w: World, request: FailoverRequest, what: str) -> Decision | None:
    """Wait for a candidate that is not ready yet; None when it has been waited for long enough."""
    if w.memory.request_seen is None or w.memory.request_seen[0] != request.version:
        return act(NoteRequest(request.version), because=what)
    waited = w.now - w.memory.request_seen[1]
    if waited > READY_WAIT_S:
        return None
    return rest(because=f"switchover: {what}; waiting for it ({waited:.1f} of {READY_WAIT_S:.0f} s)", wake_after=0.2)


def candidate_starting(w: World) -> Decision | None:
    """Too few are fit yet but one is just starting, as a former primary does after a switchover: wait for it, bounded."""
    request = due(w)
    if request is None or _enough(w, request):
        return None
    starting = [m.name for m in could_lead(w, request) if (peer := (w.peers or {}).get(m.name)) is not None and peer.starting]
    return _wait(w, request, f"{', '.join(starting)} is just starting") if starting else None


def unfit_candidates(w: World) -> Decision | None:
    """None of them answers, may lead, and is close enough. (HA rules 16.5, EC 68)"""
    request = due(w)
    if request is not None and not _good(w, request):
        return _refuse(request, "no good candidate: " + describe(w, [m.name for m in could_lead(w, request)]))
    return None


def too_few_candidates(w: World) -> Decision | None:
    """Where votes decide, quorum + 1 must be fit unless one is named, else who is left could not be synchronous. (EC 67)"""
    request = due(w)
    if request is None or _enough(w, request):
        return None
    heard = describe(w, [m.name for m in could_lead(w, request)])
    needed = candidates_needed(w, request)
    return _refuse(request, f"without a candidate {needed} (quorum + 1) nodes of /sync must be fit, found {heard}")


def _streaming(w: World, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those that stream from this primary now, or cascade from a member that does."""
    direct = {s.application_name for s in w.node.senders if s.state == "streaming"}

    def reaches(name: str, hops: int = 0) -> bool:
        member = w.cluster.member(name)
        above = member.tags.replicatefrom if member else None
        return name in direct or (bool(above) and hops < len(w.cluster.members) and reaches(str(above), hops + 1))

    return tuple(name for name in names if reaches(name))


def ready(w: World, request: FailoverRequest) -> tuple[str, ...]:
    """Good candidates that stream from this server."""
    return _streaming(w, _good(w, request))


def candidate_not_streaming(w: World) -> Decision | None:
    """A candidate that does not stream would stop the cluster for nothing: wait for it, bounded. (principles, safety 2)"""
    request = due(w)
    if request is None or ready(w, request):
        return None
    names = ", ".join(_good(w, request))
    waiting = _wait(w, request, f"{names} does not stream from {w.me}")
    return waiting or _refuse(request, f"{names} did not stream from {w.me} within {READY_WAIT_S:.0f} s")


def candidates_bound(w: World) -> Decision | None:
    """Who accepted me without the store takes no lock for ttl: until then the hand-over waits, and I serve on. (HA rules 9)"""
    request, left = due(w), failsafe.bound_s(w)
    if request is None or left == 0:
        return None
    because = f"switchover: the store was away and members keep {w.me} as the leader for {left:.1f} s more; handing over then"
    return rest(because=because, wake_after=left)


def name_for_hand_over(w: World) -> Decision | None:
    """Who may take over is named in ``/failsafe`` first: else it would stand back. (EC 25, 32)"""
    return failsafe.name_whoever_takes_over(w) if due(w) is not None else None


def hand_over(w: World) -> Decision | None:
    """A good candidate streams: checkpoint, stop, and hand over to whoever has everything. (HA rules 16.2, 17)"""
    request = due(w)
    if request is None:
        return None
    names = ready(w, request)
    what = "switchover" if request.is_switchover else "manual failover"
    return act(
        BeginDemotion(DemoteMode.GRACEFUL, Phase.CHECKPOINT, names), because=f"{what} asked for; candidates: {describe(w, names)}"
    )


_REQUEST = (unreadable_schedule, stale_schedule, scheduled, wrong_leader, candidate_is_leader)
_CANDIDATES = (no_candidate, ask_candidates, candidate_starting, unfit_candidates)
HOLDER_RULES = (*_REQUEST, paused_without_candidate, *_CANDIDATES, too_few_candidates, candidate_not_streaming,
                candidates_bound, name_for_hand_over, hand_over)
STANDBY_LEADER_RULES = (*_REQUEST, *_CANDIDATES, candidate_not_streaming, name_for_hand_over)
"""Nobody votes in a standby cluster, and in maintenance mode its leader deals with no request."""


# -- in the race (HA rules 16.3) -----------------------------------------------------------------------------


def _now(w: World) -> FailoverRequest | None:
    """The request the race must respect; one that has led to nothing for ttl is over. It may be younger than the free lock."""
    request, since, waits = w.cluster.failover, w.memory.unlocked_since, w.memory.request_waits
    if request is None or request.scheduled_at:
        return None
    if waits is not None and waits[0] == request.version:
        since = waits[1]
    return None if since is not None and w.now - since > w.settings.timing.ttl else request


def came_to_nothing(w: World) -> Decision | None:
    """Nobody followed the request for ttl: it is dropped, else whoever leads next would only move the lock away again."""
    request = w.cluster.failover
    if request is None or _now(w) is not None or request.scheduled_at or w.paused or request.leader not in (None, w.me):
        return None
    return _refuse(request, f"{request.candidate or 'nobody'} did not take the lock within {w.settings.timing.ttl} s")


def requested(w: World) -> bool:
    """A request stands that the race must respect."""
    return _now(w) is not None


def outside_sync(w: World) -> Decision | None:
    """A switchover goes to a node of ``/sync`` and to no other. (HA rules 16.3, EC 65, 66)"""
    request, sync = _now(w), sync_in_force(w)
    if request is None or not request.is_switchover or sync is None or sync.covers(w.me):
        return None
    return rest(because=f"switchover from {request.leader}: this node is not in /sync", wake_after=0.5)


def missing_wal(w: World) -> Decision | None:
    """An orderly hand-over promotes nobody who lacks a byte of it, or is on an older timeline. (principles, safety 2)"""
    request, optime, position = _now(w), w.cluster.status.optime, w.node.position
    if request is None or not request.is_switchover or request.leader == w.me:
        return None
    own = own_timeline(w)
    if own is not None and own < w.cluster_timeline:
        return rest(
            because=f"switchover from {request.leader}: this node is on timeline {own}, the cluster on {w.cluster_timeline}",
            wake_after=0.5,
        )
    if optime is not None and position is not None and position < optime:
        return rest(
            because=f"switchover from {request.leader}: this node is at {position}, the hand-over at {optime}", wake_after=0.5
        )
    return None


def _blind(w: World, request: FailoverRequest) -> bool:
    """No answer is needed: the old leader stopped its server, and what it wrote then says that this node has all of it."""
    sync = sync_in_force(w)
    vouched = sync is None or verdict(claim_of(w), sync, w.settings.synchronous_mode, ()).may_lead
    return request.candidate == w.me and request.is_switchover and not w.paused and vouched


def ask_candidate(w: World) -> Decision | None:
    """The request names a candidate: ask it, together with everybody else, unless the hand-over says it all. (HA rules 16.3.2)"""
    request, peers = _now(w), w.known_peers()
    if request is None or not request.candidate or w.peers is not None or not peers or _blind(w, request):
        return None
    return act(PollPeers(peers, brief=w.node.silent), because=f"the request names {request.candidate}; asking")


def beside_a_primary(w: World) -> Decision | None:
    """The request names me, but a primary still runs and has not handed over: never a second one. (HA rules 30.3, EC 46)"""
    request = _now(w)
    alive = [name for name, peer in sorted((w.peers or {}).items()) if peer.reachable and peer.is_primary]
    if request is None or request.candidate != w.me or not alive:
        return None
    return rest(because=f"the request names this node, but {', '.join(alive)} still runs as a primary", wake_after=0.5)


def named_without_watchdog(w: World) -> Decision | None:
    """The request names me, but I could only take the lock and give it back; others do not wait for me. (HA rules 10, EC 53)"""
    request = _now(w)
    if request is None or request.candidate != w.me or not w.node.watchdog_failed or w.paused or w.standby_cluster:
        return None
    problem = w.node.watchdog_problem or "it does not work"
    return rest(because=f"the request names this node, but its watchdog is required and {problem}", wake_after=1.0)


def forced_on_me(w: World) -> Decision | None:
    """A manual failover names me: take the lock whatever is missing; that proves nothing. (HA rules 16.3.1, 30.10, EC 66, 78)"""
    request = _now(w)
    if request is None or request.candidate != w.me or request.is_switchover:
        return None
    return act(AcquireLease(), because=f"a manual failover names this node; {_standing(w)}")


def _standing(w: World) -> str:
    lag, sync = lag_behind_status(w), sync_in_force(w)
    outside = "" if sync is None or sync.covers(w.me) else ", not in /sync: confirmed commits may be lost"
    return (
        f"at {w.node.position}, {lag} bytes behind the last known position, "
        f"timeline {own_timeline(w) or 'unknown'}, the cluster's is {w.cluster_timeline or 'unknown'}{outside}"
    )


def unproven_candidate(w: World) -> Decision | None:
    """A switchover names me, but too few votes show that I have every confirmed commit. (HA rules 15.3.4)"""
    request, sync = _now(w), sync_in_force(w)
    if request is None or request.candidate != w.me or sync is None:
        return None
    found = verdict(claim_of(w), sync, w.settings.synchronous_mode, (w.peers or {}).values())
    if found.may_lead:
        return None
    return rest(because=f"switchover from {request.leader} to this node: {found.because}", wake_after=0.2)


def asked_for_me(w: World) -> Decision | None:
    """A switchover names me, and I have all that was handed over: take the lock. (HA rules 16.3.1)"""
    request = _now(w)
    if request is not None and request.candidate == w.me:
        return act(AcquireLease(proof=proof(w)), because=f"switchover from {request.leader} to this node; {_standing(w)}")
    return None


def candidate_first(w: World) -> Decision | None:
    """The named candidate is well and has what was handed over: leave the lock to it. (HA rules 16.3.2)"""
    request = _now(w)
    peer = (w.peers or {}).get(request.candidate) if request is not None and request.candidate else None
    if request is None or peer is None or not fit(peer):
        return None
    if request.is_switchover and peer.position < (w.cluster.status.optime or 0):
        return None
    return rest(because=f"the request names {request.candidate}, which is well: leaving the lock to it", wake_after=0.5)


def others_before_old_leader(w: World) -> Decision | None:
    """I am the leader it moved away from: only if nobody else who has all that I have can. (HA rules 16.3.3, EC 64)"""
    request = _now(w)
    if request is None or request.leader != w.me:
        return None
    if w.peers is None and w.known_peers():
        return act(
            PollPeers(w.known_peers(), brief=w.node.silent),
            because="a switchover away from this node was asked for; asking the others",
        )
    if able := able_instead_of_me(w, request.candidate):
        return rest(
            because=f"{fallback(w)}a switchover away from this node was asked for and {', '.join(able)} can take over",
            wake_after=1.0,
        )
    return None


def fallback(w: World) -> str:
    """Why a request that names a candidate is treated as one without: what is wrong with it; else empty. (HA rules 30.12)"""
    request = _now(w)
    if request is None or not request.candidate or request.candidate == w.me or w.peers is None:
        return ""
    what = describe(w, (request.candidate,))
    return f"the request names {request.candidate}, but {what}: treated as without a candidate; "


# -- while a long action runs on the holder (HA rules 14.2, 16.2) ----------------------------------------------


def refuse_while_busy(w: World) -> Decision | None:
    """A request meets a long action of the leader: it is refused, with the name of the action. (EC 76)"""
    request, task = w.cluster.failover, w.node.task
    if request is None or task is None or not w.holds or fulfilled(w):
        return None
    if request.scheduled_at and (w.paused or request.due_at is None or request.due_at > w.wall):
        return None
    return _refuse(request, f"{task.kind} already in progress")


RACE_RULES = (
    came_to_nothing,
    outside_sync,
    missing_wal,
    ask_candidate,
    beside_a_primary,
    named_without_watchdog,
    forced_on_me,
    unproven_candidate,
    asked_for_me,
    candidate_first,
    others_before_old_leader,
)
