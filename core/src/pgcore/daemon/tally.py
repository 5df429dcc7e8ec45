"""Counts what the agent does, where it does it: plain numbers, which a scrape makes series of. (docs/metrics.md)"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable, Iterable
from typing import TypeVar

from pgcore.clock import wall
from pgcore.decide.explain import loud
from pgcore.decide.failsafe import agreed
from pgcore.model import actions as a
from pgcore.model.actions import DemoteMode
from pgcore.model.counts import CallbackResult, Counts, Gained, Histogram, Lost, Renewed, TaskEnd
from pgcore.model.decision import Decision
from pgcore.model.node import NodeView, TaskResult
from pgcore.model.world import World

Name = TypeVar("Name", bound=Hashable)


class Tally:
    """The numbers of one agent. ``request`` and ``callback`` may come from any thread, the others from the heartbeat's."""

    def __init__(self) -> None:
        self._began = wall()
        self._lock = threading.Lock()
        self._requests: dict[str, Histogram] = {}
        self._unanswered, self._renewals, self._decisions = Counter[str](), Counter[str](), Counter[str]()
        self._gained, self._lost = Counter[str](), Counter[str]()
        self._callbacks, self._tasks = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        self._heartbeats, self._bugs = Histogram(), 0
        self._agreed = self._refused = 0
        self._writable_s = self._not_writable_s = 0.0
        self._seen: NodeView | None = None
        self._led = False
        """As of the last heartbeat that ended."""
        self._leads = False
        """As of the last step of the present one."""
        self._changes: list[Gained | Lost] = []
        self._step: tuple[a.Action, World] | None = None

    # -- from any thread -----------------------------------------------------------------------------------------------------

    def request(self, verb: str, seconds: float, answered: bool) -> None:
        """The store was asked."""
        with self._lock:
            self._requests[verb] = self._requests.get(verb, Histogram()).plus(seconds)
            self._unanswered[verb] += not answered

    def callback(self, event: str, result: str) -> None:
        """A callback has ended, or was never told. What is no ``CallbackResult`` is a failure."""
        known = result if result in tuple(CallbackResult) else CallbackResult.FAILED
        with self._lock:
            self._callbacks[event, str(known)] += 1

    # -- from the heartbeat --------------------------------------------------------------------------------------------------

    def performed(self, action: a.Action, world: World, outcome: a.Outcome) -> None:
        """An action meant for this world came to this."""
        self._step = action, world
        if isinstance(action, a.ObserveNode):
            self._look(outcome)
        elif isinstance(action, a.RenewLease):
            self._renewals[str(outcome.value) if outcome.ok else Renewed.UNDECIDED] += 1

    def became(self, world: World) -> None:
        """The world after the last action, or at the start of a heartbeat."""
        leads = world.memory.lease_until is not None
        if leads is not self._leads and self._step is not None:
            action, before = self._step
            self._changes.append(_gained(action, before) if leads else _lost(action, before))
        self._leads = leads
        if self._step is not None and isinstance(self._step[0], a.AskFailsafe) and world.failsafe_answers is not None:
            if agreed(world):
                self._agreed += 1
            else:
                self._refused += 1
        self._step = None

    def ended(self, decisions: Iterable[Decision], seconds: float) -> None:
        """A heartbeat has ended with these decisions."""
        for change in self._changes:
            (self._gained if isinstance(change, Gained) else self._lost)[change] += 1
        self._decisions.update(d.rule for d in decisions if any(loud(action) for action in d.actions))
        self._led = self._leads
        self._over(seconds)

    def broke_off(self, seconds: float) -> None:
        """A bug ended the heartbeat: nothing of it is remembered, so who leads is what it was before."""
        self._bugs += 1
        self._leads, self._step = self._led, None
        self._over(seconds)

    def counts(self) -> Counts:
        """Everything until now."""
        with self._lock:
            requests, unanswered, callbacks = dict(self._requests), _plain(self._unanswered), _plain(self._callbacks)
        return Counts(
            began=self._began,
            heartbeats=self._heartbeats,
            bugs=self._bugs,
            requests=requests,
            unanswered=unanswered,
            renewals=_plain(self._renewals),
            members_agreed=self._agreed,
            members_refused=self._refused,
            gained=_plain(self._gained),
            lost=_plain(self._lost),
            decisions=_plain(self._decisions),
            writable_s=self._writable_s,
            not_writable_s=self._not_writable_s,
            callbacks=callbacks,
            tasks=_plain(self._tasks),
        )

    def _over(self, seconds: float) -> None:
        self._heartbeats = self._heartbeats.plus(seconds)
        self._changes = []

    def _look(self, outcome: a.Outcome) -> None:
        if not isinstance(outcome.value, NodeView):
            return  # the next look tells of the time until then
        view, before, self._seen = outcome.value, self._seen, outcome.value
        if before is not None:
            writable_s = _writable_s(before, view)
            self._writable_s += writable_s
            self._not_writable_s += max(0.0, view.at - before.at - writable_s)
        if view.finished is not None:
            self._tasks[str(view.finished.kind), _end(view.finished)] += 1


def _plain(counter: Counter[Name]) -> dict[Name, int]:
    return dict(counter)


def _end(result: TaskResult) -> TaskEnd:
    return TaskEnd.OK if result.ok else TaskEnd.CANCELLED if result.cancelled else TaskEnd.FAILED


def _writable_s(before: NodeView, after: NodeView) -> float:
    """Seconds between two looks in which the server accepted writes; none while it should but does not answer."""
    writes, since = after.writes, before.at
    if writes.began is None or (writes.accepted and not after.answering):
        return 0.0
    served = before.writes.accepted and before.answering
    end = after.at if writes.accepted or writes.ceased is None else writes.ceased
    if writes.began <= since:
        return max(0.0, end - since) if served else 0.0
    began_anew_s = max(0.0, end - writes.began)
    if served and writes.ceased is not None and since < writes.ceased <= writes.began:
        return writes.ceased - since + began_anew_s
    return began_anew_s


def _gained(action: a.Action, before: World) -> Gained:
    """Why this action made the node the leader of the world after it."""
    if not isinstance(action, a.AcquireLease):
        return Gained.FOUND
    if action.force:
        return Gained.BOOTSTRAP
    if before.node.is_primary:
        return Gained.RETAKEN
    request = before.cluster.failover
    if request is None or request.scheduled_at or request.candidate not in (None, before.me):
        return Gained.FAILOVER
    return Gained.SWITCHOVER if request.leader else Gained.MANUAL_FAILOVER


_BY_MODE = {
    DemoteMode.GRACEFUL: Lost.SWITCHOVER,
    DemoteMode.SHUTDOWN: Lost.SHUTDOWN,
    DemoteMode.IMMEDIATE: Lost.GIVEN_UP,
    DemoteMode.IMMEDIATE_NOLOCK: Lost.LOCK_LOST,
    DemoteMode.OFFLINE: Lost.STORE_LOST,
    DemoteMode.CLUSTER: Lost.DEMOTE_CLUSTER,
}


def _lost(action: a.Action, before: World) -> Lost:
    """Why this action ended the leadership."""
    if isinstance(action, a.ReadCluster | a.RenewLease):
        return Lost.LOCK_LOST
    demotion = before.demotion
    if demotion is not None:
        asked = demotion.mode is DemoteMode.IMMEDIATE and demotion.candidates
        return Lost.SWITCHOVER if asked else _BY_MODE[demotion.mode]
    if before.memory.stopping:
        return Lost.SHUTDOWN
    return Lost.SWITCHOVER if before.standby_cluster and before.cluster.failover is not None else Lost.GIVEN_UP
