"""The entry point ``etcd3``: describes the store, imports it when it is opened."""

from __future__ import annotations

from collections.abc import Iterable

from pgcore.plugin import Store, StoreBackend, StoreRequest, hookimpl
from pgcore_dcs_etcd.section import Etcd3Section, check


def open_store(request: StoreRequest) -> Store:
    """Open a scope. Raises ConfigError; an unreachable etcd is reported by the verbs."""
    from pgcore_dcs_etcd.v3 import Etcd3Store

    return Etcd3Store(request)


@hookimpl
def pgcore_stores() -> Iterable[StoreBackend]:
    """etcd by its v3 API."""
    return [StoreBackend("etcd3", Etcd3Section, open_store, lambda section: (5, "etcd rounds short leases up"),
                         lambda section: check(section, "etcd3"))]
