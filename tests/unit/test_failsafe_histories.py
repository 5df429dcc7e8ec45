"""Random histories of a primary without its store and members that race: never a winner while the primary's lease lasts.

The real receiver, the real rules of the primary and of the race; time, the network and the store are a few numbers. Messages are
delayed and lost, agents restart, an announced poll and a request to accept cross in every order. (decisions/0005)
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest

from pgcore.daemon.failsafe import PROMISE_S, FailsafeReceiver
from pgcore.decide import MAIN, decide
from pgcore.decide.failsafe import agreed
from pgcore.decide.lease import failsafe_ask_s
from pgcore.model.basics import Instant, Timing
from pgcore.model.cluster import SyncView
from pgcore.model.failsafe import FailsafeAnswer
from pgcore.model.synchronous import SyncMemory
from pgcore.model.world import LeaseState, PeerView, World
from pgcore.testing.builders import member, peer, primary, standby, view, world

TIMING = Timing(10, 3, 3)
TTL, ASK_S, POLL_S = float(TIMING.ttl), failsafe_ask_s(TIMING), 2.0
END_S = 60.0
LOST = 0.35
ON = {"failsafe_mode": True, "failsafe_quorum": True, "synchronous_mode": "quorum", "timing": TIMING}


@dataclass
class History:
    """One run: ``a`` is the primary without the store from the beginning; the lock in the store expires at TTL."""

    chance: Random
    promises: bool = True
    reports: bool = True
    now: float = 0.0
    lease_until: float = TTL
    winner: tuple[float, str] | None = None
    extended: int = 0
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _number: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.form("bcde"[: self.chance.choice((2, 3, 3, 4))], 1, 4)

    def form(self, names: str, least: int, most: int) -> None:
        """A cluster of ``a`` and these; between ``least`` and ``most`` of them must confirm a commit."""
        self.names = names
        voters = tuple(names[: self.chance.randint(1, len(names))]) if most > least else tuple(names)
        needed = self.chance.randint(least, min(most, len(voters)))
        self.sync = SyncView("5", "a", voters, len(voters) - needed)
        self.cards = tuple(member(name, data={"pgcore_version": "1"}) for name in "a" + self.names)
        self.urls = {name: f"http://{name}" for name in "a" + self.names}
        self.links = {name: self.chance.random() < 0.6 for name in self.names}
        """Whether the primary reaches this member most of the time."""
        self.receivers: dict[str, FailsafeReceiver] = {}
        for name in self.names:
            self.begin(name, -100.0)

    def at(self, delay: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._number), what))

    def begin(self, name: str, since: float | None = None) -> None:
        """The agent of this member starts; what it knew is gone."""
        before, self.now = self.now, self.now if since is None else since
        receiver = FailsafeReceiver(clock=lambda: Instant(self.now))
        receiver.saw(view(None, *self.cards, failsafe=self.urls))
        receiver.know(world(standby(), view(None), lease=LeaseState.NONE, name=name, **ON), over=True)
        self.receivers[name], self.now = receiver, before

    def run(self) -> None:
        self.at(0.1, self.ask)
        for name in self.names:
            self.at(self.chance.uniform(0, 2 * TTL), lambda name=name: self.race(name))
        for _ in range(self.chance.randint(0, 3)):
            self.at(self.chance.uniform(0, END_S), lambda: self.begin(self.chance.choice(self.names)))
        while self._events:
            self.now, _, what = heapq.heappop(self._events)
            if self.now < END_S:
                what()

    # -- the primary --

    def ask(self) -> None:
        if self.now >= self.lease_until:
            return  # demoted; without the store it stays so
        began, answers = self.now, dict.fromkeys(self.names, FailsafeAnswer(False, problem="silent"))
        for name in self.names:
            if self.chance.random() > (LOST / 2 if self.links[name] else 0.9):
                self.at(self.chance.choice((0.01, self.chance.uniform(0, 2 * ASK_S))), lambda n=name: self.asked(n, answers))
        patience = min(ASK_S, self.lease_until - self.now - 0.001)
        self.at(patience, lambda: self.answered(began, dict(answers)))
        self.at(patience + self.chance.uniform(0, 2) + 0.01, self.wait)

    def wait(self) -> None:
        """The next question comes soon, or at the last moment."""
        late = self.lease_until - self.now - self.chance.uniform(0.1, 2.0)
        self.at(max(0.0, self.chance.choice((0.0, late))), self.ask)

    def asked(self, name: str, answers: dict[str, FailsafeAnswer]) -> None:
        request = {"name": "a", "conn_url": "", "api_url": "", "ttl": TTL}
        verdict = self.receivers[name].accept(request)
        if self.chance.random() > LOST / 2:
            yes = verdict.code == 200
            answer = FailsafeAnswer(yes, verdict.lsn, verdict.text, refused=not yes, binding=verdict.binding)
            self.at(self.chance.choice((0.01, self.chance.uniform(0, ASK_S))), lambda: answers.__setitem__(name, answer))

    def answered(self, began: float, answers: dict[str, FailsafeAnswer]) -> None:
        assert self.now < self.lease_until, "an expired lease is never prolonged"
        known = {"sync_stored": self.sync, "sync": SyncMemory(undecided=False), "old_cluster": view("a", *self.cards)}
        if agreed(world(primary(), None, failsafe_answers=answers, **known, **ON)):
            self.lease_until = max(self.lease_until, began + TTL)
            self.extended += 1
            assert self.winner is None or self.lease_until <= self.winner[0], (
                f"{self.winner[1]} won at {self.winner[0]:.2f}, the primary goes on until {self.lease_until:.2f}"
            )

    # -- the others --

    def race(self, name: str) -> None:
        self.at(self.chance.uniform(0.2, 2), lambda: self.race(name))
        mine = self.receivers[name]
        if self.now < TTL or self.winner is not None or mine.record() is not None:
            return
        began, heard = mine._began, {other: PeerView(other, False) for other in "a" + self.names if other != name}
        for other in heard:
            if self.chance.random() > LOST:
                delay = self.chance.choice((0.01, self.chance.uniform(0, POLL_S), POLL_S - 0.01))
                self.at(delay, lambda other=other: self.polled(other, heard))
        self.at(POLL_S, lambda: self.decide(name, mine, began, dict(heard)))

    def polled(self, other: str, heard: dict[str, PeerView]) -> None:
        if other == "a":
            heard[other] = peer("a", 0 if self.now < self.lease_until else 1000, is_primary=self.now < self.lease_until)
            return
        if self.promises:
            self.receivers[other].promise()
        leader, unknown = self.receivers[other].vouching()
        reported = {"failsafe_leader": leader, "failsafe_unknown": unknown} if self.reports else {}
        heard[other] = peer(other, **reported)

    def decide(self, name: str, mine: FailsafeReceiver, began: Instant, heard: dict[str, PeerView]) -> None:
        if self.receivers[name] is not mine or self.winner is not None:
            return  # its agent was restarted, or another was faster
        at = self.racer(name, began, heard)
        decision = decide(MAIN, at)
        if decision is not None and decision.rule == "race.acquire" and mine.begin_race() is None:
            self.winner = (self.now, name)
            assert self.lease_until <= self.now, f"{name} won at {self.now:.2f}, the primary runs until {self.lease_until:.2f}"

    def racer(self, name: str, began: Instant, heard: dict[str, PeerView]) -> World:
        cluster = view(None, *self.cards, sync=self.sync, failsafe=self.urls)
        facts = {"began": began, "peers": heard, "asked_under": "5", "now": Instant(self.now), "name": name}
        return world(standby(), cluster, old_cluster=view("a", *self.cards), **ON, **facts)


@pytest.fixture(autouse=True)
def without_log(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of refusals are not worth a line each."""
    caplog.set_level(logging.CRITICAL, logger="pgcore.daemon.failsafe")


