"""The worlds that the cases of a standby cluster share: it replicates 10.9.9.9, and ``a`` holds its lock in most of them."""

from __future__ import annotations

from typing import Any

from pgcore.model.actions import (
    BootstrapPhase,
    DemoteMode,
    Phase,
    RewindState,
)
from pgcore.model.basics import Role
from pgcore.model.cluster import ClusterView
from pgcore.model.node import ControlState, NodeView
from pgcore.model.server import Upstream
from pgcore.model.settings import RemoteCluster
from pgcore.model.world import Bootstrapping, World
from pgcore.testing.builders import (
    NOW,
    control,
    demotion,
    down,
    history,
    member,
    standby,
    view,
    world,
)

REMOTE = RemoteCluster("10.9.9.9", 5433)
ARCHIVE = RemoteCluster(restore_command="cp /archive/%f %p")
SOURCE = Upstream("10.9.9.9", 5433)
MINE, B_LEADS, FREE = (
    view(name, *(member(each, role="standby_leader" if each == name else "replica") for each in "abc"))
    for name in ("a", "b", None)
)
NO_CARD = view("b", member("a"), member("c"))
LEADER = standby(role=Role.STANDBY_LEADER, timeline=1)
AGREES = {"rewind": RewindState.NOT_NEED, "compared_timeline": 1, "history": ()}
STILL = AGREES | {"recovery_change": "none", "probed": True}
HISTORY_2 = {"rewind": RewindState.NOT_NEED, "compared_timeline": 1, "history": history(900)}
NOTHING = ClusterView()
CLUSTER = DemoteMode.CLUSTER
PRIMARY_ENDED = down(Role.PRIMARY, found=control(ControlState.SHUT_DOWN, 1200))


def of_remote(node: NodeView, cluster: ClusterView | None = MINE, remote: RemoteCluster = REMOTE, **facts: Any) -> World:
    """A world in a standby cluster."""
    return world(node, cluster, standby_cluster=remote, **facts)


def converting(phase: Phase, node: NodeView, cluster: ClusterView | None = MINE, *candidates: str, **facts: Any) -> World:
    """A primary whose cluster becomes a standby cluster, in this phase for ``seconds``."""
    about = {name: facts.pop(name) for name in ("seconds", "released", "end") if name in facts}
    return of_remote(node, cluster, procedure=demotion(CLUSTER, phase, *candidates, **about), **facts)


def making(node: NodeView, **facts: Any) -> World:
    """The standby cluster is being made by this node."""
    procedure = Bootstrapping(BootstrapPhase.CREATE, NOW, "3")
    return of_remote(node, ClusterView(initialize="", initialize_version="3"), procedure=procedure, **facts)
