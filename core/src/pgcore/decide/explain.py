"""Rules and actions as text for people: what a rule means, what an action is about, which actions are worth telling."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache

from pgcore.decide import TABLES
from pgcore.model import actions as a
from pgcore.model.basics import Lsn
from pgcore.model.cluster import Member
from pgcore.model.server import Upstream

QUIET = (
    a.RenewLease,
    a.FeedWatchdog,
    a.Announce,
    a.WriteStatus,
    a.PollPeers,
    a.ProbePeers,
    a.CompareRecovery,
    a.CompareTimelines,
    a.ReadHistory,
    a.AskFailsafe,
    a.ReadCluster,
    a.NoteRequest,
    a.MarkUndecided,
    a.ObserveNode,
    a.RunCheckpoint,
    a.ResumeReplay,
    a.ServeSlots,
    a.ComplainAboutSlots,
)
"""Actions that do not make a decision worth a line of its own."""

_REFERENCE = re.compile(r"\s*\(((?:HA rules|EC|principles|config|dcs-layout|architecture)\b[^()]*)\)")


def loud(action: a.Action) -> bool:
    """It changes something that people want to know of."""
    routine = isinstance(action, a.ChangeSlots) and not action.create and not action.drop
    return not isinstance(action, QUIET) and not routine


def split(docstring: str) -> tuple[str, str]:
    """A rule's sentence in Markdown, and its reference, which may be empty."""
    found = _REFERENCE.search(docstring)
    return _REFERENCE.sub("", docstring, count=1).replace("``", "`").strip(), found[1] if found else ""


def sentence(rule: str) -> str:
    """What the rule of this name means; empty for one that this version does not have."""
    return split(_sentences().get(rule, ""))[0]


@cache
def _sentences() -> dict[str, str]:
    return {name: docstring for table in TABLES for name, docstring in table.listing()}


def describe(action: a.Action) -> str:
    """An action in a few words: its name and what it is about, as ``StopServer(fast)``."""
    words = [word for field in dataclasses.fields(action) for word in _words(getattr(action, field.name))]
    return type(action).__name__ + (f"({', '.join(words)})" if words else "")


def _words(value: object) -> Iterator[str]:
    """Names, positions and words; times, switches and whole documents say too little."""
    if isinstance(value, Upstream):
        yield value.label
    elif isinstance(value, Member):
        yield value.name
    elif isinstance(value, str | Enum | Lsn) and value:
        yield str(value)
    elif isinstance(value, tuple | frozenset):
        for item in sorted(value) if isinstance(value, frozenset) else value:
            yield from _words(item)
    elif isinstance(value, Mapping) and value and all(isinstance(item, str) for item in value.values()):
        yield from sorted(value)
