"""Why the last failover, switchover or refusal happened: the moments a recording tells of, each with its answer in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from pgcore.decide.explain import loud, sentence
from pgcore.model.actions import AcquireLease, BeginDemotion, DemoteMode, EndProcedure, Refuse
from pgcore.model.basics import Json
from pgcore.record.account import Sight, node_of, resting_rule, tell, timed, views, wall_of
from pgcore.record.beats import BeatRecord
from pgcore.record.reading import Recording
from pgcore.record.timeline import Entry, clock, merged

BEFORE_S, AFTER_S = 10.0, 5.0
"""What is shown around a moment."""
GIVING_UP_S = 300.0
"""How long before the lock was free its holder may have begun to give it up."""
LATELY_S = 30.0
"""What the old leader did so long after the change is told."""
SKEW_S = 2.0
"""By how much the clocks of the nodes may differ without a change of the leader being told twice."""


class Kind(StrEnum):
    """What happened."""

    FAILOVER = "failover"
    SWITCHOVER = "switchover"
    HANDOVER = "hand-over of a node that was stopped"
    CAME_BACK = "the old leader came back"
    NOBODY = "nobody took over"
    KEPT = "the leader was kept although its server was down"
    REFUSED = "a request was refused"


@dataclass(frozen=True, slots=True)
class Moment:
    """A failover, or a refusal of one: when, whose, why."""

    kind: Kind
    begin: float
    end: float
    old: str
    new: str
    answer: str
    rules: tuple[str, ...]
    entries: tuple[Entry, ...] = ()

    def document(self) -> dict[str, Json]:
        """For programs."""
        return {
            "kind": str(self.kind), "begin": self.begin, "end": self.end, "old": self.old, "new": self.new, "answer": self.answer,
            "rules": {rule: sentence(rule) for rule in self.rules}, "timeline": [entry.document() for entry in self.entries],
        }


@dataclass(frozen=True, slots=True)
class _Fact:
    """Something in one node's record that a moment is made of."""

    wall: float
    node: str
    what: str
    rule: str = ""
    because: str = ""
    whom: str = ""


def moments(recording: Recording) -> list[Moment]:
    """Every failover, switchover and refusal of the recording, oldest first."""
    story = _read(recording)
    facts = story.facts
    found = [_takeover(story, fact) for fact in facts if fact.what == "took" and fact.whom not in ("", fact.node)]
    found += _waits(facts, found)
    found += _kept(facts)
    found += [_refused(fact) for fact in facts if fact.what == "refused"]
    return [_shown(moment, story.entries) for moment in sorted(found, key=lambda moment: moment.end)]


@dataclass(frozen=True, slots=True)
class _Story:
    """A recording in the form in which moments are looked for, by time."""

    recording: Recording
    facts: list[_Fact]
    entries: list[Entry]
    members: dict[str, list[tuple[float, tuple[str, ...]]]]
    """Whom each node saw as members, and since when."""

    def members_at(self, node: str, wall: float) -> tuple[str, ...]:
        """Whom it saw last by then."""
        return next((names for since, names in reversed(self.members.get(node, [])) if since <= wall), ())


def _read(recording: Recording) -> _Story:
    facts, members = list[_Fact](), dict[str, list[tuple[float, tuple[str, ...]]]]()
    entries = [Entry(note.at, note.node, saw=note.text) for note in recording.notes]
    for node in recording.nodes:
        sight, seen = Sight(), members.setdefault(node, [])
        for beat in recording.beats(node):
            facts += _facts(beat.record)
            told, sight = tell(beat.record, sight)
            entries += told
            names = next((tuple(m.name for m in view.members) for view in views(beat.record) if view is not None), ())
            if names and (not seen or seen[-1][1] != names):
                seen.append((beat.at, names))
    return _Story(recording, sorted(facts, key=lambda fact: fact.wall), merged(entries), members)


def nothing_found(recording: Recording) -> str:
    """What to say when no moment is in the recording."""
    spans = []
    for node in recording.nodes:
        first, last = recording.spans[node]
        spans.append(f"{node} from {clock(first)} to {clock(last)}")
    return "no failover, switchover or refusal is recorded there (" + ", ".join(spans) + ")"


def _shown(moment: Moment, entries: Sequence[Entry]) -> Moment:
    around = tuple(entry for entry in entries if moment.begin - BEFORE_S <= entry.wall <= moment.end + AFTER_S)
    return replace(moment, entries=around)


