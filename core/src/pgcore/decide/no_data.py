"""The data directory is empty or cannot be read: bootstrap, clone, or wait. (HA rules 4.10, 6.1)"""

from __future__ import annotations

from pgcore.decide.table import Table
from pgcore.decide.upstream import clone_source
from pgcore.model.actions import (
    Bootstrap,
    BootstrapPhase,
    ClaimInitialize,
    Clone,
    DropInitialize,
    EnterBootstrap,
    ReleaseLease,
    SetRole,
    StopMode,
    StopServer,
)
from pgcore.model.basics import Role
from pgcore.model.decision import Decision, act, end, rest
from pgcore.model.node import DataDir, TaskKind
from pgcore.model.world import World


def half_copied(w: World) -> bool:
    """A copy failed and what its method keeps is no cluster yet: the next attempt goes on from there. (HA rules 6.3, EC 180)

    A new copy that failed before the old data was removed has left the role as it was, and the data whole.
    """
    removed = w.node.role is Role.UNINITIALIZED
    result = w.ended(TaskKind.CLONE) or (w.ended(TaskKind.REINITIALIZE) if removed else None)
    return result is not None and not result.ok and not w.node.running and w.node.system_id is None


def orphan(w: World) -> Decision | None:
    """A postmaster still runs although its data directory is gone: stop it. (EC 11)"""
    if w.node.running and not w.busy:
        return end(
            SetRole(Role.UNINITIALIZED),
            StopServer(StopMode.IMMEDIATE, w.settings.timing.retry_timeout),
            because="the data directory is gone or unreadable but its postmaster still runs",
        )
    return None


def give_lock_back(w: World) -> Decision | None:
    """I hold the lock without data: give it back first, clone in a later beat. (HA rules 4.10, EC 14)"""
    if w.is_holder:
        return end(SetRole(Role.UNINITIALIZED), ReleaseLease(), because="the lock names me but the data directory is empty")
    return None


def unreadable(w: World) -> Decision | None:
    """The directory cannot be read: touch nothing. (EC 12, 179)"""
    if w.node.data_dir is DataDir.UNREADABLE:
        return rest(because="the data directory cannot be read: check its owner, its mode and its mount", wake_after=5.0)
    return None


def paused(w: World) -> Decision | None:
    """Nothing is created in maintenance mode. (HA rules 23)"""
    return rest(because="the data directory is empty; paused, so nothing is created") if w.paused else None


def failed_recently(w: World) -> Decision | None:
    """The last attempt failed a moment ago: pause before the next."""
    if w.cooling_down:
        return rest(because="the last attempt failed; the next begins soon", wake_after=w.cooling_down)
    return None


def free_own_claim(w: World) -> Decision | None:
    """My agent was killed while it made the cluster: its claim is mine to take back, whoever makes the next attempt. (EC 173)"""
    left = w.node.claim_left
    if left and w.cluster.initialize == "" and w.cluster.initialize_version == left:
        return end(
            DropInitialize(left),
            because="the agent of this node was killed while it was creating the cluster: its claim is taken back",
        )
    return None


def claim(w: World) -> Decision | None:
    """No cluster exists: win the right to create it. (HA rules 6.1, EC 172)"""
    if not _may_claim(w) or w.standby_cluster:
        return None
    return act(
        ClaimInitialize(),
        EnterBootstrap(BootstrapPhase.CREATE),
        Bootstrap(),
        because="no cluster of this scope exists and this node may create it",
    )


def _may_claim(w: World) -> bool:
    allowed = w.settings.has_bootstrap and not w.settings.tags.nofailover
    return w.cluster.unlocked and w.cluster.initialize is None and allowed and not w.has_data


def claim_standby_cluster(w: World) -> Decision | None:
    """No standby cluster exists: win the right to make it, as a copy of the remote. (HA rules 6.1, 22.1)"""
    if not _may_claim(w) or not w.standby_cluster:
        return None
    return act(
        ClaimInitialize(),
        EnterBootstrap(BootstrapPhase.CREATE),
        Clone(w.remote),
        because=f"no cluster of this scope exists; it begins as a copy of {w.remote.label if w.remote else 'the archive'}",
    )


def clone(w: World) -> Decision | None:
    """The cluster has a leader: copy from it or from a willing replica. (HA rules 6.1, 6.3)"""
    source = clone_source(w)
    if not w.cluster.unlocked and source is not None:
        return end(
            SetRole(Role.UNINITIALIZED),
            Clone(w.upstream_of(source)),
            because=f"the data directory is empty; copying from {source.name} (leader {w.cluster.leader})",
        )
    return None


def clone_remote(w: World) -> Decision | None:
    """A standby cluster whose leader cannot be copied from at the moment: copy from the remote. (HA rules 6.3)"""
    if not w.cluster.unlocked and w.remote is not None and clone_source(w) is None:
        return end(
            SetRole(Role.UNINITIALIZED),
            Clone(w.remote),
            because=f"the data directory is empty and no member can be copied from; copying from the remote {w.remote.label}",
        )
    return None


def clone_without_leader(w: World) -> Decision | None:
    """No leader, but a method needs none; forbidden while somebody bootstraps. (HA rules 6.1)"""
    if w.cluster.unlocked and w.settings.leaderless_methods and w.cluster.initialize != "":
        return end(Clone(None), because="the data directory is empty, there is no leader, and a method works without one")
    return None


def wait(w: World) -> Decision | None:
    """Somebody else must come first."""
    if w.cluster.initialize == "":
        return rest(because="another node is creating the cluster; if none is, delete the empty key /initialize", wake_after=2.0)
    if not w.cluster.unlocked:
        return rest(because=f"waiting for the member card of the leader {w.cluster.leader}", wake_after=1.0)
    if w.cluster.initialize is None and not w.settings.has_bootstrap:
        return rest(because="no cluster exists, and without a bootstrap section this node does not create one", wake_after=2.0)
    return rest(because="the data directory is empty; waiting for a leader to copy from", wake_after=2.0)


NO_DATA = Table(
    "no_data",
    orphan,
    give_lock_back,
    unreadable,
    paused,
    failed_recently,
    free_own_claim,
    claim,
    claim_standby_cluster,
    clone,
    clone_remote,
    clone_without_leader,
    wait,
)
