"""What a world becomes by an action on the local server: tasks, role, slots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pgcore.decide.advance.memory import Handlers, remember
from pgcore.model.actions import (
    Action,
    Adopt,
    ArchiveShutdownWal,
    Bootstrap,
    Checkpoint,
    Clone,
    CrashRecover,
    FollowByReload,
    FollowByRestart,
    Outcome,
    PostBootstrap,
    Promote,
    RemoveDataDir,
    Rewind,
    RewindState,
    RunCheckpoint,
    SetHistoriesAside,
    SetRole,
    StartServer,
    StopServer,
    TellChange,
)
from pgcore.model.basics import Role
from pgcore.model.changes import replace
from pgcore.model.node import TaskKind, TaskView
from pgcore.model.world import Told, World


def _began_task(kind: TaskKind) -> Callable[[World, Any, Outcome], World]:
    def handler(world: World, action: Action, outcome: Outcome) -> World:
        if not outcome.ok:
            return remember(world, failed_at=outcome.at)
        node = replace(world.node, task=TaskView(kind, outcome.at), finished=None)
        return remember(replace(world, node=node), last_result=None)

    return handler


def _start(world: World, action: StartServer, outcome: Outcome) -> World:
    kind = TaskKind.START_PRIMARY if action.after_crash else TaskKind.START
    world = _began_task(kind)(world, action, outcome)
    return remember(world, recovering=True) if action.after_crash and outcome.ok else world


def _crash_recovery(world: World, action: CrashRecover, outcome: Outcome) -> World:
    world = _began_task(TaskKind.CRASH_RECOVERY)(world, action, outcome)
    return remember(world, crash_recovered=True) if outcome.ok else world


def _promote(world: World, action: Promote, outcome: Outcome) -> World:
    world = _began_task(TaskKind.PROMOTE)(world, action, outcome)
    return remember(world, checkpoint_needed=True, undecided_since=None) if outcome.ok else world


def _role(world: World, action: SetRole, outcome: Outcome) -> World:
    """Whoever is demoted is no leader any more, also while its lease runs on because the store is away. (HA rules 17.3, EC 6)"""
    node = replace(world.node, role=action.role, is_primary=world.node.is_primary and action.role is not Role.DEMOTED)
    changed = world.role_changed or action.role is not world.node.role
    world = remember(replace(world, node=node, role_changed=changed), told=told_role(world, action.role))
    if action.role is not Role.DEMOTED:
        return world
    return remember(world, recovering=False, last_result=None, lease_until=None, failsafe_until=None)


def told_role(world: World, role: Role) -> Told | None:
    """What the callbacks know once they were told this role; before there was a server there is nothing to tell."""
    told = world.memory.told
    return told if told is None or role is Role.UNINITIALIZED else replace(told, role=role.told)


def _adopted(world: World, action: Adopt, outcome: Outcome) -> World:
    """A standby found running may have diverged while nobody looked. (HA rules 12.1)"""
    state = world.memory.rewind
    unknown = state is RewindState.INITIAL and not world.node.is_primary
    told = Told(world.node.role.told, world.node.postmaster_pid)
    return remember(world, managed=True, told=told, rewind=RewindState.CHECK if unknown else state)


def _set_aside(world: World, action: SetHistoriesAside, outcome: Outcome) -> World:
    """Tried once per comparison, whether it worked or not."""
    leader = world.leader_timeline
    if leader is None or leader.own is None:
        return world
    kept = tuple(entry for entry in leader.own.newer if entry[0] not in action.timelines)
    return replace(world, leader_timeline=replace(leader, own=replace(leader.own, newer=kept)))


HANDLERS: Handlers = {
    ArchiveShutdownWal: _began_task(TaskKind.ARCHIVE),
    FollowByReload: lambda w, a, o: replace(w, recovery_change="none"),
    RunCheckpoint: lambda w, a, o: remember(replace(w, checkpoint_asked=True), checkpoint_needed=not (o.ok and o.value is True)),
    SetRole: _role,
    StartServer: _start,
    StopServer: _began_task(TaskKind.STOP),
    Checkpoint: _began_task(TaskKind.CHECKPOINT),
    Promote: _promote,
    FollowByRestart: _began_task(TaskKind.FOLLOW),
    CrashRecover: _crash_recovery,
    Rewind: _began_task(TaskKind.REWIND),
    SetHistoriesAside: _set_aside,
    Clone: _began_task(TaskKind.CLONE),
    Bootstrap: _began_task(TaskKind.BOOTSTRAP),
    PostBootstrap: _began_task(TaskKind.POST_BOOTSTRAP),
    RemoveDataDir: _began_task(TaskKind.REMOVE),
    Adopt: _adopted,
    TellChange: lambda w, a, o: remember(w, told=Told(w.node.role.told, w.node.postmaster_pid)),
}
