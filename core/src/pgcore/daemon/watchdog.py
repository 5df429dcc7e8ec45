"""The hardware watchdog of this machine: opened, fed and stopped as the rules say, by the heartbeat's thread. (HA rules 10)

Nothing here feeds it by itself: whoever does not decide does not feed, so a frozen or dead agent leaves a device that runs out.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pgcore.clock import now
from pgcore.config.sections import WatchdogSection
from pgcore.daemon.watchdog_device import TIMEOUTS_S, Device, Devices, WatchdogError
from pgcore.decide.lease import demote_left_s
from pgcore.errors import ConfigError
from pgcore.model import actions as a
from pgcore.model.basics import Instant, Timing
from pgcore.model.node import WatchdogState
from pgcore.model.world import World

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the configuration asks for: how strictly, which device, and after how many seconds it resets the machine."""

    mode: str
    driver: str
    path: str
    timeout_s: int
    loop_wait: int
    """How long a keepalive may take to come: the timeout must not be below it."""

    @property
    def required(self) -> bool:
        """Without it this node must not lead."""
        return self.mode == "required"


def wanted(section: WatchdogSection, timing: Timing) -> Wanted:
    """The section and the timing together."""
    return Wanted(section.effective_mode, section.driver, section.device, section.timeout_s(timing.ttl), timing.loop_wait)


def refuse_unsupported(section: WatchdogSection, source: object) -> None:
    """Mode ``required`` on a platform without watchdogs; a device that is missing today may come. Raises ConfigError."""
    if section.effective_mode == "required" and section.driver == "default" and not sys.platform.startswith("linux"):
        raise ConfigError(
            "watchdog.mode",
            f"required: {sys.platform} has no watchdog device that pgcore knows",
            "set it to automatic or off",
            str(source),
        )
    if section.effective_mode == "required" and not os.access(section.device, os.W_OK):
        logger.error(
            "watchdog.mode is required, but %s is missing or not writable: this node will not lead until it is usable "
            "(load a driver, for example with modprobe softdog, let the agent's account write to it)",
            section.device,
        )


