"""One real agent in a simulated process: all of ``daemon`` is what ships, behind it are simulated store, server and lines."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgcore import threads
from pgcore.clock import Deadline
from pgcore.config.load import LocalConfig, load_local
from pgcore.daemon.agent import Agent
from pgcore.daemon.board import Board
from pgcore.daemon.callbacks import CallbackLane
from pgcore.daemon.configuration import Configuration
from pgcore.daemon.mailbox import Mailbox
from pgcore.daemon.methods import works_without_leader
from pgcore.daemon.peers import Peers
from pgcore.daemon.perform import Performer, Ports
from pgcore.daemon.tasks import Tasks
from pgcore.daemon.watchers import watch_store
from pgcore.dcs import codec
from pgcore.errors import StoreUnavailableError
from pgcore.hookspecs import BootstrapMethod, CallbackEvent, GateRequest, ReplicaMethod, Veto
from pgcore.model import actions as a
from pgcore.model.basics import Json
from pgcore.postgres.programs import ProgramRunner
from pgcore.postgres.server import Postgres
from pgcore.testing.simulation.http import Doors, SimulatedHttp
from pgcore.testing.simulation.store import SimulatedStore
from pgcore.testing.simulation.watching import Watch

if TYPE_CHECKING:
    from pgcore.registry import Registry
    from pgcore.testing.simulation.machine import Machine

STORE_RETRY_S = 1.0
LOGIN = {"username": "member", "password": "simulated"}
"""Without one, unsafe requests are answered on loopback only, so nobody would vouch for a primary."""


@dataclass(frozen=True)
class _NoOptions:
    """The simulated store's section."""


@functools.lru_cache(maxsize=256)
def local_config(text: str) -> LocalConfig:
    """A node's configuration from the text of its file."""
    return load_local(None, {"PGCORE_CONFIGURATION": text}, {"simulated": _NoOptions})


def config_text(scope: str, name: str, host: str, extra: Mapping[str, Json], dynamic: Mapping[str, Json]) -> str:
    """The file of a node; JSON is YAML. ``extra`` is laid over it, ``dynamic`` is what a new cluster begins with."""
    document: dict[str, Any] = {
        "scope": scope,
        "name": name,
        "restapi": {"listen": f"{host}:8008", "connect_address": f"{host}:8008", "authentication": LOGIN},
        "simulated": {},
        "watchdog": {"mode": "off"},
        "bootstrap": {"dcs": {"postgresql": {"use_pg_rewind": True}, **dynamic}},
        "postgresql": {
            "listen": f"{host}:5432",
            "connect_address": f"{host}:5432",
            "data_dir": f"/simulated/{name}",
            "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "replicator"}},
        },
    }
    for section, value in extra.items():
        found = document.get(section)
        document[section] = {**found, **value} if isinstance(found, dict) and isinstance(value, Mapping) else value
    return json.dumps(document)


def _without_leader(options: Json) -> bool:
    """This method makes a replica while nobody leads."""
    return isinstance(options, Mapping) and bool(options.get("no_leader"))


class _Configuration(Configuration):
    """Whose cache file is a value on the simulated disk."""

    def __init__(self, machine: Machine, local: LocalConfig) -> None:
        self._machine = machine
        registry: Registry = _Guests(machine)  # type: ignore[assignment]
        super().__init__(local, 5, 15, leaderless=lambda methods: works_without_leader(registry, methods))

    def read_local(self) -> LocalConfig:
        """The node's file as it is now."""
        return local_config(self._machine.config)

    def read_cache(self) -> dict[str, Json] | None:
        """What the disk keeps."""
        return self._machine.disk.get("dynamic")

    def write_cache(self, document: Mapping[str, Json]) -> None:
        """Keep it on the disk."""
        self._machine.disk["dynamic"] = dict(document)


class _Signals:
    """SIGTERM and SIGHUP."""

    def __init__(self) -> None:
        self.asked = threads.event()
        self.reload = False

    def take_reload(self) -> bool:
        """True once after each SIGHUP."""
        asked, self.reload = self.reload, False
        return asked

    def reloaded(self) -> None:
        """Nobody waits for it."""


