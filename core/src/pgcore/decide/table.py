"""Tables of rules: read top to bottom, the first rule that answers wins (architecture 6)."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator

from pgcore.model.decision import Decision
from pgcore.model.world import World

Rule = Callable[[World], Decision | None]


class Table:
    """An ordered tuple of rules under one name; a rule's identity is ``<table>.<function>``."""

    __slots__ = ("_named", "name", "rules")

    def __init__(self, name: str, *rules: Rule) -> None:
        self.name = name
        self.rules = rules
        self._named = tuple((f"{name}.{rule.__name__}", rule) for rule in rules)

    def decide(self, world: World, done: Container[str] = ()) -> Decision | None:
        """The first answer of a rule not in ``done``, named; None when no rule answers (only tables of repairs may say that)."""
        for name, rule in self._named:
            if name not in done:
                decision = rule(world)
                if decision is not None:
                    return decision.named(name)
        return None

    def listing(self) -> Iterator[tuple[str, str]]:
        """Name and sentence of each rule, in order, for the documentation."""
        for name, rule in self._named:
            yield name, " ".join((rule.__doc__ or "").split())