def histories(count: int, **options: bool) -> list[History]:
    found = []
    for seed in range(count):
        history = History(Random(seed), **options)
        history.run()
        found.append(history)
    return found


def test_no_history_has_a_second_primary() -> None:
    """(EC 23, 26)"""
    found = histories(1500)
    assert sum(history.winner is not None for history in found) > 300, "hardly anybody ever won: nothing was shown"
    assert sum(history.extended > 2 for history in found) > 150, "hardly any primary ever went on: nothing was shown"


def test_without_the_reports_of_those_who_accepted_there_would_be_two() -> None:
    with pytest.raises(AssertionError, match="won at"):
        histories(3000, reports=False)


def crossing(*, promises: bool) -> History:
    """``d`` gets the vote of ``c`` a moment before ``c`` accepts the primary, and that of ``b`` when what it accepted is over."""
    run = History(Random(0), promises=promises)
    run.form("bcd", 1, 1)
    request = {"name": "a", "conn_url": "", "api_url": "", "ttl": TTL}
    silence = dict.fromkeys("bcd", FailsafeAnswer(False, problem="silent"))
    heard = {name: PeerView(name, False) for name in "abc"}

    def accepts(name: str, at: float) -> FailsafeAnswer:
        run.now = at
        verdict = run.receivers[name].accept(request)
        assert verdict.code == 200
        return FailsafeAnswer(True, binding=verdict.binding)

    run.answered(9.0, silence | {"b": accepts("b", 9.05)})
    assert run.lease_until == 19.0
    run.now = 18.5
    run.polled("c", heard)
    run.answered(17.5, silence | {"c": accepts("c", 18.6)})
    run.now = 19.2
    run.polled("b", heard)
    run.now = 20.5
    run.decide("d", run.receivers["d"], Instant(-100.0), heard)
    return run


def test_a_vote_given_moments_before_accepting_does_not_count_twice() -> None:
    run = crossing(promises=True)
    assert run.winner == (20.5, "d") and run.lease_until == 19.0
    with pytest.raises(AssertionError, match="won at"):
        crossing(promises=False)


def test_a_promise_outlasts_asking_and_polling_together() -> None:
    slowest = max(failsafe_ask_s(Timing(ttl, 1, 1)) for ttl in (5, 20, 30, 300, 3600))
    assert slowest + POLL_S + 2 < PROMISE_S
