"""What is remembered of replication slots from one heartbeat to the next. (HA rules 3.19)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pgcore.model.basics import Instant


@dataclass(frozen=True)
class SlotMemory:
    """Bookkeeping of slots: whose they were, since when nobody wants them, which logical ones can be relied on."""

    seen: Mapping[str, Instant] = field(default_factory=dict)
    """When each member slot was last wanted by a live member card."""
    found: frozenset[str] | None = None
    """Slots nobody knows that were there when this agent first looked; None: it has not looked yet."""
    idle: Mapping[str, Instant] = field(default_factory=dict)
    """Since when each slot nobody knows has been seen without a user."""
    life: str | None = None
    """Start time of the server that ``proven`` and ``asked`` are about: a restart voids them."""
    proven: frozenset[str] = frozenset()
    """Logical slots of this standby that can be used after a promotion."""
    floor: Mapping[str, int] = field(default_factory=dict)
    """What each unproven slot kept on the leader when my physical slot there began to hold the catalog back."""
    broken: frozenset[str] = frozenset()
    """Logical slots here that can never be advanced again."""
    copied: Mapping[str, Instant] = field(default_factory=dict)
    """When the copy of each logical slot was last begun."""
    complaints: frozenset[str] = frozenset()
    """What has been complained about and still holds; said once."""
