"""Every kind of fault: what it is, whom it can strike, how it strikes. A strike returns what takes it back.

Two faults of one kind may strike the same machine at the same time: the first that ends puts things right for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from pgcore.model.basics import Json
from pgcore.testing.simulation.network import STORE, Line, Traffic
from pgcore.testing.simulation.schedule import Fault, ScheduleError

if TYPE_CHECKING:
    from pgcore.testing.simulation.machine import Machine
    from pgcore.testing.simulation.world import World

Undo = Callable[[], None]
Strike = Callable[["World", list["Machine"], Fault], Undo | None]
Arguments = Callable[[Random], dict[str, Json]]

MACHINES = ("leader", "leader", "replica 1", "replica 2", "sync 1", "other 1")
"""Where trouble of one machine strikes: as often a primary as another."""


@dataclass(frozen=True)
class Kind:
    """``targets``: words to draw from; ``all`` stands for what is no machine's trouble. ``lasts``: it has an end to be drawn."""

    name: str
    sentence: str
    strike: Strike
    targets: tuple[str, ...] = MACHINES
    lasts: bool = True
    args: Arguments = lambda dice: {}


KINDS: dict[str, Kind] = {}
"""Every kind, by name."""


def kind(name: str, *, targets: tuple[str, ...] = MACHINES, lasts: bool = True,
         args: Arguments = lambda dice: {}) -> Callable[[Strike], Strike]:
    """Register the decorated strike; its docstring is the sentence."""

    def register(strike: Strike) -> Strike:
        KINDS[name] = Kind(name, " ".join((strike.__doc__ or "").split()), strike, targets, lasts, args)
        return strike

    return register


