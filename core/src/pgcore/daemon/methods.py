"""Which plugin makes a replica or a new cluster: the one of that name, else the one that runs a command. (config 10)"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pgcore.config.load import LocalConfig
from pgcore.config.server import bootstrap_method
from pgcore.errors import ServerError
from pgcore.hookspecs import BootstrapMethod, ReplicaMethod
from pgcore.model.basics import Json
from pgcore.registry import Registry

logger = logging.getLogger(__name__)

REPLICA_COMMAND, BOOTSTRAP_COMMAND = "replica_command", "bootstrap_command"

TOOLS = ("barman", "pgbackrest", "wal_e", "wal_g")
"""Built-in methods whose names stand in many files as commands of the operator's own: a section with ``command`` stays one."""

Chosen = list[tuple[ReplicaMethod, Json]]


def replica_methods(registry: Registry, wanted: Sequence[tuple[str, Json]]) -> Chosen:
    """The methods in order, with their options; those that cannot be had are left out and named in the log."""
    chosen = _chosen(registry, wanted)
    for name in [name for name, _ in wanted if name not in {method.name for method, _ in chosen}]:
        logger.error("postgresql.create_replica_methods names %s, which no active plugin brings; it is skipped", name)
    return chosen


def _chosen(registry: Registry, wanted: Sequence[tuple[str, Json]]) -> Chosen:
    known = registry.replica_methods()
    chosen: Chosen = []
    for name, options in wanted:
        if name in known and not _own_command(name, options):
            chosen.append((known[name], options))
        elif REPLICA_COMMAND in known:
            section = options if isinstance(options, Mapping) else {}
            chosen.append((replace(known[REPLICA_COMMAND], name=name), {"command": name, **section}))
    return chosen


def works_without_leader(registry: Registry, wanted: Sequence[tuple[str, Json]]) -> bool:
    """Some method makes a replica while nobody leads (``no_leader``)."""
    return any(method.works_without_source(options) for method, options in _chosen(registry, wanted))


def chosen_bootstrap(registry: Registry, local: LocalConfig) -> tuple[BootstrapMethod, Json]:
    """The configured method with its options. Raises ServerError for a name that no active plugin brings."""
    known = registry.bootstrap_methods()
    name, options = bootstrap_method(local, tuple(known))
    if name in known and not _own_command(name, options):
        return known[name], options
    if BOOTSTRAP_COMMAND in known and name != "initdb":
        return replace(known[BOOTSTRAP_COMMAND], name=name), options
    raise ServerError(f"bootstrap.method is {name}, which no active plugin brings; known: {', '.join(sorted(known))}")


def _own_command(name: str, options: Json) -> bool:
    return name in TOOLS and isinstance(options, Mapping) and bool(options.get("command"))
