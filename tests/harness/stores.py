"""Every store with a server of its own that a test cluster can stand on; ``raft`` has none, there the agents are the store."""

from __future__ import annotations

from harness.consul import ConsulStoreServer
from harness.etcd import EtcdServer, EtcdV2Server
from harness.kubernetes import ConfigMapsServer, KubernetesServer, LeasesServer
from harness.store_server import StoreServer
from harness.zookeeper import ExhibitorServer, ZooKeeperServer

StoreKind = str
WAYS: dict[StoreKind, type[StoreServer]] = {
    "etcd": EtcdV2Server,
    "exhibitor": ExhibitorServer,
    "kubernetes-configmaps": ConfigMapsServer,
    "kubernetes-leases": LeasesServer,
}
"""Further ways to use the same servers."""
SERVERS: dict[StoreKind, type[StoreServer]] = {
    "consul": ConsulStoreServer,
    "etcd3": EtcdServer,
    "kubernetes": KubernetesServer,
    "zookeeper": ZooKeeperServer,
} | WAYS
