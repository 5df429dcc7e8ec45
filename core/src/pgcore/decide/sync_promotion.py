"""The winner of the race before it promotes: the proof must still hold, ``/sync`` and the names come first. (HA rules 19.6, 20.5)

Commits of the old leader are confirmed by what ``/sync`` lists, so who wins under one version of it has nothing proven under the
next. Each write is conditional on the version of the proof: an old leader that still writes makes the promotion start over.
"""

from __future__ import annotations

from pgcore.decide import sync_priority, sync_quorum
from pgcore.decide.election import Verdict, claim_of, same_name, verdict
from pgcore.decide.sync_names import SetNames, Step, WriteSync, parse
from pgcore.decide.synchronous import LEAST_WAIT_S, RETRY_S, SOON_S, action_for
from pgcore.model.actions import NoteProof, PollPeers, ReadCluster, ReleaseLease
from pgcore.model.decision import Decision, Then, act, end, rest
from pgcore.model.world import World


def _concerned(w: World) -> bool:
    """I am about to be promoted, and synchronous replication is wanted or still in force."""
    winner = w.holds and not w.node.is_primary and w.node.answering and w.settings.standby_cluster is None
    return winner and (w.settings.synchronous_mode != "off" or w.cluster.sync.active)


def _forced(w: World) -> bool:
    """An operator wants this node to lead whatever it lacks: a manual failover names it."""
    request = w.cluster.failover
    return request is not None and not request.is_switchover and request.candidate == w.me


def _proven(w: World) -> bool:
    return w.memory.elected is not None and w.memory.elected == w.cluster.sync.version


def reread(w: World) -> Decision | None:
    """The lock is mine: ``/sync`` is read anew, as the old leader may have changed it until a moment ago. (HA rules 19.6)"""
    if _concerned(w) and not w.fresh:
        return act(ReadCluster(fresh=True), because="the lock is mine; reading /sync again before the promotion")
    return None


def _unproven(w: World) -> bool:
    return _concerned(w) and w.cluster.sync.active and not _forced(w) and not _proven(w)


def _asked(w: World) -> bool:
    """The members have answered, and ``/sync`` is still the one they were asked for."""
    return w.peers is not None and w.asked_under == w.cluster.sync.version


def ask_again(w: World) -> Decision | None:
    """The lock is mine without a proof for this ``/sync``, as after a crash of primary and agent: ask the others. (EC 147)"""
    if not _unproven(w) or _asked(w):
        return None
    peers = w.known_peers()
    won = f"under version {w.memory.elected}" if w.memory.elected else "nobody knows how"
    return act(
        PollPeers(peers, brief=w.node.silent),
        because=f"the lock is mine, won {won}, and /sync is at version {w.cluster.sync.version}; asking "
        + (", ".join(m.name for m in peers) or "nobody, as there is no other member"),
    )


def proven_again(w: World) -> Decision | None:
    """By what the others answer every commit that ``/sync`` protects is here. (HA rules 15.3.4, EC 147)"""
    version = w.cluster.sync.version
    if not _unproven(w) or not _asked(w) or version is None or not _verdict(w).may_lead:
        return None
    return act(NoteProof(version), because=f"no acknowledged commit is missing here: {_verdict(w).because}")


def _verdict(w: World) -> Verdict:
    answers = (w.peers or {}).values()
    running = next((p.name for p in answers if p.is_primary), None)
    if running:
        return Verdict(False, f"{running} still runs as a primary")
    return verdict(claim_of(w), w.cluster.sync, w.settings.synchronous_mode, answers)


def unproven(w: World) -> Decision | None:
    """Nothing proves that I have every commit that ``/sync`` protects: give the lock back, so that the race decides."""
    if not _unproven(w):
        return None
    return end(
        ReleaseLease(),
        because="the lock is mine, but an acknowledged commit may be missing here, so I give it back: " + _verdict(w).because,
        wake_after=SOON_S,
    )


def _due(w: World) -> Step | None:
    s, sync, names = w.settings, w.cluster.sync, parse(w.node.names.text)
    if s.synchronous_mode == "off":
        return sync_priority.switch_off(sync, w.node.names.ours, s.own_standby_names)
    if s.synchronous_mode == "on":
        return sync_priority.before_promotion(w.me, sync, names, s.synchronous_mode_strict)
    return sync_quorum.before_promotion(w.me, sync, names, s.synchronous_mode_strict, _proven(w))


def late_write_outrun(w: World) -> Decision | None:
    """I led before, and a write of mine to ``/sync`` may still arrive: a newer version outruns it. (HA rules 19.1)"""
    sync = w.cluster.sync
    if not _concerned(w) or not w.memory.sync.undecided or not same_name(sync.leader, w.me) or isinstance(_due(w), WriteSync):
        return None
    return _answer(w, WriteSync(w.me, sync.standbys, sync.quorum, "a write of my former leadership to /sync may still arrive"))


def _answer(w: World, due: Step) -> Decision:
    wake_after = RETRY_S if w.memory.sync.troubled else SOON_S
    return Decision(due.because, (action_for(w, due),), Then.AGAIN, wake_after)


def names_before_promotion(w: World) -> Decision | None:
    """What commits must wait for is set while I am still a standby, so that none slips through. (HA rules 20.5, EC 125, 149)"""
    due = _due(w) if _concerned(w) else None
    return _answer(w, due) if isinstance(due, SetNames) else None


def sync_before_promotion(w: World) -> Decision | None:
    """``/sync`` moves to me if it is still the one I won under; if not, the promotion waits. (HA rules 19.6, EC 141)"""
    due = _due(w) if _concerned(w) else None
    return _answer(w, due) if due is not None and not isinstance(due, SetNames) else None


def names_not_in_force(w: World) -> Decision | None:
    """The server shows the names, but not each of its processes goes by them yet: wait, ttl at most."""
    if not _concerned(w) or w.node.names.in_force:
        return None
    since, limit = w.memory.sync.changed_at, w.settings.timing.ttl
    because = f"{w.node.names.text} is set but not in force yet"
    if since is not None and w.now - since > limit:
        return end(ReleaseLease(), because=f"{because} after {limit} s: giving the lock away")
    return rest(because=f"{because}; then the promotion", wake_after=LEAST_WAIT_S)


PROMOTION_RULES = (
    reread,
    ask_again,
    proven_again,
    unproven,
    late_write_outrun,
    names_before_promotion,
    sync_before_promotion,
    names_not_in_force,
)
