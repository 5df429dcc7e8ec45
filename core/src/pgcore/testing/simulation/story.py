"""The course of a run for a human reader: faults, what agents decided and why, what servers and guards did, by time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

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

    def text(self, since: float = 0.0, until: float = float("inf")) -> Iterable[str]:
        """What happened between these moments, a line each; faults and violations stand out."""
        width = max((len(who) for _, who, _ in self.lines), default=0)
        for at, who, what in self.lines:
            if since <= at <= until:
                mark = {"fault": "!", "checker": "#"}.get(who, " ")
                yield f"{at:10.3f} {mark} {who:<{width}}  {what}"


def tell(profile: Profile | str, seed: int, faults: Schedule | None = None) -> tuple[Result, Story]:
    """Run it again and listen."""
    story = Story()
    return run(profile, seed, faults, told=story.tell), story
