"""Actions on replication slots. (HA rules 21)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pgcore.model.basics import Lsn
from pgcore.model.server import Upstream
from pgcore.model.settings import PermanentSlot


@dataclass(frozen=True, slots=True)
class ChangeSlots:
    """Drop slots, then create and advance physical ones. Failures are reported and retried in the next beat."""

    create: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    advance: Mapping[str, Lsn] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LeaderSlots:
    """A question to the leader: which transactions do these slots keep there?"""

    source: Upstream
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServeSlots:
    """Create and advance logical slots, and ask about those of the leader, on a thread of their own; the value is a SlotReport.

    It returns at once, with what is known so far. While that thread is at work nothing new is begun.
    """

    create: tuple[PermanentSlot, ...] = ()
    advance: tuple[tuple[PermanentSlot, Lsn], ...] = ()
    ask: LeaderSlots | None = None


@dataclass(frozen=True, slots=True)
class CopySlots:
    """Slow: read the state of logical slots from the leader, stop the server, write them, start it again."""

    source: Upstream
    slots: tuple[PermanentSlot, ...]
    upstream: Upstream | None
    """Whom the standby follows when it is started again."""


@dataclass(frozen=True, slots=True)
class ForceFeedback:
    """Force ``hot_standby_feedback`` on, or leave it to the configuration again."""

    on: bool


@dataclass(frozen=True, slots=True)
class ComplainAboutSlots:
    """Log these texts as warnings; ``holding`` are the keys of everything there is to complain about now."""

    texts: tuple[str, ...]
    holding: frozenset[str]
