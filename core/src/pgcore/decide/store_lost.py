"""The store did not answer in this beat. (HA rules 9)"""

from __future__ import annotations

from pgcore.decide import failsafe
from pgcore.decide.lease import demote_left_s, lease_running_out
from pgcore.decide.table import Table
from pgcore.model.actions import BeginDemotion, CancelTask, DemoteMode, Phase, StartServer
from pgcore.model.basics import Role
from pgcore.model.decision import Decision, act, end, rest
from pgcore.model.world import World

RETRY_S = 0.5


def paused(w: World) -> Decision | None:
    """In maintenance mode nothing happens for a lost store. (HA rules 9.1)"""
    return rest(because="the store does not answer; paused, so nothing changes", wake_after=RETRY_S * 2) if w.paused else None


def primary_must_stop(w: World) -> Decision | None:
    """A primary whose lease is about to end without proof stops accepting writes. (HA rules 9.3, EC 22)"""
    if w.node.is_primary and lease_running_out(w):
        return act(
            BeginDemotion(DemoteMode.OFFLINE, Phase.STOP),
            because=f"the store does not answer and only {w.lease_left:.1f} s of the lease are proven "
            f"(demoting below {demote_left_s(w.settings.timing):.1f} s){_refusals(w)}",
        )
    return None


def becoming_primary_must_stop(w: World) -> Decision | None:
    """A server that is just becoming a primary would be one without a lease: cancel that and stop it. (HA rules 30.4)"""
    if w.becoming_primary and lease_running_out(w):
        return act(
            CancelTask(),
            BeginDemotion(DemoteMode.OFFLINE, Phase.STOP),
            because=f"the store does not answer and only {w.lease_left:.1f} s of the lease are proven",
        )
    return None


def primary_waits(w: World) -> Decision | None:
    """A primary with a proven lease goes on serving and asks again. (EC 21)"""
    if w.node.is_primary:
        return rest(
            because=f"the store does not answer; the lease is proven for {w.lease_left:.1f} s more{_refusals(w)}",
            wake_after=RETRY_S,
        )
    return None


def _refusals(w: World) -> str:
    trouble = failsafe.trouble(w)
    return f"; {trouble}" if trouble else ""


def busy(w: World) -> Decision | None:
    """A long action goes on; nothing new is begun."""
    return rest(because=f"the store does not answer; {w.node.task.kind} goes on", wake_after=RETRY_S) if w.node.task else None


def readable_standby(w: World) -> Decision | None:
    """A primary that demoted for a lost store serves reads as a standby of nobody. (HA rules 17 offline, EC 39)"""
    if w.has_data and not w.node.running and w.memory.managed and w.node.role is Role.DEMOTED and not w.cooling_down:
        return end(StartServer(Role.REPLICA), because="demoted while the store is away: serving reads until it is back")
    return None


def standby_waits(w: World) -> Decision | None:
    """A standby keeps replicating; a server that is down stays down. (HA rules 9.1, 9.2)"""
    return rest(because="the store does not answer; waiting for it", wake_after=RETRY_S * 2)


STORE_LOST = Table(
    "store_lost",
    paused,
    failsafe.ask_members,
    failsafe.advance_slots,
    failsafe.members_agree,
    primary_must_stop,
    becoming_primary_must_stop,
    primary_waits,
    busy,
    readable_standby,
    failsafe.advance_copies,
    standby_waits,
)
