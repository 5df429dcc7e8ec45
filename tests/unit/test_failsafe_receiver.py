"""Accepting a primary without a store, from the REST thread, while the heartbeat may be about to race. (HA rules 9, 30.11)"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from pgcore.clock import now
from pgcore.daemon.failsafe import FailsafeReceiver, nobody_accepted
from pgcore.errors import ServerError
from pgcore.model.basics import Instant, Lsn, Role, Timing
from pgcore.model.cluster import ClusterView
from pgcore.model.failsafe import FailsafeRecord
from pgcore.model.node import NodeView, TaskKind
from pgcore.model.world import LeaseState, World
from pgcore.testing.builders import doing, down, primary, standby, view, world

ASKED = {"name": "b", "conn_url": "postgres://10.0.0.2:5432/postgres", "api_url": "http://10.0.0.2:8008/patroni"}
MAP = {"a": "x", "b": "y", "c": "z"}


def asking(name: str, **more: Any) -> dict[str, Any]:
    return {**ASKED, "name": name, **more}


def seen(node: NodeView | None = None, cluster: ClusterView | None = None, **facts: Any) -> World:
    """What the heartbeat of ``a`` knows: by default a standby in failsafe mode under a free lock."""
    return world(node or standby(), cluster or view(None), **{"failsafe_mode": True, "lease": LeaseState.NONE} | facts)


def receiver(node: NodeView | None = None, cluster: ClusterView | None = None, **facts: Any) -> FailsafeReceiver:
    """``a``, which has read this cluster and ended a beat."""
    made, at = FailsafeReceiver(), seen(node, cluster, **facts)
    made.saw(replace(cluster or view(None), failsafe=MAP))
    made.know(at, over=True)
    return made


def test_a_known_member_is_accepted_and_told_where_this_node_stands() -> None:
    """(EC 23, 26)"""
    a = receiver()
    verdict = a.accept(asking("b", slots={"c": 900, "x": "?", "y": None, "z": True}))
    assert (verdict.code, verdict.text, verdict.lsn) == (200, "Accepted", Lsn(1000))
    record = a.record()
    assert record is not None
    assert (record.name, record.conn_url, record.slots) == ("b", ASKED["conn_url"], {"c": Lsn(900)})


def test_the_mode_is_off() -> None:
    assert receiver(failsafe_mode=False).accept(ASKED).code == 502


def test_an_acceptance_counts_when_agent_and_last_vote_are_old_enough_and_the_node_says_so_beforehand() -> None:
    """Not ttl, ``PROMISE_S``: a short ttl makes neither an agent nor a vote older."""
    at = [Instant(100.0)]
    a = FailsafeReceiver(clock=lambda: at[0])
    assert not a.binding()
    a.saw(replace(view(None), failsafe=MAP))
    a.know(seen(timing=Timing(8, 2, 3)), over=True)
    for moment, counts in ((100.0, False), (109.9, False), (110.0, True)):
        at[0] = Instant(moment)
        assert (a.binding(), a.accept(ASKED).binding) == (counts, counts), moment
    at[0] = Instant(200.0)
    a.promise()
    for moment, counts in ((209.9, False), (210.0, True)):
        at[0] = Instant(moment)
        assert (a.binding(), a.accept(ASKED).binding) == (counts, counts), moment
    a.know(seen(failsafe_mode=False), over=True)
    assert not a.binding()


def test_before_the_first_beat_nothing_is_promised() -> None:
    assert FailsafeReceiver().accept(ASKED).code == 502


@pytest.mark.parametrize(
    "at",
    [
        seen(primary()),
        seen(standby(role=Role.PROMOTED)),
        seen(doing(TaskKind.PROMOTE, standby())),
        seen(standby(), view("a"), lease=LeaseState.HELD, lease_until=Instant(now() + 86400)),
    ],
    ids=["a primary", "just promoted", "being promoted", "it holds the lock"],
)
def test_a_node_that_runs_as_a_primary_or_may_soon_refuses(at: World) -> None:
    """(EC 36)"""
    a = FailsafeReceiver()
    a.saw(replace(view(None), failsafe=MAP))
    a.know(at, over=True)
    verdict = a.accept(ASKED)
    assert (verdict.code, verdict.text) == (500, "Running as a leader")
    assert a.record() is None


def test_a_stranger_is_refused() -> None:
    assert "neither the last known leader" in receiver().accept(asking("x")).text


def test_the_last_known_leader_is_accepted_although_the_key_does_not_name_it() -> None:
    a = receiver(None, view("d"))
    a.saw(replace(view(None), failsafe=MAP))
    assert a.accept(asking("d")).code == 200


def test_another_live_lock_in_the_own_view_refuses_until_it_is_older_than_ttl() -> None:
    a = receiver(None, view("c"), timing=Timing(1, 1, 1))
    assert "c held the lock" in a.accept(ASKED).text
    patience = threading.Event()
    patience.wait(1.01)
    assert a.accept(ASKED).code == 200


def test_two_primaries_are_never_accepted_at_the_same_time() -> None:
    a = receiver()
    assert a.accept(asking("b")).code == 200
    assert "b was accepted as the leader" in a.accept(asking("c")).text


def test_a_primary_that_is_being_restarted_accepts_nobody() -> None:
    """It comes back as a primary, whatever stands about its lease."""
    stopped = down(Role.PRIMARY)
    assert receiver(doing(TaskKind.RESTART, stopped)).accept(ASKED).text == "Running as a leader"
    assert receiver(stopped).accept(ASKED).code == 200


def test_this_nodes_own_name_is_not_accepted() -> None:
    assert receiver().accept(asking("a")).code == 500


def test_what_was_accepted_lasts_for_the_longer_of_both_ttls() -> None:
    a = receiver()
    a.accept(asking("b", ttl=60))
    record = a.record()
    assert record is not None and record.ttl == 60
    for nonsense in (None, "x", True, -1, 10**9):
        a.accept(asking("b", ttl=nonsense))
        record = a.record()
        assert record is not None and 30 <= record.ttl <= 3600


def test_what_was_accepted_ends_by_itself() -> None:
    """(EC 31)"""
    a = receiver(timing=Timing(1, 1, 1))
    a.accept(ASKED)
    assert a.begin_race() is not None
    threading.Event().wait(1.01)
    assert a.record() is None
    assert a.begin_race() is None


def test_who_accepted_does_not_race_and_who_races_does_not_accept() -> None:
    a = receiver()
    assert a.begin_race() is None
    assert "taking the lock" in a.accept(ASKED).text
    a.know(seen(), over=True)  # another was faster, the store has said so
    assert a.accept(ASKED).code == 200
    assert isinstance(a.begin_race(), FailsafeRecord)
    with pytest.raises(ServerError, match="b was accepted as the leader"):
        nobody_accepted(a)


def test_an_attempt_on_the_lock_that_was_not_answered_may_have_succeeded() -> None:
    a = receiver()
    a.begin_race()
    a.know(seen(lease=LeaseState.UNKNOWN), over=True)
    assert a.accept(ASKED).code == 500
    a.know(seen(), over=True)
    assert a.accept(ASKED).code == 200


def test_a_race_is_not_over_in_the_middle_of_a_beat() -> None:
    a = receiver()
    a.begin_race()
    a.know(seen())
    assert a.accept(ASKED).code == 500


def test_a_new_primary_forgets_whom_it_accepted_but_a_standby_with_the_lock_does_not() -> None:
    """(EC 33)"""
    a = receiver()
    a.accept(ASKED)
    held = {"lease": LeaseState.HELD, "lease_until": Instant(now() + 3600)}
    a.know(seen(standby(), view("a"), **held))
    assert a.record() is not None
    a.know(seen(primary(), view("a"), **held))
    assert a.record() is None


def test_a_request_and_a_race_at_the_same_moment_never_both_win() -> None:
    """Threads: however they interleave, either the primary was accepted or the lock may be taken."""
    for _ in range(400):
        a = receiver()
        together = threading.Barrier(3)
        won: dict[str, bool] = {}

        def post(a: FailsafeReceiver = a, together: threading.Barrier = together, won: dict[str, bool] = won) -> None:
            together.wait()
            won["accepted"] = a.accept(ASKED).code == 200

        def beat(a: FailsafeReceiver = a, together: threading.Barrier = together, won: dict[str, bool] = won) -> None:
            together.wait()
            a.know(seen())
            won["racing"] = a.begin_race() is None

        threads = [threading.Thread(target=target) for target in (post, beat)]
        for thread in threads:
            thread.start()
        together.wait()
        for thread in threads:
            thread.join()
        assert won["accepted"] != won["racing"]


def test_readers_during_a_race_see_one_story() -> None:
    """Many requests against one heartbeat that races, loses and races again: no acceptance is ever valid while it races."""
    a, stop, broken = receiver(timing=Timing(1, 1, 1)), threading.Event(), []
    racing = threading.Event()

    def post() -> None:
        while not stop.is_set():
            before = racing.is_set()
            if a.accept(ASKED).code == 200 and before and racing.is_set():
                broken.append("accepted in the middle of a race")

    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        if a.begin_race() is None:
            racing.set()
            if a.record() is not None:
                broken.append("racing with a valid record")
            racing.clear()
            a.know(seen(timing=Timing(1, 1, 1)), over=True)
    stop.set()
    for thread in threads:
        thread.join()
    assert not broken
