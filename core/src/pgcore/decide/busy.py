"""A long action is running beside the heartbeat. (HA rules 14.2)"""

from __future__ import annotations

from pgcore.decide import starting, switchover
from pgcore.decide.candidates import another_could_lead, ask_them
from pgcore.decide.lease import renew
from pgcore.decide.table import Table
from pgcore.model.actions import BeginDemotion, CancelTask, DemoteMode, Phase
from pgcore.model.basics import Role
from pgcore.model.decision import Decision, act, rest
from pgcore.model.node import TaskKind
from pgcore.model.world import World


def _holder(w: World) -> str:
    leader = w.cluster.leader
    return leader if leader and leader != w.me else "nobody"


def lost_lock(w: World) -> Decision | None:
    """The lock is gone while this node becomes a primary: cancel that and stop. (HA rules 14.2.2, 30.4, EC 57, 93)"""
    task = w.node.task
    if task is not None and w.becoming_primary and not w.paused and (w.refused or not w.is_holder):
        return act(
            CancelTask(),
            BeginDemotion(DemoteMode.IMMEDIATE_NOLOCK, Phase.STOP),
            because=f"lost the lock to {_holder(w)} during {task.kind}",
        )
    return None


def _overdue(w: World) -> str:
    """How the crash recovery of the holder exceeds its limit; empty if it does not."""
    task, limit = w.node.task, w.settings.primary_start_timeout
    recovers = task is not None and task.kind is TaskKind.CRASH_RECOVERY and w.now - task.since > limit
    return f"crash recovery takes longer than primary_start_timeout ({limit} s)" if recovers and w.holds and not w.paused else ""


def ask_others(w: World) -> Decision | None:
    """Crash recovery takes longer than allowed: see whether somebody else is well. (HA rules 14.2.1, 16.5, EC 84)"""
    overdue = _overdue(w)
    return ask_them(w, overdue) if overdue else None


def recovery_too_long(w: World) -> Decision | None:
    """Crash recovery takes longer than allowed while another node could lead: kill it and give way. (HA rules 14.2.1, EC 84)"""
    overdue = _overdue(w)
    if not overdue or not another_could_lead(w):
        return None
    because = f"{overdue} and another member is well"
    return act(CancelTask(), BeginDemotion(DemoteMode.IMMEDIATE, Phase.STOP), because=because)


def ask_candidate(w: World) -> Decision | None:
    """The holder recovers from a crash and a manual failover is asked for: see whether its candidate is well. (EC 72)"""
    return starting.ask_candidate(w) if w.task_is(TaskKind.START_PRIMARY, TaskKind.CRASH_RECOVERY) else None


def fail_over(w: World) -> Decision | None:
    """The holder recovers from a crash and an operator wants another leader: give way, without waiting for the limit. (EC 72)"""
    return starting.fail_over(w) if w.task_is(TaskKind.START_PRIMARY, TaskKind.CRASH_RECOVERY) else None


def lost_before_promotion(w: World) -> Decision | None:
    """The lock is gone while ``pre_promote`` still runs: it is killed, and the standby stays one. (HA rules 14.2.2, EC 56)"""
    task = w.node.task
    if task is None or task.kind is not TaskKind.PROMOTE or w.paused or not (w.refused or not w.is_holder):
        return None
    if task.progress.get("promoting") or w.node.is_primary or w.node.role is Role.PROMOTED:
        return None
    because = f"lost the lock to {_holder(w)} before the promotion began: cancelling it"
    return rest(CancelTask(), because=because, wake_after=0.1)


def wait(w: World) -> Decision | None:
    """The action goes on; its end wakes the next beat."""
    task = w.node.task
    assert task is not None
    return rest(because=f"{task.kind} since {w.now - task.since:.1f} s")


BUSY = Table(
    "busy",
    renew,
    lost_before_promotion,
    lost_lock,
    ask_others,
    recovery_too_long,
    ask_candidate,
    fail_over,
    switchover.refuse_while_busy,
    wait,
)
