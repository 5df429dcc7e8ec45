"""Parameters that only a start puts in force: as configured, as in force, and as pg_control records them."""

from __future__ import annotations

from collections.abc import Mapping

from pgcore.model.node import ControlData
from pgcore.model.server import ServerSettings

USUAL = {"max_connections": 100}


def configured(settings: ServerSettings) -> dict[str, int]:
    """What the configuration says."""
    return {name: int(settings.parameters.get(name, usual)) for name, usual in USUAL.items()}


def at_start(settings: ServerSettings, control: ControlData | None, *, follows: bool) -> dict[str, int]:
    """What the server is started with: who ``follows`` what another server wrote takes that one's values if they are larger."""
    recorded = control.parameters if control is not None and follows else {}
    return {name: max(value, recorded.get(name, 0)) for name, value in configured(settings).items()}


def pending(settings: ServerSettings, in_force: Mapping[str, int]) -> dict[str, dict[str, str]]:
    """What waits for a restart, as shown to operators."""
    return {
        name: {"old_value": str(in_force[name]), "new_value": str(value)}
        for name, value in configured(settings).items()
        if name in in_force and in_force[name] != value
    }
