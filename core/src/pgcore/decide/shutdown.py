"""The agent was asked to end (SIGTERM). (HA rules 27)"""

from __future__ import annotations

from pgcore.decide.failsafe import name_whoever_takes_over
from pgcore.decide.lease import renew
from pgcore.decide.phases import other_names
from pgcore.decide.sync_duty import leave_sync
from pgcore.decide.table import Table
from pgcore.model.actions import BeginDemotion, CancelTask, DemoteMode, Exit, Phase, ReleaseLease
from pgcore.model.decision import Decision, act, end, rest
from pgcore.model.node import TaskKind
from pgcore.model.world import World


def paused(w: World) -> Decision | None:
    """In maintenance mode PostgreSQL and the lock are left as they are. (HA rules 23, EC 195)"""
    if w.paused:
        return end(Exit(0, "paused: PostgreSQL is left as it is", leave_running=True), because="asked to end; paused")
    return None


def cancel_running(w: World) -> Decision | None:
    """A running long action is cancelled, also in maintenance mode; its task removes a half-made copy. (HA rules 27, EC 181)"""
    if w.busy:
        return rest(CancelTask(), because=f"asked to end: cancelling {w.node.task.kind}", wake_after=0.2)  # type: ignore[union-attr]
    return None


def hand_over(w: World) -> Decision | None:
    """A primary with the lock writes a checkpoint, stops, and hands over. (HA rules 27)"""
    if w.holds and w.node.is_primary and w.node.running:
        names = other_names(w)
        phase = Phase.CHECKPOINT if w.node.answering and names and w.ended(TaskKind.CHECKPOINT) is None else Phase.STOP
        return act(BeginDemotion(DemoteMode.SHUTDOWN, phase, names), because="asked to end: handing over")
    return None


def stop(w: World) -> Decision | None:
    """Any other running server is stopped fast."""
    if w.node.running:
        return act(BeginDemotion(DemoteMode.SHUTDOWN, Phase.STOP), because="asked to end: stopping the server")
    return None


def release(w: World) -> Decision | None:
    """Nothing runs but the lock is still mine: give it back."""
    if w.holds:
        return act(ReleaseLease(), because="asked to end: giving the lock back")
    return None


def leave(w: World) -> Decision | None:
    """Nothing is left to do."""
    return end(Exit(0, "stopped"), because="asked to end: nothing runs here")


SHUTDOWN = Table("shutdown", renew, cancel_running, paused, name_whoever_takes_over, hand_over, leave_sync, stop, release, leave)