def _refused(fact: _Fact) -> Moment:
    text = f"{fact.node} did not carry out what was asked for: {fact.because} ({fact.rule})."
    return Moment(Kind.REFUSED, fact.wall, fact.wall, "", "", text, (fact.rule,))


# -- facts -----------------------------------------------------------------------------------------------------------------


def _facts(record: BeatRecord) -> Iterator[_Fact]:
    me, memory, began = record.start.settings.name, record.start.memory, record.start.wall
    last_led = (memory.old_cluster.leader if memory.old_cluster is not None else None) or ""
    seen, rest = views(record), resting_rule(record)
    rested = (rest.rule, rest.because) if rest else ("", "")
    if seen and seen[0] is not None:
        leader = seen[0].leader or ""
        yield _Fact(began, me, "held" if leader else "free", *rested, leader or last_led)
        if leader == me:
            yield _Fact(began, me, "up" if node_of(record).running else "down", *rested)
    for decision, wall, done in timed(record):
        if any(loud(step.action) for step in done):
            yield _Fact(wall, me, "acted", decision.rule, decision.because)
        for step in done:
            action, outcome = step.action, step.outcome
            if isinstance(action, AcquireLease) and outcome.ok:
                what = "took" if outcome.value is True else "late"
                yield _Fact(wall_of(record, step), me, what, decision.rule, decision.because, last_led)
            elif isinstance(action, BeginDemotion):
                yield _Fact(wall, me, f"gave up: {action.mode}", decision.rule, decision.because)
            elif isinstance(action, Refuse):
                yield _Fact(wall, me, "refused", decision.rule, action.reason)
            elif isinstance(action, EndProcedure) and action.refused:
                yield _Fact(wall, me, "refused", decision.rule, action.refused)
    finished = node_of(record).finished
    if finished is not None and finished.kind == "promote":
        yield _Fact(record.start.wall, me, "promoted", because=finished.error)


# -- a node took over ------------------------------------------------------------------------------------------------------


def _takeover(story: _Story, took: _Fact) -> Moment:
    old, new, facts = took.whom, took.node, story.facts
    held = max((f.wall for f in facts if f.what == "held" and f.whom == old and f.wall <= took.wall), default=None)
    free = min((f.wall for f in facts if f.what == "free" and (held or 0.0) < f.wall <= took.wall), default=took.wall)
    led = max((f.wall for f in facts if f.what == "took" and f.node == old and f.wall < took.wall), default=free - GIVING_UP_S)
    gave_up = [f for f in facts if f.node == old and f.what.startswith("gave up") and led <= f.wall <= took.wall]
    kind, how = _kind(gave_up, took)
    parts = [f"{new} took over from {old} at {clock(took.wall)}: {how}."]
    parts += [f"{old} gave the lead up at {clock(f.wall)} ({f.rule}): {f.because}." for f in gave_up[-1:]]
    parts += [] if gave_up else [_silent_end(story, took, held, free)]
    parts.append(f"{new} decided by {took.rule}: {took.because}.")
    rules = [*(f.rule for f in gave_up[-1:]), took.rule]
    for node in sorted({*story.recording.nodes, *story.members_at(new, took.wall)} - {old, new}):
        near = [f for f in facts if f.node == node and free - 1.0 <= f.wall <= took.wall + 1.0]
        text, rule = _bystander(story, near, node, new)
        parts.append(text)
        rules.append(rule)
    promoted = next((f for f in facts if f.node == new and f.what == "promoted" and f.wall >= took.wall), None)
    if promoted is not None:
        parts.append(f"Its promotion failed: {promoted.because}." if promoted.because
                     else f"{new}'s promotion had ended by {clock(promoted.wall)}.")
    begin, end = min([free, *(f.wall for f in gave_up)]), max(took.wall, promoted.wall if promoted is not None else 0.0)
    return Moment(kind, begin, end, old, new, " ".join(filter(None, parts)), tuple(dict.fromkeys(filter(None, rules))))


def _kind(gave_up: list[_Fact], took: _Fact) -> tuple[Kind, str]:
    modes = {fact.what.partition(": ")[2] for fact in gave_up}
    if DemoteMode.GRACEFUL in modes or "switchover" in took.because:
        return Kind.SWITCHOVER, "a switchover"
    if DemoteMode.SHUTDOWN in modes:
        return Kind.HANDOVER, "a hand-over, as the agent of the old leader was asked to end"
    return Kind.FAILOVER, "a manual failover" if "manual failover" in took.because else "a failover"


