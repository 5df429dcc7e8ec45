"""A fault as a value: what strikes whom, when, for how long. A schedule is a tuple of them, the same on paper and in a run.

Moments are seconds of cluster time: they count from when the new cluster has settled first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pgcore.errors import PgcoreError
from pgcore.model.basics import Json

AWAIT_S = 20.0
"""A fault that waits for a moment strikes anyway after so long."""


class ScheduleError(PgcoreError):
    """A schedule that cannot be read, or that asks for what does not exist."""


@dataclass(frozen=True, slots=True)
class Fault:
    """``target`` is the name of a machine, or words that are looked up when it strikes (``faults.resolve``).

    ``lasts`` 0: it is done at once, or has an end of its own. With ``awaits`` it strikes when that moment (``moments.MOMENTS``)
    has come, or ``AWAIT_S`` seconds after ``at``.
    """

    at: float
    kind: str
    target: str = "all"
    lasts: float = 0.0
    args: Mapping[str, Json] = field(default_factory=dict, hash=False)
    awaits: str = ""

    def __str__(self) -> str:
        parts = [f"{self.at:10.2f}", self.kind]
        parts += [f"on {self.target}"] if self.target != "all" else []
        parts += [f"{name}={json.dumps(value)}" for name, value in sorted(self.args.items())]
        parts += [f"for {self.lasts:g} s"] if self.lasts else []
        parts += [f"when {self.awaits}"] if self.awaits else []
        return " ".join(parts)

    def document(self) -> dict[str, Json]:
        """As JSON holds it; what is as usual is left out."""
        written: dict[str, Json] = {"at": self.at, "kind": self.kind, "target": self.target}
        if self.lasts:
            written["lasts"] = self.lasts
        if self.args:
            written["args"] = dict(self.args)
        if self.awaits:
            written["awaits"] = self.awaits
        return written


Schedule = tuple[Fault, ...]


def fault(document: Any) -> Fault:
    """What ``Fault.document`` wrote. Raises ScheduleError."""
    if not isinstance(document, Mapping):
        raise ScheduleError(f"a fault is a mapping, not {document!r}")
    unknown = sorted(set(document) - {"at", "kind", "target", "lasts", "args", "awaits"})
    if unknown:
        raise ScheduleError(f"a fault has no {', '.join(unknown)}: {document!r}")
    try:
        at, lasts = float(document["at"]), float(document.get("lasts", 0.0))
        found = Fault(at, str(document["kind"]), str(document.get("target", "all")), lasts, dict(document.get("args", {})),
                      str(document.get("awaits", "")))
    except (KeyError, TypeError, ValueError) as error:
        raise ScheduleError(f"a fault wants at least the numbers at and lasts and a kind, not {document!r}") from error
    if not (0.0 <= at < float("inf") and 0.0 <= lasts < float("inf")):
        raise ScheduleError(f"a fault strikes at and lasts a number of seconds from 0 on: {document!r}")
    return found


@dataclass(frozen=True)
class Plan:
    """A whole run on paper: its profile, its seed and, unless drawn from the seed, its faults."""

    profile: str
    seed: int
    faults: Schedule | None = None

    def text(self) -> str:
        """The file that ``pgcore simulate --schedule`` reads; a fault a line."""
        lines = [json.dumps(each.document(), sort_keys=True) for each in self.faults or ()]
        faults = "null" if self.faults is None else "[\n    " + ",\n    ".join(lines) + "\n  ]" if lines else "[]"
        return f'{{\n  "profile": {json.dumps(self.profile)},\n  "seed": {self.seed},\n  "faults": {faults}\n}}\n'


def read_plan(text: str) -> Plan:
    """What ``Plan.text`` wrote. Raises ScheduleError."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ScheduleError(f"a schedule is JSON: {error}") from error
    plan = document if isinstance(document, dict) else {}
    if not isinstance(plan.get("seed"), int) or not isinstance(plan.get("profile"), str):
        raise ScheduleError("a schedule has a profile (a name), a seed (a number) and faults (a list)")
    faults = document.get("faults")
    if faults is not None and not isinstance(faults, list):
        raise ScheduleError("the faults of a schedule are a list, or null for those that the seed draws")
    return Plan(document["profile"], document["seed"], None if faults is None else in_order(map(fault, faults)))


def in_order(faults: Iterable[Fault]) -> Schedule:
    """By their moments."""
    return tuple(sorted(faults, key=lambda each: each.at))
