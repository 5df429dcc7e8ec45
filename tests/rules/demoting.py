"""The worlds that the cases of demotion and hand-over share."""

from __future__ import annotations

from typing import Any

from pgcore.model.actions import (
    DemoteMode,
    Phase,
)
from pgcore.model.basics import Lsn, Role, State
from pgcore.model.cluster import ClusterView
from pgcore.model.node import ControlState, NodeView, TaskKind
from pgcore.model.world import World
from pgcore.testing.builders import (
    control,
    demotion,
    did,
    doing,
    down,
    member,
    peer,
    peers,
    primary,
    silent,
    view,
    world,
)

GRACEFUL, SHUTDOWN, OFFLINE = DemoteMode.GRACEFUL, DemoteMode.SHUTDOWN, DemoteMode.OFFLINE
AT_ONCE, NOLOCK = DemoteMode.IMMEDIATE, DemoteMode.IMMEDIATE_NOLOCK
MINE, B_LEADS, FREE = view("a"), view("b"), view(None)
ALONE = view("a", member("a", role="primary"))
STOPPED = down(Role.PRIMARY, found=control(ControlState.SHUT_DOWN, 1200))
STOPPING = doing(TaskKind.STOP, silent(primary(), state=State.STOPPING))
SEEN = doing(TaskKind.STOP, silent(primary(), state=State.STOPPING), shut_down_end=1200)
ENDED = STOPPED
DONE = did(TaskKind.CHECKPOINT)
ALL = peers(peer("b", 1200), peer("c", 1199))


def during(mode: DemoteMode, phase: Phase, node: NodeView, cluster: ClusterView | None = MINE, **facts: Any) -> World:
    """This phase for a second; ``b`` and ``c`` are the candidates unless it says who; the shutdown checkpoint ended at 1200."""
    about = {name: facts.pop(name) for name in ("seconds", "released", "mark") if name in facts}
    candidates = facts.pop("candidates", ("b", "c"))
    end = Lsn(1200) if phase is Phase.HANDOVER and "end" not in facts else facts.pop("end", None)
    return world(node, cluster, procedure=demotion(mode, phase, *candidates, end=end, **about), **facts)
