"""The creation of a new cluster, from the won ``/initialize`` to the lock. (HA rules 6.2, 6.4)

The lock does not exist meanwhile; the empty ``/initialize`` is the only protection, so every failure deletes it.
"""

from __future__ import annotations

from pgcore.decide.table import Table
from pgcore.decide.watchdog import must_lead_without
from pgcore.model.actions import (
    AcquireLease,
    Action,
    ActivateWatchdog,
    BootstrapPhase,
    CancelTask,
    DropInitialize,
    EndProcedure,
    EnterBootstrap,
    Exit,
    PostBootstrap,
    SetAsideDataDir,
    SetRole,
    StartServer,
    StopMode,
    StopServer,
    WriteConfig,
    WriteInitialize,
)
from pgcore.model.basics import Role
from pgcore.model.decision import Decision, act, end, rest
from pgcore.model.node import TaskKind, TaskResult, WatchdogState
from pgcore.model.world import World

STORE_LIMIT_S = 60.0
STEPS = (TaskKind.BOOTSTRAP, TaskKind.POST_BOOTSTRAP, TaskKind.CLONE, TaskKind.START)


def _phase(w: World) -> BootstrapPhase:
    assert w.bootstrapping is not None
    return w.bootstrapping.phase


def _result(w: World) -> TaskResult | None:
    result = w.memory.last_result
    return None if w.busy or result is None or result.kind not in STEPS else result


def stopping(w: World) -> Decision | None:
    """The agent is asked to end: cancel, and let another node create the cluster. (EC 173)"""
    if not w.memory.stopping or _phase(w) is BootstrapPhase.FAILED:
        return None
    return act(CancelTask(), EnterBootstrap(BootstrapPhase.FAILED), because="the agent was asked to end during the bootstrap")


def working(w: World) -> Decision | None:
    """The present step goes on."""
    return rest(because=f"{w.node.task.kind}: {_phase(w)}") if w.node.task else None


def start_copy(w: World) -> Decision | None:
    """The remote is copied: start the copy as a standby of the remote. (HA rules 6.1, 22.1)"""
    copied = w.ended(TaskKind.CLONE)
    if _phase(w) is BootstrapPhase.CREATE and copied is not None and copied.ok and not w.node.running:
        return end(StartServer(Role.STANDBY_LEADER, w.remote), because="the copy of the remote is complete: starting it")
    return None


def lead_copy(w: World) -> Decision | None:
    """The copy runs: publish the new standby cluster and take the lock; there are no users to create. (HA rules 6.4)"""
    started = w.ended(TaskKind.START)
    if _phase(w) is not BootstrapPhase.CREATE or started is None or not started.ok or not w.node.running:
        return None
    if w.node.system_id is None or not w.node.answering:
        return rest(because="waiting for the new standby to answer", wake_after=0.5)
    return act(
        WriteConfig(w.settings.dynamic),
        AcquireLease(force=True),
        SetRole(Role.STANDBY_LEADER),
        EndProcedure(),
        WriteInitialize(w.node.system_id, w.cluster.initialize_version),
        because=f"the standby cluster {w.node.system_id} is made",
    )


def failed(w: World) -> Decision | None:
    """A step failed or did not begin, or the server is gone: undo what others would trip over. (HA rules 6.4.1)"""
    result = _result(w)
    unbegun = result is None or (_phase(w) is BootstrapPhase.POST and result.kind is not TaskKind.POST_BOOTSTRAP)
    broken = unbegun or result is None or not result.ok or not w.node.running
    if broken and _phase(w) is not BootstrapPhase.FAILED:
        error = (
            (result.error or "PostgreSQL is not running")
            if result and not unbegun
            else "it could not begin; the line above says why"
        )
        return act(EnterBootstrap(BootstrapPhase.FAILED), because=f"the bootstrap failed: {error}")
    return None


