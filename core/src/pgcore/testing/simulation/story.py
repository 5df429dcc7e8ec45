"""The course of a run for a human reader: faults, what agents decided and why, what servers and guards did, by time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from pgcore.record.timeline import Entry, render
from pgcore.testing.simulation.profiles import Profile
from pgcore.testing.simulation.run import Result, run
from pgcore.testing.simulation.schedule import Schedule

KEPT = 20_000
"""Lines of a story; the oldest are forgotten."""


@dataclass(slots=True)
class Story:
    """Give ``tell`` to a run."""

    lines: deque[tuple[float, str, str]] = field(default_factory=lambda: deque(maxlen=KEPT))

    def tell(self, at: float, who: str, what: str) -> None:
        """A line of it."""
        self.lines.append((at, who, what))

    def text(self, until: float = float("inf")) -> Iterator[str]:
        """What happened until that moment; faults and violations stand out, what somebody repeats is told once."""
        entries = [_entry(at, who, what) for at, who, what in self.lines if at <= until]
        return render(entries, lambda moment: f"{moment:10.3f}")


def _entry(at: float, who: str, what: str) -> Entry:
    node = {"fault": "! fault", "checker": "# checker"}.get(who, f"  {who}")
    rule, colon, because = what.partition(": ")
    return Entry(at, node, rule, because) if colon else Entry(at, node, saw=what)


def tell(profile: Profile | str, seed: int, faults: Schedule | None = None) -> tuple[Result, Story]:
    """Run it again and listen."""
    story = Story()
    return run(profile, seed, faults, told=story.tell), story
