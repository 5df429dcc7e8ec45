"""The guard of a simulated machine: the real duty (``daemon.guard_page``), enforced in virtual time on a server model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pgcore.clock import now
from pgcore.daemon.guard import GuardAction
from pgcore.daemon.guard_page import Duty, Margins, Stage, nanoseconds
from pgcore.model.basics import Instant
from pgcore.testing.simulation.scheduler import Process


class Guarded(Protocol):
    """What the guard can do to the server of its machine."""

    @property
    def running(self) -> bool:
        """Some process of the server is there."""

    def stop_fast(self) -> None:
        """SIGINT."""

    def stop_immediately(self) -> None:
        """SIGQUIT."""

    def kill(self) -> bool:
        """SIGKILL to all of its processes; false: they cannot end."""


class SimulatedGuard:
    """Lives on the machine, not in the agent: an agent that ends leaves it armed, the next one takes it over."""

    pid = 1

    def __init__(self, process: Process, server: Callable[[], Guarded | None], acted: Callable[[str], None]) -> None:
        self._process, self._server, self._acted = process, server, acted
        self._margins = Margins()
        self._duty = Duty()
        self._planned = False
        self._applied = Stage.NONE
        self._cleared = -1
        self._last: GuardAction | None = None

    # -- what the agent uses --

    @property
    def gone(self) -> bool:
        """Its process has ended."""
        return not self._process.alive

    @property
    def armed(self) -> bool:
        """It enforces a lease."""
        return bool(self._duty.armed) and self._duty.until_ns != self._cleared

    def last_action(self) -> GuardAction | None:
        """What it did last."""
        return self._last

    def arm(self, until: Instant, ttl_s: float) -> None:
        """Enforce a lease that ends then."""
        ttl = nanoseconds(ttl_s)
        fast, immediate, kill = self._margins.before_end_ns(ttl_s)
        end = min(nanoseconds(until), nanoseconds(now()) + ttl)
        self._duty = Duty(armed=1, until_ns=end, ttl_ns=ttl, fast_ns=fast, immediate_ns=immediate, kill_ns=kill)
        self._plan()

    def disarm(self) -> None:
        """Nothing to enforce."""
        self._duty = self._duty._replace(armed=0)

    def watch(self, postmaster_pid: int) -> None:
        """The model finds its server without being told."""

    def close(self, stop: bool) -> None:
        """The agent leaves it."""
        if stop:
            self.disarm()

    # -- its own process --

    def _plan(self) -> None:
        if not self._planned and self.armed and self._process.alive:
            self._planned = True
            scheduler = self._process.scheduler
            wait = max(1, self._duty.next_stage_ns(nanoseconds(self._clock()))) / 1e9
            scheduler.after(wait / self._process.rate + 1e-6, self._look, self._process)

    def _clock(self) -> float:
        return 1000.0 + self._process.scheduler.now * self._process.rate

    def _look(self) -> None:
        self._planned = False
        if not self.armed:
            self._applied = Stage.NONE
            return
        at = nanoseconds(self._clock())
        due, server = self._duty.stage_due(at), self._server()
        if due is Stage.NONE:
            self._applied = Stage.NONE
        elif server is None or not server.running:
            if self._applied is not Stage.NONE or at > self._duty.until_ns + self._duty.ttl_ns:
                self._cleared, self._applied = self._duty.until_ns, Stage.NONE
                return
            self._soon(0.1)
            return
        elif due > self._applied:
            self._applied = due
            self._acted(due.name.lower())
            self._last = GuardAction(due, now(), 1, f"guard: {due.name.lower()} shutdown")
            {Stage.FAST: server.stop_fast, Stage.IMMEDIATE: server.stop_immediately, Stage.KILL: server.kill}[due]()
        if due is Stage.NONE or due < Stage.KILL:
            self._plan()
        else:
            self._soon(0.02)

    def _soon(self, seconds: float) -> None:
        self._planned = True
        self._process.scheduler.after(seconds, self._look, self._process)
