"""Actions of synchronous replication: the two halves that are changed one after the other. (HA rules 19, 20)"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SetStandbyNames:
    """Set ``synchronous_standby_names`` and wait, bounded, until the server shows it; the value says whether it is in force."""

    text: str


@dataclass(frozen=True, slots=True)
class RestoreStandbyNames:
    """Hand ``synchronous_standby_names`` back to the user, who wants ``own``."""

    own: str


@dataclass(frozen=True, slots=True)
class MarkBlocked:
    """Remember whether writes wait because no standby can be synchronous."""

    blocked: bool


@dataclass(frozen=True, slots=True)
class NoteProof:
    """Remember that under this version of ``/sync`` no acknowledged commit is missing here."""

    version: str


@dataclass(frozen=True, slots=True)
class WriteSync:
    """Write ``/sync``: ``version`` None creates it, else replaces what was read. The value is the new version, None: refused."""

    leader: str
    standbys: tuple[str, ...]
    quorum: int
    version: str | None


@dataclass(frozen=True, slots=True)
class DropSync:
    """Delete ``/sync`` if it is still what was read."""

    version: str
