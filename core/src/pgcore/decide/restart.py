"""A restart that an operator asked for: its conditions, its beginning, its schedule. (HA rules 24.1-24.3)"""

from __future__ import annotations

from pgcore.decide.lease import renew
from pgcore.decide.sync_duty import leave_sync
from pgcore.decide.table import Table
from pgcore.decide.upstream import upstream
from pgcore.model.actions import DropSchedule, RefuseOrder, Restart, TakeSchedule
from pgcore.model.basics import Role
from pgcore.model.decision import Decision, Then, act, end
from pgcore.model.orders import RestartOrder
from pgcore.model.world import World

UNSATISFIED = "restart conditions are not satisfied"


def _order(w: World) -> RestartOrder:
    assert isinstance(w.memory.order, RestartOrder)
    return w.memory.order


def _primary(w: World) -> bool:
    """What is restarted is, or would start as, a primary."""
    if not w.node.running:
        return not w.node.recovery_files
    return w.node.is_primary or w.node.role in (Role.PRIMARY, Role.PROMOTED)


def in_progress(w: World) -> Decision | None:
    """Something else is under way on this node: the answer names it. (HA rules 14.2, 24.1)"""
    if w.node.task is not None:
        what = str(w.node.task.kind)
    elif w.demotion is not None:
        what = f"demotion ({w.demotion.mode})"
    elif w.bootstrapping is not None:
        what = "bootstrap"
    elif w.memory.stopping:
        what = "end of the agent"
    else:
        return None
    return act(RefuseOrder(f"{what} already in progress"), because=f"asked by an operator while {what} is in progress: refused")


def without_store(w: World) -> Decision | None:
    """The store does not answer, so it is not known who leads: nothing is begun that needs to know. (HA rules 9)"""
    if w.store_lost:
        return act(RefuseOrder("the store does not answer"), because="asked by an operator while the store is away: refused")
    return None


def stopped(w: World) -> Decision | None:
    """A stopped server is only started by request in maintenance mode; otherwise the rules are starting it anyway."""
    if w.node.running or (w.paused and w.has_data):
        return None
    return act(RefuseOrder("postgres is not running"), because="a restart was asked for, but the server does not run: refused")


def not_mine(w: World) -> Decision | None:
    """A primary may come up again only under its own lock; in maintenance mode only while nobody else has it. (HA rules 8)"""
    foreign = not w.cluster.unlocked and not w.is_holder
    if not _primary(w) or not (foreign if w.paused else not w.holds):
        return None
    holder = f"{w.cluster.leader} holds it" if foreign else "it is not proven to be mine"
    return act(RefuseOrder(UNSATISFIED), because=f"a restart of a primary needs the lock, but {holder}: refused")


def unsatisfied(w: World) -> Decision | None:
    """A condition of the request does not hold at this moment. (HA rules 24.1, EC 208)"""
    order, node = _order(w), w.node
    why = ""
    if order.role is not None and order.role != node.role:
        why = f"the role is {node.role}, not {order.role}"
    elif order.postgres_version is not None and not (node.server_version and node.server_version < order.postgres_version):
        why = f"the server's version {node.server_version} is not below {order.postgres_version}"
    elif order.restart_pending and not node.pending_restart:
        why = "no parameter waits for a restart"
    return act(RefuseOrder(UNSATISFIED), because=f"a restart was asked for, but {why}: not done") if why else None


def begin(w: World) -> Decision | None:
    """Restart in the present role; the lock goes on being renewed meanwhile. (HA rules 24.2)"""
    limit = _order(w).timeout_s or float(w.settings.primary_start_timeout or 300)
    because = f"a restart was asked for; the start may take {limit:.0f} s"
    if _primary(w):
        return end(Restart(Role.PRIMARY, None, limit), because=because)
    role = Role.STANDBY_LEADER if w.node.role is Role.STANDBY_LEADER else Role.REPLICA
    return end(Restart(role, upstream(w), limit), because=because)


RESTART = Table("restart", in_progress, renew, without_store, stopped, not_mine, unsatisfied, leave_sync, begin)


# -- scheduled; rules of the upkeep -----------------------------------------------------------------------------------


def restarted_meanwhile(w: World) -> Decision | None:
    """The postmaster was restarted since the restart was scheduled: it is not needed any more. (HA rules 24.3, EC 207)"""
    scheduled, start = w.memory.scheduled_restart, w.node.postmaster_start
    if scheduled is None or start is None or scheduled.postmaster_start in (None, start):
        return None
    return act(DropSchedule(), because=f"the scheduled restart is cancelled: the postmaster was started anew at {start}")


def restart_overdue(w: World) -> Decision | None:
    """The moment has passed by more than the window: not done at all rather than at an unexpected time. (HA rules 24.3)"""
    scheduled, window = w.memory.scheduled_restart, int(1.5 * w.settings.timing.loop_wait)
    late = w.wall - scheduled.due_at if scheduled is not None else 0.0
    if w.paused or late <= window:
        return None
    return act(DropSchedule(), because=f"the scheduled restart is {late:.0f} s overdue, more than {window} s: dropped")


def restart_due(w: World) -> Decision | None:
    """The moment of the scheduled restart has come: it becomes an order, whose conditions are checked again. (HA rules 24.3)"""
    scheduled = w.memory.scheduled_restart
    free = not w.paused and not w.busy and w.memory.order is None and w.memory.procedure is None
    if scheduled is None or not free or w.wall < scheduled.due_at:
        return None
    when = scheduled.shown.get("schedule", "now")
    return Decision(f"the restart scheduled for {when} is due", (TakeSchedule(),), Then.AGAIN, wake_after=0.0)


def restart_ahead(w: World) -> Decision | None:
    """A restart is scheduled: wake at its moment, not at the next ``loop_wait``. (HA rules 24.3)"""
    scheduled = w.memory.scheduled_restart
    if scheduled is None or w.paused or w.wall >= scheduled.due_at:
        return None
    left = scheduled.due_at - w.wall
    return Decision(f"a restart is scheduled in {left:.0f} s", (), Then.AGAIN, wake_after=left)


UPKEEP_RULES = (restarted_meanwhile, restart_overdue, restart_due, restart_ahead)
