"""What would become of a request at this moment, by the very rules that deal with it: for dry runs.

Steps on the way to the decision, as asking members or noting the request, are taken for done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pgcore.decide import switchover
from pgcore.decide.advance import fresh_world
from pgcore.decide.reinit import REINIT
from pgcore.decide.restart import RESTART
from pgcore.decide.sync_duty import leave_sync
from pgcore.decide.table import Rule
from pgcore.model import actions as a
from pgcore.model.cluster import ClusterView, FailoverRequest
from pgcore.model.decision import Decision
from pgcore.model.node import NodeView
from pgcore.model.orders import Order, RestartOrder
from pgcore.model.settings import Settings
from pgcore.model.world import LeaderTimeline, LeaseState, Memory, PeerView, World

VERSION = "dry run"
"""Of a request that is not in the store."""
_GOES_AHEAD = (a.BeginDemotion, a.AcquireLease, a.Restart, a.Reinitialize)
_REFUSES = (a.Refuse, a.RefuseOrder)


@dataclass(frozen=True, slots=True)
class Verdict:
    """``accepted``: it would be begun; else ``reason`` says why not. What would be waited for counts as not accepted."""

    accepted: bool
    reason: str = ""
    able: tuple[str, ...] = ()
    """Who would lead: each of them if those before it had not received everything."""
    source: str = ""
    """Whose data directory would be copied."""
    leaves_sync: bool = False
    """It would ask to be released from its duty as a synchronous standby first."""


def world(
    settings: Settings, view: ClusterView, nodes: Mapping[str, NodeView], peers: Mapping[str, PeerView], *, wall: float
) -> World:
    """What the agent of that name would decide on: everybody was asked, and the lock is proven if it is its own."""
    node, leader = nodes[settings.name], nodes.get(view.leader or "")
    made = fresh_world(Memory(request_seen=(VERSION, node.at)), settings, node, node.at, wall)
    leads = leader is not None and leader.running and (leader.is_primary or made.standby_cluster)
    return replace(
        made,
        cluster=view,
        lease=LeaseState.HELD if view.leader == settings.name else LeaseState.NONE,
        peers={name: peer for name, peer in peers.items() if name != settings.name},
        timeline_asked=True,
        leader_timeline=LeaderTimeline(leader.timeline or 0, made.standby_cluster) if leads and leader is not None else None,
    )


def of_request(w: World, leader: str | None, candidate: str | None) -> Verdict:
    """A switchover, or a manual failover (no ``leader``), on the holder of the lock; on the candidate if nobody holds it."""
    request = FailoverRequest(VERSION, leader, candidate)
    w = replace(w, cluster=replace(w.cluster, failover=request))
    if not w.is_holder:
        return _verdict(w, switchover.RACE_RULES, able=(w.me,))
    rules = switchover.STANDBY_LEADER_RULES if w.standby_cluster else switchover.HOLDER_RULES
    peers, ready = w.peers or {}, switchover.ready(w, request)
    able = tuple(sorted(ready, key=lambda name: (-peers[name].failover_priority, name)))
    return _verdict(w, (switchover.refuse_while_busy, *rules), able=able)


def of_order(w: World, order: Order) -> Verdict:
    """A restart or a new copy of this node."""
    w = replace(w, memory=replace(w.memory, order=order))
    return _verdict(w, RESTART.rules if isinstance(order, RestartOrder) else REINIT.rules)


def _verdict(w: World, rules: Iterable[Rule], able: tuple[str, ...] = ()) -> Verdict:
    leaves_sync = False
    for rule in rules:
        decision = rule(w)
        if decision is None:
            continue
        if any(isinstance(action, _REFUSES) for action in decision.actions):
            return Verdict(False, _why(decision))
        if any(isinstance(action, _GOES_AHEAD) for action in decision.actions):
            copied = (action.source for action in decision.actions if isinstance(action, a.Reinitialize))
            return Verdict(True, decision.because, able, next((each.name or each.host for each in copied), ""), leaves_sync)
        leaves_sync = leaves_sync or rule is leave_sync
        if not decision.actions:
            return Verdict(False, f"it would wait, {decision.because}")
    return Verdict(False, "no rule of the agent would act on it now")


def _why(decision: Decision) -> str:
    reason = next(action.reason for action in decision.actions if isinstance(action, _REFUSES))
    because = decision.because.removeprefix("request dropped: ")
    return because if because == reason else f"{reason} ({because})"
