"""How a configuration section is described: a frozen dataclass whose fields are made by ``option``."""

from __future__ import annotations

import dataclasses
from typing import Any


def option(default: Any = dataclasses.MISSING, *, doc: str, factory: Any = dataclasses.MISSING, unit: str = "",
           alias: tuple[str, ...] = (), minimum: float | None = None, maximum: float | None = None,
           secret: bool = False, choices: tuple[str, ...] = ()) -> Any:
    """One key of a section. ``unit`` is ``s``, ``ms``, ``bytes`` or empty and allows values such as ``30min`` or ``16MB``.

    Without ``default`` and ``factory`` the key is required. ``secret`` values never appear in output.
    """
    metadata = {"doc": doc, "unit": unit, "alias": alias, "minimum": minimum, "maximum": maximum,
                "secret": secret, "choices": choices}
    if factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata, repr=not secret)
    return dataclasses.field(default=default, metadata=metadata, repr=not secret)
