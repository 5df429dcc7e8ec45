"""The last published observation. The heartbeat swaps a new ``Status`` in; REST, metrics and watchers only ever read it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from pgcore import threads
from pgcore.clock import now
from pgcore.model.basics import Instant, Json, Timing
from pgcore.model.cluster import ClusterView
from pgcore.model.counts import Counts
from pgcore.model.node import NodeView, TaskView

PHASES = 8
BRIEF_S = 0.02
"""The beginning of an action, before it names its first phase, is not remembered if it was this short."""


@dataclass(frozen=True, slots=True)
class DonePhase:
    """A phase of a long action that has ended, as ``stop: stopping``; numbers count all phases of this agent."""

    number: int
    what: str
    began: Instant
    ended: Instant


@dataclass(frozen=True, slots=True)
class Status:
    """Everything a reader may know, taken at the end of one heartbeat."""

    scope: str
    name: str
    node: NodeView
    cluster: ClusterView | None
    """None when the store could not be read in this beat."""
    timing: Timing
    at: Instant
    """When the node was observed, on ``pgcore.clock.now``'s clock; health answers state its age."""
    lease_until: Instant | None = None
    """My lock is proven until here; None or past: I am not the leader."""
    tags: Mapping[str, Json] = field(default_factory=dict)
    """Effective tags, as published."""
    dynamic: Mapping[str, Json] = field(default_factory=dict)
    """The dynamic configuration in force."""
    maximum_lag_on_failover: int = 1048576
    paused: bool = False
    standby_cluster: bool = False
    synchronous: str = "off"
    """``off``, ``on`` or ``quorum``."""
    failsafe: Mapping[str, str] | None = None
    """The ``/failsafe`` key as last known, also while the store is away."""
    failsafe_until: Instant | None = None
    """Until then a leader without the store is kept, this node or one that it accepted."""
    dcs_last_seen: int = 0
    next_beat_due: Instant | None = None
    """When the next beat must have begun at the latest (liveness)."""
    rule: str = ""
    reason: str = ""
    decisions: tuple[str, ...] = ()
    """Every rule that fired in the beat, in order."""
    task: Mapping[str, Json] = field(default_factory=dict)
    """The running long action: kind, seconds so far, and what it reports (``phase``, ``bytes_done``, ``bytes_total``, ...)."""
    task_since: Instant | None = None
    """When that action began."""
    phases: tuple[DonePhase, ...] = ()
    """The last phases of long actions that have ended, oldest first."""
    scheduled_restart: Mapping[str, Json] | None = None
    counts: Counts = field(default_factory=Counts)
    """What the agent has counted about itself."""

    @property
    def failsafe_active(self) -> bool:
        """Failsafe mode carries the cluster at this moment."""
        return self.failsafe_until is not None and self.failsafe_until > now()

    @property
    def is_leader(self) -> bool:
        """The lock is proven to be mine at this moment."""
        return self.lease_until is not None and self.lease_until > now()


def task_fields(task: TaskView) -> dict[str, Json]:
    """A running action as ``Status.task``."""
    return {"kind": str(task.kind), "seconds": round(now() - task.since, 1), **task.progress}


class Board:
    """Holds the latest ``Status``; readers may wait for the next one."""

    def __init__(self, scope: str = "", name: str = "") -> None:
        """Whose board it is, for answers before the first heartbeat has ended."""
        self.scope, self.name = scope, name
        self._status: Status | None = None
        self._phase: tuple[str, Instant] | None = None
        self._phases: deque[DonePhase] = deque(maxlen=PHASES)
        self._counted = 0
        self._changed = threads.condition()

    @property
    def status(self) -> Status | None:
        """The latest status, None before the first heartbeat has ended."""
        return self._status

    def publish(self, status: Status) -> None:
        """Swap a new status in and wake those who wait."""
        with self._changed:
            self._status = replace(status, phases=tuple(self._phases)) if self._phases else status
            self._changed.notify_all()

    def show_task(self, task: TaskView | None) -> None:
        """Put the progress of the running action into the latest status, which the next heartbeat replaces. Wakes nobody.

        None: it has ended. Which action runs, the heartbeat alone takes back, with what came of it.
        """
        with self._changed:
            self._turn(task)
            if self._status is None:
                return
            self._status = replace(self._status, phases=tuple(self._phases))
            if task is not None:
                self._status = replace(self._status, task=task_fields(task), task_since=task.since)

    def _turn(self, task: TaskView | None) -> None:
        """Note the end of the phase before, if this is another one."""
        phase = task.progress.get("phase") if task is not None else None
        what = "" if task is None else f"{task.kind}: {phase}" if phase else str(task.kind)
        before, at = self._phase, now()
        if before is not None and before[0] == what:
            return
        if before is not None and (":" in before[0] or at - before[1] > BRIEF_S):
            self._counted += 1
            self._phases.append(DonePhase(self._counted, *before, at))
        self._phase = (what, at) if what else None

    def until(self, shows: Callable[[Status], bool], timeout: float) -> Status | None:
        """The first status that shows what is wanted, or the present one after ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._status is not None and shows(self._status), timeout)
            return self._status

    def wait(self, seen: Status | None, timeout: float) -> Status | None:
        """The first status that is not ``seen``, or the present one after ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._status is not seen, timeout)
            return self._status
