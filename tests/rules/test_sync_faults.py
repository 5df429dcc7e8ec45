"""Random walks with synchronous replication through every kind of trouble: nothing told to a client is lost. (HA rules 19, 20)"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rules.faults import Trouble
from rules.machines import Node
from rules.walk import Cluster
from rules.walk_servers import TICK_S
from rules.walk_sync import SyncCluster

WALKS, TROUBLES = 20, 30


class SyncTrouble(Trouble):
    """Trouble for a cluster in this mode; operators change the mode and the number of synchronous standbys as well."""

    def __init__(self, seed: int, mode: str, *, strict: bool) -> None:
        self.mode, self.strict = mode, strict
        super().__init__(seed)

    def _cluster(self, seed: int) -> Cluster:
        self.sync = SyncCluster(self.mode, count=1 + seed % 2, strict=self.strict, seed=seed)
        self.sync.lag, self.sync.stalling, self.sync.late = 0.3, 0.02, 0.5
        return self.sync

    def _more(self) -> tuple[Callable[[Node], None], ...]:
        often = (self._behind, self._behind, self._behead, self._behead, self._chain, self._chain, self._chain)
        return (*often, self._change_mode, self._flaky)

    def _leader(self) -> Node | None:
        return self.sync.nodes.get(self.sync.leader or "") if self.sync.kv.reachable else None

    def _behind(self, node: Node) -> None:
        """Its stream stands still for a while, although it is not known to be cut."""
        self._tell(f"{node.name} falls behind")
        self.sync.lags[node.name] = 1.0
        self._later(node, "streams again", lambda: self.sync.lags.pop(node.name, None))

    def _behead(self, node: Node) -> None:
        """The leader is gone, and with it somebody who may be the only one that has everything."""
        leader = self._leader()
        if leader is None or leader is node:
            return
        self.dice.choice((self._power, self._power, self._freeze, self._cut_from_store, self._partition))(leader)
        if self.dice.random() < 0.7:
            self.dice.choice((self._power, self._mute, self._partition, self._freeze, self._crash))(node)

    def _chain(self, node: Node) -> None:
        """Who is not synchronous falls behind, who is goes, and whoever leads goes just when that is being dealt with."""
        leader, at = self._leader(), self.sync.now
        if leader is None:
            return
        listed = [each for each in self.sync.nodes.values() if self.sync.lists(each.name) and each is not leader]
        for other in self.sync.nodes.values():
            if other is not leader and other not in listed:
                self._behind(other)
        at += self.dice.choice((0.5, 2.0, 5.0))
        for each in listed:
            self._ends.append((at, lambda each=each: self._power(each)))
        for _ in range(self.dice.choice((1, 1, 2))):
            at += self.dice.randrange(1, 60) * TICK_S
            self._ends.append((at, lambda: self._power(leader) if (leader := self._leader()) is not None else None))

    def _change_mode(self, node: Node) -> None:
        mode, count = self.dice.choice(("on", "quorum")), self.dice.choice((1, 2))
        self._tell(f"synchronous_mode {mode}, synchronous_node_count {count}")
        self.sync.set_mode(synchronous_mode=mode, synchronous_node_count=count)

    def _requests(self, leader: str, others: list[str]) -> tuple[tuple[str | None, str | None], ...]:
        """No forced failover: it may lose commits by the operator's own wish."""
        return (leader, None), (leader, others[0]), (leader, others[1])

    def settle(self) -> str:
        self.sync.lag = self.sync.stalling = self.sync.late = 0.0
        self.sync.lags.clear()
        return super().settle()


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
@pytest.mark.parametrize("mode", ["on", "quorum"])
@pytest.mark.parametrize("tens", range(WALKS // 10))
def test_whatever_happens_no_acknowledged_commit_is_lost_and_it_settles(tens: int, mode: str, strict: bool) -> None:
    """Checks are made during the walk; its story is in the failure. (EC 118-125, 141, 142)"""
    acknowledged = 0
    for seed in range(10 * tens, 10 * tens + 10):
        trouble = SyncTrouble(seed, mode, strict=strict)
        try:
            trouble.rage(TROUBLES)
            why = trouble.settle()
        except AssertionError as error:
            why = str(error)
        assert not why, "\n".join([f"seed {seed}", *trouble.story, why])
        acknowledged += trouble.sync.acknowledging
    assert acknowledged > 500, "the walks are not idle"


@pytest.fixture
def lagging() -> tuple[SyncCluster, Node, list[Node]]:
    """``a`` leads with one synchronous standby, whom only that one keeps up with; then it is gone."""
    cluster = SyncCluster("on")
    (synchronous,) = [node for node in cluster.nodes.values() if node.name != "a" and cluster.lists(node.name)]
    others = [node for node in cluster.nodes.values() if node.name not in ("a", synchronous.name)]
    cluster.lags = {node.name: 1.0 for node in others}
    cluster.run(3)
    synchronous.alive = False
    return cluster, synchronous, others


def test_a_standby_that_lacks_commits_is_not_listed_before_it_has_them(lagging: tuple[SyncCluster, Node, list[Node]]) -> None:
    """The leader dies while its new standby still catches up: nobody leads until one who has everything is back. (EC 118, 123)"""
    cluster, synchronous, others = lagging
    cluster.run(20)
    assert not any(cluster.lists(node.name) for node in others)
    assert cluster.waiting["a"].shown in {node.name for node in others}, "commits wait for a standby that still catches up"
    cluster["a"].alive = False
    cluster.run(120)
    assert cluster.writable() == []
    cluster["a"].alive = True
    cluster.lags.clear()
    cluster.run(60)
    assert cluster.writable() == ["a"]
    synchronous.alive = True
    cluster.run(60)
    assert cluster.unsettled() == ""
