"""Citus: a coordinator (group 0) and workers, each group a cluster with a lock of its own. (HA rules 29, config 16)

``nodes`` decides what ``pg_dist_node`` should say, ``coordinator`` carries it out, ``worker`` reports to the coordinator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pgcore.builtin.citus.handler import CitusHandler
from pgcore.plugin import Json, MppHandler, hookimpl


@hookimpl
def pgcore_mpp_handlers(sections: Mapping[str, Json]) -> Iterable[MppHandler]:
    """The handler, if the configuration has a ``citus`` section."""
    section = sections.get("citus")
    return () if section is None else (CitusHandler(section.group, section.database),)
