"""Members seen while an action runs: the phases of their long actions, and for how long nobody accepted writes.

Each member is asked by a thread of its own, so a silent one delays nobody.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from pgcore.cli.api import ApiError, MemberApi
from pgcore.clock import Deadline, now
from pgcore.model.basics import Instant, Json, State
from pgcore.model.cluster import Member

EVERY_S = 0.05
CALM_EVERY_S = 0.25
CALM_AFTER_S = 15.0
"""An action that takes this long is looked at less often from then on."""
SETTLE_S = 3.0
MARGIN_S = 0.05
"""What began so little before counts as begun by the action: times are known no better than the answers took."""
PAST = Instant(0.0)
_PROCEDURES = ("restart", "reinit", "demotion")
"""Tables of rules that have something in hand also between two long actions."""
_WAITS = ("candidate_starting", "candidate_not_streaming", "candidates_bound")
"""Rules by which a leader waits before it gives way."""
_SILENT = (State.RUNNING, State.STOPPED, "unknown", "")


@dataclass(frozen=True, slots=True)
class Phase:
    """Something that a member was doing, as seen from here."""

    member: str
    what: str
    began: Instant
    ended: Instant


@dataclass(frozen=True, slots=True)
class Sight:
    """The latest answer of a member, or why there was none."""

    at: Instant
    status: Mapping[str, Json] = field(default_factory=dict)
    problem: str = ""
    within_s: float = 0.0
    """How exactly ``at`` is known: half of the time the answer took."""

    @property
    def task(self) -> Mapping[str, Json]:
        """The running long action, empty without one."""
        own = self.status.get("pgcore")
        task = own.get("task") if isinstance(own, Mapping) else None
        return task if isinstance(task, Mapping) else {}

    @property
    def doing(self) -> str:
        """What it does at this moment, in words; empty when nothing that takes time."""
        kind, phase = self.task.get("kind"), self.task.get("phase")
        if kind:
            return str(kind) if phase is None else f"{kind}: {phase}"
        table, _, rule = str((self.status.get("pgcore") or {}).get("rule") or "").partition(".")
        if table in _PROCEDURES or rule in _WAITS:
            return f"{table}: {rule.replace('_', ' ')}"
        state = self.status.get("state", "")  # all that Patroni tells
        return "" if state in _SILENT or "pgcore" in self.status else str(state)

    @property
    def done(self) -> list[tuple[int, str, Instant, Instant]]:
        """The phases that its agent says have ended lately: number, what, began, ended."""
        found = (self.status.get("pgcore") or {}).get("phases") or []
        return [(each["number"], each["what"], Instant(self.at - each["ended"] - each["took"]), Instant(self.at - each["ended"]))
                for each in found]

    @property
    def tells(self) -> bool:
        """Its agent is one that tells about writes, as far as is known."""
        return not self.status or "writes" in (self.status.get("pgcore") or {})

    @property
    def writes(self) -> tuple[bool, Instant | None]:
        """Whether writes are accepted, and since when by the clock here; None: a Patroni member, or never seen."""
        own = self.status.get("pgcore")
        found = own.get("writes") if isinstance(own, Mapping) else None
        if not isinstance(found, Mapping):
            return False, None
        seconds = found.get("seconds")
        return found.get("accepted") is True, Instant(self.at - seconds) if isinstance(seconds, int | float) else None


class Watch:
    """Used as a context. ``phases`` fills with what has ended."""

    def __init__(self, api: MemberApi, members: Iterable[Member]) -> None:
        self._api = api
        self._members = tuple(member for member in members if member.api_url)
        self._sights: dict[str, Sight] = {}
        self._doing: dict[str, tuple[str, Instant, bool]] = {}
        self._known: set[tuple[str, int]] = set()
        self._ended: deque[Phase] = deque()
        self._over = threading.Event()
        self._began = now()

    def __enter__(self) -> Self:
        for member in self._members:
            threading.Thread(target=self._follow, args=(member,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()

    def sight(self, name: str | None) -> Sight | None:
        """The latest of this member, None before its first answer or failure."""
        return self._sights.get(name or "")

    def phases(self) -> list[Phase]:
        """What has ended since this was last asked, in order."""
        found = []
        while self._ended:
            found.append(self._ended.popleft())
        return found

    def doing(self) -> tuple[str, str]:
        """What the members do now, and for how long the first of them has done it; both empty when nothing takes time."""
        now_doing = sorted(self._doing.copy().items())
        if not now_doing:
            return "", ""
        return ", ".join(f"{name}: {what}" for name, (what, *_) in now_doing), f" {now() - now_doing[0][1][1]:.1f} s"

    def pause(self, seconds: float) -> None:
        """Wait."""
        self._over.wait(seconds)

    def _follow(self, member: Member) -> None:
        while not self._over.is_set():
            sight = self._look(member)
            self._sights[member.name] = sight
            if not sight.problem:
                self._note(member.name, sight)
            self._over.wait(EVERY_S if now() - self._began < CALM_AFTER_S else CALM_EVERY_S)

    def _note(self, name: str, sight: Sight) -> None:
        """What it has done by its own word, and what was seen here of things that its agent does not keep."""
        for number, told, began, ended in sight.done:
            if (name, number) not in self._known:
                self._known.add((name, number))
                if began >= self._began - MARGIN_S - sight.within_s:
                    self._ended.append(Phase(name, told, began, ended))
        what, since, kept = self._doing.get(name, ("", PAST, False))
        if sight.doing == what:
            return
        if what:
            del self._doing[name]
        if what and not kept:
            self._ended.append(Phase(name, what, since, sight.at))
        if sight.doing:
            self._doing[name] = sight.doing, sight.at, sight.tells and bool(sight.task)

    def _look(self, member: Member) -> Sight:
        asked = now()
        try:
            status = self._api.status(member.api_url)
        except ApiError as error:
            return Sight(now(), problem=str(error))
        answered = now()
        return Sight(Instant((asked + answered) / 2), status, within_s=(answered - asked) / 2)

    # -- the write gap ---------------------------------------------------------------------------------------------------

    def write_gap(self, before: str | None, after: str, began: Instant) -> str:
        """For how long nobody accepted writes, in a sentence: ``before`` was the primary when it began, ``after`` is it now.

        Each agent tells how long ago its server ceased or began to accept writes, so the clocks of machines may differ. What the
        action did is seen there at the end of a heartbeat, so it is waited for a moment.
        """
        deadline = Deadline.after(SETTLE_S)
        while not deadline.expired and self._may_serve_yet(after, began if before == after else PAST):
            self.pause(EVERY_S)
        sights = self._sights.copy()
        new = sights.get(after, Sight(began, problem="not asked yet"))
        accepted, since = new.writes
        if since is None or not accepted:
            return f"Write gap: not measured, {_unknown(after, new)}"
        if since < began:
            return f"Write gap: none, {after} accepted writes all the time"
        ends = {name: end for name, sight in sights.items() if (end := _ceased(sight)) is not None and end <= since}
        if before is not None and before not in ends:
            return f"Write gap: not measured, {_unknown(before, sights.get(before))}"
        if not ends:
            return "Write gap: not measured, no agent knows when writes were last accepted"
        last = max(ends, key=lambda name: ends[name])
        exact = new.within_s if last == after else new.within_s + sights[last].within_s
        who = f"{after} did not accept writes" if last == after else f"until then {last} accepted writes, from then on {after}"
        return f"Write gap: {since - ends[last]:.3f} s (± {max(exact, 0.001):.3f} s), {who}"


    def _may_serve_yet(self, name: str, since: Instant) -> bool:
        """It does not say yet that it has begun to accept writes after that moment, but could."""
        sight = self._sights.get(name, Sight(PAST))
        accepted, began = sight.writes
        return not sight.problem and sight.tells and not (accepted and began is not None and began > since)


def _ceased(sight: Sight) -> Instant | None:
    """When this member last ceased to accept writes; None: not known."""
    accepted, changed = sight.writes
    if changed is None or not accepted:
        return changed
    paused = sight.status["pgcore"]["writes"].get("paused")
    return Instant(changed - paused) if isinstance(paused, int | float) else None


def _unknown(name: str, sight: Sight | None) -> str:
    if sight is None or sight.problem:
        return f"the agent of {name} does not answer"
    return f"{name} does not tell when its server accepted writes"
