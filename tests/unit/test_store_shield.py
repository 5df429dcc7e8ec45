"""A store library that raises what nobody expects: the verbs behind the shield, and the heartbeat over it. (EC 37)"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgcore.clock import Deadline, now
from pgcore.daemon.heartbeat import heartbeat
from pgcore.dcs.shield import ShieldedStore
from pgcore.dcs.store import ABSENT, ANYTHING, Key
from pgcore.errors import StoreRejectedError, StoreUnavailableError
from pgcore.model.actions import AskFailsafe, ObserveNode, Outcome
from pgcore.model.basics import Instant
from pgcore.model.failsafe import FailsafeAnswer, FailsafeMap
from pgcore.testing.builders import primary
from pgcore.testing.memory_store import MemoryServer, MemoryStore
from unit.test_daemon_kit import SHORT, Bench


class Odd(MemoryStore):
    """A store whose library breaks when told to."""

    error: Exception | None = None

    def __getattribute__(self, name: str) -> Any:
        error = object.__getattribute__(self, "error")
        verbs = ("read", "put", "delete", "announce", "withdraw", "acquire", "renew", "release", "clear", "watch", "retime",
                 "close")
        if error is not None and name in verbs:

            def broken(*arguments: object, **options: object) -> None:
                raise error

            return broken
        return object.__getattribute__(self, name)


VERBS: dict[str, Callable[[ShieldedStore, Deadline], object]] = {
    "read": lambda store, d: store.read(fresh=True, deadline=d),
    "put": lambda store, d: store.put(Key.STATUS, "x", expect=ANYTHING, deadline=d),
    "delete": lambda store, d: store.delete(Key.STATUS, expect=ABSENT, deadline=d),
    "announce": lambda store, d: store.announce("{}", deadline=d),
    "withdraw": lambda store, d: store.withdraw(deadline=d),
    "acquire": lambda store, d: store.acquire(force=False, deadline=d),
    "renew": lambda store, d: store.renew({}, deadline=d),
    "release": lambda store, d: store.release({}, deadline=d),
    "clear": lambda store, d: store.clear(deadline=d),
    "retime": lambda store, d: store.retime(SHORT),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("error", [KeyError("index"), RuntimeError("changed"), TypeError("x"), AssertionError(), OSError()])
def test_an_unexpected_error_is_an_outage(verb: str, error: Exception) -> None:
    """(EC 37)"""
    plain = Odd(MemoryServer(), "a", SHORT)
    plain.error = error
    with pytest.raises(StoreUnavailableError, match=type(error).__name__):
        VERBS[verb](ShieldedStore(plain), Deadline.after(1))


@pytest.mark.parametrize("error", [StoreUnavailableError("away"), StoreRejectedError("wrong password")])
def test_what_a_store_may_raise_stays_what_it_is(error: Exception) -> None:
    plain = Odd(MemoryServer(), "a", SHORT)
    plain.error = error
    with pytest.raises(type(error), match=str(error)):
        ShieldedStore(plain).read(fresh=True, deadline=Deadline.after(1))


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("error", [None, StoreUnavailableError("away"), StoreRejectedError("wrong"), KeyError("odd")])
def test_each_request_is_noted_with_its_time_and_whether_it_was_answered(verb: str, error: Exception | None) -> None:
    noted: list[tuple[str, float, bool]] = []
    plain = Odd(MemoryServer(), "a", SHORT)
    store = ShieldedStore(plain, lambda *each: noted.append(each))
    plain.error = error
    began = now()
    with contextlib.suppress(StoreUnavailableError, StoreRejectedError):
        VERBS[verb](store, Deadline.after(1))
    store.watch("1", timeout=0.0)
    if verb == "retime":  # asks nobody
        assert noted == []
    else:
        ((what, seconds, answered),) = noted
        assert (what, answered) == (verb, error is None) and 0 <= seconds <= now() - began


def test_a_watch_never_raises_and_does_not_spin() -> None:
    plain = Odd(MemoryServer(), "a", SHORT)
    plain.error = KeyError("x")
    began = now()
    assert ShieldedStore(plain).watch("1", timeout=0.2) is False
    assert now() - began >= 0.2


def test_the_trace_is_logged_once_for_each_kind(caplog: pytest.LogCaptureFixture) -> None:
    plain = Odd(MemoryServer(), "a", SHORT)
    plain.error = KeyError("x")
    store = ShieldedStore(plain)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            with pytest.raises(StoreUnavailableError):
                store.read(fresh=True, deadline=Deadline.after(1))
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_a_healthy_store_is_the_same_behind_it() -> None:
    store, deadline = ShieldedStore(MemoryStore(MemoryServer(), "a", SHORT)), Deadline.after(5)
    assert store.acquire(force=False, deadline=deadline)
    assert store.renew({}, deadline=deadline).value == "held"
    store.announce("{}", deadline=deadline)
    assert set(store.read(fresh=True, deadline=deadline).records) == {"leader", "members/a"}
    assert store.release({}, deadline=deadline)
    store.close()


def test_such_an_error_leads_to_the_question_of_failsafe_mode(tmp_path: Path) -> None:
    """(EC 37): a heartbeat over a real performer; PostgreSQL and the members are the only things that are told what to say."""
    plain = Odd(MemoryServer(), "a", SHORT)
    member = Bench(tmp_path, store=ShieldedStore(plain))
    plain.error = KeyError("lease")
    known = FailsafeMap({"a": "http://127.0.0.1:1/patroni", "b": "http://127.0.0.1:2/patroni"}, mine=True)
    world = member.world()
    world = replace(
        world,
        settings=replace(world.settings, failsafe_mode=True),
        memory=replace(world.memory, failsafe_map=known, lease_until=Instant(now() + 4)),
    )
    steps, asked = heartbeat(world), []
    action, at = next(steps)
    try:
        while True:
            if isinstance(action, ObserveNode):
                outcome = Outcome(now(), value=primary())
            elif isinstance(action, AskFailsafe):
                asked.append(action)
                outcome = Outcome(now(), value={"b": FailsafeAnswer(True)}, began=now())
            else:
                outcome = member.performer.perform(action, at)
            action, at = steps.send(outcome)
    except StopIteration as ended:
        assert ended.value.main.rule == "store_lost.members_agree"
    assert [list(each.members) for each in asked] == [["b"]]
    member.close()
