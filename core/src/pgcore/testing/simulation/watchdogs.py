"""The watchdog of a simulated machine: the real code opens and feeds it; unfed for too long it resets the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgcore.daemon.watchdog_device import WatchdogError

if TYPE_CHECKING:
    from pgcore.daemon.heartbeat import Beat
    from pgcore.testing.simulation.machine import Machine
    from pgcore.testing.simulation.scheduler import Process
    from pgcore.testing.simulation.world import World

BOOT_S = 5.0
"""From a reset until the machine runs again."""
DEFAULT_TIMEOUT_S = 60
UNWATCHED_S = 2.0
"""How long a primary may be without its watchdog: one that was adopted, or that resumes after a hand-over."""


class Watchdogs:
    """All devices of one machine, which are one. While the machine stands still, so does it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.broken = False
        """It cannot be opened, and takes no keepalive."""
        self.timeout_s = DEFAULT_TIMEOUT_S
        self.resets_at: float | None = None
        """When the machine is reset unless it is fed before; None: it does not run."""
        self.resets = 0
        """How often it has done that."""
        self.fed_by: Process | None = None
        """The agent that fed it last, which may be gone."""

    def open(self, driver: str, path: str) -> SimulatedWatchdog:
        """Open it, which starts it. Raises WatchdogError."""
        if self.broken:
            raise WatchdogError(f"{path} cannot be opened: it is broken")
        self.feed()
        return SimulatedWatchdog(self)

    def usable(self, path: str) -> bool:
        """It is there."""
        return not self.broken

    there = usable

    def feed(self) -> None:
        """Count again from now. Raises WatchdogError."""
        if self.broken:
            raise WatchdogError("writing to the watchdog failed: it is broken")
        self.resets_at, self.fed_by = self._machine.world.now + self.timeout_s, self._machine.process
        self._plan()

    def stop(self) -> None:
        """It does not count any more."""
        self.resets_at = None

    lose_power = stop

    def _plan(self) -> None:
        if self.resets_at is not None:
            self._machine.world.scheduler.after(max(0.0, self.resets_at - self._machine.world.now), self._look)

    def _look(self) -> None:
        machine = self._machine
        now, thawed_at = machine.world.now, machine.thawed_at
        if self.resets_at is None:
            return
        if self.resets_at > now:
            return
        if machine.frozen or now - thawed_at < 1.0:
            self.resets_at = now + (1.0 if machine.frozen else self.timeout_s / 2)  # what was left when it stood still
            self._plan()
            return
        self.resets += 1
        machine.world.watchdog_judge.reset(machine)
        machine.power_off()
        machine.world.scheduler.after(BOOT_S, machine.power_on)


class SimulatedWatchdog:
    """The open device."""

    can_be_stopped = True

    def __init__(self, watchdogs: Watchdogs) -> None:
        self._watchdogs = watchdogs

    def set_timeout(self, seconds: int) -> None:
        """Takes any."""
        self._watchdogs.timeout_s = seconds

    def timeout(self) -> int:
        """What it was set to."""
        return self._watchdogs.timeout_s

    def keepalive(self) -> None:
        """Count again from now."""
        self._watchdogs.feed()

    def close(self, *, stop: bool) -> None:
        """With ``stop`` it counts no more."""
        if stop:
            self._watchdogs.stop()


class WatchdogJudge:
    """Nobody leads unwatched where a watchdog is required, and none resets a machine that is well."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._since: dict[str, float] = {}
        """Since when a primary is without."""
        world.on_beat.append(self._beat)

    def reset(self, machine: Machine) -> None:
        """A machine is about to be reset."""
        self._world.tell(machine.name, "the watchdog resets the machine")
        agent, running = machine.agent, machine.server.running
        if agent is None or machine.agent_frozen or machine.watchdogs.fed_by is not machine.process:
            return
        if not running and not agent.node.running:
            self._world.checker.violated("a watchdog resets nobody who is well",
                                         f"{machine.name} is reset although its agent has seen that its server ended")

    def _beat(self, name: str, beat: Beat) -> None:
        view, machine, now = beat.world, self._world[name], self._world.now
        if view.settings.watchdog != "required":
            return
        exposed = machine.server.writable and machine.watchdogs.resets_at is None and view.memory.lease_until is not None
        if not exposed or view.paused or view.memory.was_paused or view.store_lost:
            self._since.pop(name, None)
        elif now - self._since.setdefault(name, now) > UNWATCHED_S:
            self._world.checker.violated("nobody leads unwatched", f"{name} has led without its watchdog for {UNWATCHED_S} s")
