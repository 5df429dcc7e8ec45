"""Is this data directory part of this cluster? Adoption of a running one. (HA rules 7)"""

from __future__ import annotations

from pgcore.decide.table import Table
from pgcore.model.actions import Exit, ReleaseLease, WriteInitialize
from pgcore.model.decision import Decision, act, end, rest
from pgcore.model.world import World


def in_question(w: World) -> bool:
    """The identity must be settled before anything else is decided.

    That of a server in this agent's charge is settled for as long as it runs, even if its pg_control cannot be read just now.
    """
    own = w.node.system_id
    if own is None or not _valid(own):
        return not (w.node.running and w.memory.managed)
    if w.cluster.initialized:
        return w.cluster.initialize != own
    return w.cluster.unlocked and not w.paused and not w.memory.managed


def _valid(system_id: str) -> bool:
    return len(system_id) >= 10 and system_id.isdigit()


def unreadable(w: World) -> Decision | None:
    """pg_control cannot be read: do nothing, stay so that a reinit remains possible. (HA rules 7.1, EC 177)"""
    if w.node.system_id is None or not _valid(w.node.system_id):
        remedy = "reinitialize this node (pgcore reinit)"
        if w.cluster.unlocked:  # nobody to copy from
            remedy = "reinitialize this node once somebody leads"
        if w.cluster.initialize == "":
            remedy = "if it was this node that was creating the cluster, empty the directory and delete the empty key /initialize"
        because = f"the data directory is not empty but its pg_control cannot be read: restore it, or {remedy}"
        return rest(because=because, wake_after=5.0)
    return None


def foreign_paused(w: World) -> Decision | None:
    """Another cluster's data in maintenance mode: warn, give the lock back, never race. (HA rules 7.2, EC 193)"""
    if w.paused and w.cluster.initialized:
        because = f"the data directory belongs to cluster {w.node.system_id}, the store says {w.cluster.initialize}"
        return end(ReleaseLease(), because=because) if w.is_holder else end(because=because)
    return None


def foreign(w: World) -> Decision | None:
    """The data directory belongs to another cluster: end the agent, delete nothing. (HA rules 7.2, EC 176)"""
    if w.cluster.initialized:
        return end(
            Exit(
                1,
                f"system identifier mismatch: data directory has {w.node.system_id}, scope {w.settings.scope} in the store "
                f"has {w.cluster.initialize}. Check scope and namespace, or empty the data directory to clone this node anew",
            ),
            because=f"data directory {w.node.system_id}, store {w.cluster.initialize}",
        )
    return None


def replica_first(w: World) -> Decision | None:
    """A running replica must not found the cluster: its primary's agent has to be first. (HA rules 7.3, EC 175)"""
    if w.node.running and not w.node.is_primary and w.node.recovery_files:
        return end(
            Exit(
                1,
                "PostgreSQL runs as a replica but the cluster is not initialised in the store: start the agent on its "
                "primary first. PostgreSQL is left running",
                leave_running=True,
            ),
            because="a running replica cannot found a cluster",
        )
    return None


def found(w: World) -> Decision | None:
    """An existing server founds the cluster in the store. (HA rules 7.3)"""
    assert w.node.system_id is not None
    return act(
        WriteInitialize(w.node.system_id, w.cluster.initialize_version),
        because=f"the store knows no cluster; this data directory is {w.node.system_id}",
    )


IDENTITY = Table("identity", unreadable, foreign_paused, foreign, replica_first, found)
