"""What a world becomes by an action and its outcome: the only place where ``Memory`` changes. (HA rules 3)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pgcore.decide import slots
from pgcore.model.actions import (
    AcquireLease,
    Action,
    Adopt,
    BeginDemotion,
    Bootstrap,
    ChangeSlots,
    Checkpoint,
    ClaimInitialize,
    Clone,
    CompareRecovery,
    CompareTimelines,
    EndProcedure,
    EnterBootstrap,
    EnterPhase,
    FollowByReload,
    FollowByRestart,
    MarkUndecided,
    NoteRequest,
    ObserveNode,
    Outcome,
    PollPeers,
    PostBootstrap,
    ProbePeers,
    Promote,
    ReadCluster,
    ReadHistory,
    Refuse,
    ReleaseLease,
    RemoveDataDir,
    RenewLease,
    Rewind,
    RewindState,
    RunCheckpoint,
    SetRewind,
    SetRole,
    StartServer,
    StopServer,
    WriteConfig,
    WriteFailover,
    WriteHistory,
    WriteInitialize,
    WriteStatus,
)
from pgcore.model.basics import Instant, Role
from pgcore.model.cluster import ClusterView, ConfigRecord
from pgcore.model.node import NodeView, TaskKind, TaskResult, TaskView
from pgcore.model.settings import Settings
from pgcore.model.world import Bootstrapping, Demotion, LeaseState, Memory, World


@dataclass(frozen=True, slots=True)
class ClusterReading:
    """The value of ``ReadCluster``: the cluster and the settings that follow from its configuration."""

    cluster: ClusterView
    settings: Settings


def advance(world: World, action: Action, outcome: Outcome) -> World:
    """The world after this action. An outcome that is not ``ok`` changes only what a failure changes."""
    world = replace(world, now=outcome.at, last=outcome)
    handler = _HANDLERS.get(type(action))
    return handler(world, action, outcome) if handler else world


def _value(outcome: Outcome, otherwise: Any) -> Any:
    return outcome.value if outcome.ok else otherwise


def _remember(world: World, **changes: Any) -> World:
    return replace(world, memory=replace(world.memory, **changes))


def _observed(world: World, action: ObserveNode, outcome: Outcome) -> World:
    node = outcome.value
    assert isinstance(node, NodeView)
    since = world.memory.starting_since
    changes: dict[str, Any] = {"starting_since": (world.now if since is None else since) if node.starting else None}
    silent = world.memory.silent_since
    changes["silent_since"] = (world.now if silent is None else silent) if node.running and not node.answering else None
    if node.finished is not None:
        changes |= _finished(world, node)
    if node.answering:
        changes |= {"last_timeline": node.timeline or world.memory.last_timeline, "last_position": node.position}
        if node.running and world.memory.recovering and node.task is None:
            changes["recovering"] = False
    return _remember(replace(world, node=node), **changes)


def _finished(world: World, node: NodeView) -> dict[str, Any]:
    result = node.finished
    assert result is not None
    changes: dict[str, Any] = {"last_result": result, "failed_at": world.now if result.error else None}
    if result.kind is TaskKind.REWIND and not result.cancelled:
        changes["rewind"] = RewindState.SUCCESS if result.ok else _after_failed_rewind(node, result)
    if result.kind is TaskKind.PROMOTE and not result.ok:
        changes["promotion_failed_at"] = world.now
        changes["checkpoint_needed"] = False
    if result.kind in (TaskKind.START, TaskKind.FOLLOW) and result.ok and world.memory.rewind is RewindState.SUCCESS:
        changes["rewind"] = RewindState.INITIAL
    if result.kind is TaskKind.CLONE and result.ok:
        changes["rewind"] = RewindState.NOT_NEED  # a fresh copy follows its source; it must not be rewound
    return changes


def _after_failed_rewind(node: NodeView, result: TaskResult) -> RewindState:
    """Again when the source was gone and pg_control is sound; else it has failed for good. (HA rules 12.4.6, EC 111)"""
    return RewindState.NEED if result.retriable and node.rewind_possible else RewindState.FAILED


def _read(world: World, action: ReadCluster, outcome: Outcome) -> World:
    if not outcome.ok:
        return replace(world, store_lost=True, lease=LeaseState.UNKNOWN)
    reading = outcome.value
    assert isinstance(reading, ClusterReading)
    cluster = reading.cluster
    mine = cluster.leader == world.settings.name
    lease = (world.lease if world.lease is LeaseState.HELD else LeaseState.UNRENEWED) if mine else LeaseState.NONE
    changes: dict[str, Any] = {}
    if not cluster.unlocked or world.memory.old_cluster is None:
        changes["old_cluster"] = cluster
    if not mine:
        changes["lease_until"] = None
    if world.memory.was_paused and not reading.settings.paused:
        changes["rewind"] = RewindState.INITIAL
    changes["was_paused"] = reading.settings.paused
    if cluster.failover is None:
        changes["request_seen"] = None
    since = world.memory.unlocked_since
    changes["unlocked_since"] = None if not cluster.unlocked else world.now if since is None else since
    return _remember(
        replace(world, cluster=cluster, settings=reading.settings, lease=lease, store_lost=False, race_lost=False), **changes
    )


def _acquired(world: World, action: AcquireLease, outcome: Outcome) -> World:
    if not outcome.ok:
        return replace(world, store_lost=True, lease=LeaseState.UNKNOWN)
    if outcome.value is not True:
        return replace(world, lease=LeaseState.NONE, race_lost=True)
    cluster = replace(world.cluster, leader=world.me)
    held = _held(replace(world, cluster=cluster, lease=LeaseState.HELD), outcome)
    retained = dict.fromkeys(world.cluster.status.retain_slots, world.now)
    return _remember(
        held,
        last_result=None,
        old_cluster=cluster if world.memory.old_cluster is None else world.memory.old_cluster,
        slots_seen={**retained, **world.memory.slots_seen},
    )


def _held(world: World, outcome: Outcome) -> World:
    began = outcome.began if outcome.began is not None else outcome.at
    return _remember(world, lease_until=began + world.settings.timing.ttl)


def _renewed(world: World, action: RenewLease, outcome: Outcome) -> World:
    if not outcome.ok:
        return replace(world, store_lost=True, lease=LeaseState.UNKNOWN)
    lease = LeaseState(str(outcome.value))
    world = replace(world, lease=lease)
    return _held(world, outcome) if lease is LeaseState.HELD else _remember(world, lease_until=None)


def _released(world: World, action: ReleaseLease, outcome: Outcome) -> World:
    """Undecided or not, the lock is not counted on any more; a confirmed release also ends the guard's watch."""
    world = _remember(world, lease_until=None)
    if not outcome.ok:
        return replace(world, store_lost=True, lease=LeaseState.UNKNOWN)
    demotion = world.demotion
    if demotion is not None:
        world = _remember(world, procedure=replace(demotion, released=True))
    return replace(world, lease=LeaseState.NONE, cluster=replace(world.cluster, leader=None))