def stop_failed_server(w: World) -> Decision | None:
    """The half-made server is stopped."""
    if _phase(w) is BootstrapPhase.FAILED and w.node.running and w.ended(TaskKind.STOP) is None:
        return end(StopServer(StopMode.IMMEDIATE, w.settings.timing.retry_timeout), because="stopping the half-made server")
    return None


def wait_for_store(w: World) -> Decision | None:
    """The store is away, so ``/initialize`` cannot be freed yet: wait for it, bounded."""
    assert w.bootstrapping is not None
    if _phase(w) is BootstrapPhase.FAILED and w.store_lost and w.now - w.bootstrapping.since < STORE_LIMIT_S:
        return rest(because="the bootstrap failed; waiting for the store to free /initialize", wake_after=0.5)
    return None


def give_up(w: World) -> Decision | None:
    """Free ``/initialize`` if it is still our claim, set the data directory aside, end the agent. (EC 173)"""
    if _phase(w) is not BootstrapPhase.FAILED:
        return None
    assert w.bootstrapping is not None
    ours = w.cluster.initialize == "" and w.cluster.initialize_version == w.bootstrapping.claim
    free: tuple[Action, ...] = (DropInitialize(w.bootstrapping.claim),) if ours and w.bootstrapping.claim else ()
    message = (
        "the bootstrap failed; the lines above say why. /initialize was freed for another attempt, and the half-made data "
        "directory was set aside"
    )
    return end(
        *free,
        SetAsideDataDir(),
        EndProcedure(),
        Exit(0 if w.memory.stopping else 1, message),
        because="the bootstrap did not succeed",
    )


def recovering(w: World) -> Decision | None:
    """A restored backup is not yet a primary: wait for the end of its recovery. (HA rules 6.4.2)"""
    if not w.node.is_primary:
        return rest(because="waiting for the new server to end recovery", wake_after=1.0)
    return None


def create_users(w: World) -> Decision | None:
    """The server is a primary: create the users and run the script. (HA rules 6.4.3)"""
    if _phase(w) is BootstrapPhase.CREATE:
        return end(
            SetRole(Role.PRIMARY),
            EnterBootstrap(BootstrapPhase.POST),
            PostBootstrap(),
            because="creating users and running the script",
        )
    return None


def watch(w: World) -> Decision | None:
    """The watchdog runs before this node leads. (HA rules 6.4.4, EC 223)"""
    closed = w.node.watchdog is WatchdogState.CLOSED and not w.watchdog_tried
    if closed and w.settings.watchdog != "off" and not w.paused and not w.standby_cluster:
        return act(ActivateWatchdog(), because="the new cluster is about to have a lock: starting the watchdog")
    return None


def watchdog_refused(w: World) -> Decision | None:
    """Mode ``required`` and the watchdog does not run: a failed bootstrap, so that another node may try. (EC 174)"""
    if must_lead_without(w):
        return act(
            EnterBootstrap(BootstrapPhase.FAILED),
            because=f"the bootstrap failed: watchdog.mode is required, but {w.node.watchdog_problem or 'it does not run'}",
        )
    return None


def finish(w: World) -> Decision | None:
    """The users are made: publish the new cluster and take the lock unconditionally. (HA rules 6.4.4)

    Once it has the lock its clients write: what fails from there on must not undo it. The leader writes ``/initialize`` again.
    """
    assert w.node.system_id is not None
    return act(
        WriteConfig(w.settings.dynamic),
        AcquireLease(force=True),
        EndProcedure(),
        WriteInitialize(w.node.system_id, w.cluster.initialize_version),
        because=f"the cluster {w.node.system_id} is created",
    )


BOOTSTRAP = Table(
    "bootstrap",
    stopping,
    working,
    start_copy,
    lead_copy,
    failed,
    stop_failed_server,
    wait_for_store,
    give_up,
    recovering,
    create_users,
    watch,
    watchdog_refused,
    finish,
)
