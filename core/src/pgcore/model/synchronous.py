"""``synchronous_standby_names`` as a value, as the server has it, and what is remembered about it. (HA rules 19, 20)"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from pgcore.model.basics import Instant, Lsn

PLACEHOLDER_NAME = "__patroni_strict_sync_replica_placeholder__"
"""Matches nobody, so commits wait: strict mode without a candidate (HA rules 19.7)."""

_BARE = re.compile(r"[A-Za-z_][A-Za-z_0-9$]*")


class Kind(StrEnum):
    """How the listed standbys are counted."""

    OFF = "off"
    FIRST = "first"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Names:
    """``synchronous_standby_names``, parsed: a commit waits for ``count`` of ``names``.

    ``names`` are sorted and hold neither the placeholder nor ``*``; as listed, compared case-insensitively.
    """

    kind: Kind = Kind.OFF
    count: int = 0
    names: tuple[str, ...] = ()
    placeholder: bool = False
    """Nobody can confirm, so commits wait."""
    everybody: bool = False
    """``*`` was found: any replication client confirms, so it proves nothing. (HA rules 30.7)"""

    def same(self, other: Names) -> bool:
        """Both make PostgreSQL wait for the same standbys."""
        return self._key == other._key

    @property
    def _key(self) -> tuple[object, ...]:
        return self.kind, self.count, tuple(n.lower() for n in self.names), self.placeholder, self.everybody

    def __str__(self) -> str:
        return render(self) or "off"


OFF = Names()


def render(names: Names) -> str:
    """The value to set; empty when off. (HA rules 19.8)"""
    listed = (PLACEHOLDER_NAME,) if names.placeholder else ("*",) if names.everybody else names.names
    if names.kind is Kind.OFF or not listed:
        return ""
    text = ",".join(_quoted(name) for name in listed)
    if names.kind is Kind.ANY:
        return f"ANY {names.count} ({text})"
    return text if len(listed) == 1 and names.count == 1 else f"{names.count} ({text})"


def _quoted(name: str) -> str:
    if name == "*" or (_BARE.fullmatch(name) and name.lower() not in ("first", "any")):
        return name
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class StandbyNames:
    """``synchronous_standby_names`` of the running server at a look."""

    text: str = ""
    """As the server shows it."""
    commit: str = "on"
    """``synchronous_commit`` of the server."""
    settled: bool = True
    """Its files say the same, so that no reload can change it."""
    in_force: bool = True
    """Every process was seen to have taken the value over before the position of this look was read."""
    ours: bool = False
    """This agent, or one before it, set them; else they are the user's own."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """The position a standby must reach before it counts as having everything under these ``names``. (HA rules 19.4)

    ``era`` identifies the run of the server (start time and timeline): what was proven in another one is void.
    Until ``in_force`` the position moves on with the server's.
    """

    names: Names
    era: str
    position: Lsn
    in_force: bool = False


@dataclass(frozen=True)
class SyncMemory:
    """What a primary remembers of synchronous replication between heartbeats. (HA rules 3.18)"""

    anchor: Anchor | None = None
    undecided: bool = True
    """A write to ``/sync``, maybe one of an earlier process of this name, was not answered: it may still arrive."""
    troubled: bool = False
    """The last step did not succeed."""
    blocked: bool = False
    """Strict mode and nobody can be synchronous; it was said."""
    changed_at: Instant | None = None
    """When the names or ``/sync`` were last changed by this agent."""
    steps: int = 0
    """How many steps were done since a pause of ``loop_wait`` or longer."""
    serving: tuple[str, Instant] | None = None
    """The era in which this server serves as the primary, and since when that is known."""