def _began_task(kind: TaskKind) -> Callable[[World, Any, Outcome], World]:
    def handler(world: World, action: Action, outcome: Outcome) -> World:
        if not outcome.ok:
            return _remember(world, failed_at=outcome.at)
        node = replace(world.node, task=TaskView(kind, outcome.at), finished=None)
        return _remember(replace(world, node=node), last_result=None)

    return handler


def _start(world: World, action: StartServer, outcome: Outcome) -> World:
    kind = TaskKind.START_PRIMARY if action.after_crash else TaskKind.START
    world = _began_task(kind)(world, action, outcome)
    return _remember(world, recovering=True) if action.after_crash and outcome.ok else world


def _promote(world: World, action: Promote, outcome: Outcome) -> World:
    world = _began_task(TaskKind.PROMOTE)(world, action, outcome)
    return _remember(world, checkpoint_needed=True, undecided_since=None) if outcome.ok else world


def _role(world: World, action: SetRole, outcome: Outcome) -> World:
    node = replace(world.node, role=action.role, is_primary=world.node.is_primary and action.role is not Role.DEMOTED)
    world = replace(world, node=node)
    return _remember(world, recovering=False, last_result=None) if action.role is Role.DEMOTED else world


def _demotion(world: World, action: BeginDemotion, outcome: Outcome) -> World:
    demotion = Demotion(action.mode, action.phase, world.now, world.now, action.candidates)
    return _remember(
        world,
        procedure=demotion,
        rewind=RewindState.CHECK,
        undecided_since=None,
        last_result=None,
        checkpoint_needed=False,
        refusal="",
    )


def _phase(world: World, action: EnterPhase, outcome: Outcome) -> World:
    demotion = world.demotion
    assert demotion is not None
    end = action.end if action.end is not None else demotion.end
    mark = action.mark if action.mark is not None else demotion.mark
    return _remember(world, procedure=replace(demotion, phase=action.phase, since=world.now, end=end, mark=mark))


def _ended(world: World, action: EndProcedure, outcome: Outcome) -> World:
    return _remember(world, procedure=None, refusal=action.refused or world.memory.refusal)


