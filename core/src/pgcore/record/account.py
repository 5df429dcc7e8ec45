"""What a recorded heartbeat tells, as entries of a timeline: what its node saw that was new, and what it decided."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pgcore.decide.advance import ClusterReading
from pgcore.decide.explain import describe, loud
from pgcore.model.actions import AcquireLease, Action, ObserveNode, PollPeers, ReadCluster, RenewLease
from pgcore.model.cluster import ClusterView, FailoverRequest
from pgcore.model.decision import Decision
from pgcore.model.node import DataDir, NodeView
from pgcore.model.world import PeerView
from pgcore.record.beats import BeatRecord, Step
from pgcore.record.timeline import Entry
from pgcore.record.worlds import Unknown


@dataclass(frozen=True, slots=True)
class Sight:
    """The parts of a view whose changes are told."""

    holder: str | None = None
    """Who holds the lock; empty: nobody; None: the store did not answer."""
    server: str = ""
    request: str = ""
    paused: bool = False
    rested_on: str = ""


def account(records: Iterable[BeatRecord]) -> Iterator[Entry]:
    """Entries for the heartbeats of one node, in order."""
    before = Sight()
    for record in records:
        entries, before = tell(record, before)
        yield from entries


def told(action: Action) -> str:
    """An action in a few words, also one that only another version has."""
    return action.name if isinstance(action, Unknown) else describe(action)


def views(record: BeatRecord) -> list[ClusterView | None]:
    """The store's content each time it was read in this heartbeat; None when it did not answer."""
    readings = [step.outcome for step in record.steps if isinstance(step.action, ReadCluster)]
    return [outcome.value.cluster if outcome.ok and isinstance(outcome.value, ClusterReading) else None for outcome in readings]


def node_of(record: BeatRecord) -> NodeView:
    """The look at the server with which this heartbeat began."""
    looks = [step.outcome.value for step in record.steps if isinstance(step.action, ObserveNode)]
    return looks[0] if looks and isinstance(looks[0], NodeView) else record.start.node


def wall_of(record: BeatRecord, step: Step | None) -> float:
    """The wall clock at the end of this step; of the heartbeat's start without one."""
    start = record.start
    return start.wall if step is None else start.wall + max(0.0, step.outcome.at - start.now)


def resting_rule(record: BeatRecord) -> Decision | None:
    """The decision of the main stage with which nothing more was to be done."""
    tables = ("prepare.", "upkeep.", "publish.")
    return next((d for d in reversed(record.decisions) if not d.rule.startswith(tables)), None)


def timed(record: BeatRecord) -> Iterator[tuple[Decision, float, tuple[Step, ...]]]:
    """Each decision with the moment it was made and the steps that carried it out."""
    steps = [step for step in record.steps]
    position = min(2, len(steps))  # the two looks with which every heartbeat begins
    for decision in record.decisions:
        done: list[Step] = []
        for action in decision.actions:
            if position >= len(steps) or type(steps[position].action) is not type(action):
                break
            done.append(steps[position])
            position += 1
            if not done[-1].outcome.ok:
                break
        before = steps[position - len(done) - 1] if position > len(done) else None
        yield decision, wall_of(record, before), tuple(done)


def tell(record: BeatRecord, before: Sight) -> tuple[list[Entry], Sight]:
    """Entries for one heartbeat of a node that has seen that much before; what it has seen then."""
    entries: list[Entry] = []
    me, node = record.start.settings.name, node_of(record)
    cluster = (views(record) or [None])[0]
    looked = wall_of(record, record.steps[1] if len(record.steps) > 1 else None)
    rest = resting_rule(record)
    sight = Sight(
        None if cluster is None else cluster.leader or "", _server(node), _request(cluster.failover if cluster else None),
        cluster is not None and record.start.settings.paused, rest.rule if rest else before.rested_on)
    for saw in _news(record, before, sight, node):
        entries.append(Entry(looked, me, saw=saw))
    for decision, wall, done in timed(record):
        acts = any(loud(action) for action in decision.actions)
        if acts or (decision is rest and decision.rule != before.rested_on):
            entries.append(Entry(wall, me, decision.rule, decision.because, _actions(decision, done)))
        for step in done:
            holder = _holder(step, sight.holder)
            saw = _learned(step) or (_lock(holder) if holder is not None and holder != sight.holder else "")
            sight = replace(sight, holder=holder)
            if saw:
                entries.append(Entry(wall_of(record, step), me, saw=saw))
    if record.error:
        last = record.steps[-1] if record.steps else None
        entries.append(Entry(wall_of(record, last), me, saw=f"a bug that ended the beat: {record.error}"))
    return entries, sight


