"""A walk in failsafe mode: every agent has a real receiver of ``POST /failsafe``, which answers while its heartbeat stalls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pgcore.daemon.failsafe import FailsafeReceiver, nobody_accepted
from pgcore.dcs import codec
from pgcore.dcs.store import ABSENT, Key, Stored, version
from pgcore.decide.advance import ClusterReading
from pgcore.decide.failsafe import votes_count
from pgcore.model import actions as a
from pgcore.model.basics import Instant, Timing
from pgcore.model.failsafe import FailsafeAnswer, FailsafeRecord
from pgcore.model.node import NodeView
from pgcore.model.settings import Settings
from pgcore.model.world import PeerView, World
from rules.machines import Node
from rules.walk import NEVER, Cluster
from rules.walk_sync import SyncCluster


class FailsafeCluster(Cluster):
    """Three nodes that vouch for their leader while the store is away."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.now = 100.0
        self.receivers: dict[str, FailsafeReceiver] = {}
        super().__init__(*args, **options)

    def settings_of(self, name: str, timing: Timing) -> Settings:
        """With failsafe mode."""
        return replace(super().settings_of(name, timing), failsafe_mode=True)

    def receiver(self, node: Node) -> FailsafeReceiver:
        """The one of this agent; an agent that began anew has another."""
        if node.name not in self.receivers:
            self.receivers[node.name] = FailsafeReceiver(clock=lambda: Instant(self.now))
        return self.receivers[node.name]

    def restart_agent(self, node: Node) -> None:
        """What it had accepted is forgotten."""
        self.receivers.pop(node.name, None)
        super().restart_agent(node)

    def noted(self, node: Node, at: World, *, over: bool = False) -> None:
        self.receiver(node).know(at, over=over)

    def _view(self, node: Node) -> NodeView:
        return replace(super()._view(node), failsafe=self.receiver(node).record())

    def _ReadCluster(self, node: Node, action: Any, at: World) -> ClusterReading:
        reading = super()._ReadCluster(node, action, at)
        self.receiver(node).saw(reading.cluster)
        return reading

    def _AcquireLease(self, node: Node, action: a.AcquireLease, at: World) -> bool | FailsafeRecord:  # type: ignore[override]
        return self.receiver(node).begin_race() or super()._AcquireLease(node, action, at)

    def _Promote(self, node: Node, action: Any, at: World) -> None:
        nobody_accepted(self.receiver(node))
        super()._Promote(node, action, at)

    def _PollPeers(self, node: Node, action: a.PollPeers, at: World) -> dict[str, PeerView]:
        self._announced = votes_count(at)
        return super()._PollPeers(node, action, at)

    def _answer(self, node: Node, other: Node) -> PeerView:
        view = super()._answer(node, other)
        if not view.reachable:
            return view
        receiver = self.receiver(other)
        if self._announced:
            receiver.promise()
        leader, unknown = receiver.vouching()
        return replace(view, failsafe_leader=leader, failsafe_unknown=unknown)

    def _WriteFailsafe(self, node: Node, action: a.WriteFailsafe, at: World) -> str | None:
        expect = version(action.version) if action.version else ABSENT
        stored = node.store.put(Key.FAILSAFE, codec.compact(dict(action.members)), expect=expect, deadline=NEVER)
        return stored.version if isinstance(stored, Stored) else None

    def _AskFailsafe(self, node: Node, action: a.AskFailsafe, at: World) -> dict[str, FailsafeAnswer]:
        slots = {name: int(lsn) for name, lsn in action.slots.items()}
        card = {"name": node.name, "conn_url": node.settings.conn_url, "api_url": node.settings.api_url}
        document = {**card, "slots": slots, "ttl": at.settings.timing.ttl}
        return {name: self._asked_to_accept(node, self[name], document) for name in action.members}

    def _asked_to_accept(self, node: Node, other: Node, document: dict[str, Any]) -> FailsafeAnswer:
        if not (other.alive and other.agent) or node.mute or other.mute:
            return FailsafeAnswer(False, problem="timed out")
        verdict = self.receiver(other).accept(document)
        if verdict.code != 200:
            return FailsafeAnswer(False, problem=verdict.text, refused=True)
        if self.dice.random() < node.flaky:  # it accepted, but the answer is lost
            return FailsafeAnswer(False, problem="timed out")
        return FailsafeAnswer(True, verdict.lsn, binding=verdict.binding)


class FailsafeSyncCluster(FailsafeCluster, SyncCluster):
    """The same with synchronous replication; with ``quorum`` votes may do for the word of all."""

    def settings_of(self, name: str, timing: Timing) -> Settings:
        """Failsafe mode by votes wherever votes decide."""
        settings = super().settings_of(name, timing)
        return replace(settings, failsafe_quorum=settings.synchronous_mode == "quorum")
