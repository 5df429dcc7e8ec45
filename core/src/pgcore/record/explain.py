"""Why the last failover, switchover or refusal happened: the moments a recording tells of, each with its answer in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise

from pgcore.decide.explain import loud, sentence
from pgcore.model.actions import AcquireLease, BeginDemotion, DemoteMode, EndProcedure, Refuse
from pgcore.model.basics import Json
from pgcore.model.node import NodeView, TaskKind
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
"""By how much the clocks of the nodes may differ without one wait being told twice."""
TOLERATED_SKEW_S = 0.5
"""Clocks that differ by less are not mentioned."""


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
    found = [_takeover(story, fact) for fact in story.facts if fact.what == "took" and fact.whom not in ("", fact.node)]
    found += _takeovers_of_strangers(story)
    found += _waits(story, found)
    found += _kept(story, found)
    found += [_refused(fact) for fact in story.facts if fact.what == "refused"]
    return [_shown(moment, story.entries) for moment in sorted(found, key=lambda moment: moment.end)]


@dataclass(frozen=True, slots=True)
class _Story:
    """A recording in the form in which moments are looked for, by time."""

    recording: Recording
    facts: list[_Fact]
    entries: list[Entry]
    members: dict[str, list[tuple[float, tuple[str, ...]]]]
    """Whom each node saw as members, and since when."""

    def of(self, node: str) -> list[_Fact]:
        """What the record of this node says."""
        return [fact for fact in self.facts if fact.node == node]

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
    return _Story(recording, _with_former_leaders(sorted(facts, key=lambda fact: fact.wall)), merged(entries), members)


def _with_former_leaders(facts: list[_Fact]) -> list[_Fact]:
    """A node that has just begun does not know whose lock was free; the others may."""
    found, leader = list[_Fact](), ""
    for fact in facts:
        if fact.what in ("free", "took") and not fact.whom:
            fact = replace(fact, whom=leader)
        leader = {"held": fact.whom, "took": fact.node}.get(fact.what, leader)
        found.append(fact)
    return found


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
            yield _Fact(began, me, "up" if _up(node_of(record)) else "down", *rested)
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


def _up(node: NodeView) -> bool:
    """It runs, or is being restarted because somebody asked for that: no reason to look for another leader."""
    return node.running or (node.task is not None and node.task.kind is TaskKind.RESTART)


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
    parts += _clocks(story, took)
    begin, end = min([free, *(f.wall for f in gave_up)]), max(took.wall, promoted.wall if promoted is not None else 0.0)
    return Moment(kind, begin, end, old, new, " ".join(filter(None, parts)), tuple(dict.fromkeys(filter(None, rules))))


def _takeovers_of_strangers(story: _Story) -> list[Moment]:
    """Changes to a leader of which there is no record: what those who saw it know."""
    found: list[Moment] = []
    for node in story.recording.nodes:
        leader = ""
        for fact in story.of(node):
            held = fact.node if fact.what == "took" else fact.whom if fact.what == "held" else ""
            if held and leader and held != leader and held not in story.recording.nodes:
                told = any(m.old == leader and m.new == held and abs(m.end - fact.wall) < LATELY_S for m in found)
                found += [] if told else [_seen_from_afar(story, leader, fact, held)]
            leader = held or leader
    return found


def _seen_from_afar(story: _Story, old: str, seen: _Fact, new: str) -> Moment:
    gave_up = [f for f in story.facts if f.node == old and f.what.startswith("gave up")
               and seen.wall - GIVING_UP_S <= f.wall <= seen.wall][-1:]
    kind, how = _kind(gave_up, seen)
    begin = min([seen.wall, *(f.wall for f in gave_up)])
    parts = [f"{new} leads in the place of {old}, as {seen.node} saw at {clock(seen.wall)}: {how}."]
    parts += [f"{old} gave the lead up at {clock(f.wall)} ({f.rule}): {f.because}." for f in gave_up]
    parts += [] if gave_up or old in story.recording.nodes else [f"There is no record of {old}."]
    parts.append(f"There is no record of {new}, which knows why it took the lock.")
    return Moment(kind, begin, seen.wall, old, new, " ".join(parts), tuple(f.rule for f in gave_up))


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


def _clocks(story: _Story, took: _Fact) -> list[str]:
    """Whose clock must be wrong: a node that saw the new leader before there was one."""
    found = []
    for node in story.recording.nodes:
        facts = [f for f in story.of(node) if f.what in ("held", "free") and abs(f.wall - took.wall) <= LATELY_S]
        first = next((now for before, now in pairwise(facts) if before.whom == took.whom and now.whom == took.node), None)
        if node != took.node and first is not None and took.wall - first.wall > TOLERATED_SKEW_S:
            found.append(f"The clock of {node} is at least {took.wall - first.wall:.1f} s behind that of {took.node}.")
    return found


# -- nobody took over ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Wait:
    """For so long one node saw the lock free, until it was the old leader's again; ``back`` None: its record ends before."""

    facts: tuple[_Fact, ...]
    back: _Fact | None

    @property
    def old(self) -> str:
        """Whose lock it had been."""
        return self.facts[-1].whom

    @property
    def begin(self) -> float:
        """When it was first seen free."""
        return self.facts[0].wall

    @property
    def end(self) -> float:
        """When that was last known to be so."""
        return self.back.wall if self.back is not None else self.facts[-1].wall


