"""Members as processes of their own: killed, stopped, continued."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.network import Network, namespaces_usable
from pgcore.plugin import Timing
from pgcore_dcs_raft.plugin import RaftSection

pytestmark = pytest.mark.server

TTL_S = 3


@pytest.fixture
def trio(sections: Callable[..., list[RaftSection]], run_member: Callable[..., Any]) -> Iterator[list[Any]]:
    """Three members that have a Raft leader; the leader comes first."""
    timing = Timing(TTL_S, 1, 1)
    started = [run_member(name, section, timing) for name, section in zip("abc", sections(3, password="secret"), strict=True)]
    try:
        for member in started:
            assert member.call("put") != "unavailable"
        yield sorted(started, key=lambda member: not member.call("leads"))
    finally:
        for member in started:
            member.end()


def test_the_lock_of_another_member_survives_the_death_of_the_raft_leader(trio):
    leader, holder, other = trio
    assert leader.call("leads") and holder.call("acquire") is True
    leader.send(signal.SIGKILL)
    killed = time.monotonic()
    answers, decided_s = [], []
    while time.monotonic() < killed + 1.5 * TTL_S:
        answers.append(holder.call("renew", 1.0))
        if answers[-1] == "held":
            decided_s.append(time.monotonic() - killed)
        assert other.call("acquire", 0.5) in (False, "unavailable")
        time.sleep(0.1)
    assert set(answers) <= {"held", "unavailable"} and answers[-1] == "held"
    print(f"\nfirst write {decided_s[0]:.2f} s after SIGKILL of the Raft leader")
    assert decided_s[0] < TTL_S


def test_the_lock_of_a_killed_raft_leader_ends_after_its_ttl_and_not_before(trio):
    leader, second, third = trio
    before = time.monotonic()
    assert leader.call("acquire") is True
    leader.send(signal.SIGKILL)
    while second.call("acquire", 1.0) is not True:
        time.sleep(0.05)
        assert time.monotonic() - before < 4 * TTL_S
    assert time.monotonic() - before >= TTL_S
    assert third.call("fresh")["leader"] == second.name


def test_a_member_cut_from_the_majority_decides_nothing_and_soon_shows_nothing(trio):
    lonely, second, third = trio
    assert lonely.call("acquire") is True
    assert "leader" in lonely.call("read")
    for member in (second, third):
        member.freeze()
    for verb in ("renew", "put", "acquire", "fresh", "announce"):
        before = time.monotonic()
        assert lonely.call(verb, 0.5) == "unavailable", verb
        assert time.monotonic() - before < 1.0, verb
    before = time.monotonic()
    assert lonely.call("read", 0.5) == "unavailable" and time.monotonic() - before < 1.0
    for member in (second, third):
        member.send(signal.SIGCONT)
    assert lonely.call("renew") in ("held", "gone")
    assert second.call("put") != "unavailable"


def test_what_a_stopped_leader_slept_through_is_not_undone_when_it_wakes(trio):
    leader, second, _ = trio
    assert leader.call("acquire") is True
    leader.freeze()
    end = time.monotonic() + 5 * TTL_S
    while second.call("acquire", 1.0) is not True:
        time.sleep(0.1)
        assert time.monotonic() < end
    leader.send(signal.SIGCONT)
    assert leader.call("renew") == "taken"
    assert leader.call("fresh")["leader"] == second.name == second.call("read")["leader"]
    assert second.call("renew") == "held"


@pytest.mark.netns
@pytest.mark.skipif(not namespaces_usable(), reason="needs root and network namespaces")
def test_a_member_that_has_lost_the_leader_but_not_the_others_deposes_nobody(sections, run_member):
    """It would raise its term about once a second, and with every vote it asks for end the leader's."""
    with Network() as network:
        hosts = [network.add(name) for name in "abc"]
        parts = [dataclasses.replace(part, self_addr=f"{host}:2222", partner_addrs=tuple(f"{other}:2222" for other in hosts))
                 for part, host in zip(sections(3, password="secret"), hosts, strict=True)]
        started = [run_member(name, part, Timing(TTL_S, 1, 1), network.prefix(name))
                   for name, part in zip("abc", parts, strict=True)]
        try:
            for member in started:
                assert member.call("put") != "unavailable"
            leader, lonely, third = sorted(started, key=lambda member: not member.call("leads"))
            assert leader.call("acquire") is True
            term = leader.call("term")
            network.cut_between(leader.name, lonely.name)
            end, answers = time.monotonic() + 2 * TTL_S, []
            while time.monotonic() < end:
                answers.append((leader.call("renew", 1.0), third.call("put", 1.0) != "unavailable"))
                time.sleep(0.1)
            assert set(answers) == {("held", True)} and lonely.call("put", 0.5) == "unavailable"
            network.heal_between(leader.name, lonely.name)
            assert lonely.call("put") != "unavailable"
            assert [member.call("term") for member in (leader, lonely, third)] == 3 * [term] and leader.call("leads")
        finally:
            for member in started:
                member.end()
