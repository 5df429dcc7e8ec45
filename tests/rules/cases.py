"""A case: a situation in words, its world, the rule that must answer, and, where it matters, what it does."""

from __future__ import annotations

from dataclasses import dataclass

from pgcore.decide import MAIN, decide
from pgcore.model.actions import Action
from pgcore.model.decision import Decision, Then
from pgcore.model.world import World


@dataclass(frozen=True, slots=True)
class Case:
    """One row of a table of cases. An expected action that is a type stands for any action of that type."""

    situation: str
    world: World
    rule: str
    actions: tuple[Action | type, ...] | None
    then: Then | None
    stage: str

    def __str__(self) -> str:
        return self.situation

    def decision(self) -> Decision | None:
        """What the rules answer."""
        return decide(self.stage, self.world)

    def check(self) -> None:
        """Fails with both answers when they differ."""
        decision = self.decision()
        if not self.rule:
            assert decision is None, f"no rule of {self.stage} should answer, but {decision} did"
            return
        assert decision is not None
        assert decision.rule == self.rule, f"{self.rule} was expected, but: {decision}"
        assert decision.because
        if self.then is not None:
            assert decision.then is self.then
        if self.actions is None:
            return
        assert len(decision.actions) == len(self.actions), decision.actions
        for action, expected in zip(decision.actions, self.actions, strict=True):
            assert isinstance(action, expected) if isinstance(expected, type) else action == expected, (action, expected)


def case(situation: str, world: World, rule: str, *actions: Action | type, then: Then | None = None, stage: str = MAIN) -> Case:
    """A case whose actions count only if some are given; ``nothing`` says that there must be none."""
    return Case(situation, world, rule, actions or None, then, stage)


def nothing(situation: str, world: World, rule: str, *, then: Then | None = Then.REST, stage: str = MAIN) -> Case:
    """A case whose rule rests without doing anything."""
    return Case(situation, world, rule, (), then, stage)


def silent(situation: str, world: World, stage: str) -> Case:
    """A case in which no rule of a stage of repairs answers."""
    return Case(situation, world, "", None, None, stage)
