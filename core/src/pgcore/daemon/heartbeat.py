"""One pass over the node's world, as a generator: it yields actions, receives outcomes, and performs nothing. (architecture 5)"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

from pgcore.decide import MAIN, STAGES, decide
from pgcore.decide.advance import advance
from pgcore.model.actions import Action, ObserveNode, Outcome, ReadCluster
from pgcore.model.decision import Decision, Then
from pgcore.model.world import World

PROCEDURE_WAKE_S = 0.5
"""While a procedure is under way the next beat is never further away than this."""


@dataclass(slots=True)
class Beat:
    """What one heartbeat decided: every decision in order, the main one, and when the next beat is wanted at the latest."""

    world: World
    decisions: list[Decision] = field(default_factory=list)
    main: Decision | None = None
    wake_after: float | None = None
    repeated: str = ""
    """A rule that answered twice: its actions failed, so the beat was ended to try later."""
    in_vain: bool = False
    """They had not failed: they did not change what the rule looks at, which is a mistake of ours."""

    def add(self, stage: str, decision: Decision) -> None:
        """Note a decision."""
        self.decisions.append(decision)
        if stage == MAIN:
            self.main = decision
        if decision.wake_after is not None:
            self.wake_after = decision.wake_after if self.wake_after is None else min(self.wake_after, decision.wake_after)


Step = tuple[Action, World]


def heartbeat(world: World, beat: Beat | None = None) -> Generator[Step, Outcome, Beat]:
    """Observe, read, then ask each stage's rules until they rest. Yields each action with the world it is meant for.

    Whoever brings the ``beat`` can see what was decided so far.
    """
    for look in (ObserveNode(), ReadCluster()):
        world = advance(world, look, (yield look, world))
    beat = beat or Beat(world)
    ended = False
    for stage in STAGES:
        if ended and stage != "publish":
            continue
        seen: set[str] = set()
        while True:
            decision = decide(stage, world, seen)
            if decision is None:
                break
            if decision.rule in seen and decision.actions:
                beat.repeated, beat.in_vain = decision.rule, world.last is None or world.last.ok
                ended = ended or stage == MAIN
                break
            seen.add(decision.rule)
            beat.add(stage, decision)
            failed = False
            for action in decision.actions:
                world = advance(world, action, (yield action, world))
                if world.last is not None and not world.last.ok:
                    failed = True  # the rest of the plan is stale: ask the rules again
                    break
            if failed or decision.then is Then.AGAIN:
                continue
            ended = ended or decision.then is Then.END
            break
    beat.world = world
    if world.memory.procedure is not None:
        beat.wake_after = min(beat.wake_after or PROCEDURE_WAKE_S, PROCEDURE_WAKE_S)
    return beat