def _bootstrap_phase(world: World, action: EnterBootstrap, outcome: Outcome) -> World:
    before = world.bootstrapping
    claim = before.claim if before is not None else world.cluster.initialize_version
    return _remember(world, procedure=Bootstrapping(action.phase, world.now, claim), last_result=None)


def _rewind_state(world: World, action: SetRewind, outcome: Outcome) -> World:
    if action.state is RewindState.CHECK and world.memory.rewind is RewindState.NEED:
        return world
    check = action.state is RewindState.CHECK
    compared = world.leader_timeline.timeline if world.leader_timeline is not None else None
    return _remember(
        world,
        rewind=action.state,
        undecided_since=world.memory.undecided_since if check else None,
        compared_timeline=world.memory.compared_timeline if check else compared,
    )


def _slots_changed(world: World, action: ChangeSlots, outcome: Outcome) -> World:
    keep = {name: at for name, at in slots.seen(world).items() if name not in action.drop or name in slots.wanted(world)}
    return _remember(replace(world, slots_done=True), slots_seen=keep)


def _adopted(world: World, action: Adopt, outcome: Outcome) -> World:
    """A standby found running may have diverged while nobody looked. (HA rules 12.1)"""
    state = world.memory.rewind
    unknown = state is RewindState.INITIAL and not world.node.is_primary
    return _remember(world, managed=True, rewind=RewindState.CHECK if unknown else state)


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
    return _remember(
        replace(world, cluster=replace(world.cluster, status=action.status)),
        written_status=action.status,
        slots_seen=slots.seen(world),
    )


def _history_written(world: World, action: WriteHistory, outcome: Outcome) -> World:
    return _remember(world, written_timeline=world.node.timeline) if outcome.ok else world


def _failover_written(world: World, action: WriteFailover, outcome: Outcome) -> World:
    if outcome.ok and action.leader is None and action.candidate is None:
        return replace(world, cluster=replace(world.cluster, failover=None))
    return world


_HANDLERS: dict[type, Callable[[World, Any, Outcome], World]] = {
    ObserveNode: _observed,
    ReadCluster: _read,
    PollPeers: lambda w, a, o: replace(w, peers=_value(o, {})),
    ProbePeers: lambda w, a, o: replace(w, probed=True),
    CompareTimelines: lambda w, a, o: replace(w, leader_timeline=_value(o, None), timeline_asked=True),
    CompareRecovery: lambda w, a, o: replace(w, recovery_change=str(o.value) if o.ok else "none"),
    ReadHistory: lambda w, a, o: replace(w, history=_value(o, ())),
    AcquireLease: _acquired,
    RenewLease: _renewed,
    ReleaseLease: _released,
    ClaimInitialize: _claimed,
    WriteInitialize: _initialized,
    WriteConfig: _config_written,
    WriteStatus: _status_written,
    WriteHistory: _history_written,
    WriteFailover: _failover_written,
    FollowByReload: lambda w, a, o: replace(w, recovery_change="none"),
    ChangeSlots: _slots_changed,
    RunCheckpoint: lambda w, a, o: _remember(replace(w, checkpoint_asked=True), checkpoint_needed=not (o.ok and o.value is True)),
    SetRole: _role,
    StartServer: _start,
    StopServer: _began_task(TaskKind.STOP),
    Checkpoint: _began_task(TaskKind.CHECKPOINT),
    Promote: _promote,
    FollowByRestart: _began_task(TaskKind.FOLLOW),
    Rewind: _began_task(TaskKind.REWIND),
    Clone: _began_task(TaskKind.CLONE),
    Bootstrap: _began_task(TaskKind.BOOTSTRAP),
    PostBootstrap: _began_task(TaskKind.POST_BOOTSTRAP),
    RemoveDataDir: _began_task(TaskKind.REMOVE),
    BeginDemotion: _demotion,
    EnterPhase: _phase,
    EndProcedure: _ended,
    EnterBootstrap: _bootstrap_phase,
    SetRewind: _rewind_state,
    Adopt: _adopted,
    MarkUndecided: lambda w, a, o: _remember(w, undecided_since=o.at),
    NoteRequest: lambda w, a, o: _remember(w, request_seen=(a.version, o.at)),
    Refuse: lambda w, a, o: _remember(w, refusal=a.reason),
}


def fresh_world(memory: Memory, settings: Settings, node: NodeView, now: Instant, wall: float) -> World:
    """The world at the start of a beat: what was remembered, nothing observed yet."""
    return World(settings, memory, now, wall, node)
