"""The world of one run: machines with real agents, one store, one network, clients that write, and a checker of all that.

    setup = Setup(dynamic={"synchronous_mode": True})
    with World(setup, seed=7) as world:
        world.settle()
        world["a"].power_off()
        world.run(60)
        assert world.unsettled() == ""
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from pgcore.dcs import codec
from pgcore.dcs.store import Key, Record, Snapshot
from pgcore.model.basics import Json
from pgcore.model.cluster import ClusterView
from pgcore.testing.simulation.agent import config_text
from pgcore.testing.simulation.backends import BACKENDS
from pgcore.testing.simulation.checker import Checker
from pgcore.testing.simulation.clients import Clients
from pgcore.testing.simulation.http import Doors
from pgcore.testing.simulation.machine import Machine
from pgcore.testing.simulation.network import Network, Traffic
from pgcore.testing.simulation.postgres import SimulatedPostgres
from pgcore.testing.simulation.replication import Fleet
from pgcore.testing.simulation.scheduler import Scheduler, inside
from pgcore.testing.simulation.server import Server
from pgcore.testing.simulation.watchdogs import WatchdogJudge
from pgcore.testing.simulation.watching import Listener

if TYPE_CHECKING:
    from pgcore.daemon.heartbeat import Beat
    from pgcore.model.server import ServerSettings
    from pgcore.record.beats import BeatRecord
    from pgcore.testing.simulation.wal import Commit

SETTLE_S = 120.0
LOOK_S = 0.25
"""How often a condition is looked at while time passes."""


@dataclass(frozen=True)
class Setup:
    """What a run begins with: the dynamic configuration, and what goes into every node's file and into single ones.

    ``drift``: how far a machine's clock may run fast or slow, as a share. ``wall_offset``: how wrong, in seconds, clocks on the
    wall may be. ``write_s``: seconds between two commits of the clients of one server; 0: nobody writes.
    """

    nodes: tuple[str, ...] = ("a", "b", "c")
    dynamic: Mapping[str, Json] = field(default_factory=dict)
    local: Mapping[str, Json] = field(default_factory=dict)
    own: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    drift: float = 0.0
    wall_offset: float = 0.0
    write_s: float = 1.0
    scope: str = "simulated"
    backend: str = ""
    """Whose peculiarities the store has: a name of ``BACKENDS``."""


class World:
    """Use it as a context: inside, the agents' threads and clocks are virtual."""

    def __init__(self, setup: Setup = Setup(), seed: int = 0, told: Callable[[float, str, str], None] | None = None, *,
                 started: bool = True) -> None:
        """``started`` false: agents begin when somebody starts them."""
        self.setup, self.seed = setup, seed
        self.dice = Random(seed)
        self.scheduler = Scheduler()
        self._inside = inside(self.scheduler)
        self._inside.__enter__()
        self.network = Network(self.dice)
        self.store = BACKENDS[setup.backend](self.scheduler, self.dice)
        self.usual: Mapping[str, Json] = {}
        """The dynamic configuration that operators come back to."""
        self.cycles = 0
        """Heartbeats of all agents."""
        self.on_beat: list[Callable[[str, Beat], None]] = []
        """Told of every heartbeat that has ended."""
        self.on_writable: list[Callable[[Server], None]] = []
        """Told of every server that begins to accept writes."""
        self.on_acknowledged: list[Callable[[Server, Commit], None]] = []
        """Told of every commit that a client was told of."""
        self.on_record: list[Callable[[BeatRecord], None]] = []
        """Given every heartbeat as a flight recorder has it, for ``pgcore.record``: to save, explain or replay it."""
        self._told = told
        self._listener = Listener(self)
        self._listener.begin(everything=told is not None)
        self.checker = Checker(self)
        self.watchdog_judge = WatchdogJudge(self)
        self.fleet = Fleet(self.scheduler, self.dice, self._connected, self.checker.server_told)
        self.machines: dict[str, Machine] = {}
        self.by_host: dict[str, Machine] = {}
        for number, name in enumerate(setup.nodes, 1):
            self.add_machine(name, f"10.0.0.{number}")
        self.clients = Clients(self)
        self.on_writable.append(self.clients.accepting)
        self.on_acknowledged.append(self.checker.acknowledged)
        for machine in self.machines.values() if started else ():
            machine.start_agent()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End every thread; clocks and threads of this process are real again."""
        self._inside.__exit__(None, None, None)
        self._listener.end()

    # -- what is in it -------------------------------------------------------------------------------------------------------

    def add_machine(self, name: str, host: str) -> Machine:
        """A new machine; its agent is not started yet."""
        setup, dice = self.setup, self.dice
        text = config_text(setup.scope, name, host, {**setup.local, **setup.own.get(name, {})}, setup.dynamic)
        rate = 1.0 + dice.uniform(-setup.drift, setup.drift) if setup.drift else 1.0
        offset = dice.uniform(-setup.wall_offset, setup.wall_offset) if setup.wall_offset else 0.0
        machine = Machine(self, name, host, text, rate=rate, offset=offset)
        self.machines[name] = self.by_host[host] = machine
        return machine

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def __iter__(self) -> Iterator[Machine]:
        return iter(self.machines.values())

    @property
    def now(self) -> float:
        """True seconds since the world began."""
        return self.scheduler.now

    @property
    def leader(self) -> str | None:
        """Whom the lock names."""
        entry = self.store.entries.get(Key.LEADER)
        return entry.value if entry is not None else None

    def writable(self) -> list[str]:
        """Machines whose server accepts writes."""
        return [machine.name for machine in self if machine.server.writable]

    def key(self, key: str) -> str:
        """A key's value as it is in the store; empty if it is not there."""
        entry = self.store.entries.get(key)
        return entry.value if entry is not None else ""

    def view(self) -> ClusterView:
        """The cluster as the store has it."""
        records = {path: Record(entry.value, str(entry.revision)) for path, entry in self.store.entries.items()}
        return codec.decode(Snapshot(records, str(self.store.revision)))

    @property
    def paused(self) -> bool:
        """Maintenance mode is on in the store."""
        return '"pause":true' in self.key(Key.CONFIG)

    # -- what the parts of it need of one another ----------------------------------------------------------------------------

    def new_server(self, machine: Machine) -> Server:
        """Its server, with an empty data directory."""
        return Server(self.fleet, machine.name, machine.host)

    def new_postgres(self, machine: Machine, settings: ServerSettings) -> SimulatedPostgres:
        """An agent's hold on it."""
        return SimulatedPostgres(settings, machine.server)

    def doors_at(self, host: str) -> tuple[str, Doors | None] | None:
        """Who answers HTTP at this address; None: the machine is off, or there is none."""
        machine = self.by_host.get(host)
        if machine is None or not machine.powered:
            return None
        return machine.name, machine.doors

    def _connected(self, one: str, other: str) -> bool:
        if any(end in self.machines and not self.machines[end].powered for end in (one, other)):
            return False  # nobody is there to refuse: whoever asks waits until its deadline
        return self.network.both_ways(Traffic.SQL, one, other)

    def decided(self, name: str, beat: Beat) -> None:
        """An agent's heartbeat has ended."""
        for listener in self.on_beat:
            listener(name, beat)

    def agent_ended(self, machine: Machine) -> None:
        """An agent has come to its end; whoever wants it running starts it again soon."""
        if machine.wanted:
            self.scheduler.after(1.0, machine.start_agent)

    def tell(self, who: str, what: str) -> None:
        """A line of the story of this run."""
        if self._told is not None:
            self._told(self.scheduler.now, who, what)

    # -- time ----------------------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.scheduler.run(self.scheduler.now + seconds)

    def run_until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Let time pass until the condition holds; false: it did not within the limit."""
        end = self.scheduler.now + limit_s
        while not condition():
            if self.scheduler.now >= end:
                return False
            self.scheduler.run(min(end, self.scheduler.now + LOOK_S))
        return True

    def settle(self, limit_s: float = SETTLE_S) -> None:
        """Let time pass until everything is as it should be. Raises AssertionError with what is not."""
        assert self.run_until(lambda: not self.unsettled(), limit_s), f"after {limit_s:g} s: {self.unsettled()}"

    def unsettled(self) -> str:
        """What is not as it should be: one leader, everybody follows it, no request, nothing under way; empty if all is."""
        leader = self.leader
        if leader is None or leader not in self.machines or self.writable() != [leader]:
            return f"the lock names {leader}, writable: {self.writable()}"
        request = self.key(Key.FAILOVER)
        if request not in ("", "{}"):
            return f"a request is left: {request}"
        for machine in self:
            why = self._unsettled(machine, leader)
            if why:
                return f"{machine.name}: {why}"
        return self._unsettled_sync(leader)

    def _unsettled(self, machine: Machine, leader: str) -> str:
        agent = machine.agent
        if agent is None:
            return "no agent runs"
        if agent.memory.procedure is not None:
            return f"still busy: {agent.memory.procedure}"
        if machine.name == leader:
            return ""
        if machine.server.receiver is None:
            trail = [rule for _, rule, _ in list(agent.trail)[-4:]]
            return f"does not stream: {machine.server}, role {agent.node.role}, {agent.memory.rewind}, {trail}"
        return ""

    def _unsettled_sync(self, leader: str) -> str:
        agent = self[leader].agent
        settings = agent.settings if agent is not None else None
        if settings is None or settings.synchronous_mode == "off":
            return ""
        sync, wanted = self.view().sync, min(settings.synchronous_node_count, len(self.machines) - 1)
        return "" if sync.leader == leader and len(sync.standbys) >= wanted else f"/sync is {self.key(Key.SYNC)}"

    # -- operators -----------------------------------------------------------------------------------------------------------

    def write(self, key: Key, value: str) -> None:
        """An operator writes a key."""
        if self.store.takes_writes:
            with self.store.session() as server:
                server.write(key, value)

    def ask_switchover(self, leader: str | None, candidate: str | None, scheduled_at: str | None = None) -> None:
        """A switchover, or without ``leader`` a failover by hand."""
        self.checker.operator_asked(leader, candidate)
        self.write(Key.FAILOVER, codec.encode_failover(leader, candidate, scheduled_at))

    def configure(self, **changes: Json) -> None:
        """Change the dynamic configuration; None removes a setting."""
        config = self.view().config
        document = config.document if config is not None and config.document is not None else {}
        merged = {name: value for name, value in {**document, **changes}.items() if value is not None}
        self.checker.configured(merged)
        self.write(Key.CONFIG, codec.compact(merged))
