"""What every situation of a lock holder has in common: prove the lock first. (HA rules 8.2)"""

from __future__ import annotations

from pgcore.model.actions import ReleaseLease, RenewLease
from pgcore.model.basics import Timing
from pgcore.model.decision import Decision, act
from pgcore.model.world import LeaseState, World


def renew(w: World) -> Decision | None:
    """The lock names me: prove it before anything else, unless I have given it up and was not answered. (HA rules 8.2)"""
    if not w.is_holder or w.lease is not LeaseState.UNRENEWED:
        return None
    if w.memory.release_undecided:
        return act(ReleaseLease(), because="the lock names me, but my release of it went unanswered and may still arrive: again")
    return act(RenewLease(), because="the lock names me")


def demote_left_s(timing: Timing) -> float:
    """Seconds of the lease that must be left when a primary without the store begins to stop.

    Late enough that an outage shorter than ``retry_timeout`` demotes nobody (EC 21), but before the guard acts at 30 % of ttl.
    """
    return max(0.33 * timing.ttl, min(0.38 * timing.ttl, float(timing.retry_timeout)))


def failsafe_ask_s(timing: Timing) -> float:
    """Seconds that asking the members may take while the store is away: two attempts of 2 s, less with a short ttl."""
    return min(4.0, 0.2 * timing.ttl)


def lease_running_out(w: World) -> bool:
    """Too little of the proven lease is left to go on serving without the store."""
    return w.lease_left <= demote_left_s(w.settings.timing)
