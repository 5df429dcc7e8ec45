"""I hold the lock of a standby cluster: this server follows the remote primary, the others follow this one. (HA rules 22)

Nobody in such a cluster is promoted; when the section is removed from the configuration, ``decide.leader`` promotes the holder.
"""

from __future__ import annotations

from pgcore.decide import divergence, leader, switchover
from pgcore.decide.following import FOLLOWING_RULES
from pgcore.decide.lease import renew
from pgcore.decide.phases import other_names
from pgcore.decide.table import Table
from pgcore.decide.upstream import upstream
from pgcore.model.actions import (
    BeginDemotion,
    DemoteMode,
    Phase,
    ReadHistory,
    ReleaseLease,
    RewindState,
    SetRewind,
    SetRole,
)
from pgcore.model.basics import Role
from pgcore.model.cluster import HistoryEntry
from pgcore.model.decision import Decision, act, end, rest
from pgcore.model.world import World


def described(w: World) -> str:
    """What a standby cluster replicates, for an operator."""
    return f"the remote {w.remote.label}" if w.remote else "the archive"


# -- shared with the tables of other situations --------------------------------------------------------------------------


def demotion_to_standby(w: World, why: str) -> Decision:
    """A primary in a standby cluster stops in order, hands its WAL on and comes back as a standby. (HA rules 17, 22.4)

    With an archive the lock is never offered: what the archive lacks at the end, only this node can add.
    """
    names = () if w.node.archiving or not w.is_holder else other_names(w)
    because = f"{why}, but this cluster replicates {described(w)}: its primary stops and follows"
    return act(BeginDemotion(DemoteMode.CLUSTER, Phase.STOP, names), because=because)


def look_for_history(w: World) -> Decision | None:
    """Has the history file of the timeline after ours arrived? Then the remote may have left our timeline. (HA rules 11.2.3)"""
    own, compared = w.node.timeline, w.memory.compared_timeline
    settled = w.memory.rewind in (RewindState.INITIAL, RewindState.NOT_NEED)
    if w.standby_cluster and settled and own is not None and w.history is None and (compared is None or compared <= own):
        return act(ReadHistory(own + 1), because=f"looking for the history of timeline {own + 1}")
    return None


def new_history(w: World) -> Decision | None:
    """A timeline has branched off ours: compare with the remote, rewind if we went on beyond it. (HA rules 11.2.3, EC 200)"""
    settled = w.memory.rewind in (RewindState.INITIAL, RewindState.NOT_NEED)
    newest = w.history[-1] if w.history else None
    if w.standby_cluster and settled and isinstance(newest, HistoryEntry) and not w.timeline_asked:
        return act(SetRewind(RewindState.CHECK), because=f"timeline {newest.timeline} ended at {newest.lsn} on the remote")
    return None


def keep_upstream(w: World) -> Decision | None:
    """The holder has no address at the moment, as its card ended before its lock: go on as it is. (HA rules 11.2.6, EC 199)"""
    if not w.settings.tags.nostream and upstream(w) is None:
        return rest(because=f"{w.cluster.leader} has published no address; keeping the present upstream", wake_after=1.0)
    return None


# -- the holder ----------------------------------------------------------------------------------------------------------


def paused_primary(w: World) -> Decision | None:
    """In maintenance mode a primary goes on until the mode ends; nobody is demoted. (HA rules 23)"""
    if w.paused and w.node.is_primary:
        return rest(because=f"paused: this primary goes on, although the cluster is to replicate {described(w)}")
    return None


def demote(w: World) -> Decision | None:
    """The section was added to a normal cluster: its primary becomes the standby leader, in order. (HA rules 22.4, EC 201)"""
    return demotion_to_standby(w, "the lock is mine and this server is a primary") if w.holds and w.node.is_primary else None


def become_standby_leader(w: World) -> Decision | None:
    """The lock is proven and this server is a standby: it leads the standby cluster. (HA rules 22.2, EC 218)"""
    if w.holds and w.node.role is not Role.STANDBY_LEADER:
        return act(SetRole(Role.STANDBY_LEADER), because=f"the lock is mine: standby leader, following {described(w)}")
    return None


def hand_over(w: World) -> Decision | None:
    """A switchover is asked for and a good candidate streams: it only takes the lock, no server stops. (HA rules 22.11)"""
    request = switchover.due(w)
    if request is None:
        return None
    names = ", ".join(switchover.ready(w, request))
    return end(ReleaseLease(), because=f"a switchover is asked for and {names} streams: giving the lock away", wake_after=0.5)


def waiting_for_comparison(w: World) -> Decision | None:
    """The comparison with the remote is open: look again soon."""
    if divergence.still_undecided(w):
        return rest(because=f"the standby leader; {described(w)} cannot be compared with yet", wake_after=1.0)
    return None


def not_streaming(w: World) -> Decision | None:
    """The remote is a server, but no stream from it is up: PostgreSQL goes on trying."""
    remote = w.settings.standby_cluster
    if remote is None or not (remote.host or remote.port) or w.node.replication_state == "streaming":
        return None
    state = w.node.replication_state or "not streaming"
    because = f"the standby leader with the lock; {state}, PostgreSQL goes on trying {described(w)}: its log says why"
    return rest(because=because)


def keep(w: World) -> Decision | None:
    """Everything is as it should be."""
    return rest(because=f"the standby leader with the lock, following {described(w)}")


STANDBY_LEADER = Table(
    "standby_leader",
    renew,
    paused_primary,
    leader.refused,
    leader.refused_standby,
    demote,
    leader.cannot_look,
    become_standby_leader,
    look_for_history,
    new_history,
    divergence.compare,
    divergence.judge,
    divergence.leave_dead_end,
    divergence.set_histories_aside,
    divergence.undecided,
    divergence.rewind,
    divergence.confirm,
    divergence.copy_anew,
    divergence.stay_apart,
    *FOLLOWING_RULES,
    *switchover.STANDBY_LEADER_RULES,
    hand_over,
    waiting_for_comparison,
    not_streaming,
    keep,
)
