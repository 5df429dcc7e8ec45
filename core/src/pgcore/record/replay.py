"""Decides recorded heartbeats once more with the rules of this version, and tells where they would decide otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pgcore.daemon.heartbeat import Beat as Deciding
from pgcore.daemon.heartbeat import heartbeat
from pgcore.model.actions import Action, Announce
from pgcore.model.basics import Json
from pgcore.model.decision import Decision
from pgcore.record.account import told
from pgcore.record.beats import BeatRecord
from pgcore.record.reading import Beat, Recording
from pgcore.record.secrets import without_secrets
from pgcore.record.worlds import encode_named

_OF_THE_VERSION = ("version", "pgcore_version")
"""Fields of a member card that say who wrote it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A recorded heartbeat that this version would have gone through otherwise; the first decision that differs."""

    at: float
    node: str
    by: str
    source: str
    then: Decision | None
    now: Decision | None
    remark: str = ""

    def document(self) -> dict[str, Json]:
        """For programs."""
        return {"at": self.at, "node": self.node, "by": self.by, "source": self.source, "then": _document(self.then),
                "now": _document(self.now), "remark": self.remark}


def replay(recording: Recording) -> Iterator[Difference | None]:
    """For each heartbeat, by node and in order, how it differs; None: it does not."""
    for node in recording.nodes:
        for beat in recording.beats(node):
            yield _compare(beat)


def _compare(beat: Beat) -> Difference | None:
    record = beat.record
    now, remark = _decide(record)
    for number in range(max(len(record.decisions), len(now))):
        then_one = record.decisions[number] if number < len(record.decisions) else None
        now_one = now[number] if number < len(now) else None
        if now_one is None and remark == _CUT_SHORT:
            return None
        if not _same(then_one, now_one):
            return Difference(beat.at, beat.node, beat.by, beat.source, then_one, now_one, "" if remark == _CUT_SHORT else remark)
    return Difference(beat.at, beat.node, beat.by, beat.source, None, None, remark) if remark and remark != _CUT_SHORT else None


_CUT_SHORT = "the recorded heartbeat was cut short by a bug"


def _decide(record: BeatRecord) -> tuple[list[Decision], str]:
    """What this version decides as long as its actions are those that were recorded, and why it could not go on."""
    deciding = Deciding(record.start)
    steps = heartbeat(record.start, deciding)
    try:
        action, _ = next(steps)
        for step in record.steps:
            if _essence(action) != _essence(step.action):
                return deciding.decisions, f"{told(action)} is asked for where {told(step.action)} was recorded"
            action, _ = steps.send(step.outcome)
    except StopIteration:
        return deciding.decisions, ""
    except Exception as error:  # a bug of this version is what a replay is for
        return deciding.decisions, "" if record.error else f"this version fails: {error!r}"
    if record.error:
        return deciding.decisions, _CUT_SHORT
    return deciding.decisions, f"{told(action)} is asked for, which was not done then, so what comes of it is not known"


def _same(then: Decision | None, now: Decision | None) -> bool:
    """The reasons' wording and the wish for the next heartbeat may differ."""
    if then is None or now is None:
        return False
    alike = len(then.actions) == len(now.actions) and all(
        _essence(one) == _essence(other) for one, other in zip(then.actions, now.actions, strict=True))
    return then.rule == now.rule and then.then is now.then and alike


def _essence(action: Action) -> Json:
    """An action as it is recorded, but for what names the version that wrote it."""
    tree = without_secrets(encode_named(action))
    if isinstance(action, Announce):
        tree["card"] = {name: value for name, value in tree.get("card", {}).items() if name not in _OF_THE_VERSION}
    return tree


def _document(decision: Decision | None) -> Json:
    if decision is None:
        return None
    return {"rule": decision.rule, "because": decision.because, "actions": [told(action) for action in decision.actions]}
