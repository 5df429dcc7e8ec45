"""Tables of rules: read top to bottom, the first rule that answers wins (architecture 6)."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator

from pgcore.model.decision import Decision
from pgcore.model.world import World

Rule = Callable[[World], Decision | None]


class Table:
    """An ordered tuple of rules under one name; a rule's identity is ``<table>.<function>``."""

    __slots__ = ("name", "rules")

    def __init__(self, name: str, *rules: Rule) -> None:
        self.name = name
        self.rules = rules

    def decide(self, world: World, done: Container[str] = ()) -> Decision | None:
        """The first answer of a rule not in ``done``, named; None when no rule answers (only tables of repairs may say that)."""
        for rule in self.rules:
            name = f"{self.name}.{rule.__name__}"
            decision = rule(world) if name not in done else None
            if decision is not None:
                return decision.named(name)
        return None

    def listing(self) -> Iterator[tuple[str, str]]:
        """Name and sentence of each rule, in order, for the documentation."""
        for rule in self.rules:
            yield f"{self.name}.{rule.__name__}", " ".join((rule.__doc__ or "").split())
