"""Walks of a cluster whose machines have watchdogs: nobody leads without, and none resets one that is well. (HA rules 10)"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from pgcore.model.basics import Role
from pgcore.model.node import NodeView, WatchdogState
from pgcore.model.world import World
from rules.faults import Trouble
from rules.machines import Node
from rules.walk import Cluster

MARGIN_S = 5
UNWATCHED_S = 2.0
"""How long a server may be writable before its watchdog runs: an adopted one, or one that resumes after a hand-over."""


@dataclass(slots=True)
class Dog:
    """A machine's watchdog: ``open`` is what its agent knows, ``until`` when the hardware resets the machine."""

    open: bool = False
    until: float | None = None
    broken: bool = False
    resets: int = 0
    unwatched_since: float | None = None


class Watched(Cluster):
    """Every machine has a watchdog, and every agent requires it."""

    def __init__(self, seed: int = 0) -> None:
        self.dogs = {name: Dog() for name in "abc"}
        super().__init__(seed=seed)
        for node in self.nodes.values():
            node.settings, node.due = replace(node.settings, watchdog="required"), self.now
        self.run(12)
        assert self.dogs["a"].open and not self.dogs["b"].open

    def restart_agent(self, node: Node) -> None:
        """Nobody has the device open any more; it goes on counting."""
        self.dogs[node.name].open = False
        super().restart_agent(node)

    def power_off(self, name: str) -> None:
        """The machine is gone, its watchdog with it."""
        self[name].alive, self.dogs[name].open, self.dogs[name].until = False, False, None

    def _view(self, node: Node) -> NodeView:
        dog = self.dogs[node.name]
        state = WatchdogState.ACTIVE if dog.open else WatchdogState.CLOSED
        failed = dog.broken and not dog.open
        return replace(
            super()._view(node), watchdog=state, watchdog_failed=failed, watchdog_problem="it is broken" if failed else ""
        )

    def _ActivateWatchdog(self, node: Node, action: Any, at: World) -> str:
        dog = self.dogs[node.name]
        dog.open = not dog.broken
        dog.until = self.now + at.settings.timing.ttl - MARGIN_S if dog.open else None
        return "" if dog.open else "it is broken"

    _FeedWatchdog = _ActivateWatchdog

    def _DisableWatchdog(self, node: Node, action: Any, at: World) -> None:
        self.dogs[node.name].open, self.dogs[node.name].until = False, None

    def _guard(self) -> None:
        super()._guard()
        for name, dog in self.dogs.items():
            node = self[name]
            if dog.until is not None and dog.until <= self.now:
                well = node.alive and node.agent and dog.open and not node.server.running
                assert not well, (
                    f"{name} was reset at {self.now} although its agent runs and its server does not: {node.trail[-6:]}"
                )
                dog.until, dog.resets = None, dog.resets + 1
                self.reboot(node)
                node.trail.append("reset")
            self._note_unwatched(node, dog)

    def _note_unwatched(self, node: Node, dog: Dog) -> None:
        """A writable server whose agent works and whose lock can be proven has a running watchdog."""
        exposed = node.alive and node.agent and node.server.writable and dog.until is None
        excused = node.settings.paused or node.memory.was_paused or not (self.kv.reachable and node.reaches_store)
        if not exposed or excused or node.memory.lease_until is None or node.settings.watchdog == "off":
            dog.unwatched_since = None
            return
        dog.unwatched_since = self.now if dog.unwatched_since is None else dog.unwatched_since
        assert self.now - dog.unwatched_since <= UNWATCHED_S, f"{node.name} leads unwatched at {self.now}: {node.trail[-6:]}"


class WatchedTrouble(Trouble):
    """Trouble for such a cluster."""

    def _cluster(self, seed: int) -> Cluster:
        return Watched(seed)


@pytest.fixture
def cluster() -> Watched:
    """``a`` leads with its watchdog, ``b`` and ``c`` stream from it."""
    return Watched()


def resets(cluster: Watched) -> dict[str, int]:
    """How often each machine was reset, if it was."""
    return {name: dog.resets for name, dog in cluster.dogs.items() if dog.resets}


def test_a_healthy_cluster_resets_nobody_and_feeds_one(cluster: Watched) -> None:
    cluster.run(300)
    assert cluster.leader == "a" and not resets(cluster)
    assert [name for name, dog in cluster.dogs.items() if dog.open] == ["a"]


def test_the_watchdog_moves_with_the_lock(cluster: Watched) -> None:
    for candidate in "bcabca":
        cluster.ask(str(cluster.leader), candidate)
        cluster.run(40)
        assert cluster.leader == candidate
        assert [name for name, dog in cluster.dogs.items() if dog.until is not None] == [candidate]
    assert not resets(cluster)


def test_a_short_outage_of_the_store_resets_nobody_and_a_long_one_is_survived_by_an_orderly_demotion(cluster: Watched) -> None:
    for seconds in (9.0, 60.0):
        with cluster.kv.outage():
            cluster.run(seconds)
        cluster.run(60)
        assert not cluster.unsettled() and not resets(cluster)


def test_a_frozen_agent_ends_in_a_reset(cluster: Watched) -> None:
    cluster["a"].agent = False
    cluster.run(28)
    assert resets(cluster) == {"a": 1}
    cluster.run(60)
    assert not cluster.unsettled() and resets(cluster) == {"a": 1}


def test_nobody_is_reset_in_maintenance_mode_and_afterwards_the_leader_is_watched_again(cluster: Watched) -> None:
    """EC 195: the agent of the leader ends in it and comes back."""
    cluster.pause(True)
    cluster.run(11)
    assert cluster.dogs["a"].until is None
    cluster.ask_to_end(cluster["a"])
    cluster.run(40)
    assert cluster["a"].exit is not None and cluster.writable() == ["a"]
    cluster.restart_agent(cluster["a"])
    cluster.run(10)
    cluster.pause(False)
    cluster.run(30)
    assert cluster.leader == "a" and cluster.dogs["a"].open and not resets(cluster)


def test_a_node_whose_watchdog_is_broken_never_leads(cluster: Watched) -> None:
    """EC 53: not even when it is the last one left."""
    cluster.dogs["b"].broken = True
    cluster.power_off("a")
    cluster.run(60)
    assert cluster.leader == "c" and cluster.writable() == ["c"]
    cluster.power_off("c")
    cluster.run(90)
    assert "b" not in cluster.writable() and cluster["b"].role is Role.REPLICA
    cluster.dogs["b"].broken = False
    cluster.run(60)
    assert cluster.leader == "b" and cluster.dogs["b"].open


def test_a_primary_whose_watchdog_breaks_hands_over_to_one_that_has_one(cluster: Watched) -> None:
    cluster.dogs["a"].broken = True
    cluster.run(60)
    assert cluster.leader in ("b", "c") and not cluster.unsettled()
    assert "leader.watchdog_refused" in cluster["a"].trail and not resets(cluster)


@pytest.mark.parametrize("tens", range(3))
def test_whatever_happens_nobody_leads_unwatched_and_it_settles(tens: int) -> None:
    for seed in range(10 * tens, 10 * tens + 10):
        trouble = WatchedTrouble(seed, pauses=bool(seed % 2))
        try:
            trouble.rage(12)
            why = trouble.settle()
        except AssertionError as error:
            why = str(error)
        assert not why, "\n".join([f"seed {seed}", *trouble.story, why])
