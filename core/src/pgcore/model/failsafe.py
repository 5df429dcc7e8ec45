"""Failsafe mode as values: the leader that others vouch for while the store is away, and what was agreed on. (HA rules 9)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pgcore.model.basics import Instant, Lsn


@dataclass(frozen=True, slots=True)
class FailsafeRecord:
    """A primary without a store that this node accepted as the leader, and for how long."""

    name: str
    conn_url: str
    api_url: str
    slots: Mapping[str, Lsn]
    at: Instant
    ttl: float
    """The longer of its ttl and mine: it counts its lease from before it asked, with the ttl it knows."""

    def valid(self, now: Instant) -> bool:
        """It may still be running as the leader by what I told it."""
        return now < self.at + self.ttl


@dataclass(frozen=True, slots=True)
class FailsafeAnswer:
    """What a member answered to ``POST /failsafe``: whether it accepted, where it stands, else why not."""

    accepted: bool
    lsn: Lsn | None = None
    problem: str = ""
    refused: bool = False
    """It answered, and the answer was no."""
    binding: bool = False
    """Until what it accepted is over it gives no vote to anybody else, nor has it just given one. (``failsafe_quorum``)"""


@dataclass(frozen=True, slots=True)
class FailsafeVerdict:
    """What this node answers to a primary without the store: status code, text, and where it stands if it accepts."""

    code: int
    text: str
    lsn: Lsn | None = None
    binding: bool = False


@dataclass(frozen=True)
class FailsafeMap:
    """What is known of ``/failsafe``, from one heartbeat to the next."""

    known: Mapping[str, str] | None = None
    """As last read or written: names to REST URLs; None: absent or unreadable."""
    unsure: Mapping[str, str] = field(default_factory=dict)
    """Entries of writes that were not confirmed: they may stand there as well."""
    mine: bool = False
    """I wrote it under my present lock and it was confirmed, so nobody else's late write can change it unseen."""
    keep_until: Instant | None = None
    """Until then no name is taken out: after an outage of the store the cards of living members come back one by one."""

    def others(self, me: str) -> dict[str, str] | None:
        """Everybody who could take the lock by this key but me; None when it does not tell."""
        if self.known is None or not self.mine or me not in self.known:
            return None
        return {name: url for name, url in sorted({**self.unsure, **self.known}.items()) if name != me}
