"""Actions of failsafe mode: the key that names who must agree, and asking them. (HA rules 9)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pgcore.model.basics import Lsn


@dataclass(frozen=True, slots=True)
class WriteFailsafe:
    """Store the members that must agree; ``version`` None creates the key, else replaces what was read."""

    members: Mapping[str, str]
    version: str | None = None


@dataclass(frozen=True, slots=True)
class AskFailsafe:
    """Ask these members (name to REST URL) in parallel to keep me as the leader; the value maps names to FailsafeAnswer.

    What they accept counts from before the first request was sent.
    """

    members: Mapping[str, str]
    slots: Mapping[str, Lsn]
    timeout_s: float
