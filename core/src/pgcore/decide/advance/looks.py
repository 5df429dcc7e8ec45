"""What a world becomes by a look at the node, the store or the other members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pgcore.decide import slots
from pgcore.decide.advance.memory import Handlers, become, remember, value_of
from pgcore.decide.advance.synchronous import looked
from pgcore.decide.failsafe import with_leader
from pgcore.model.actions import (
    CompareRecovery,
    CompareTimelines,
    ObserveNode,
    Outcome,
    PollPeers,
    ProbePeers,
    ReadCluster,
    ReadHistory,
    RewindState,
)
from pgcore.model.basics import Role
from pgcore.model.changes import replace
from pgcore.model.cluster import ClusterView, SyncView
from pgcore.model.node import NodeView, TaskKind, TaskResult
from pgcore.model.settings import Settings
from pgcore.model.world import LeaseState, Told, World

TOLD_BY_TASK = (
    TaskKind.START,
    TaskKind.START_PRIMARY,
    TaskKind.FOLLOW,
    TaskKind.RESTART,
    TaskKind.REINITIALIZE,
    TaskKind.PROMOTE,
)
"""Tasks that tell the callbacks themselves what they do to the server."""


@dataclass(frozen=True, slots=True)
class ClusterReading:
    """The value of ``ReadCluster``: the cluster and the settings that follow from its configuration."""

    cluster: ClusterView
    settings: Settings


def _observed(world: World, action: ObserveNode, outcome: Outcome) -> World:
    node = outcome.value
    assert isinstance(node, NodeView)
    since = world.memory.starting_since
    changes: dict[str, Any] = {"starting_since": (world.now if since is None else since) if node.starting else None}
    changes |= {"failsafe": node.failsafe, "began": world.now if world.memory.began is None else world.memory.began}
    silent = world.memory.silent_since
    changes["silent_since"] = (world.now if silent is None else silent) if node.running and not node.answering else None
    changes["sync"] = looked(world.memory.sync, node, world.now)
    if node.finished is not None:
        changes |= _finished(world, node)
    if node.answering:
        changes |= {"last_timeline": node.timeline or world.memory.last_timeline, "last_position": node.position}
        changes["crash_recovered"] = False
        before = world.memory.last_position
        if before is not None and node.position is not None and node.position > before:
            changes["grew_at"] = world.now
        if node.running and node.task is None:
            changes["recovering"] = False
            changes["start_limit"] = None
    return become(world, changes, node=node)


def _finished(world: World, node: NodeView) -> dict[str, Any]:
    result = node.finished
    assert result is not None
    ignored = result.kind is TaskKind.CRASH_RECOVERY  # its failure is logged; the node goes on (EC 96)
    changes: dict[str, Any] = {"last_result": result, "failed_at": world.now if result.error and not ignored else None}
    if result.kind in TOLD_BY_TASK and world.memory.told is not None:
        told = world.memory.told
        role = node.role.told if node.role is not Role.UNINITIALIZED else told.role
        untold = node.starting and role is told.role  # it is still not up, and no changed role was told in the place of its start
        changes["told"] = Told(role, told.postmaster if untold else node.postmaster_pid)
    if result.kind is TaskKind.REWIND and not result.cancelled:
        changes["rewind"] = RewindState.SUCCESS if result.ok else _after_failed_rewind(node, result)
    if result.kind is TaskKind.PROMOTE and not result.ok:
        changes["promotion_failed_at"] = world.now
        changes["checkpoint_needed"] = False
    if result.kind in (TaskKind.START, TaskKind.FOLLOW) and result.ok and world.memory.rewind is RewindState.SUCCESS:
        changes["rewind"] = RewindState.INITIAL
    if result.kind is TaskKind.RESTART:
        changes["restart_result"] = result
    if result.kind in (TaskKind.CLONE, TaskKind.REINITIALIZE) and result.ok:
        changes["rewind"] = RewindState.NOT_NEED  # a fresh copy follows its source; it must not be rewound
    return changes


def _after_failed_rewind(node: NodeView, result: TaskResult) -> RewindState:
    """Again when the source was gone and pg_control is sound; else it has failed for good. (HA rules 12.4.6, EC 111)"""
    return RewindState.NEED if result.retriable and node.rewind_possible else RewindState.FAILED


def _with_card_of_leader(read: ClusterView, old: ClusterView | None) -> ClusterView:
    """What is remembered of a reading: a leader whose card is not back yet, after a wipe, keeps its former one.

    Else nobody would know whom to ask if the store were wiped once more before the card is written.
    """
    former = old.member(read.leader) if old is not None and read.leader is not None else None
    if former is None or read.member(former.name) is not None:
        return read
    return replace(read, members=(*read.members, former))


def _read(world: World, action: ReadCluster, outcome: Outcome) -> World:
    if not outcome.ok:
        return replace(world, store_lost=True, lease=LeaseState.UNKNOWN)
    reading = outcome.value
    assert isinstance(reading, ClusterReading)
    read, record, known = reading.cluster, world.memory.failsafe, world.memory.failsafe_map
    left_sync = None
    if reading.settings.standby_cluster is not None:  # what is left in /sync means nothing there (EC 198)
        left_sync = read.sync.version if read.sync.active else None
        read = replace(read, sync=SyncView())
    accepted = record is not None and record.valid(world.now) and read.unlocked
    cluster = with_leader(read, record) if accepted and record is not None else read
    mine = cluster.leader == world.settings.name
    lease = (world.lease if world.lease is LeaseState.HELD else LeaseState.UNRENEWED) if mine else LeaseState.NONE
    changes: dict[str, Any] = {}
    if not read.unlocked or world.memory.old_cluster is None:
        changes["old_cluster"] = _with_card_of_leader(read, world.memory.old_cluster)
    kept = mine or (cluster.unlocked and world.failsafe_active)  # nobody could take the lock yet: it is mine to take back
    if not kept:
        changes |= {"lease_until": None, "failsafe_until": None}
    if not mine:
        changes["elected"] = None
    changes["sync_stored"] = read.sync
    if known.known != read.failsafe or (known.mine and not kept):
        changes["failsafe_map"] = replace(known, known=read.failsafe, mine=known.mine and kept)
    if world.memory.was_paused and not reading.settings.paused:
        # Whatever was done by hand meanwhile: histories are compared anew, a primary writes its checkpoint again.
        changes |= {"rewind": RewindState.INITIAL, "checkpoint_needed": world.node.is_primary}
    changes["was_paused"] = reading.settings.paused
    if cluster.failover is None:
        changes["request_seen"] = None
    since = world.memory.unlocked_since
    changes["unlocked_since"] = None if not cluster.unlocked else world.now if since is None else since
    request, waits = cluster.failover, world.memory.request_waits
    if request is None or not cluster.unlocked:
        changes["request_waits"] = None
    elif waits is None or waits[0] != request.version:
        changes["request_waits"] = (request.version, world.now)
    world = replace(
        world,
        cluster=cluster,
        settings=reading.settings,
        lease=lease,
        left_sync=left_sync,
        store_lost=False,
        race_lost=False,
        read_at=outcome.at,
        fresh=action.fresh,
    )
    return remember(world, **changes, slots=slots.noted(world))


HANDLERS: Handlers = {
    ObserveNode: _observed,
    ReadCluster: _read,
    PollPeers: lambda w, a, o: replace(w, peers=value_of(o, {}), asked_under=w.cluster.sync.version),
    ProbePeers: lambda w, a, o: replace(w, probed=True),
    CompareTimelines: lambda w, a, o: replace(w, leader_timeline=value_of(o, None), timeline_asked=True),
    CompareRecovery: lambda w, a, o: replace(w, recovery_change=str(o.value) if o.ok else "none"),
    ReadHistory: lambda w, a, o: replace(w, history=value_of(o, ())),
}
