"""Random walks in failsafe mode: one leads whatever happens, and an outage of the store alone changes nobody. (HA rules 9)"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pgcore.dcs.store import Key
from rules.faults import Trouble
from rules.machines import Node
from rules.test_sync_faults import SyncTrouble
from rules.walk import Cluster
from rules.walk_failsafe import FailsafeCluster, FailsafeSyncCluster

TROUBLES = 20


class FailsafeTrouble(Trouble):
    """Trouble for such a cluster; the store goes away more often."""

    def _cluster(self, seed: int) -> Cluster:
        return FailsafeCluster(seed=seed)

    def _more(self) -> tuple[Callable[[Node], None], ...]:
        return self._outage, self._outage, self._mute, self._kill_agent, self._cut_from_store


class FailsafeSyncTrouble(SyncTrouble):
    """The same with synchronous replication."""

    def _cluster(self, seed: int) -> Cluster:
        self.sync = FailsafeSyncCluster(self.mode, count=1 + seed % 2, strict=self.strict, seed=seed)
        self.sync.lag, self.sync.stalling, self.sync.late = 0.3, 0.02, 0.5
        return self.sync

    def _more(self) -> tuple[Callable[[Node], None], ...]:
        return *super()._more(), self._outage, self._outage, self._outage, self._mute, self._kill_agent, self._cut_from_store


def test_an_outage_of_the_store_changes_nothing_while_all_members_agree() -> None:
    """EC 23, 24."""
    cluster = FailsafeCluster()
    cluster.run(15)
    with cluster.kv.outage():
        for _ in range(300):
            cluster.run(1)
            assert cluster.writable() == ["a"]
    cluster.run(30)
    assert not cluster.unsettled() and cluster["a"].server.timeline == 1


def test_a_switchover_caught_by_an_outage_of_the_store_stops_nobody() -> None:
    """The candidate receives nothing yet, so the old leader still serves when the store goes away."""
    cluster = FailsafeCluster()
    cluster.run(15)
    cluster.ask("a", "b")
    cluster.run(5, until=lambda: cluster["a"].memory.procedure is not None)
    cluster["b"].cut = True
    with cluster.kv.outage():
        for _ in range(25):  # long enough for a demotion
            cluster.run(1)
            assert cluster.writable() == ["a"]
        cluster["b"].cut = False
        cluster.run(2)
    cluster.run(40)
    assert cluster.leader == "a" and not cluster.unsettled() and cluster["a"].server.timeline == 1


def test_a_leader_that_dies_right_after_an_outage_of_the_store_is_replaced() -> None:
    """The lock has outlived the outage, the cards of the others have not: they are still named in /failsafe. (EC 25, 32)"""
    for moment in range(10):
        cluster = FailsafeCluster()
        cluster.run(15 + moment)
        cluster["a"].due = cluster.now
        cluster.run(0.5, only="a")
        with cluster.kv.outage():
            cluster.run(25)
        cluster["a"].due = cluster.now
        cluster.run(0.5, only="a")
        cluster["a"].alive = False
        cluster.run(90)
        assert cluster.writable() in (["b"], ["c"]), f"at {moment} s: {cluster.kv.entries[Key.FAILSAFE].value}"


@pytest.mark.parametrize("pauses", [False, True], ids=["", "with maintenance"])
@pytest.mark.parametrize("tens", range(3))
def test_whatever_happens_one_leads_and_it_settles(tens: int, pauses: bool) -> None:
    for seed in range(10 * tens, 10 * tens + 10):
        walked(seed, FailsafeTrouble(seed, pauses=pauses))


@pytest.mark.parametrize("mode", ["on", "quorum"])
def test_whatever_happens_no_acknowledged_commit_is_lost(mode: str) -> None:
    for seed in range(10):
        walked(seed, FailsafeSyncTrouble(seed, mode, strict=bool(seed % 2)))


def walked(seed: int, trouble: Trouble) -> None:
    """The walk kept every promise and settled; its story is in the failure."""
    try:
        trouble.rage(TROUBLES)
        why = trouble.settle()
    except AssertionError as error:
        why = str(error)
    assert not why, "\n".join([f"seed {seed}", *trouble.story, why])
    assert Key.FAILSAFE in trouble.cluster.kv.entries
