"""Random trouble for a walk: a seed tells what happens to whom, when, and for how long; afterwards everything is put right."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from random import Random

from pgcore.model.actions import Phase
from pgcore.model.world import Demotion
from rules.walk import Cluster, Node

SETTLES_WITHIN_S = 120.0
"""After all trouble is over: the lease, standing back for ttl, a comparison, a rewind, a start, each with its waits."""


class Trouble:
    """A cluster with trouble from a seed. ``story`` tells what was done, for whoever must understand a failure."""

    def __init__(self, seed: int, *, pauses: bool = False) -> None:
        self.pauses = pauses
        self.dice = Random(seed)
        self.cluster = self._cluster(seed)
        self.story: list[str] = []
        self._ends: list[tuple[float, Callable[[], None]]] = []

    def _cluster(self, seed: int) -> Cluster:
        return Cluster(seed=seed)

    def _more(self) -> tuple[Callable[[Node], None], ...]:
        """Troubles of a special kind of cluster."""
        return ()

    def rage(self, count: int) -> None:
        """So many troubles, a few at a time."""
        for _ in range(count):
            self._begin()
            if self.dice.random() < 0.5:
                self._await_moment(self.dice.choice(tuple(Phase)))
                continue
            self._pass(self.dice.choice((0.0, 0.25, 0.25, 0.5, 0.5, 1.0, 2.0, 5.0, 12.0)))
        while self._ends:
            self._pass(1.0)

    def settle(self) -> str:
        """Nothing is wrong any more; why it has not settled in time, or nothing."""
        cluster = self.cluster
        for node in cluster.nodes.values():
            if not node.agent or node.exit is not None:
                cluster.restart_agent(node)
        cluster.run(2.0)  # a lock that ran out while the store was away is seen to be gone
        end = cluster.now + SETTLES_WITHIN_S
        while cluster.unsettled() and cluster.now < end:
            cluster.run(1.0)
            for node in cluster.nodes.values():
                if node.exit is not None:
                    cluster.restart_agent(node)
        return cluster.unsettled()

    def _pass(self, seconds: float) -> None:
        cluster = self.cluster
        end = cluster.now + seconds
        while cluster.now < end:
            cluster.run(0.25)
            over = [undo for at, undo in self._ends if at <= cluster.now]
            self._ends = [each for each in self._ends if each[0] > cluster.now]
            for undo in over:
                undo()
            for node in cluster.nodes.values():
                if node.exit is not None:
                    self._tell(f"{node.name} ended: {node.exit.message}")
                    node.exit = None
                    self._later(node, "agent comes back", lambda node=node: cluster.restart_agent(node))

    def _await_moment(self, phase: Phase) -> None:
        """Strike next when a demotion stands there, if one soon does."""
        for _ in range(12):
            procedures = [node.memory.procedure for node in self.cluster.nodes.values()]
            if any(isinstance(each, Demotion) and each.phase is phase for each in procedures):
                return
            self._pass(0.25)

    def _tell(self, what: str) -> None:
        self.story.append(f"{self.cluster.now:.2f} {what}")

    def _later(self, node: Node | None, what: str, undo: Callable[[], None]) -> None:
        def over() -> None:
            self._tell(f"{node.name if node else ''} {what}")
            undo()

        self._ends.append((self.cluster.now + self.dice.choice((0.25, 1.0, 3.0, 8.0, 15.0, 35.0, 60.0)), over))

    def _begin(self) -> None:
        node = self.cluster[self.dice.choice(list(self.cluster.nodes))]
        self.dice.choice(
            (
                *(self._outage, self._cut_from_store, self._cut_stream, self._mute, self._partition, self._flaky, self._freeze),
                *(self._power, self._crash, self._kill_agent, self._end_agent, self._slow, self._veto, self._break, self._pause),
                *(self._ask, self._ask, self._ask, self._restart, self._restart),
                *self._more(),
            )
        )(node)

    def _outage(self, node: Node) -> None:
        if not self.cluster.kv.reachable:
            return
        stack = ExitStack()
        stack.enter_context(self.cluster.kv.outage())
        self._tell("the store goes away")
        self._later(None, "the store is back", stack.close)

    def _flag(self, node: Node, name: str, bad: object) -> None:
        good = getattr(node, name)
        if good == bad or node.exit is not None:
            return
        setattr(node, name, bad)
        self._tell(f"{node.name}.{name} = {bad}")
        self._later(node, f"{name} = {good}", lambda: setattr(node, name, good))

    def _cut_from_store(self, node: Node) -> None:
        self._flag(node, "reaches_store", False)

    def _cut_stream(self, node: Node) -> None:
        self._flag(node, "cut", True)

    def _mute(self, node: Node) -> None:
        self._flag(node, "mute", True)

    def _partition(self, node: Node) -> None:
        for name, bad in (("reaches_store", False), ("cut", True), ("mute", True)):
            self._flag(node, name, bad)

    def _flaky(self, node: Node) -> None:
        self._flag(node, "flaky", 0.3)

    def _slow(self, node: Node) -> None:
        self._flag(node, "slow", self.dice.choice((2, 8, 30)))

    def _veto(self, node: Node) -> None:
        self._flag(node, "vetoes", True)

    def _break(self, node: Node) -> None:
        self._flag(node, "broken", True)

    def _pause(self, node: Node) -> None:
        if not self.pauses or node.settings.paused:
            return
        self.cluster.pause(True)
        self._tell("maintenance mode")
        self._later(None, "maintenance mode ends", lambda: self.cluster.pause(False))

    def _freeze(self, node: Node) -> None:
        """The agent or the whole machine stands still and goes on later."""
        self._flag(node, self.dice.choice(("agent", "alive")), False)

    def _power(self, node: Node) -> None:
        if not node.alive:
            return
        node.alive = False
        self._tell(f"{node.name} loses power")
        self._later(node, "boots", lambda: self.cluster.reboot(node))

    def _crash(self, node: Node) -> None:
        if node.alive:
            self._tell(f"{node.name}'s server is killed")
            self.cluster.crash(node)

    def _kill_agent(self, node: Node) -> None:
        if not (node.alive and node.agent):
            return
        node.agent = False
        self._tell(f"{node.name}'s agent is killed")
        self._later(node, "agent begins anew", lambda: self.cluster.restart_agent(node))

    def _end_agent(self, node: Node) -> None:
        if node.alive and node.agent:
            self._tell(f"{node.name}'s agent is asked to end")
            self.cluster.ask_to_end(node)

    def _ask(self, node: Node) -> None:
        leader = self.cluster.leader
        if not self.cluster.kv.reachable or leader is None:
            return
        others = [name for name in self.cluster.nodes if name != leader]
        asked = self.dice.choice(self._requests(leader, others))
        self._tell(f"asked to move from {asked[0]} to {asked[1]}")
        self.cluster.ask(*asked)

    def _requests(self, leader: str, others: list[str]) -> tuple[tuple[str | None, str | None], ...]:
        return (leader, None), (leader, others[0]), (leader, others[1]), (None, others[0])

    def _restart(self, node: Node) -> None:
        """An operator restarts the leader's server, or any."""
        chosen = self.cluster[self.cluster.leader or node.name] if self.dice.random() < 0.7 else node
        if chosen.alive and chosen.agent and chosen.memory.order is None:
            self._tell(f"asked to restart {chosen.name}'s server")
            self.cluster.order_restart(chosen)