class _Guests:
    """The plugins of a simulated node: base backups, initdb, backups from an archive, a gate that faults can close."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def collect(self, hook: str, **arguments: Any) -> dict[str, Any]:
        """Nobody contributes."""
        return {}

    def tell(self, hook: str, **arguments: Any) -> None:
        """Callbacks take their time."""
        event = arguments.get("event")
        if isinstance(event, CallbackEvent):
            self._machine.heard.append(f"{event.action} {event.role}")
        if self._machine.callback_s:
            threads.sleep(self._machine.callback_s)

    def ask(self, hook: str, *, request: GateRequest) -> list[Veto]:
        """The gate of promotions."""
        if self._machine.gate_s:
            threads.sleep(self._machine.gate_s)
        return [Veto("the gate of this simulation is closed")] if self._machine.vetoes else []

    def replica_methods(self) -> dict[str, ReplicaMethod]:
        """A base backup, and ``restore`` of a backup; the server model makes them."""
        return {
            "basebackup": ReplicaMethod("basebackup", lambda request: None),
            "restore": ReplicaMethod("restore", lambda request: None, _without_leader),
        }

    def bootstrap_methods(self) -> dict[str, BootstrapMethod]:
        """initdb, and ``restore`` of a backup; the server model makes them."""
        return {name: BootstrapMethod(name, lambda request: None) for name in ("initdb", "restore")}


class _PostmasterWatch:
    """Wakes the heartbeat when the server's processes are gone."""

    def __init__(self, machine: Machine, mailbox: Mailbox) -> None:
        self._machine, self._mailbox = machine, mailbox
        self._pid: int | None = None

    def follow(self, pid: int | None) -> None:
        """Watch this process from now on."""
        self._pid = pid

    def ended(self, pid: int) -> None:
        """That one is gone."""
        if pid == self._pid:
            self._mailbox.wake("the postmaster ended")


class AgentLife:
    """From the start of the process to its end. ``run`` is its main thread."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.agent: Agent | None = None
        self.ended: a.Exit | None = None
        self.mailbox, self.signals, self.board = Mailbox(), _Signals(), Board()
        self.watch = _PostmasterWatch(machine, self.mailbox)

    def run(self) -> None:
        """As ``pgcore run`` after it has read its files."""
        machine = self.machine
        world = machine.world
        local = local_config(machine.config)
        configuration = _Configuration(machine, local)
        timing = configuration.effective.timing
        store = world.store.client(world.network, machine.name, local.node.name, timing)
        if not self._store_answers(store, configuration):
            return self._over()
        registry: Registry = _Guests(machine)  # type: ignore[assignment]
        postgres: Postgres = machine.postgres(configuration.server)  # type: ignore[assignment]
        http = SimulatedHttp(world.scheduler, world.network, machine.name, machine.host, world.doors_at)
        ports = Ports(
            store,
            postgres,
            Tasks(self.mailbox, lambda: None, self.board.show_task),
            Peers(configuration.peer_access(), transport=http),
            CallbackLane(registry),
            registry,
            self.mailbox,
            configuration,
            watchdogs=machine.watchdogs,
        )
        machine.doors = Doors(world.scheduler.current, self.board, postgres.position, ports.failsafe, configuration.rest)
        postgres.configure(configuration.server)
        configuration.server_stale = postgres.attach()
        node = postgres.observe(Deadline.after(1.0))
        performer = Performer(ports)
        agent = Agent(
            performer, self.board, machine.guard, node, self.signals, self.watch, lambda: None, lambda: machine.guard,
            Watch(world, machine.name),
        )
        self.agent = agent
        watch_store(store, self.mailbox, lambda: performer.revision, lambda: float(agent.settings.timing.loop_wait))
        self.ended = agent.run()
        if not self.ended.leave_running and postgres.postmaster() is not None:
            postgres.stop(ProgramRunner(), mode="fast", timeout_s=60.0)
        store.close()
        return self._over()

    def _over(self) -> None:
        self.machine.agent_ended(self)

    def _store_answers(self, store: SimulatedStore, configuration: Configuration) -> bool:
        """Wait for the store, then put its configuration in force; false: asked to end meanwhile."""
        while not self.signals.asked.is_set():
            try:
                snapshot = store.read(fresh=False, deadline=Deadline.after(configuration.effective.timing.retry_timeout))
            except StoreUnavailableError:
                self.signals.asked.wait(STORE_RETRY_S)
                continue
            configuration.update(codec.decode(snapshot), configuration.server_major)
            store.retime(configuration.effective.timing)
            return True
        return False
