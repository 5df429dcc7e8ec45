"""The two halves of synchronous replication as values: ``synchronous_standby_names``, and the one write that comes next.

Reads and renders the setting (HA rules 19.8) and names the steps that ``sync_priority`` and ``sync_quorum`` answer with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pgcore.model.synchronous import OFF, PLACEHOLDER_NAME, Kind, Names

_TOKEN = re.compile(r"""\s*(?:"(?P<quoted>(?:[^"]|"")+)"|(?P<word>[A-Za-z_\x80-\U0010ffff][\w$]*|\d+|\*)|(?P<mark>[(),]))""")

PLACEHOLDER = Names(Kind.FIRST, 1, (), placeholder=True)
QUORUM_PLACEHOLDER = Names(Kind.ANY, 1, (), placeholder=True)


def first_of(names: Iterable[str]) -> Names:
    """Commits wait for every one of these; off without names. (HA rules 19.5)"""
    listed = in_order(names)
    return Names(Kind.FIRST, len(listed), listed) if listed else OFF


def any_of(count: int, names: Iterable[str]) -> Names:
    """Commits wait for any ``count`` of these; off without names. (HA rules 20)"""
    listed = in_order(names)
    return Names(Kind.ANY, count, listed) if listed else OFF


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """These names once each, sorted by what PostgreSQL compares."""
    spelled = {name.lower(): name for name in sorted(names, reverse=True)}
    return tuple(spelled[key] for key in sorted(spelled))


def parse(text: str | None) -> Names:
    """What PostgreSQL makes of the value; what it would refuse counts as off. (HA rules 19.8)"""
    tokens = _tokens(text or "")
    if not tokens:
        return OFF
    kind, count, rest = Kind.FIRST, 1, tokens
    if len(tokens) > 3 and tokens[0].lower() in ("first", "any") and tokens[1].isdecimal() and tokens[2] == "(":
        kind, count, rest = Kind(tokens[0].lower()), int(tokens[1]), tokens[2:]
    elif len(tokens) > 2 and tokens[0].isdecimal() and tokens[1] == "(":
        count, rest = int(tokens[0]), tokens[1:]
    bracketed = rest is not tokens
    if bracketed and rest[-1] != ")":
        return OFF
    listed = _listed(rest[1:-1] if bracketed else rest)
    return _named(kind, count, listed) if listed and count > 0 else OFF


def _tokens(text: str) -> list[str]:
    """Words, marks, and quoted names with their opening quote kept; empty when something else is in the text."""
    found, end = [], 0
    text = text.rstrip()
    while end < len(text):
        match = _TOKEN.match(text, end)
        if match is None:
            return []
        quoted = match["quoted"]
        found.append('"' + quoted.replace('""', '"') if quoted else match["word"] or match["mark"])
        end = match.end()
    return found


def _listed(tokens: list[str]) -> list[str]:
    """The names of a list separated by commas; empty when it is none."""
    names, commas = tokens[::2], tokens[1::2]
    if len(tokens) % 2 == 0 or any(c != "," for c in commas):
        return []
    if any(n in "(),," or n.lower() in ("first", "any") for n in names):
        return []
    return [n.removeprefix('"') for n in names]


def _named(kind: Kind, count: int, listed: list[str]) -> Names:
    if "*" in listed:  # quoted or not, PostgreSQL takes it for everybody
        return Names(kind, count, everybody=True)
    names = in_order(n for n in listed if n != PLACEHOLDER_NAME)
    return Names(kind, count, names, placeholder=not names)


# -- the one write that comes next ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetNames:
    """Set ``synchronous_standby_names`` and reload."""

    names: Names
    because: str


@dataclass(frozen=True, slots=True)
class RestoreNames:
    """Hand ``synchronous_standby_names`` back to the user's own value, which may be empty. (HA rules 19)"""

    text: str
    because: str


@dataclass(frozen=True, slots=True)
class WriteSync:
    """Write ``/sync``, only if it still has the version that was read. (HA rules 19.1)"""

    leader: str
    standbys: tuple[str, ...]
    quorum: int
    because: str


@dataclass(frozen=True, slots=True)
class DropSync:
    """Delete ``/sync``, only if it still has the version that was read. (HA rules 19)"""

    because: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing may be written now. Look again after ``seconds``; None: only a change from outside helps."""

    because: str
    seconds: float | None = None


Step = SetNames | RestoreNames | WriteSync | DropSync | Wait
