"""Where a demotion stands: the questions its rules share."""

from __future__ import annotations

from pgcore.decide.candidates import could_lead
from pgcore.model.actions import DemoteMode, Phase
from pgcore.model.world import Demotion, World


def demotion_of(w: World) -> Demotion:
    """The demotion under way; its tables are only asked when there is one."""
    assert w.demotion is not None
    return w.demotion


def within(w: World, phase: Phase) -> bool:
    """The demotion stands in this phase."""
    return demotion_of(w).phase is phase


def orderly(w: World) -> bool:
    """It ends with a hand-over: a switchover, the end of the agent, a conversion while replicas may have everything."""
    d = demotion_of(w)
    return d.mode in (DemoteMode.GRACEFUL, DemoteMode.SHUTDOWN) or (d.mode is DemoteMode.CLUSTER and bool(d.candidates))


def other_names(w: World) -> tuple[str, ...]:
    """Members that could take over."""
    return tuple(m.name for m in could_lead(w))