class Watchdog:
    """The device as far as it is in use. ``section`` tells the configuration of this moment."""

    def __init__(self, section: Callable[[], WatchdogSection], devices: Devices) -> None:
        self._section, self._devices = section, devices
        self._device: Device | None = None
        self._applied: Wanted | None = None
        self._refused: tuple[Wanted, str, Instant] | None = None
        """What could not be had, why, and when that was found out."""
        self.handlers: dict[type, Callable[[Any, World], str | None]] = {
            a.ActivateWatchdog: lambda action, world: self._asked(world, self._activate),
            a.FeedWatchdog: lambda action, world: self._asked(world, self._feed),
            a.DisableWatchdog: lambda action, world: self.disable(),
        }

    def look(self, timing: Timing) -> Mapping[str, Any]:
        """What the rules must know of it, as fields of a NodeView."""
        if self._device is not None:
            return {"watchdog": WatchdogState.ACTIVE}
        section = self._section()
        if section.effective_mode == "off":
            return {}
        want = wanted(section, timing)
        problem = self._problem(want, timing)
        if want.required:
            return {"watchdog_failed": bool(problem), "watchdog_problem": problem}
        return {"watchdog": WatchdogState.GIVEN_UP if problem else WatchdogState.CLOSED, "watchdog_problem": problem}

    def disable(self) -> None:
        """Stop it. One that cannot be stopped gets a last keepalive, to give the operator as long as possible."""
        device, applied = self._device, self._applied
        if device is None or applied is None:
            return
        self._device = self._applied = None
        try:
            try:
                if not device.can_be_stopped:
                    logger.warning(
                        "%s cannot be stopped: this machine will be reset in %d s unless something else feeds it",
                        applied.path,
                        applied.timeout_s,
                    )
                    device.keepalive()
            finally:
                device.close(stop=device.can_be_stopped)
        except (WatchdogError, OSError) as error:
            logger.error("the watchdog could not be stopped, this machine will be reset in %d s: %s", applied.timeout_s, error)

    def _problem(self, want: Wanted, timing: Timing) -> str:
        """Why it could not be used now; empty if nothing is known to speak against it.

        What was refused is not tried again while the configuration stays as it is; in mode ``required`` only for ttl seconds.
        """
        found, why, at = self._refused or (None, "", now())
        if found == want and (not want.required or now() - at < timing.ttl):
            return why
        if not want.required:
            return ""
        if why := _misfit(want, timing):
            return why
        if not self._devices.usable(want.path):
            return f"{want.path} is missing or not writable"
        return ""

    def _asked(self, world: World, action: Callable[[Wanted, Timing], None]) -> str:
        """Do it; the empty text, or why the watchdog does not run now."""
        timing = world.settings.timing
        want = wanted(self._section(), timing)
        try:
            action(want, timing)
        except WatchdogError as error:
            self._refused = (want, str(error), now())
            missing = not want.required and not self._devices.there(want.path)
            logger.log(logging.DEBUG if missing else logging.WARNING, "the watchdog does not run: %s", error)
            return str(error)
        self._refused = None
        return ""

    def _activate(self, want: Wanted, timing: Timing) -> None:
        if why := _misfit(want, timing):
            raise WatchdogError(why)
        device = self._devices.open(want.driver, want.path)
        self._device, self._applied = device, want
        try:
            self._settle(device, want, timing)
        except WatchdogError:
            self.disable()
            raise

    def _settle(self, device: Device, want: Wanted, timing: Timing) -> None:
        """Set the timeout and judge the one the device really has. Raises WatchdogError if it is of no use."""
        device.set_timeout(want.timeout_s)
        real = device.timeout()
        if real > want.timeout_s:
            problem = f"{want.path} keeps a timeout of {real} s, more than the {want.timeout_s} s that fit into ttl {timing.ttl}"
            if want.required:
                raise WatchdogError(problem)
            logger.warning("%s: it may reset this machine too late to prevent a second primary", problem)
        if real < timing.loop_wait:
            problem = f"{want.path} has a timeout of {real} s, less than loop_wait ({timing.loop_wait} s)"
            if device.can_be_stopped:
                raise WatchdogError(problem)
            logger.error("%s, and cannot be stopped again: this machine may be reset at any time", problem)
        gives_up = timing.ttl - demote_left_s(timing)
        if real < gives_up:
            logger.warning(
                "%s resets this machine %d s after the last renewal, before the agent would stop the server in order "
                "(%.1f s): a smaller watchdog.safety_margin prevents that",
                want.path,
                real,
                gives_up,
            )
        logger.info("the watchdog %s runs: without a renewed lock this machine is reset after %d s", want.path, real)

    def _feed(self, want: Wanted, timing: Timing) -> None:
        device, applied = self._device, self._applied
        if device is None or applied is None:
            raise WatchdogError("it was not started")
        try:
            if want != applied:
                device = self._change(device, applied, want, timing)
            device.keepalive()
        except WatchdogError as error:
            logger.error("%s; opening it again", error)
            self.disable()
            self._activate(want, timing)

    def _change(self, device: Device, applied: Wanted, want: Wanted, timing: Timing) -> Device:
        """Another timeout or device, together with the renewal that counts with the new ttl. (EC 222)"""
        if (want.driver, want.path) != (applied.driver, applied.path):
            self.disable()
            self._activate(want, timing)
            assert self._device is not None
            return self._device
        if why := _misfit(want, timing):
            raise WatchdogError(why)
        self._applied = want
        self._settle(device, want, timing)
        return device


def _misfit(want: Wanted, timing: Timing) -> str:
    """Why this timeout cannot work at all; empty if it can."""
    if want.timeout_s not in TIMEOUTS_S:
        return f"ttl {timing.ttl} and watchdog.safety_margin leave a timeout of {want.timeout_s} s, which no device takes"
    if want.timeout_s < timing.loop_wait:
        return (
            f"ttl {timing.ttl} and watchdog.safety_margin leave a timeout of {want.timeout_s} s, less than loop_wait "
            f"({timing.loop_wait} s)"
        )
    return ""
