"""What every situation of a lock holder has in common: prove the lock first. (HA rules 8.2)"""

from __future__ import annotations

from pgcore.model.actions import RenewLease
from pgcore.model.decision import Decision, act
from pgcore.model.world import LeaseState, World

GUARD_FAST_SHARE = 0.30
"""The guard stops a primary when this share of ttl is left (``daemon.guard``)."""
DEMOTE_SHARE = 0.38
"""A primary that cannot reach the store demotes itself when this share of ttl is left: before the guard has to act."""


def renew(w: World) -> Decision | None:
    """The lock names me: prove it before anything else. (HA rules 8.2)"""
    if w.is_holder and w.lease is LeaseState.UNRENEWED:
        return act(RenewLease(), because="the lock names me")
    return None


def lease_running_out(w: World) -> bool:
    """Too little of the proven lease is left to go on serving without the store."""
    return w.lease_left <= DEMOTE_SHARE * w.settings.timing.ttl
