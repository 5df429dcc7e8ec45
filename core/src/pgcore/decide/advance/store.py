"""What a world becomes by a write to the store: the lease, the keys."""

from __future__ import annotations

from pgcore.decide import slots
from pgcore.decide.advance.memory import Handlers, become, remember
from pgcore.decide.failsafe import with_leader
from pgcore.model.actions import (
    AcquireLease,
    ClaimInitialize,
    Outcome,
    ReleaseLease,
    RenewLease,
    WriteConfig,
    WriteFailover,
    WriteHistory,
    WriteInitialize,
    WriteStatus,
)
from pgcore.model.basics import Instant
from pgcore.model.changes import replace
from pgcore.model.cluster import ConfigRecord
from pgcore.model.failsafe import FailsafeRecord
from pgcore.model.world import LeaseState, World


def _acquired(world: World, action: AcquireLease, outcome: Outcome) -> World:
    if not outcome.ok:
        return replace(world, store_lost=True, lease=LeaseState.UNKNOWN)
    if outcome.value is not True:
        return _not_first(world, outcome)
    cluster = replace(world.cluster, leader=world.me)
    held = _held(replace(world, cluster=cluster, lease=LeaseState.HELD, fresh=False), outcome)
    until = Instant(world.now + world.settings.timing.ttl) if world.node.is_primary else None
    return remember(
        held,
        release_undecided=False,
        last_result=None,
        elected=action.proof,
        failsafe_map=replace(world.memory.failsafe_map, mine=False, keep_until=until),
        sync=replace(world.memory.sync, undecided=True),
        old_cluster=cluster if world.memory.old_cluster is None else world.memory.old_cluster,
        slots=slots.took_lock(world),
    )


def _not_first(world: World, outcome: Outcome) -> World:
    """Somebody else has the lock, or a primary without the store was accepted as the leader a moment ago."""
    world = replace(world, lease=LeaseState.NONE)
    if isinstance(outcome.value, FailsafeRecord):
        return remember(replace(world, cluster=with_leader(world.cluster, outcome.value)), failsafe=outcome.value)
    return replace(world, race_lost=True, beaten=True)


def _held(world: World, outcome: Outcome) -> World:
    """Proven by the store. After a time in failsafe mode the cards of living members come back one by one."""
    if world.memory.failsafe_until is not None:
        keep_until = Instant(world.now + world.settings.timing.ttl)
        world = remember(world, failsafe_map=replace(world.memory.failsafe_map, keep_until=keep_until))
    began = outcome.began if outcome.began is not None else outcome.at
    accepted = None if world.node.is_primary else world.memory.failsafe
    return remember(world, lease_until=began + world.settings.timing.ttl, failsafe_until=None, failsafe=accepted)


def _renewed(world: World, action: RenewLease, outcome: Outcome) -> World:
    if not outcome.ok:
        return replace(world, store_lost=True, lease=LeaseState.UNKNOWN)
    lease = LeaseState(str(outcome.value))
    if lease is LeaseState.GONE and world.failsafe_active:  # it ran out while the store was away: nobody could take it yet
        return replace(world, lease=LeaseState.NONE, cluster=replace(world.cluster, leader=None))
    world = replace(world, lease=lease)
    return _held(world, outcome) if lease is LeaseState.HELD else remember(world, lease_until=None, failsafe_until=None)


def _released(world: World, action: ReleaseLease, outcome: Outcome) -> World:
    """Undecided or not, the lock is not counted on any more; a confirmed release also ends the guard's watch."""
    world = remember(world, lease_until=None, failsafe_until=None, elected=None, release_undecided=not outcome.ok)
    if not outcome.ok:
        return replace(world, store_lost=True, lease=LeaseState.UNKNOWN)
    demotion = world.demotion
    if demotion is not None:
        world = remember(world, procedure=replace(demotion, released=True))
    return replace(world, lease=LeaseState.NONE, cluster=replace(world.cluster, leader=None))


def _claimed(world: World, action: ClaimInitialize, outcome: Outcome) -> World:
    """A lost claim ends the plan: the rest of it must not happen."""
    won = outcome.ok and isinstance(outcome.value, str)
    if not won:
        return replace(
            world,
            last=replace(outcome, ok=False, error=outcome.error or "another node was first"),
            cluster=replace(world.cluster, initialize=""),
        )
    return replace(world, cluster=replace(world.cluster, initialize="", initialize_version=str(outcome.value)))


def _initialized(world: World, action: WriteInitialize, outcome: Outcome) -> World:
    if not outcome.ok or not outcome.value:
        return world
    return replace(world, cluster=replace(world.cluster, initialize=action.system_id))


def _config_written(world: World, action: WriteConfig, outcome: Outcome) -> World:
    if not (outcome.ok and outcome.value):
        return world
    return replace(world, cluster=replace(world.cluster, config=ConfigRecord("", action.document)))


def _status_written(world: World, action: WriteStatus, outcome: Outcome) -> World:
    if not outcome.ok:
        return world
    return become(world, {"written_status": action.status}, cluster=replace(world.cluster, status=action.status))


def _history_written(world: World, action: WriteHistory, outcome: Outcome) -> World:
    return remember(world, written_timeline=world.node.timeline) if outcome.ok else world


def _failover_written(world: World, action: WriteFailover, outcome: Outcome) -> World:
    if outcome.ok and action.leader is None and action.candidate is None:
        return replace(world, cluster=replace(world.cluster, failover=None))
    return world


HANDLERS: Handlers = {
    AcquireLease: _acquired,
    RenewLease: _renewed,
    ReleaseLease: _released,
    ClaimInitialize: _claimed,
    WriteInitialize: _initialized,
    WriteConfig: _config_written,
    WriteStatus: _status_written,
    WriteHistory: _history_written,
    WriteFailover: _failover_written,
}
