"""Orders between the mailbox and Memory: what is taken, what is answered and when. (HA rules 24)"""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgcore.daemon.mailbox import CancelRestart, CarryOut, Letter, ScheduleRestart
from pgcore.daemon.orders import Orders
from pgcore.model.node import TaskKind, TaskResult
from pgcore.model.orders import ReinitOrder, RestartOrder
from pgcore.model.world import Memory, World
from pgcore.testing.builders import did, doing, primary, standby, starting, view, world

RESTART = CarryOut(RestartOrder())


def with_memory(node: object, memory: Memory) -> World:
    return replace(world(node, view("a")), memory=memory)  # type: ignore[arg-type]


def taken(orders: Orders, request: object = RESTART, memory: Memory = Memory()) -> tuple[Letter, Memory]:
    letter = Letter(request)  # type: ignore[arg-type]
    return letter, orders.take(letter, memory, "noon")


def ended(result: TaskResult, node: object = primary()) -> str:
    """What the one who asked for a restart is told when it ended like this."""
    orders = Orders()
    letter, memory = taken(orders)
    begun = replace(memory, order=None)
    orders.settle(with_memory(doing(TaskKind.RESTART, primary()), begun))
    assert not letter.reply.done()
    orders.settle(with_memory(node, replace(begun, restart_result=result)))
    return str(letter.reply.result(0))


def test_a_restart_is_answered_when_it_has_ended() -> None:
    assert ended(did(TaskKind.RESTART)) == ""
    assert ended(did(TaskKind.RESTART), starting(primary())) == "postgres is still starting"
    assert ended(did(TaskKind.RESTART, "FATAL")) == "restart failed"
    assert ended(did(TaskKind.RESTART, cancelled=True)) == "restart failed"


def test_a_refused_order_is_answered_at_once() -> None:
    orders = Orders()
    letter, memory = taken(orders)
    assert memory.order is not None
    orders.settle(with_memory(primary(), memory))
    assert not letter.reply.done()
    orders.settle(with_memory(primary(), replace(memory, order=None, order_refused="no")))
    assert letter.reply.result(0) == "no"


def test_a_new_copy_is_answered_when_it_has_begun() -> None:
    orders = Orders()
    letter, memory = taken(orders, CarryOut(ReinitOrder()))
    orders.settle(with_memory(doing(TaskKind.REINITIALIZE, standby()), replace(memory, order=None)))
    assert letter.reply.result(0) == ""


def test_what_is_scheduled_and_what_is_taken_back_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    orders = Orders()
    wanted = ScheduleRestart(RestartOrder(role="primary"), 7.0, {"schedule": "at noon", "role": "primary"})
    _, memory = taken(orders, wanted)
    _, memory = taken(orders, wanted, memory)
    _, memory = taken(orders, CancelRestart(), memory)
    taken(orders, CancelRestart(), memory)
    assert [record.getMessage() for record in caplog.records] == [
        "a restart is scheduled on request: schedule at noon, role primary",
        "the scheduled restart was deleted on request: schedule at noon, role primary",
    ]


def test_a_second_order_while_one_waits_is_refused() -> None:
    orders = Orders()
    _, memory = taken(orders, CarryOut(ReinitOrder(force=True)))
    second, after = taken(orders, RESTART, memory)
    assert second.reply.result(0) == "reinitialize already in progress"
    assert after is memory


def test_an_order_forgets_the_refusal_of_the_one_before() -> None:
    _, memory = taken(Orders(), RESTART, Memory(order_refused="no"))
    assert memory.order_refused == ""


def test_a_forced_copy_can_be_asked_for_during_a_restart_which_is_answered_too() -> None:
    orders = Orders()
    restart, memory = taken(orders)
    begun = replace(memory, order=None)
    orders.settle(with_memory(doing(TaskKind.RESTART, standby()), begun))
    copy, memory = taken(orders, CarryOut(ReinitOrder(force=True)), begun)
    assert memory.order is not None
    over = replace(memory, order=None, restart_result=did(TaskKind.RESTART, cancelled=True))
    orders.settle(with_memory(doing(TaskKind.REINITIALIZE, standby()), over))
    assert (restart.reply.result(0), copy.reply.result(0)) == ("restart failed", "")


def test_one_restart_is_scheduled_at_a_time() -> None:
    orders, plan = Orders(), ScheduleRestart(RestartOrder("replica"), 17.0, {"schedule": "later"})
    first, memory = taken(orders, plan)
    second, same = taken(orders, replace(plan, due_at=18.0), memory)
    assert (first.reply.result(0), second.reply.result(0)) == (True, False)
    kept = same.scheduled_restart
    assert kept is not None
    assert (kept.order, kept.due_at, kept.postmaster_start) == (RestartOrder("replica"), 17.0, "noon")
    gone, memory = taken(orders, CancelRestart(), same)
    again, _ = taken(orders, CancelRestart(), memory)
    assert (gone.reply.result(0), again.reply.result(0), memory.scheduled_restart) == (True, False, None)
