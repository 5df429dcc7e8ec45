"""PostgreSQL runs but does not accept connections yet, without a task of ours waiting for it. (HA rules 14.1)"""

from __future__ import annotations

from pgcore.decide.lease import renew
from pgcore.decide.table import Table
from pgcore.model.actions import BeginDemotion, DemoteMode, Phase
from pgcore.model.basics import Role
from pgcore.model.decision import Decision, act, rest
from pgcore.model.world import World


def lost_lock(w: World) -> Decision | None:
    """It starts as a primary although another node holds the lock: stop it. (HA rules 14.1)"""
    primary = w.node.is_primary or not w.node.recovery_files
    if primary and not w.paused and (w.refused or (not w.cluster.unlocked and not w.is_holder)):
        return act(
            BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP),
            because=f"{w.cluster.leader} holds the lock and this server starts as a primary",
        )
    return None


def wait(w: World) -> Decision | None:
    """Wait until it accepts connections; never race meanwhile. (HA rules 15.1, EC 50)"""
    what = "as a standby" if w.node.recovery_files or w.node.role is Role.REPLICA else "in recovery"
    return rest(because=f"PostgreSQL is starting {what}", wake_after=1.0)


STARTING = Table("starting", renew, lost_lock, wait)