def _actions(decision: Decision, done: tuple[Step, ...]) -> tuple[str, ...]:
    words = []
    for number, action in enumerate(decision.actions):
        outcome = done[number].outcome if number < len(done) else None
        if outcome is not None and not outcome.ok:
            words.append(f"{told(action)} failed: {outcome.error}")
        elif loud(action):
            words.append(told(action) if outcome is not None else f"{told(action)} not done")
    return tuple(words)


def _news(record: BeatRecord, before: Sight, now: Sight, node: NodeView) -> Iterator[str]:
    if now.server != before.server:
        yield now.server
    if node.finished is not None:
        result = node.finished
        yield f"{result.kind} has ended" + (f": {result.error}" if result.error else ", cancelled" if result.cancelled else "")
    if now.holder != before.holder:
        readings = [step.outcome for step in record.steps if isinstance(step.action, ReadCluster)]
        if now.holder is None:
            yield f"the store does not answer: {readings[-1].error if readings else 'not asked'}"
        else:
            yield _lock(now.holder)
    if now.request != before.request and now.holder is not None:
        yield now.request or "the request is gone"
    if now.paused != before.paused:
        yield "maintenance mode is " + ("on" if now.paused else "off")


def _lock(holder: str) -> str:
    return f"{holder} holds the lock" if holder else "the lock is free"


def _holder(step: Step, before: str | None) -> str | None:
    """Who holds the lock after this step."""
    if isinstance(step.action, ReadCluster):
        value = step.outcome.value
        return value.cluster.leader or "" if isinstance(value, ClusterReading) else None
    return before


def _learned(step: Step) -> str:
    """What an answer says that the decisions after it rest on."""
    value = step.outcome.value
    if isinstance(step.action, PollPeers) and isinstance(value, dict):
        return "; ".join(_peer(peer) for _, peer in sorted(value.items()) if isinstance(peer, PeerView))
    if isinstance(step.action, AcquireLease) and step.outcome.ok:
        return "the lock is mine" if value is True else "another node was faster to the lock"
    if isinstance(step.action, RenewLease) and step.outcome.ok and value != "held":
        return f"its lock is {value}"
    return "" if step.outcome.ok or loud(step.action) or isinstance(step.action, ReadCluster) else (
        f"{type(step.action).__name__} failed: {step.outcome.error}")


def _peer(peer: PeerView) -> str:
    if not peer.reachable:
        return f"{peer.name} " + ("is just starting" if peer.starting else "does not answer")
    tags = [word for word, holds in (("primary", peer.is_primary), ("nofailover", peer.nofailover),
                                     ("watchdog failed", peer.watchdog_failed)) if holds]
    return f"{peer.name} at {peer.position}, timeline {peer.timeline or 'unknown'}" + (f" ({', '.join(tags)})" if tags else "")


def _server(node: NodeView) -> str:
    if node.task is not None:
        return f"{node.task.kind} is running"
    if not node.running:
        present = node.data_dir is DataDir.PRESENT
        return f"its PostgreSQL does not run: {node.state}" if present else f"its data directory is {node.data_dir}"
    answer = "" if node.answering else ", which does not answer"
    return f"its PostgreSQL: {node.role}, {node.state}{answer}"


def _request(request: FailoverRequest | None) -> str:
    if request is None:
        return ""
    whom = f" to {request.candidate}" if request.candidate else ""
    when = f", scheduled for {request.scheduled_at}" if request.scheduled_at else ""
    return (f"a switchover from {request.leader}{whom} is asked for" if request.leader
            else f"a failover{whom} is asked for") + when
