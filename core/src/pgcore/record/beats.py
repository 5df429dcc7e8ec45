"""One recorded heartbeat: the world it began with, what each action came to, what was decided; and the lines of a record.

A line is a JSON object: ``kind`` is ``beat``, ``quiet`` (beats that equalled the one before), ``note`` (what the agent learned
otherwise) or ``lost`` (beats that could not be written). ``at`` is the wall clock, ``by`` the version of pgcore that wrote it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from pgcore import __version__
from pgcore.model.actions import Action, Outcome
from pgcore.model.basics import Json
from pgcore.model.decision import Decision
from pgcore.model.world import World
from pgcore.record.secrets import without_secrets
from pgcore.record.worlds import encode

FORMAT = 1
"""Raised when older readers would misread a line; new fields need no new number."""


@dataclass(frozen=True, slots=True)
class Step:
    """An action of the heartbeat and what came of it."""

    action: Action
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class BeatRecord:
    """All that is needed to decide once more. ``error``: the bug that ended the beat early."""

    start: World
    steps: tuple[Step, ...] = ()
    decisions: tuple[Decision, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Quiet:
    """Beats that equalled the one recorded before them, since ``since``."""

    node: str
    scope: str
    at: float
    since: float
    beats: int
    rule: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth knowing that is no part of a heartbeat."""

    node: str
    scope: str
    at: float
    text: str


RecordEntry = BeatRecord | Quiet | Note


def line(entry: RecordEntry) -> str:
    """The entry as a line of a record, without secrets, without the line's end."""
    if isinstance(entry, BeatRecord):
        settings = entry.start.settings
        tree = _head("beat", settings.name, settings.scope, entry.start.wall) | {"beat": encode(entry)}
    elif isinstance(entry, Note):
        tree = _head("note", entry.node, entry.scope, entry.at) | {"text": entry.text}
    else:
        since = {"since": round(entry.since, 3), "beats": entry.beats, "rule": entry.rule}
        tree = _head("quiet", entry.node, entry.scope, entry.at) | since
    return json.dumps(without_secrets(tree), separators=(",", ":"))


def lost_line(node: str, scope: str, at: float, beats: int) -> str:
    """The line that stands for beats that could not be written."""
    return json.dumps(_head("lost", node, scope, at) | {"beats": beats}, separators=(",", ":"))


def _head(kind: str, node: str, scope: str, at: float) -> dict[str, Json]:
    return {"v": FORMAT, "kind": kind, "node": node, "scope": scope, "by": __version__, "at": round(at, 3)}
