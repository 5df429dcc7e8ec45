"""What operators do at bad moments. A change of settings and a maintenance mode have an end; the rest is asked once."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING

from pgcore.daemon.mailbox import CarryOut
from pgcore.dcs.store import Key
from pgcore.model.actions import RewindState
from pgcore.model.basics import Json
from pgcore.model.orders import Order, ReinitOrder, RestartOrder
from pgcore.testing.simulation.faults import MACHINES, Undo, kind
from pgcore.testing.simulation.schedule import Fault

if TYPE_CHECKING:
    from pgcore.testing.simulation.machine import Machine
    from pgcore.testing.simulation.world import World

AGAIN_S = 1.0
"""What the store does not take now is tried again after so long."""
ANY_REPLICA = ("replica 1", "replica 2", "replica 3", "sync 1", "other 1")


@kind("switchover", targets=("all",), lasts=False)
def _switchover(world: World, machines: list[Machine], fault: Fault) -> None:
    """An operator asks for a switchover to anybody."""
    if world.leader is not None:
        world.ask_switchover(world.leader, None)


@kind("switchover-to", targets=ANY_REPLICA, lasts=False)
def _switchover_to(world: World, machines: list[Machine], fault: Fault) -> None:
    """An operator asks for a switchover to this member."""
    if world.leader is not None:
        world.ask_switchover(world.leader, machines[0].name)


@kind("switchover-later", targets=ANY_REPLICA, lasts=False, args=lambda dice: {"in_s": dice.choice((5.0, 15.0, 45.0))})
def _switchover_later(world: World, machines: list[Machine], fault: Fault) -> None:
    """An operator schedules a switchover to this member."""
    if world.leader is not None:
        due = world.scheduler.EPOCH + world.now + float(fault.args.get("in_s", 15.0))
        world.ask_switchover(world.leader, machines[0].name, datetime.fromtimestamp(due, UTC).isoformat())


@kind("failover", targets=ANY_REPLICA, lasts=False)
def _failover(world: World, machines: list[Machine], fault: Fault) -> None:
    """An operator names the new primary by hand."""
    world.ask_switchover(None, machines[0].name)


def _order(world: World, machines: list[Machine], order: Order) -> None:
    world.checker.operator_acted()
    for machine in machines:
        if machine.life is not None and machine.agent is not None:
            machine.life.mailbox.ask(CarryOut(order))


def _restart_args(dice: Random) -> dict[str, Json]:
    return dice.choice(({}, {}, {"role": "replica"}, {"role": "primary"}, {"timeout_s": 3.0}))


@kind("restart", targets=(*MACHINES, "all"), lasts=False, args=_restart_args)
def _restart(world: World, machines: list[Machine], fault: Fault) -> None:
    """An operator restarts the server."""
    role, timeout = fault.args.get("role"), fault.args.get("timeout_s")
    _order(world, machines, RestartOrder(role=role, timeout_s=timeout))


@kind("reinitialize", targets=ANY_REPLICA, lasts=False,
      args=lambda dice: {"force": dice.random() < 0.5, "from_leader": dice.random() < 0.5})
def _reinitialize(world: World, machines: list[Machine], fault: Fault) -> None:
    """An operator has a replica copied anew."""
    _order(world, machines, ReinitOrder(force=bool(fault.args.get("force")), from_leader=bool(fault.args.get("from_leader"))))


def tend(world: World) -> int:
    """What is left to operators when all is calm: replicas that say they must be copied anew. How many there were."""
    asking = [machine for machine in world if machine.name != world.leader and _asks_for_a_copy(machine)]
    if world.leader is None and not world.key(Key.INITIALIZE):
        _begin_anew(world, asking)
    else:
        _order(world, asking, ReinitOrder(force=True))
    return len(asking)


def _begin_anew(world: World, machines: list[Machine]) -> None:
    """The cluster's creation was cut short: what there is of it is removed by hand, and the claim to make it."""
    for machine in machines:
        machine.server.remove()
    if machines and Key.INITIALIZE in world.store.entries:
        world.store.remove(Key.INITIALIZE)


def _asks_for_a_copy(machine: Machine) -> bool:
    """It has parted from the leader for good, or what was made of its data was left half done."""
    agent, files = machine.agent, machine.server.files
    if agent is None or agent.performer.ports.tasks.kind is not None:
        return False
    return agent.memory.rewind in (RewindState.TWIN, RewindState.FAILED) or (files is not None and bool(files.torn))


@kind("reload", targets=(*MACHINES, "all"), lasts=False)
def _reload(world: World, machines: list[Machine], fault: Fault) -> None:
    """SIGHUP to the agent."""
    for machine in machines:
        if machine.life is not None and machine.agent is not None:
            machine.life.signals.reload = True
            machine.life.mailbox.wake("signal SIGHUP")


# -- settings ----------------------------------------------------------------------------------------------------------------


def set_for_a_while(world: World, **changes: Json) -> Undo:
    """Change settings; the result changes them back, as soon as the store takes it."""
    before = {name: world.usual.get(name) for name in changes}
    world.configure(**changes)

    def back() -> None:
        if world.store.takes_writes:
            world.configure(**before)
        else:
            world.scheduler.after(AGAIN_S, back)

    return back


def remember(world: World) -> None:
    """The settings at this moment are the usual ones."""
    config = world.view().config
    world.usual = config.document or {} if config is not None else {}


def as_usual(world: World) -> None:
    """Every setting is what it usually is, if that is known."""
    if not world.usual:
        return
    config = world.view().config
    now = config.document if config is not None and config.document is not None else {}
    world.configure(**{name: world.usual.get(name) for name in {**world.usual, **now}})


@kind("pause", targets=("all",))
def _pause(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """Maintenance mode."""
    return set_for_a_while(world, pause=True)


SETTINGS: tuple[dict[str, Json], ...] = (
    {"ttl": 30, "loop_wait": 10, "retry_timeout": 10},
    {"ttl": 8, "loop_wait": 2, "retry_timeout": 2},
    {"ttl": 20, "loop_wait": 3, "retry_timeout": 5},
    {"maximum_lag_on_failover": 1},
    {"check_timeline": True},
    {"primary_start_timeout": 0},
    {"primary_start_timeout": 5},
    {"primary_stop_timeout": 3},
)


@kind("settings", targets=("all",), args=lambda dice: dict(dice.choice(SETTINGS)))
def _settings(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """An operator changes settings, and back later."""
    return set_for_a_while(world, **fault.args)


SYNCHRONOUS: tuple[dict[str, Json], ...] = (
    {"synchronous_mode": True},
    {"synchronous_mode": False},
    {"synchronous_mode": "quorum"},
    {"synchronous_mode": True, "synchronous_mode_strict": True},
    {"synchronous_mode": "quorum", "synchronous_node_count": 2},
    {"synchronous_node_count": 1},
    {"synchronous_node_count": 2},
)


@kind("synchronous-mode", targets=("all",), args=lambda dice: dict(dice.choice(SYNCHRONOUS)))
def _synchronous_mode(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """An operator changes synchronous mode, and back later."""
    return set_for_a_while(world, **fault.args)


@kind("failsafe-mode", targets=("all",), args=lambda dice: {"failsafe_mode": dice.random() < 0.7})
def _failsafe_mode(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """An operator changes failsafe mode, and back later."""
    return set_for_a_while(world, **fault.args)
