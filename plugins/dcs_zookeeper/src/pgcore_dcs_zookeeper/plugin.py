"""The entry point ``zookeeper``: describes the store, imports it and kazoo when it is opened."""

from __future__ import annotations

from collections.abc import Iterable

from pgcore.plugin import Store, StoreBackend, StoreRequest, hookimpl
from pgcore_dcs_zookeeper.section import ZooKeeperSection

TTL_FLOOR = (5, "ZooKeeper ends sessions in steps of its tickTime, 2 s by default")


def open_store(request: StoreRequest) -> Store:
    """Open a scope. Raises ConfigError; an unreachable ZooKeeper is reported by the verbs."""
    from pgcore_dcs_zookeeper.store import ZooKeeperStore

    return ZooKeeperStore(request)


@hookimpl
def pgcore_stores() -> Iterable[StoreBackend]:
    """ZooKeeper by a list of servers."""
    return [StoreBackend("zookeeper", ZooKeeperSection, open_store, lambda section: TTL_FLOOR)]
