"""What a world becomes by an action without an effect: procedures, comparisons, requests remembered."""

from __future__ import annotations

from pgcore.decide.advance.memory import Handlers, remember
from pgcore.model.actions import (
    BeginDemotion,
    EndProcedure,
    EnterBootstrap,
    EnterPhase,
    LeaveSync,
    MarkUndecided,
    NoteRequest,
    Outcome,
    Refuse,
    ReturnToSync,
    RewindState,
    SetRewind,
)
from pgcore.model.changes import replace
from pgcore.model.world import Bootstrapping, Demotion, World


def _demotion(world: World, action: BeginDemotion, outcome: Outcome) -> World:
    demotion = Demotion(action.mode, action.phase, world.now, world.now, action.candidates)
    return remember(
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
    return remember(world, procedure=replace(demotion, phase=action.phase, since=world.now, end=end, mark=mark))


def _ended(world: World, action: EndProcedure, outcome: Outcome) -> World:
    return remember(world, procedure=None, refusal=action.refused or world.memory.refusal)


def _bootstrap_phase(world: World, action: EnterBootstrap, outcome: Outcome) -> World:
    before = world.bootstrapping
    claim = before.claim if before is not None else world.cluster.initialize_version
    return remember(world, procedure=Bootstrapping(action.phase, world.now, claim), last_result=None)


def _rewind_state(world: World, action: SetRewind, outcome: Outcome) -> World:
    if action.state is RewindState.CHECK and world.memory.rewind is RewindState.NEED:
        return world
    check = action.state is RewindState.CHECK
    compared = world.leader_timeline.timeline if world.leader_timeline is not None else None
    return remember(
        world,
        rewind=action.state,
        undecided_since=world.memory.undecided_since if check else None,
        compared_timeline=world.memory.compared_timeline if check else compared,
    )


HANDLERS: Handlers = {
    BeginDemotion: _demotion,
    EnterPhase: _phase,
    EndProcedure: _ended,
    EnterBootstrap: _bootstrap_phase,
    SetRewind: _rewind_state,
    MarkUndecided: lambda w, a, o: remember(w, undecided_since=o.at),
    NoteRequest: lambda w, a, o: remember(w, request_seen=(a.version, o.at)),
    LeaveSync: lambda w, a, o: remember(w, leaving_sync=o.at),
    ReturnToSync: lambda w, a, o: remember(w, leaving_sync=None),
    Refuse: lambda w, a, o: remember(w, refusal=a.reason),
}
