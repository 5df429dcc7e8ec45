"""What the bytes of a long action say: how much of it is done, how fast, and how long it still takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from pgcore.model.basics import Json

WINDOW_S = 30.0
"""The rate is that of so many seconds."""
LEAST_S = 1.0
"""Less time than this shows no rate."""


class Pace:
    """Is told the progress each time it is reported; one of a kind for each long action."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()

    def of(self, progress: Mapping[str, Json], at: float) -> dict[str, Json]:
        """``percent``, ``bytes_per_second`` and ``seconds_left``, as far as they can be known at this moment."""
        done, total = _number(progress.get("bytes_done")), _number(progress.get("bytes_total"))
        if done is None:
            self._seen.clear()
            return {}
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()  # another attempt, another phase
        self._seen.append((at, done))
        while at - self._seen[0][0] > WINDOW_S:
            self._seen.popleft()
        found: dict[str, Json] = {"percent": int(100 * min(1.0, done / total))} if total else {}
        since, before = self._seen[0]
        if at - since < LEAST_S:
            return found
        rate = (done - before) / (at - since)
        found["bytes_per_second"] = round(rate)
        if total and rate > 0:
            found["seconds_left"] = round(max(0.0, total - done) / rate)
        return found


def _number(value: Json) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None
