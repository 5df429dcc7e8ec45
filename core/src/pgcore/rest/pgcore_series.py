"""pgcore's own series, beside those that Patroni has. What is counted is counted in ``daemon.tally``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum

from pgcore import __version__
from pgcore.daemon.board import Status
from pgcore.model.basics import Instant, Json
from pgcore.model.counts import CallbackResult, Counts, Gained, Histogram, Lost, Renewed, TaskEnd
from pgcore.model.node import TaskKind
from pgcore.rest import checks
from pgcore.rest.series import Number, Series, Value, Values, single

PREFIX = "pgcore_"
EVENTS = ("on_start", "on_stop", "on_restart", "on_reload", "on_role_change")


def _series(name: str, kind: str, text: str, values: Values, *labels: str) -> Series:
    return Series(PREFIX + name, kind, text, values, labels)


def _all(words: type[StrEnum], counted: Callable[[Counts], Mapping[str, int]]) -> Values:
    """A value for each word, also for those that were never counted: a series that begins with 1 shows no increase."""
    return lambda s, at: [((str(word),), counted(s.counts).get(word, 0)) for word in words]


def _seen(counted: Callable[[Counts], Mapping[str, Number | Histogram]]) -> Values:
    return lambda s, at: [((word,), number) for word, number in sorted(counted(s.counts).items())]


def _pairs(first: Iterable[str], second: type[StrEnum], counted: Callable[[Counts], Mapping[tuple[str, str], int]]) -> Values:
    pairs = [(one, str(other)) for one in first for other in second]
    return lambda s, at: [(pair, counted(s.counts).get(pair, 0)) for pair in pairs]


def _lease_left(status: Status, at: Instant) -> Iterable[Value]:
    until = status.lease_until
    return () if until is None else (((), round(max(0.0, until - at), 3)),)


def _task_seconds(status: Status, at: Instant) -> Iterable[Value]:
    since = status.task_since
    return () if since is None or not status.task else (((str(status.task["kind"]),), round(max(0.0, at - since), 3)),)


def _task_phase(status: Status, at: Instant) -> Iterable[Value]:
    phase = status.task.get("phase")
    return (((str(status.task["kind"]), phase), 1),) if isinstance(phase, str) else ()


def _task_number(read: Callable[[Mapping[str, Json]], Number | None]) -> Values:
    def values(status: Status, at: Instant) -> Iterable[Value]:
        number = read(status.task)
        return () if number is None else (((str(status.task["kind"]),), number),)

    return values


def _bytes(key: str) -> Callable[[Mapping[str, Json]], Number | None]:
    def read(progress: Mapping[str, Json]) -> Number | None:
        value = progress.get(key)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    return read


def _ratio(progress: Mapping[str, Json]) -> Number | None:
    done, total = _bytes("bytes_done")(progress), _bytes("bytes_total")(progress)
    return min(1.0, done / total) if done is not None and total else None


PGCORE = (
    _series("info", "gauge", "Always 1; the version of pgcore is a label.", lambda s, at: (((__version__,), 1),), "version"),
    _series("agent_start_time_seconds", "gauge", "When this agent began, in epoch seconds; every counter began at 0 then.",
            single(lambda s: s.counts.began)),
    _series("observation_age_seconds", "gauge", "Seconds since the agent looked at PostgreSQL and the store; all else is as old.",
            lambda s, at: (((), round(checks.observed_age(s, at), 3)),)),
    _series("lease_seconds_left", "gauge", "Seconds for which the leader lock is still proven; absent on a node without it.",
            _lease_left),
    _series("lease_renewals_total", "counter", "Attempts to renew the leader lock by what came of them.",
            _all(Renewed, lambda c: c.renewals), "result"),
    _series("failsafe_rounds_total", "counter", "Times this primary asked the members to keep it without the store.",
            lambda s, at: ((("agreed",), s.counts.members_agreed), (("refused",), s.counts.members_refused)), "result"),
    _series("leadership_gained_total", "counter", "Times this node took the leader lock, by what made it the leader.",
            _all(Gained, lambda c: c.gained), "reason"),
    _series("leadership_lost_total", "counter", "Times this node ceased to be the leader, by the cause.",
            _all(Lost, lambda c: c.lost), "reason"),
    _series("decisions_total", "counter", "Decisions to do something, by the rule that made them (docs/rules.md).",
            _seen(lambda c: c.decisions), "rule"),
    _series("heartbeat_duration_seconds", "histogram", "How long heartbeats took, from the first look to the last write.",
            lambda s, at: (((), s.counts.heartbeats),)),
    _series("heartbeat_failures_total", "counter", "Heartbeats that a bug ended early.", single(lambda s: s.counts.bugs)),
    _series("store_request_duration_seconds", "histogram", "How long the store took, answered or not.",
            _seen(lambda c: c.requests), "verb"),
    _series("store_request_failures_total", "counter", "Requests that the store did not answer or rejected.",
            _seen(lambda c: c.unanswered), "verb"),
    _series("writable_seconds_total", "counter", "Time in which PostgreSQL accepted writes, as far as its agent could see.",
            single(lambda s: s.counts.writable_s)),
    _series("not_writable_seconds_total", "counter", "All other time since the agent first looked.",
            single(lambda s: s.counts.not_writable_s)),
    _series("callbacks_total", "counter", "Callbacks by event and how they ended.",
            _pairs(EVENTS, CallbackResult, lambda c: c.callbacks), "event", "result"),
    _series("tasks_total", "counter", "Long actions that have ended, by kind and result.",
            _pairs(map(str, TaskKind), TaskEnd, lambda c: c.tasks), "kind", "result"),
    _series("task_seconds", "gauge", "How long the present long action has been running; absent when there is none.",
            _task_seconds, "kind"),
    _series("task_phase", "gauge", "Always 1; the phase of the present long action is a label.", _task_phase, "kind", "phase"),
    _series("task_bytes_done", "gauge", "Bytes that the present long action has copied.",
            _task_number(_bytes("bytes_done")), "kind"),
    _series("task_bytes_expected", "gauge", "Bytes that it is going to copy, by the present estimate.",
            _task_number(_bytes("bytes_total")), "kind"),
    _series("task_progress_ratio", "gauge", "How much of that is copied, from 0 to 1.", _task_number(_ratio), "kind"),
    _series("task_bytes_per_second", "gauge", "How fast it copies, over the last 30 seconds.",
            _task_number(_bytes("bytes_per_second")), "kind"),
    _series("task_seconds_left", "gauge", "How long it still takes at this rate.",
            _task_number(_bytes("seconds_left")), "kind"),
)
