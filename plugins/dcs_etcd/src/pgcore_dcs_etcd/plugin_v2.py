"""The entry point ``etcd``: describes the v2 store, imports it and python-etcd when it is opened."""

from __future__ import annotations

from collections.abc import Iterable

from pgcore.plugin import Store, StoreBackend, StoreRequest, hookimpl
from pgcore_dcs_etcd.section import EtcdSection, check


def open_store(request: StoreRequest) -> Store:
    """Open a scope. Raises ConfigError; an unreachable etcd is reported by the verbs."""
    from pgcore_dcs_etcd.v2 import Etcd2Store

    return Etcd2Store(request)


@hookimpl
def pgcore_stores() -> Iterable[StoreBackend]:
    """etcd by its v2 API."""
    return [StoreBackend("etcd", EtcdSection, open_store, lambda section: (5, "etcd drops expired keys once in 500 ms"),
                         lambda section: check(section, "etcd"))]
