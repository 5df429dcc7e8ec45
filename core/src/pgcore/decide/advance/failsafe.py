"""What a world becomes by the actions of failsafe mode. (HA rules 9)"""

from __future__ import annotations

from collections.abc import Mapping

from pgcore.decide.advance.memory import Handlers, remember
from pgcore.decide.failsafe import agreed
from pgcore.model.actions import AskFailsafe, Outcome, WriteFailsafe
from pgcore.model.basics import Instant
from pgcore.model.changes import replace
from pgcore.model.failsafe import FailsafeAnswer
from pgcore.model.world import World


def _written(world: World, action: WriteFailsafe, outcome: Outcome) -> World:
    """Confirmed: only this stands there. Undecided: this may stand there as well. Refused: the next beat reads it anew."""
    known = world.memory.failsafe_map
    if not outcome.ok:
        return remember(world, failsafe_map=replace(known, unsure={**known.unsure, **action.members}))
    if not isinstance(outcome.value, str):
        return replace(world, last=replace(outcome, ok=False, error="/failsafe was changed by somebody else"))
    cluster = replace(world.cluster, failsafe=action.members, failsafe_version=outcome.value)
    written = replace(known, known=action.members, unsure={}, mine=True)
    return remember(replace(world, cluster=cluster), failsafe_map=written)


def _asked(world: World, action: AskFailsafe, outcome: Outcome) -> World:
    """They agree: the lease counts from before the first request. Else it stays as it is; one that has ended stays so."""
    if action.members:  # each of them may have said yes, answer or not
        world = remember(world, failsafe_bound=Instant(outcome.at + world.settings.timing.ttl))
    problem = outcome.error if world.lease_left > 0 else "the answers came after the end of the lease"
    if not outcome.ok or not isinstance(outcome.value, Mapping) or world.lease_left <= 0:
        return replace(world, failsafe_answers={world.me: FailsafeAnswer(False, problem=problem)})
    answers = {name: outcome.value.get(name, FailsafeAnswer(False, problem="no answer")) for name in action.members}
    world = replace(world, failsafe_answers=answers)
    if not agreed(world):
        return world
    assert outcome.began is not None, "an agreement without the instant it was asked for proves nothing"
    until = outcome.began + world.settings.timing.ttl
    positions = {name: answer.lsn for name, answer in answers.items() if answer.lsn is not None}
    return remember(world, lease_until=until, failsafe_until=until, failsafe_positions=positions)


HANDLERS: Handlers = {WriteFailsafe: _written, AskFailsafe: _asked}