def resolve(world: World, target: str) -> list[Machine]:
    """The machines that these words mean at this moment. Raises ScheduleError for words that never mean any.

    ``all``; ``leader``; ``replica N``, ``sync N``, ``other N`` (neither leader nor synchronous): the Nth of them, counted round;
    ``half N``: half of the machines, from the Nth on; or names, separated by commas.
    """
    machines = list(world)
    word, _, number = target.partition(" ")
    first = int(number) - 1 if number.isdigit() else 0
    if word == "all":
        return machines
    if word == "half":
        return [machines[(first + each) % len(machines)] for each in range(max(1, len(machines) // 2))]
    leader = world.leader
    if word == "leader":
        return [world[leader]] if leader in world.machines else machines[:1]
    if word in ("replica", "sync", "other"):
        replicas = [each for each in machines if each.name != leader]
        standbys = world.view().sync.standbys
        listed = [each for each in replicas if each.name in standbys]
        rest = [each for each in replicas if each not in listed]
        chosen = {"replica": replicas, "sync": listed or replicas, "other": rest or replicas}[word] or machines
        return [chosen[first % len(chosen)]]
    unknown = [name for name in target.split(",") if name not in world.machines]
    if unknown:
        raise ScheduleError(f"there is no machine {', '.join(unknown)}; there are {', '.join(world.machines)}")
    return [world[name] for name in target.split(",")]


# -- the store ---------------------------------------------------------------------------------------------------------------


@kind("store-away", targets=("all",))
def _store_away(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """The store answers nobody: it has no majority."""
    return _away(world, 0.0)


def _away(world: World, forgives_s: float) -> Undo:
    world.store.serving = False

    def back() -> None:
        world.store.serving = True
        if forgives_s:
            world.store.forgive(forgives_s)
        world.store.lapse()

    return back


def _ttl(world: World) -> float:
    agents = [machine.agent for machine in world if machine.agent is not None]
    return float(max((agent.settings.timing.ttl for agent in agents), default=10))


@kind("store-new-leader", targets=("all",))
def _store_new_leader(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """The store elects another leader: it is away for a moment, then every lease begins anew."""
    return _away(world, _ttl(world))


@kind("store-read-only", targets=("all",))
def _store_read_only(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """The store answers reads only."""
    world.store.writable = False

    def back() -> None:
        world.store.writable = True
        world.store.lapse()

    return back


@kind("store-wipe", targets=("all",), lasts=False)
def _store_wipe(world: World, machines: list[Machine], fault: Fault) -> None:
    """Somebody removes everything from the store."""
    world.store.wipe()


@kind("session-lost", lasts=False)
def _session_lost(world: World, machines: list[Machine], fault: Fault) -> None:
    """A member's session ends in the store before its time: an operator destroyed it, or the local agent of the store left."""
    for machine in machines:
        world.store.lose_session(machine.name)


@kind("store-stale", targets=("all",), args=lambda dice: {"share": dice.choice((0.2, 0.5, 0.9))})
def _store_stale(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """Reads that need not be fresh are answered from the past."""
    world.store.stale = float(fault.args.get("share", 0.5))

    def fresh() -> None:
        world.store.stale = 0.0

    return fresh


# -- lines -------------------------------------------------------------------------------------------------------------------

GOOD = Line()


def _spoil(lines: list[Line], **values: float) -> Undo:
    for line in lines:
        for name, value in values.items():
            setattr(line, name, value)

    def mend() -> None:
        for line in lines:
            for name in values:
                setattr(line, name, getattr(GOOD, name))

    return mend


def _lines(world: World, machines: list[Machine], traffic: Traffic, way: Json = "both") -> list[Line]:
    """Between these machines and the store, or between them and every other machine: ``out``, ``in`` or ``both``."""
    found = []
    for machine in machines:
        for end in [STORE] if traffic is Traffic.STORE else [each.name for each in world if each is not machine]:
            found += [world.network.line(traffic, machine.name, end)] if way != "in" else []
            found += [world.network.line(traffic, end, machine.name)] if way != "out" else []
    return found


def _way(dice: Random) -> dict[str, Json]:
    return {"way": dice.choice(("out", "in", "both"))}


STORE_LINES = (*MACHINES, "all")


@kind("store-cut", args=_way)
def _store_cut(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """One machine does not reach the store, or does not hear its answers."""
    return _cut(_lines(world, machines, Traffic.STORE, fault.args.get("way")))


@kind("store-slow", targets=STORE_LINES, args=lambda dice: {"delay_s": dice.choice((0.05, 0.3, 1.0, 2.5)), **_way(dice)})
def _store_slow(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """Requests to the store, or its answers, take their time."""
    delay = float(fault.args.get("delay_s", 1.0))
    return _spoil(_lines(world, machines, Traffic.STORE, fault.args.get("way")), delay_s=delay, jitter_s=delay)


@kind("store-loss", targets=STORE_LINES, args=lambda dice: {"share": dice.choice((0.1, 0.3, 0.6)), **_way(dice)})
def _store_loss(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """Requests to the store are lost, or carried out while their answers are lost."""
    return _spoil(_lines(world, machines, Traffic.STORE, fault.args.get("way")), loss=float(fault.args.get("share", 0.3)))


@kind("store-late", targets=STORE_LINES, args=lambda dice: {"share": dice.choice((0.1, 0.3, 0.6)), **_way(dice)})
def _store_late(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """Requests arrive long after their senders have given up, and are carried out then."""
    return _spoil(_lines(world, machines, Traffic.STORE, fault.args.get("way")), late=float(fault.args.get("share", 0.3)))


@kind("http-slow", targets=STORE_LINES, args=lambda dice: {"delay_s": dice.choice((0.3, 1.0, 2.5)), **_way(dice)})
def _http_slow(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """What members ask one another takes its time."""
    delay = float(fault.args.get("delay_s", 1.0))
    return _spoil(_lines(world, machines, Traffic.HTTP, fault.args.get("way")), delay_s=delay, jitter_s=delay)


@kind("http-loss", targets=STORE_LINES, args=lambda dice: {"share": dice.choice((0.3, 0.6, 1.0)), **_way(dice)})
def _http_loss(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """What members ask one another is lost, or the answers are."""
    return _spoil(_lines(world, machines, Traffic.HTTP, fault.args.get("way")), loss=float(fault.args.get("share", 0.5)))


def _cut(lines: list[Line]) -> Undo:
    for line in lines:
        line.cuts += 1

    def mend() -> None:
        for line in lines:
            line.cuts -= 1

    return mend


@kind("http-cut", args=_way)
def _http_cut(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """A machine cannot ask the others, or they cannot ask it."""
    return _cut(_lines(world, machines, Traffic.HTTP, fault.args.get("way")))


@kind("stream-cut")
def _stream_cut(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """No connection between its server and the others."""
    return _cut(_lines(world, machines, Traffic.SQL))


@kind("partition")
def _partition(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """A machine reaches nobody, and nobody reaches it."""
    return _cut([line for traffic in Traffic for line in _lines(world, machines, traffic)])


@kind("split", targets=("half 1", "half 2", "half 3", "half 4"),
      args=lambda dice: {"store": dice.choice(("here", "there", "both"))})
def _split(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """The network falls into two halves; the store is reached from one of them, or from both."""
    there = [each for each in world if each not in machines]
    store = fault.args.get("store", "there")
    lines = [world.network.line(traffic, one.name, other.name) for traffic in (Traffic.HTTP, Traffic.SQL)
             for here in machines for away in there for one, other in ((here, away), (away, here))]
    apart = {"here": there, "there": machines}.get(str(store), [])
    return _cut(lines + _lines(world, apart, Traffic.STORE))


# -- machines and agents -----------------------------------------------------------------------------------------------------


def _each(machines: list[Machine], begin: Callable[[Machine], Undo]) -> Undo:
    undo = [begin(machine) for machine in machines]

    def back() -> None:
        for each in undo:
            each()

    return back


@kind("freeze")
def _freeze(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """The machine stands still and goes on later, as a suspended virtual one."""
    return _each(machines, lambda machine: machine.freeze())


@kind("freeze-agent")
def _freeze_agent(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """The agent stands still (SIGSTOP); its server and its guard go on."""
    return _each(machines, lambda machine: machine.freeze_agent())


@kind("kill-agent")
def _kill_agent(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """The agent is killed and begins anew later; its server goes on."""

    def kill(machine: Machine) -> Undo:
        machine.kill_agent()
        return machine.start_agent

    return _each(machines, kill)


@kind("end-agent")
def _end_agent(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """The agent is asked to end (SIGTERM), which stops its server; it begins anew later."""

    def end(machine: Machine) -> Undo:
        machine.wanted = False
        world.checker.operator_acted()
        machine.end_agent()

        def again() -> None:
            machine.wanted = True
            machine.start_agent()

        return again

    return _each(machines, end)


@kind("power-loss")
def _power_loss(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """Everything on the machine is gone at once; it boots later."""

    def off(machine: Machine) -> Undo:
        machine.power_off()
        return machine.power_on

    return _each(machines, off)


# -- servers -----------------------------------------------------------------------------------------------------------------


@kind("crash", lasts=False)
def _crash(world: World, machines: list[Machine], fault: Fault) -> None:
    """The server's processes are killed."""
    for machine in machines:
        machine.server.kill()


@kind("hang", args=lambda dice: {"killable": dice.random() < 0.7})
def _hang(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """The server neither answers nor ends; one that is not killable hangs in the kernel."""

    return _each(machines, lambda machine: machine.hang_server(killable=bool(fault.args.get("killable", True))))


def _pace(machines: list[Machine], **values: float | bool) -> Undo:
    good = {name: getattr(type(machines[0].server.pace)(), name) for name in values} if machines else {}
    for machine in machines:
        for name, value in values.items():
            setattr(machine.server.pace, name, value)

    def mend() -> None:
        for machine in machines:
            for name, value in good.items():
                setattr(machine.server.pace, name, value)

    return mend


def _pace_kind(name: str, sentence: str, knob: str, values: tuple[float, ...] = ()) -> None:
    """A fault that turns one knob of the server model: on, or to one of these values."""

    def strike(world: World, machines: list[Machine], fault: Fault) -> Undo:
        return _pace(machines, **{knob: fault.args.get("value", values[0] if values else True)})

    def arguments(dice: Random) -> Mapping[str, Json]:
        return {"value": dice.choice(values)} if values else {}

    KINDS[name] = Kind(name, sentence, strike, MACHINES, True, lambda dice: dict(arguments(dice)))


_pace_kind("slow-start", "The server takes long to start.", "start_s", (2.0, 5.0, 20.0))
_pace_kind("long-recovery", "Crash recovery takes long.", "recovery_s", (10.0, 40.0))
_pace_kind("endless-recovery", "Crash recovery takes longer than anybody waits for it.", "recovery_s", (400.0,))
_pace_kind("slow-stop", "The server takes long to stop.", "stop_s", (5.0, 20.0, 40.0))
_pace_kind("hung-stop", "A fast stop does not end.", "hung_stop")
_pace_kind("slow-promote", "A promotion takes long.", "promote_s", (2.0, 8.0, 20.0))
_pace_kind("slow-checkpoint", "Checkpoints take long.", "checkpoint_s", (3.0, 15.0, 40.0))
_pace_kind("slow-rewind", "pg_rewind takes long.", "rewind_s", (10.0, 40.0))
_pace_kind("slow-query", "The server takes long to answer.", "query_s", (0.3, 2.0, 6.0))
_pace_kind("slow-copy", "Base backups take long.", "clone_s", (20.0, 60.0))
_pace_kind("lag", "WAL is received late.", "receive_s", (0.2, 2.0, 10.0))
_pace_kind("replay-lag", "WAL is replayed late.", "replay_s", (0.5, 3.0, 20.0))
_pace_kind("slow-machine", "Everything the server does takes many times longer.", "slow", (2.0, 5.0))
_pace_kind("disk-full", "The disk is full.", "disk_full")
_pace_kind("disk-gone", "The file system of the data directory is not there.", "unreadable")
_pace_kind("broken-start", "The server does not start: a mistake in its configuration.", "broken")
_pace_kind("rewind-fails", "pg_rewind fails.", "rewind_fails")
_pace_kind("rewind-tears", "pg_rewind dies half way.", "rewind_tears")
_pace_kind("bootstrap-fails", "initdb fails.", "bootstrap_fails")
_pace_kind("copy-fails", "Base backups fail.", "clone_fails")


# -- what plugins do ---------------------------------------------------------------------------------------------------------


@kind("veto")
def _veto(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """The gate of promotions says no."""
    return _flags(machines, "vetoes", True, False)


@kind("slow-gate", args=lambda dice: {"value": dice.choice((0.5, 3.0, 12.0))})
def _slow_gate(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """The gate of promotions takes its time."""
    return _flags(machines, "gate_s", float(fault.args.get("value", 3.0)), 0.0)


@kind("slow-callbacks", args=lambda dice: {"value": dice.choice((1.0, 10.0, 60.0))})
def _slow_callbacks(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """Callbacks take their time."""
    return _flags(machines, "callback_s", float(fault.args.get("value", 10.0)), 0.0)


def _flags(machines: list[Machine], name: str, bad: float | bool, good: float | bool) -> Undo:
    for machine in machines:
        setattr(machine, name, bad)

    def back() -> None:
        for machine in machines:
            setattr(machine, name, good)

    return back
