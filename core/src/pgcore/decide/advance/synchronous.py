"""What a world becomes by a step of synchronous replication."""

from __future__ import annotations

from typing import Any

from pgcore.decide.advance.memory import Handlers, remember
from pgcore.decide.sync_candidates import anchored
from pgcore.decide.sync_names import parse
from pgcore.model.actions import DropSync, MarkBlocked, NoteProof, Outcome, RestoreStandbyNames, SetStandbyNames, WriteSync
from pgcore.model.basics import Instant
from pgcore.model.changes import replace
from pgcore.model.cluster import SyncView
from pgcore.model.node import NodeView
from pgcore.model.synchronous import StandbyNames, SyncMemory
from pgcore.model.world import World


def looked(memory: SyncMemory, node: NodeView, now: Instant) -> SyncMemory:
    """What a look at the server adds: since when it serves, and what standbys must reach. (HA rules 19.4)"""
    if not node.answering or (not node.is_primary and memory.serving is None):
        return memory
    if not node.is_primary:
        return replace(memory, anchor=None, serving=None)
    era = f"{node.postmaster_start}, timeline {node.timeline}"
    known = memory.serving is not None and memory.serving[0] == era
    serving = memory.serving if known else (era, now)
    if node.position is None or (not node.names.text and memory.anchor is None):
        return memory if known else replace(memory, serving=serving)
    anchor = anchored(memory.anchor, parse(node.names.text), era, node.position, node.names.in_force)
    return replace(memory, anchor=anchor, serving=serving)


def _noted(world: World, **changes: Any) -> World:
    return remember(world, sync=replace(world.memory.sync, **changes))


def _done(world: World, **changes: Any) -> World:
    last = world.memory.sync.changed_at
    rested = last is None or world.now - last >= world.settings.timing.loop_wait
    steps = 1 if rested else world.memory.sync.steps + 1
    return _noted(world, troubled=False, changed_at=world.now, steps=steps, **changes)


def _refused(world: World, outcome: Outcome) -> World:
    """Somebody else changed ``/sync``: what follows in the plan rests on something that is not there any more."""
    return _noted(replace(world, last=replace(outcome, ok=False, error="/sync was changed by somebody else")), troubled=True)


def _written(world: World, action: WriteSync, outcome: Outcome) -> World:
    """A write that follows upon the proven version keeps the proof."""
    if not outcome.ok:
        return _noted(world, undecided=True, troubled=True)
    if not isinstance(outcome.value, str):
        return _refused(world, outcome)
    sync = SyncView(outcome.value, action.leader, action.standbys, action.quorum)
    world = _done(replace(world, cluster=replace(world.cluster, sync=sync)), undecided=False)
    world = remember(world, sync_stored=sync)
    proven = action.version is not None and action.version == world.memory.elected
    return remember(world, elected=outcome.value) if proven else world


def _dropped(world: World, action: DropSync, outcome: Outcome) -> World:
    if not outcome.ok:
        return _noted(world, undecided=True, troubled=True)
    if outcome.value is not True:
        return _refused(world, outcome)
    return remember(_done(replace(world, cluster=replace(world.cluster, sync=SyncView()))), sync_stored=SyncView())


def _named(world: World, action: SetStandbyNames, outcome: Outcome) -> World:
    if not outcome.ok:
        return _noted(world, troubled=True)
    names = StandbyNames(action.text, world.node.names.commit, in_force=outcome.value is True, ours=True)
    return _done(replace(world, node=replace(world.node, names=names)))


def _restored(world: World, action: RestoreStandbyNames, outcome: Outcome) -> World:
    if not outcome.ok:
        return _noted(world, troubled=True)
    names = StandbyNames(action.own, world.node.names.commit, in_force=False)
    return _done(replace(world, node=replace(world.node, names=names)))


HANDLERS: Handlers = {
    WriteSync: _written,
    DropSync: _dropped,
    SetStandbyNames: _named,
    RestoreStandbyNames: _restored,
    NoteProof: lambda w, a, o: remember(w, elected=a.version),
    MarkBlocked: lambda w, a, o: _noted(w, blocked=a.blocked),
}
