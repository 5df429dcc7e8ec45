"""The hardware watchdog: when it runs, when it is fed, when it must be stopped. (HA rules 10)

It is asked before everything else, so that a keepalive directly follows the confirmed renewal, before any optional write (HA
rules 30.13), and so that nothing is decided for a primary whose device stands otherwise than the rules believe.
"""

from __future__ import annotations

from pgcore.decide import failsafe
from pgcore.decide.down import restartable
from pgcore.decide.table import Table
from pgcore.model.actions import ActivateWatchdog, DisableWatchdog, FeedWatchdog, Phase
from pgcore.model.basics import Role
from pgcore.model.decision import Decision, act
from pgcore.model.node import TaskKind, WatchdogState
from pgcore.model.world import World


def _active(w: World) -> bool:
    return w.node.watchdog is WatchdogState.ACTIVE


def must_lead_without(w: World) -> bool:
    """Mode ``required`` and the device does not run although it was asked to: this node must not lead. (HA rules 10)"""
    return w.settings.watchdog == "required" and not w.paused and w.watchdog_tried and not _active(w)


def paused(w: World) -> Decision | None:
    """In maintenance mode no machine is reset. (HA rules 4.2, EC 195)"""
    return act(DisableWatchdog(), because="paused: the watchdog is stopped") if w.paused and _active(w) else None


def switched_off(w: World) -> Decision | None:
    """The configuration does not want it any more: that applies at once, not with the next keepalive. (HA rules 10)"""
    if _active(w) and w.settings.watchdog == "off":
        return act(DisableWatchdog(), because="watchdog.mode is off now: the watchdog is stopped")
    return None


def safe_point(w: World) -> Decision | None:
    """The server is stopping and no session of a user is left, so nothing is written any more. (HA rules 10, EC 90)"""
    task = w.node.task
    if not _active(w) or task is None or task.kind is not TaskKind.STOP:
        return None
    if not (task.progress.get("safe_point") or task.progress.get("shut_down_end")):
        return None
    return act(DisableWatchdog(), because="no user session is left on the stopping server: the watchdog is stopped")


def nothing_runs(w: World) -> Decision | None:
    """No server runs and none is being started as a primary: there is nothing left to guard against. (HA rules 10, 13.3)

    A crashed primary that is about to be started again keeps it; while the store is away nobody starts it.
    """
    if not _active(w) or w.node.running or w.becoming_primary:
        return None
    recovers = w.is_holder and restartable(w) and not w.memory.recovering and not w.store_lost
    again = recovers and w.demotion is None and not w.memory.stopping
    return None if again else act(DisableWatchdog(), because="PostgreSQL is not running: the watchdog is stopped")


def standby(w: World) -> Decision | None:
    """A standby without the lock cannot be a second primary. (HA rules 10)"""
    becoming = w.becoming_primary or w.node.role is Role.PROMOTED
    if _active(w) and w.node.running and not w.node.is_primary and not becoming and not w.is_holder:
        return act(DisableWatchdog(), because="a standby without the lock: the watchdog is stopped")
    return None


def unfinished_bootstrap(w: World) -> Decision | None:
    """The new cluster's lock was not won yet, so nobody can take it away either: the next attempt starts the watchdog again."""
    if _active(w) and w.bootstrapping is not None and not w.watchdog_tried:
        return act(DisableWatchdog(), because="the new cluster has no lock yet: the watchdog is stopped until it has")
    return None


def feed(w: World) -> Decision | None:
    """The lock was confirmed in this beat, by the store or by every member: one keepalive. (HA rules 10, 30.13, EC 23, 222)

    It comes before anything else is written, so that nothing eats into the safety margin.
    """
    if not _active(w) or w.watchdog_fed:
        return None
    if w.holds:
        return act(FeedWatchdog(), because="the store confirmed the lock")
    agreed = w.store_lost and w.node.is_primary and failsafe.agreed(w)
    return act(FeedWatchdog(), because="every member agrees that this node leads") if agreed else None


def activate(w: World) -> Decision | None:
    """The lock is mine and this server is, or is about to be, the primary: let the watchdog run first. (HA rules 8.5, 10)

    The leader of a standby cluster writes nothing of its own: no watchdog.
    """
    wanted = w.settings.watchdog != "off" and not w.paused and w.node.watchdog is WatchdogState.CLOSED and not w.watchdog_tried
    if not (w.holds and wanted):
        return None
    leading = w.node.running and not w.node.starting and not w.busy
    staying = w.demotion is None or w.demotion.phase in (Phase.CHECKPOINT, Phase.VERIFY)
    if leading and staying and not w.standby_cluster and w.bootstrapping is None and not w.memory.stopping:
        return act(ActivateWatchdog(), because="the lock is mine: starting the watchdog")
    return None


WATCHDOG = Table("watchdog", paused, switched_off, safe_point, nothing_runs, standby, unfinished_bootstrap, feed, activate)


def due(w: World) -> bool:
    """The watchdog must be started, fed or stopped before anything else is decided; one that does not run can only be started."""
    return WATCHDOG.decide(w) is not None if _active(w) else activate(w) is not None
