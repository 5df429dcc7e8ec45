"""Failures in the log: when one begins, when its reason changes, once in a while as long as it lasts, and when it is over."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from pgcore.model.basics import Instant

logger = logging.getLogger(__name__)
REMINDER_S = 60.0


@dataclass(slots=True)
class _Trouble:
    since: Instant
    told_at: Instant
    reasons: set[str] = field(default_factory=set)
    times: int = 0


class Complaints:
    """What fails in beat after beat is worth a line, not one in each. Used by the heartbeat thread only."""

    def __init__(self) -> None:
        self._troubles: dict[str, _Trouble] = {}

    def failed(self, what: str, error: Exception, at: Instant) -> None:
        """It did not work."""
        trouble = self._troubles.setdefault(what, _Trouble(at, at))
        trouble.times += 1
        reason = str(error)
        if reason not in trouble.reasons:
            trouble.reasons.add(reason)
            trouble.told_at = at
            logger.warning("%s: %s", what, reason)
        elif at - trouble.told_at >= REMINDER_S:
            trouble.told_at = at
            logger.warning("%s has failed for %.0f s, %d times: %s", what, at - trouble.since, trouble.times, reason)
        else:
            logger.debug("%s: %s", what, reason)

    def worked(self, what: str, at: Instant) -> None:
        """It did; said aloud if it had failed more than once."""
        trouble = self._troubles.pop(what, None)
        if trouble is not None and trouble.times > 1:
            logger.info("%s works again after %.1f s and %d failures", what, at - trouble.since, trouble.times)
