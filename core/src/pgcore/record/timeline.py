"""A readable timeline of several nodes: who saw what, decided what by which rule, and why. Takes plain entries from anywhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from pgcore.model.basics import Json

_NUMBERS = re.compile(r"[0-9A-F]+/[0-9A-F]+|\d+(\.\d+)?")


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing a node saw (``saw``), or decided (``rule``, ``because``, ``actions`` in words), and when by its wall clock."""

    wall: float
    node: str
    rule: str = ""
    because: str = ""
    actions: tuple[str, ...] = ()
    saw: str = ""

    @property
    def _gist(self) -> object:
        """What makes it the same as another entry: everything but the numbers in its texts."""
        return self.node, self.rule, self.actions, _NUMBERS.sub("#", self.because), _NUMBERS.sub("#", self.saw)

    def document(self) -> dict[str, Json]:
        """For programs."""
        fields = {"at": self.wall, "node": self.node, "saw": self.saw, "rule": self.rule, "because": self.because,
                  "actions": list(self.actions)}
        return {name: value for name, value in fields.items() if value not in ("", [])}


def clock(wall: float) -> str:
    """A moment of the day in the zone of whoever reads, to the millisecond."""
    return datetime.fromtimestamp(wall).astimezone().strftime("%H:%M:%S.%f")[:-3]


def merged(entries: Iterable[Entry]) -> list[Entry]:
    """Entries of several nodes by time; those of one node keep their order where its clock stood still."""
    return sorted(entries, key=lambda entry: entry.wall)


def render(entries: Iterable[Entry], moment: Callable[[float], str] = clock) -> Iterator[str]:
    """One line for each entry, oldest first; what a node repeats, differing in numbers only, is told once with its count.

    ``moment`` tells the time of an entry, for example as seconds since the start of a simulation.
    """
    found = merged(entries)
    width = max((len(entry.node) for entry in found), default=0)
    for entry, times, until in _runs(found):
        yield f"{moment(entry.wall)}  {entry.node:<{width}}  {_told(entry)}" + (
            f" ({times} times until {moment(until)})" if times > 1 else "")


def _runs(entries: list[Entry]) -> Iterator[tuple[Entry, int, float]]:
    """Each entry with how often its node repeated it and until when. What differs in between ends a repetition."""
    runs: list[list[Entry]] = []
    last: dict[str, list[Entry]] = {}
    for entry in entries:
        run = last.get(entry.node)
        if run is not None and run[0]._gist == entry._gist:
            run.append(entry)
        else:
            last[entry.node] = [entry]
            runs.append(last[entry.node])
    for run in runs:
        yield run[0], len(run), run[-1].wall


def _told(entry: Entry) -> str:
    if not entry.rule:
        return f"sees: {entry.saw}"
    return f"{entry.rule}: {entry.because}" + (f" -> {', '.join(entry.actions)}" if entry.actions else "")
