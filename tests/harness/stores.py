"""Every store with a server of its own that a test cluster can stand on; ``raft`` has none, there the agents are the store."""

from __future__ import annotations

from harness.consul import ConsulStoreServer
from harness.etcd import EtcdServer
from harness.kubernetes import KubernetesServer
from harness.store_server import StoreServer
from harness.zookeeper import ZooKeeperServer

StoreKind = str
SERVERS: dict[StoreKind, type[StoreServer]] = {
    "consul": ConsulStoreServer,
    "etcd3": EtcdServer,
    "kubernetes": KubernetesServer,
    "zookeeper": ZooKeeperServer,
}
