"""One machine: its clock, its disk, its server, its guard and the agent that runs on it, if one does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pgcore.daemon.agent import Agent
from pgcore.model.server import ServerSettings
from pgcore.testing.simulation.agent import AgentLife
from pgcore.testing.simulation.guard import SimulatedGuard
from pgcore.testing.simulation.http import Doors
from pgcore.testing.simulation.scheduler import Process
from pgcore.testing.simulation.watchdogs import Watchdogs

if TYPE_CHECKING:
    from pgcore.model.basics import Json
    from pgcore.testing.simulation.postgres import SimulatedPostgres
    from pgcore.testing.simulation.server import Server
    from pgcore.testing.simulation.world import World


class Machine:
    """``rate``: how fast its clock runs; ``offset``: how wrong its clock on the wall is, in seconds."""

    def __init__(self, world: World, name: str, host: str, config: str, *, rate: float = 1.0, offset: float = 0.0) -> None:
        self.world, self.name, self.host, self.config = world, name, host, config
        self.rate, self.offset = rate, offset
        self.disk: dict[str, Any] = {}
        """What of the agent's files is kept."""
        self.powered = True
        self.frozen = 0
        """How many faults keep the whole machine standing still."""
        self.agent_frozen = self._hangs = 0
        self._killable = True
        self.thawed_at = -1e9
        self.callback_s = self.gate_s = 0.0
        self.vetoes = False
        self.heard: list[str] = []
        """What the callbacks of its agents were told, each as ``on_role_change primary``."""
        self.bug = False
        """Every heartbeat of its agent ends with an error that nobody has foreseen."""
        self.doors: Doors | None = None
        self.life: AgentLife | None = None
        self.process: Process | None = None
        """The agent's."""
        self.guard_process = self._new_process("guard")
        self.server: Server = world.new_server(self)
        self.server.on_exit.append(self._postmaster_ended)
        self.guard = SimulatedGuard(self.guard_process, lambda: self.server, self._guard_acted)
        self.watchdogs = Watchdogs(self)
        self.wanted = True
        """Whoever starts agents keeps this one running."""

    def _new_process(self, kind: str) -> Process:
        return Process(self.world.scheduler, f"{self.name}/{kind}", self.rate, self.offset)

    def _guard_acted(self, how: str) -> None:
        self.world.tell(self.name, f"the guard stops the server: {how}")

    # -- the agent -----------------------------------------------------------------------------------------------------------

    @property
    def agent(self) -> Agent | None:
        """The agent that runs; None: none does, or it has not got through its start yet."""
        running = self.process is not None and self.process.alive and self.life is not None
        return self.life.agent if running and self.life is not None else None

    @property
    def agent_runs(self) -> bool:
        """There is an agent's process, frozen or not."""
        return self.process is not None and self.process.alive

    def start_agent(self) -> None:
        """Begin a new agent unless one runs or the machine is off."""
        if self.agent_runs or not self.powered:
            return
        process = self.process = self._new_process("agent")
        if self.frozen or self.agent_frozen:
            process.freeze()
        scheduler = self.world.scheduler
        before, scheduler.current = scheduler.current, process
        try:
            self.life = AgentLife(self)
        finally:
            scheduler.current = before
        process.start(self.life.run)

    def kill_agent(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
        self.doors = None

    def end_agent(self) -> None:
        """SIGTERM."""
        if self.life is not None and self.agent_runs:
            self.life.signals.asked.set()
            self.life.mailbox.wake("signal SIGTERM")

    def reconfigure(self, **sections: Mapping[str, Json]) -> None:
        """Change these sections of the node's file and send SIGHUP."""
        document = json.loads(self.config)
        for name, section in sections.items():
            document[name] = {**document.get(name, {}), **section}
        self.config = json.dumps(document)
        if self.life is not None and self.agent_runs:
            self.life.signals.reload = True
            self.life.mailbox.wake("signal SIGHUP")

    def agent_ended(self, life: AgentLife) -> None:
        """It has come to its own end."""
        self.kill_agent()
        message = life.ended.message if life.ended is not None else "asked to end before the store answered"
        self.world.tell(self.name, f"the agent ended: {message}")
        self.world.agent_ended(self)

    def postgres(self, settings: ServerSettings) -> SimulatedPostgres:
        """The agent's hold on the server."""
        return self.world.new_postgres(self, settings)

    def _postmaster_ended(self, pid: int) -> None:
        if self.agent_runs and self.life is not None:
            self.life.watch.ended(pid)

    # -- the whole machine ---------------------------------------------------------------------------------------------------

    def _processes(self) -> list[Process]:
        return [each for each in (self.process, self.guard_process) if each is not None and each.alive]

    def freeze(self) -> Callable[[], None]:
        """The machine stands still, as a suspended virtual one; the result lets it go on."""
        self.frozen += 1
        for process in self._processes():
            process.freeze()
        self.server.hang()

        def thaw() -> None:
            self.frozen -= 1
            if not self.frozen:
                self.server.resume()
                if self._hangs:
                    self.server.hang(killable=self._killable)
            if not self.frozen and self.powered:
                self.thawed_at = self.world.now
                self.world.checker.thawed(self.server)
                for process in self._processes():
                    if process is not self.process or not self.agent_frozen:
                        process.thaw()

        return thaw

    def hang_server(self, *, killable: bool) -> Callable[[], None]:
        """The server's processes do nothing; unless ``killable`` they cannot even end. The result lets them go on."""
        self._hangs += 1
        self._killable = killable
        if not self.frozen:
            self.server.hang(killable=killable)

        def resume() -> None:
            self._hangs -= 1
            if not self._hangs and not self.frozen:
                self.server.resume()

        return resume

    def freeze_agent(self) -> Callable[[], None]:
        """SIGSTOP to the agent; server and guard go on. The result lets it go on."""
        self.agent_frozen += 1
        if self.process is not None:
            self.process.freeze()

        def thaw() -> None:
            self.agent_frozen -= 1
            if not self.agent_frozen and not self.frozen and self.process is not None and self.process.alive:
                self.process.thaw()

        return thaw

    def power_off(self) -> None:
        """Everything on it is gone in an instant; its disk stays."""
        self.powered = False
        self.kill_agent()
        self.server.power_off()
        self.guard_process.kill()
        self.watchdogs.lose_power()

    def power_on(self) -> None:
        """It boots: nothing runs yet but what starts agents."""
        if self.powered:
            return
        self.powered = True
        self.guard_process = self._new_process("guard")
        self.guard = SimulatedGuard(self.guard_process, lambda: self.server, self._guard_acted)
        self.start_agent()