def _waits(story: _Story, takeovers: list[Moment]) -> list[Moment]:
    """Times in which the lock was free and that did not end with another leader. Each node is judged by its own clock."""
    waits = [wait for node in story.recording.nodes for wait in _waits_of(story.of(node))]
    waits = [w for w in waits if w.back is not None or not any(
        m.old == w.old and m.end >= w.begin - SKEW_S and m.begin <= w.end + LATELY_S for m in takeovers)]
    groups: list[list[_Wait]] = []
    for wait in sorted(waits, key=lambda wait: wait.begin):
        if groups and groups[-1][-1].old == wait.old and wait.begin <= max(w.end for w in groups[-1]) + SKEW_S:
            groups[-1].append(wait)
        else:
            groups.append([wait])
    return [_wait(group) for group in groups]


def _waits_of(facts: list[_Fact]) -> Iterator[_Wait]:
    free: list[_Fact] = []
    for fact in facts:
        if fact.what == "free" and fact.whom:
            free.append(fact)
        elif free and fact.what in ("held", "took"):
            if (fact.node if fact.what == "took" else fact.whom) == free[-1].whom:
                yield _Wait(tuple(free), fact)
            free = []
    if free:
        yield _Wait(tuple(free), None)


def _wait(group: list[_Wait]) -> Moment:
    old, begin, end = group[0].old, group[0].begin, max(wait.end for wait in group)
    back = min((wait.back for wait in group if wait.back is not None), key=lambda f: (f.what != "took", f.wall), default=None)
    reasons = {w.facts[-1].node: w.facts[-1] for w in group if w.facts[-1].rule and not (back and w.facts[-1].node == old)}
    why = "; ".join(f"{node} because of {f.rule}: {f.because}" for node, f in sorted(reasons.items()))
    rules = tuple(dict.fromkeys(f.rule for f in reasons.values()))
    since = f"{old}'s lock was free from {clock(begin)}"
    if back is not None:
        by = f" ({back.rule}): {back.because}" if back.what == "took" else ""
        text = f"{since}; {old} had it again at {clock(back.wall)}{by}." + (f" The others stood back: {why}." if why else "")
        return Moment(Kind.CAME_BACK, begin, back.wall, old, old, text, rules)
    text = f"Nobody took over: {since} until {clock(end)} at least. {why or 'No node recorded a reason'}."
    return Moment(Kind.NOBODY, begin, end, old, "", text, rules)


def _kept(story: _Story, takeovers: list[Moment]) -> list[Moment]:
    """Times in which the holder's own server was down while it kept the lock, until it was up again or its record ends."""
    found: list[Moment] = []
    for node in story.recording.nodes:
        run: list[_Fact] = []
        for fact in story.of(node):
            if fact.what == "down":
                run.append(fact)
            elif run and fact.what == "up":
                found.append(_kept_by(run))
                run = []
            elif fact.what.startswith("gave up") or fact.what == "free" or (fact.what == "held" and fact.whom != node):
                run = []
        if run and not any(m.old == node and m.end >= run[0].wall for m in takeovers):
            found.append(_kept_by(run))
    return found


def _kept_by(run: list[_Fact]) -> Moment:
    node, begin, end = run[0].node, run[0].wall, run[-1].wall
    reasons: dict[str, str] = {}
    for fact in run:
        reasons.setdefault(fact.rule, fact.because)
    why = "; then ".join(f"{because} ({rule})" for rule, because in reasons.items() if rule)
    text = f"Nobody took over: the server of {node} was down from {clock(begin)}, and {node} kept the lock: {why}."
    return Moment(Kind.KEPT, begin, end, node, node, text, tuple(filter(None, reasons)))
