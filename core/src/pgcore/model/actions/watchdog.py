"""Actions on the hardware watchdog; each returns at once. (HA rules 10)"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ActivateWatchdog:
    """Open the device and let it run. Value: the empty text, or why it does not run."""


@dataclass(frozen=True, slots=True)
class FeedWatchdog:
    """One keepalive; a changed configuration is applied with it. Value: the empty text, or why it does not run any more."""


@dataclass(frozen=True, slots=True)
class DisableWatchdog:
    """Stop the device; one that cannot be stopped gets a last keepalive."""
