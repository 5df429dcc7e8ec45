"""Somebody else holds the lock and PostgreSQL runs. (HA rules 11, 11.2)"""

from __future__ import annotations

from pgcore.decide import divergence, standby_cluster
from pgcore.decide.following import FOLLOWING_RULES, ahead_of_recovering
from pgcore.decide.table import Table
from pgcore.decide.upstream import upstream
from pgcore.model.actions import (
    BeginDemotion,
    DemoteMode,
    Phase,
    ProbePeers,
    RewindState,
    SetRewind,
    SetRole,
)
from pgcore.model.basics import Role
from pgcore.model.decision import Decision, act, rest
from pgcore.model.world import World


def paused_primary(w: World) -> Decision | None:
    """In maintenance mode a second primary is left alone. (HA rules 11.2.1)"""
    return rest(because="paused: this primary runs without the lock") if w.paused and w.node.is_primary else None


def second_primary(w: World) -> Decision | None:
    """Another node holds the lock: a primary here stops at once. (HA rules 11.2.2, EC 5)"""
    if w.node.is_primary and not w.standby_cluster:
        return act(BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP), because=f"{w.cluster.leader} holds the lock")
    return None


def still_promoting(w: World) -> Decision | None:
    """It was asked to promote and the lock is another's: stop it before it accepts a write. (HA rules 30.4, EC 57)"""
    if w.node.role is Role.PROMOTED and not w.paused:
        return act(
            BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP),
            because=f"this server was asked to promote, but {w.cluster.leader} holds the lock",
        )
    return None


def primary_in_standby_cluster(w: World) -> Decision | None:
    """Another node leads a standby cluster: a primary here stops in order and follows. (HA rules 11.2.2, 22.4)"""
    if w.node.is_primary and w.standby_cluster:
        return standby_cluster.demotion_to_standby(w, f"{w.cluster.leader} holds the lock and this server is a primary")
    return None


def become_replica(w: World) -> Decision | None:
    """A standby under another leader is a replica; in maintenance mode a standby leader keeps its role. (HA rules 11.2.1)"""
    if w.node.role is not Role.REPLICA and not (w.paused and w.node.role is Role.STANDBY_LEADER):
        return act(SetRole(Role.REPLICA), because=f"a standby of {w.cluster.leader}")
    return None


def paused_without_upstream(w: World) -> Decision | None:
    """In maintenance mode, with nobody to follow, a standby keeps what it follows. (HA rules 11.2.1, 23, EC 190)"""
    if w.paused and upstream(w) is None and not w.settings.tags.nostream:
        return rest(because=f"paused: {w.cluster.leader} has published no address; keeping the present upstream")
    return None


def timeline_grew(w: World) -> Decision | None:
    """The leader is on a newer timeline, this standby does not stream it: compare, once. (HA rules 11.2.7, EC 107)

    Again if it has replayed beyond the end of its timeline meanwhile: WAL that was received before may be replayed later. A
    standby leader may have been rewound to an older one. What the leader's server has answered in this beat is newer than its
    member key.
    """
    leader = w.cluster.leader_member
    theirs = leader.timeline if leader else None
    own = w.node.timeline or w.memory.last_timeline
    compared = w.memory.compared_timeline
    if theirs is None or own is None or w.timeline_asked:
        return None
    rewound = w.standby_cluster and theirs < own and (compared is None or compared < own)
    elsewhere = rewound or (own < theirs and (theirs != compared or _beyond_the_switch(w, own)))
    settled = w.memory.rewind in (RewindState.INITIAL, RewindState.NOT_NEED, RewindState.FAILED)
    if elsewhere and settled and w.node.replication_state != "streaming":
        return act(SetRewind(RewindState.CHECK), because=f"{w.cluster.leader} is on timeline {theirs}, this server on {own}")
    return None


def _beyond_the_switch(w: World, own: int) -> bool:
    """By ``/history`` the cluster has left this timeline before what is replayed here."""
    switch = next((entry.lsn for entry in w.cluster.history or () if entry.timeline == own), None)
    failed = w.memory.rewind is RewindState.FAILED
    return not failed and switch is not None and w.node.replayed is not None and w.node.replayed > switch


def probe_leader(w: World) -> Decision | None:
    """Know whether the leader still answers, so that at its lease's end nobody waits for a dead node. (architecture 11)"""
    leader = w.cluster.leader_member
    if not w.probed and leader is not None and leader.api_url:
        return act(ProbePeers((leader,)), because=f"probing {leader.name} in the background")
    return None


def diverged(w: World) -> Decision | None:
    """It has diverged and nothing mends it: say what an operator can do. (HA rules 12.3.3)"""
    if w.memory.rewind in divergence.DIVERGED and w.node.replication_state != "streaming":
        return rest(because=f"diverged from {w.cluster.leader}: {divergence.remedy(w)}", wake_after=5.0)
    return None


def not_streaming(w: World) -> Decision | None:
    """The comparison is open, or the stream is not up yet: look again soon."""
    if divergence.still_undecided(w) or (w.node.replication_state != "streaming" and not w.settings.tags.nostream):
        return rest(because=f"a replica of {w.cluster.leader}, not streaming yet", wake_after=1.0)
    return None


def keep(w: World) -> Decision | None:
    """A secondary that follows its leader."""
    return rest(because=f"a replica following the leader {w.cluster.leader}")


REPLICA = Table(
    "replica",
    paused_primary,
    second_primary,
    still_promoting,
    primary_in_standby_cluster,
    become_replica,
    paused_without_upstream,
    timeline_grew,
    standby_cluster.look_for_history,
    standby_cluster.new_history,
    divergence.compare,
    divergence.judge,
    divergence.leave_dead_end,
    divergence.set_histories_aside,
    divergence.undecided,
    divergence.rewind,
    divergence.confirm,
    divergence.copy_anew,
    divergence.stay_apart,
    standby_cluster.keep_upstream,
    ahead_of_recovering,
    *FOLLOWING_RULES,
    probe_leader,
    diverged,
    not_streaming,
    keep,
)