def _silent_end(story: _Story, took: _Fact, held: float | None, free: float) -> str:
    """How the lock of a leader ended that did not give it up, and what its own record says of that time."""
    old = took.whom
    text = f"{old}'s lock ended without being given up: "
    text += f"recorded as held at {clock(held)}, found free at {clock(free)}." if held else f"it was found free at {clock(free)}."
    if old not in story.recording.nodes:
        return text + f" There is no record of {old} itself."
    since = (held or free) - BEFORE_S
    acted = [f for f in story.facts if f.node == old and f.what == "acted" and since <= f.wall <= took.wall + LATELY_S]
    if acted:
        return text + f" {old} itself decided at {clock(acted[0].wall)} ({acted[0].rule}): {acted[0].because}."
    before = max((f.wall for f in story.facts if f.node == old and f.wall <= took.wall), default=story.recording.spans[old][0])
    return text + f" The last that {old} itself recorded before that is of {clock(before)}."


def _bystander(story: _Story, facts: list[_Fact], node: str, new: str) -> tuple[str, str]:
    """What another member did about the free lock, and by which rule."""
    if node not in story.recording.nodes:
        return f"There is no record of {node}.", ""
    late = next((f for f in facts if f.what == "late"), None)
    if late is not None:
        return f"{node} wanted to take it too ({late.rule}), but {new} was faster.", late.rule
    stood = [f for f in facts if f.what == "free" and f.rule]
    if stood:
        return f"{node} stood back ({stood[-1].rule}): {stood[-1].because}.", stood[-1].rule
    return f"{node} did not see the lock free.", ""


# -- nobody took over ------------------------------------------------------------------------------------------------------


def _waits(facts: list[_Fact], takeovers: list[Moment]) -> list[Moment]:
    """Times in which the lock was free and that did not end with another leader."""
    groups: list[list[_Fact]] = []
    open_group = False
    for fact in facts:
        if fact.what == "free" and fact.whom:
            if not open_group:
                groups.append([])
            groups[-1].append(fact)
        if fact.what in ("free", "held", "took"):
            open_group = fact.what == "free" and bool(groups)
    return [_wait(facts, group) for group in groups
            if not any(m.begin - SKEW_S <= group[-1].wall and group[0].wall <= m.end + SKEW_S for m in takeovers)]


def _wait(facts: list[_Fact], group: list[_Fact]) -> Moment:
    old, begin = group[-1].whom, group[0].wall
    after = next((f for f in facts if f.what in ("took", "held") and f.wall >= group[-1].wall), None)
    back = after if after is not None and after.whom == old else None
    reasons = {f.node: f for f in group if f.rule and not (back and f.node == old)}
    why = "; ".join(f"{node} because of {f.rule}: {f.because}" for node, f in sorted(reasons.items()))
    rules = tuple(dict.fromkeys(f.rule for f in reasons.values()))
    since = f"{old}'s lock was free from {clock(begin)}"
    if back is not None:
        by = f" ({back.rule}): {back.because}" if back.what == "took" else ""
        text = f"{since}; {old} had it again at {clock(back.wall)}{by}." + (f" The others stood back: {why}." if why else "")
        return Moment(Kind.CAME_BACK, begin, back.wall, old, old, text, rules)
    text = f"Nobody took over: {since} until {clock(group[-1].wall)} at least. {why or 'No node recorded a reason'}."
    return Moment(Kind.NOBODY, begin, group[-1].wall, old, "", text, rules)


def _kept(facts: list[_Fact]) -> list[Moment]:
    """Times in which the holder's own server was down while it kept the lock."""
    runs: list[list[_Fact]] = []
    down: dict[str, list[_Fact]] = {}
    for fact in facts:
        if fact.what == "down":
            if fact.node not in down:
                runs.append(down.setdefault(fact.node, []))
            down[fact.node].append(fact)
        elif fact.what == "up" or fact.what.startswith("gave up"):
            run = down.pop(fact.node, None)
            if run is not None and fact.what != "up":
                runs.remove(run)
    return [_kept_by(run) for run in runs]


def _kept_by(run: list[_Fact]) -> Moment:
    node, begin, end = run[0].node, run[0].wall, run[-1].wall
    reasons: dict[str, str] = {}
    for fact in run:
        reasons.setdefault(fact.rule, fact.because)
    why = "; then ".join(f"{because} ({rule})" for rule, because in reasons.items() if rule)
    text = f"Nobody took over: the server of {node} was down from {clock(begin)}, and {node} kept the lock: {why}."
    return Moment(Kind.KEPT, begin, end, node, node, text, tuple(filter(None, reasons)))
