"""Mixed clusters in synchronous mode under load for minutes: members of both kinds die, end, switch over and restart at random.

``PGCORE_TEST_MIXED=all``; ``PGCORE_TEST_MIXED_SEED`` repeats a run, ``PGCORE_TEST_MIXED_ROUNDS`` makes it longer.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import Cluster, Node, wait_for
from harness.cluster import lost_commits
from harness.mixed import MixedCluster, only_when_all

pytestmark = [only_when_all, pytest.mark.timeout(3600)]
ROUNDS = int(os.environ.get("PGCORE_TEST_MIXED_ROUNDS", "12"))
SEED = int(os.environ.get("PGCORE_TEST_MIXED_SEED", "0")) or random.randrange(1, 1 << 30)
WHOLE_S = 120.0


class Witness:
    """Looks all the time whether two servers are writable at once."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._ended = cluster, threading.Event()
        self.seen: list[str] = []
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            writable = [node.name for node in self._cluster.nodes if node.is_writable()]
            if len(writable) > 1 and all(self._cluster.node(name).is_writable() for name in writable):
                self.seen.append(f"{time.strftime('%H:%M:%S')} {' and '.join(writable)} were writable")

    def end(self) -> list[str]:
        """What it saw."""
        self._ended.set()
        self._thread.join(10)
        return self.seen


class Trouble:
    """What may happen to a cluster; each deed is one method."""

    def __init__(self, mixed: MixedCluster, dice: random.Random) -> None:
        self.mixed, self.cluster, self.dice = mixed, mixed.cluster, dice

    def deed(self) -> str:
        """Do one at random; what was done."""
        leader = self.cluster.primary()
        names = ("leader_dies", "leaders_server_dies", "leaders_agent_ends", "switchover", "switchover", "standby_dies",
                 "restart", "store_stands_still", "store_restarts", "lock_vanishes", "store_is_wiped", "maintenance")
        names += ("leaders_agent_dies",) if leader.agent.name == "pgcore" else ()
        name = self.dice.choice(names)
        getattr(self, name)(leader)
        return f"{name} ({leader.agent.name} {leader.name} led)"

    def leader_dies(self, leader: Node) -> None:
        leader.kill_everything()
        self.cluster.wait_primary_other_than(leader, self.cluster.ttl + 40)
        leader.start()

    def leaders_server_dies(self, leader: Node) -> None:
        leader.kill_postmaster()
        time.sleep(2)

    def leaders_agent_ends(self, leader: Node) -> None:
        leader.stop(90)
        self.cluster.wait_primary_other_than(leader, self.cluster.ttl + 40)
        leader.start()

    def leaders_agent_dies(self, leader: Node) -> None:
        leader.kill_agent()
        if self.dice.random() < 0.5:
            self.cluster.wait_primary_other_than(leader, self.cluster.ttl + 40)
        leader.start()

    def switchover(self, leader: Node) -> None:
        operator = self.dice.choice((self.mixed.patronictl, self.mixed.pgcore))
        heir = self.dice.choice(sorted(self.mixed.synchronous()[1]))
        operator.ok("switchover", self.cluster.scope, "--leader", leader.name, "--candidate", heir, "--force")

    def standby_dies(self, leader: Node) -> None:
        node = self.dice.choice(self.cluster.others(leader))
        node.kill_everything()
        time.sleep(self.dice.random() * 5)
        node.start()

    def restart(self, leader: Node) -> None:
        operator, node = self.dice.choice((self.mixed.patronictl, self.mixed.pgcore)), self.dice.choice(self.cluster.nodes)
        operator.ok("restart", self.cluster.scope, node.name, "--force")

    def store_stands_still(self, leader: Node) -> None:
        assert self.cluster.etcd is not None
        self.cluster.etcd.freeze()
        time.sleep(self.dice.random() * 2.5)
        self.cluster.etcd.thaw()

    def store_restarts(self, leader: Node) -> None:
        assert self.cluster.etcd is not None
        self.cluster.etcd.kill()
        time.sleep(self.dice.random() * 6)
        self.cluster.etcd.start()

    def lock_vanishes(self, leader: Node) -> None:
        assert self.cluster.etcd is not None
        self.cluster.etcd.delete(self.cluster.leader_key())
        time.sleep(3)

    def store_is_wiped(self, leader: Node) -> None:
        assert self.cluster.etcd is not None
        self.cluster.etcd.wipe(self.cluster.key(""))
        time.sleep(3)

    def maintenance(self, leader: Node) -> None:
        first, second = self.dice.sample((self.mixed.patronictl, self.mixed.pgcore), 2)
        first.ok("pause", self.cluster.scope, "--wait")
        node = self.dice.choice(self.cluster.nodes)
        node.stop(90)
        node.start()
        self.cluster.wait_aware()
        second.ok("resume", self.cluster.scope, "--wait")


def protected(mixed: MixedCluster, mode: str) -> bool:
    """All stream, and the leader has its synchronous standbys."""
    cluster = mixed.cluster
    if not cluster.streaming():
        return False
    leader, standbys, quorum = mixed.synchronous()
    return leader == cluster.primary().name and (len(standbys), quorum) == ((1, 0) if mode == "on" else (2, 1))


@pytest.mark.parametrize(("order", "mode", "failsafe"), [
    ("pgcore patroni pgcore", "on", False), ("patroni pgcore patroni", "quorum", False),
    ("patroni pgcore pgcore", "quorum", True), ("pgcore patroni patroni", "on", True)])
def test_nothing_is_lost_and_never_two_are_writable(
        make_cluster: Callable[..., Cluster], predecessor: Path, order: str, mode: str, failsafe: bool) -> None:
    dice = random.Random(SEED)
    print(f"seed {SEED}")
    dynamic = {"synchronous_mode": mode == "on" or mode, "failsafe_mode": failsafe}
    mixed = MixedCluster(make_cluster, predecessor, order, dynamic=dynamic).bootstrap()
    cluster = mixed.cluster
    wait_for(lambda: protected(mixed, mode), WHOLE_S, "all is as the mode wants it", interval_s=0.2)
    writer, witness, trouble = cluster.writer().start(), Witness(cluster), Trouble(mixed, dice)
    for number in range(ROUNDS):
        began = time.monotonic()
        what = trouble.deed()
        wait_for(lambda: protected(mixed, mode), WHOLE_S, f"all stream and are listed after {what}", interval_s=0.2)
        writer.wait_resumed(time.monotonic(), 60)
        print(f"{time.strftime('%H:%M:%S')} {number + 1}: {what}: {time.monotonic() - began:.1f} s, write gap "
              f"{writer.report().longest_gap(after_s=began)}", flush=True)
        assert writer.report().missing(cluster.present()) == [], what
        assert witness.seen == [], what
    assert witness.end() == []
    assert lost_commits(cluster, writer) == []
