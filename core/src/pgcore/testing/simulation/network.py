"""What lies between machines: each pair of ends has a line with its own delay, loss and cuts, in each direction.

The ends are the names of machines, ``STORE`` and the names of remote sites. Three kinds of traffic share the lines of a pair but
can be cut apart: the store's, the members' HTTP and the servers' connections.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

STORE = "store"


class Traffic(StrEnum):
    """What can be cut apart."""

    STORE = "store"
    HTTP = "http"
    SQL = "sql"


EVERYTHING = tuple(Traffic)


@dataclass(slots=True)
class Line:
    """One direction between two ends, for one kind of traffic."""

    delay_s: float = 0.0005
    jitter_s: float = 0.0005
    loss: float = 0.0
    """How often a message does not arrive at all."""
    late: float = 0.0
    """How often it arrives so late that its sender has given up: 0.5 to 40 s."""
    cuts: int = 0
    """How many faults keep it cut at this moment."""

    @property
    def open(self) -> bool:
        """Messages arrive."""
        return self.cuts == 0


@dataclass(slots=True)
class Network:
    """Every line that was ever used; the others are as ``Line()`` describes them."""

    dice: Random
    lines: dict[tuple[Traffic, str, str], Line] = field(default_factory=dict)

    def line(self, traffic: Traffic, source: str, target: str) -> Line:
        """The line from one end to another."""
        key = (traffic, source, target)
        found = self.lines.get(key)
        if found is None:
            found = self.lines[key] = Line()
        return found

    def trip(self, line: Line) -> float | None:
        """Seconds a message takes; None: it is lost."""
        if line.cuts:
            return None
        dice = self.dice
        if line.loss and dice.random() < line.loss:
            return None
        if line.late and dice.random() < line.late:
            return dice.choice((0.5, 2.0, 8.0, 40.0))
        return line.delay_s + line.jitter_s * dice.random()

    def both_ways(self, traffic: Traffic, one: str, other: str) -> bool:
        """A connection between the two works."""
        return self.line(traffic, one, other).open and self.line(traffic, other, one).open

    def cut(
        self, source: str, targets: Iterable[str], traffic: Iterable[Traffic] = EVERYTHING, *, back: bool = True
    ) -> list[Line]:
        """Cut the lines from one end to others, and with ``back`` the way back; hand the result to ``mend``."""
        lines = []
        for kind in traffic:
            for target in targets:
                if target != source:
                    lines.append(self.line(kind, source, target))
                    lines += [self.line(kind, target, source)] if back else []
        for line in lines:
            line.cuts += 1
        return lines

    def mend(self, lines: Iterable[Line]) -> None:
        """Take back one cut of each."""
        for line in lines:
            line.cuts -= 1
