"""What can happen to watchdogs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgcore.testing.simulation.faults import Undo, kind
from pgcore.testing.simulation.schedule import Fault

if TYPE_CHECKING:
    from pgcore.testing.simulation.machine import Machine
    from pgcore.testing.simulation.world import World


@kind("watchdog-breaks")
def _watchdog_breaks(world: World, machines: list[Machine], fault: Fault) -> Undo:
    """The watchdog of the machine cannot be opened and takes no keepalive."""
    for machine in machines:
        machine.watchdogs.broken = True

    def back() -> None:
        for machine in machines:
            machine.watchdogs.broken = False

    return back
