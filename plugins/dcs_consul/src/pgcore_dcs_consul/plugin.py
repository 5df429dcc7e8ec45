"""The entry point ``consul``: describes the store, imports it and python-consul when it is opened."""

from __future__ import annotations

from collections.abc import Iterable

from pgcore.plugin import Store, StoreBackend, StoreRequest, hookimpl
from pgcore_dcs_consul.section import ConsulSection

TTL_FLOOR_S = 20


def open_store(request: StoreRequest) -> Store:
    """Open a scope. Raises ConfigError; an unreachable Consul is reported by the verbs."""
    from pgcore_dcs_consul.store import ConsulStore

    return ConsulStore(request)


def check(section: object) -> None:
    """Raises ConfigError for a section that ``open_store`` would refuse."""
    assert isinstance(section, ConsulSection)
    from pgcore_dcs_consul.connection import connector

    connector(section)


@hookimpl
def pgcore_stores() -> Iterable[StoreBackend]:
    """Consul by its HTTP API."""
    reason = "a session of Consul lasts at least 10 s and is ended after twice its time"
    return [StoreBackend("consul", ConsulSection, open_store, lambda section: (TTL_FLOOR_S, reason), check)]
