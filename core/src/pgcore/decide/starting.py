"""PostgreSQL runs but does not accept connections yet, without a task of ours waiting for it. (HA rules 14.1)"""

from __future__ import annotations

from pgcore.decide import divergence, following
from pgcore.decide.candidates import another_could_lead, ask_them, could_lead, fit
from pgcore.decide.lease import renew
from pgcore.decide.table import Table
from pgcore.decide.upstream import upstream
from pgcore.model.actions import BeginDemotion, CompareRecovery, DemoteMode, Phase, PollPeers
from pgcore.model.basics import Role
from pgcore.model.cluster import FailoverRequest
from pgcore.model.decision import Decision, act, rest
from pgcore.model.world import World


def lost_lock(w: World) -> Decision | None:
    """It starts as a primary without the lock being mine: stop it before it accepts a write. (HA rules 14.1)"""
    primary = w.node.is_primary or not w.node.recovery_files
    if primary and not w.paused and (w.refused or not w.is_holder):
        holder = f"{w.cluster.leader} holds the lock" if w.cluster.leader not in (None, w.me) else "the lock is not mine"
        return act(
            BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP),
            because=f"{holder} and this server starts as a primary",
        )
    return None


def _overdue(w: World) -> str:
    """How the holder's start exceeds its limit; empty if it does not."""
    since, asked = w.memory.starting_since, w.memory.start_limit
    limit = float(w.settings.primary_start_timeout) if asked is None else asked
    if not w.holds or w.paused or since is None or w.now - since <= limit:
        return ""
    return f"the start takes longer than {limit:.0f} s ({'primary_start_timeout' if asked is None else 'asked for'})"


def ask_others(w: World) -> Decision | None:
    """The holder recovers longer than allowed: see whether somebody else is well. (HA rules 14.1.2, 16.5, EC 84)"""
    overdue = _overdue(w)
    return ask_them(w, overdue) if overdue else None


def too_long(w: World) -> Decision | None:
    """The holder recovers longer than allowed while another node could lead. (HA rules 14.1.2, EC 84, 85)"""
    overdue = _overdue(w)
    if overdue and another_could_lead(w):
        return act(BeginDemotion(DemoteMode.IMMEDIATE, Phase.STOP), because=f"{overdue} and another member is well")
    return None


def _manual(w: World) -> FailoverRequest | None:
    request = w.cluster.failover
    asked = request is not None and not request.is_switchover and request.candidate != w.me
    return request if asked and w.holds and not w.paused else None


def ask_candidate(w: World) -> Decision | None:
    """A manual failover is asked for: see whether its candidate is well. (EC 72)"""
    request = _manual(w)
    if request is not None and w.peers is None and could_lead(w, request):
        return act(PollPeers(could_lead(w, request)), because=f"a failover to {request.candidate} is asked for; asking it")
    return None


def fail_over(w: World) -> Decision | None:
    """The holder still recovers and an operator wants another leader: give way. (HA rules 14.1.2, EC 72)"""
    request = _manual(w)
    if request is not None and request.candidate and fit((w.peers or {}).get(request.candidate)):
        return act(
            BeginDemotion(DemoteMode.IMMEDIATE, Phase.STOP, (request.candidate,)),
            because=f"a failover to {request.candidate} is asked for while this server is still starting",
        )
    return None


def compare_recovery(w: World) -> Decision | None:
    """A starting standby may wait for WAL of a leader that moved: compare with what was written last. (HA rules 14.1, EC 213)"""
    follows = w.node.recovery_files and not w.is_holder and not w.cluster.unlocked
    if follows and not w.paused and w.recovery_change is None and upstream(w) is not None:
        return act(CompareRecovery(upstream(w), Role.REPLICA), because="starting as a standby: comparing the recovery settings")
    return None


def wait(w: World) -> Decision | None:
    """Wait until it accepts connections; never race meanwhile. (HA rules 15.1, EC 50)"""
    what = "as a standby" if w.node.recovery_files or w.node.role is Role.REPLICA else "in recovery"
    return rest(because=f"PostgreSQL is starting {what}", wake_after=1.0)


STARTING = Table(
    "starting",
    renew,
    lost_lock,
    ask_others,
    too_long,
    ask_candidate,
    fail_over,
    divergence.compare,
    divergence.judge,
    divergence.rewind,
    compare_recovery,
    following.compare_before_following,
    following.follow_by_restart,
    following.follow_by_reload,
    wait,
)
