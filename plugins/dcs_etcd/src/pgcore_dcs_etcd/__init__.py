"""etcd as a configuration store: the v3 API (section ``etcd3``) and the v2 API (section ``etcd``)."""
