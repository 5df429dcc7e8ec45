"""I hold the lock and PostgreSQL runs. (HA rules 8)"""

from __future__ import annotations

from pgcore.decide import failsafe, switchover
from pgcore.decide.lease import renew
from pgcore.decide.slot_upkeep import unproven_slots
from pgcore.decide.sync_promotion import PROMOTION_RULES
from pgcore.decide.table import Table
from pgcore.decide.watchdog import must_lead_without
from pgcore.model.actions import (
    BeginDemotion,
    DemoteMode,
    Phase,
    Promote,
    ReleaseLease,
    RewindState,
    SetRewind,
    SetRole,
    WriteFailover,
)
from pgcore.model.basics import Role
from pgcore.model.cluster import FailoverRequest
from pgcore.model.decision import Decision, act, end, rest
from pgcore.model.node import TaskKind
from pgcore.model.world import World


def paused_without_primary(w: World) -> Decision | None:
    """Paused, and not a primary: give the lock back, unless a request names me. (HA rules 8.1, EC 75)"""
    if not w.paused or w.node.is_primary:
        return None
    request = w.cluster.failover
    if request is not None and request.candidate == w.me:
        return None  # asked for by an operator
    return end(ReleaseLease(), because="paused and this server is not a primary: giving the lock back")


def refused(w: World) -> Decision | None:
    """The lock is lost: stop accepting writes at once and leave the lock alone. (HA rules 8.2, EC 1)"""
    if w.refused and w.node.is_primary and not w.paused:
        return act(
            BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP),
            because=f"the store refused the renewal: the lock is {w.lease}",
        )
    return None


def refused_standby(w: World) -> Decision | None:
    """The lock is lost before the promotion, or in maintenance mode: do nothing with it. (HA rules 8.2)"""
    if w.refused:
        return end(because=f"the store refused the renewal: the lock is {w.lease}", wake_after=0.1)
    return None


def watchdog_refused(w: World) -> Decision | None:
    """Mode ``required`` and the watchdog does not run: a primary stops, a standby gives the lock back. (HA rules 8.5, 10)"""
    if not (must_lead_without(w) and w.holds):
        return None
    because = f"watchdog.mode is required, but {w.node.watchdog_problem or 'it does not run'}: this node must not lead"
    if w.node.is_primary:
        return act(BeginDemotion(DemoteMode.IMMEDIATE, Phase.STOP), because=because)
    return end(ReleaseLease(), because=because)


def promotion_failed(w: World) -> Decision | None:
    """The promotion did not succeed: give the lock away and stand back for ttl. (HA rules 8.5, EC 55)

    A server that was already asked to promote may still do so: it is stopped before the lock is given away.
    """
    result = w.ended(TaskKind.PROMOTE)
    if result is None or result.ok or w.node.is_primary:
        return None
    because = f"the promotion failed: {result.error or 'cancelled'}"
    request = w.cluster.failover
    mine = (_give_back(request),) if request is not None and request.candidate == w.me else ()
    if w.node.role is Role.PROMOTED and w.node.running:
        return act(*mine, BeginDemotion(DemoteMode.IMMEDIATE, Phase.STOP), because=because)
    return end(*mine, SetRole(Role.REPLICA), ReleaseLease(), because=because)


def _give_back(request: FailoverRequest) -> WriteFailover:
    """After an orderly hand-over the old leader has everything: it comes back, and whoever lacks a byte still stands back."""
    return WriteFailover(leader=request.leader, candidate=request.leader, version=request.version)


def cannot_look(w: World) -> Decision | None:
    """The server does not answer, so it is not known to be a standby that can be promoted: wait, then give the lock away."""
    if w.node.is_primary or not w.node.running or w.node.answering:
        return None
    since, limit = w.memory.silent_since, w.settings.primary_start_timeout
    because = (
        "the lock is mine but the server does not answer the monitoring query; a wrong postgresql.authentication.superuser or a "
        "missing pg_hba line would do that"
    )
    if since is not None and w.now - since > limit:
        return end(ReleaseLease(), because=f"{because}; giving the lock away after {limit} s")
    return rest(because=because, wake_after=1.0)


def promote(w: World) -> Decision | None:
    """The lock is proven and this server is a standby: promote it. (HA rules 8.5)"""
    if w.holds and not w.node.is_primary and w.node.answering:
        limit = float(w.settings.primary_start_timeout or 300)
        return end(
            SetRewind(RewindState.INITIAL),
            Promote(limit),
            because=f"the lock is mine and this server is a standby at {w.node.position}: promoting",
        )
    return None


def become_primary(w: World) -> Decision | None:
    """It is a primary, so its role says so; covers a promotion by hand. (HA rules 8.5)"""
    if w.node.is_primary and w.node.role is not Role.PRIMARY:
        return act(SetRole(Role.PRIMARY), because="the server is a primary and the lock is mine")
    return None


def keep(w: World) -> Decision | None:
    """Everything is as it should be."""
    return rest(because="I am the leader with the lock")


LEADER = Table(
    "leader",
    renew,
    paused_without_primary,
    refused,
    refused_standby,
    watchdog_refused,
    promotion_failed,
    failsafe.accepted_another,
    failsafe.claimed_late,
    cannot_look,
    unproven_slots,
    *PROMOTION_RULES,
    promote,
    become_primary,
    *switchover.HOLDER_RULES,
    keep,
)
