"""What a series of ``/metrics`` is: its name, its kind, what it means, and how its values follow from a ``Status``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pgcore.daemon.board import Status
from pgcore.hookspecs import Sample
from pgcore.model.basics import Instant
from pgcore.model.counts import Histogram

Number = int | float
Value = tuple[tuple[str, ...], Number | Histogram]
"""Values of the labels after ``scope`` and ``name``, and the number."""
Values = Callable[[Status, Instant], Iterable[Value]]


@dataclass(frozen=True, slots=True)
class Series:
    """One family. ``name`` is the whole name; ``values`` is empty while there is nothing to say."""

    name: str
    kind: str
    """``gauge``, ``counter`` or ``histogram``."""
    help: str
    values: Values
    labels: tuple[str, ...] = ()
    comment: str = ""
    """A line of its own between HELP and TYPE."""


class Plugins(Protocol):
    """What a scrape wants of the plugins: ``registry.Registry``."""

    @property
    def failures(self) -> Mapping[tuple[str, str], int]:
        """How often each (plugin, hook) has failed."""

    def samples(self, status: Status) -> Mapping[str, tuple[Sample, ...]]:
        """What each plugin adds, within a second."""

    def refuse(self, plugin: str, hook: str, problem: str) -> None:
        """Count and log what cannot be used."""


def single(number: Callable[[Status], Number | None]) -> Values:
    """One value without further labels; None: the series is absent."""

    def values(status: Status, at: Instant) -> Iterable[Value]:
        found = number(status)
        return () if found is None else (((), found),)

    return values
