"""ZooKeeper as a configuration store, named by its servers (section ``zookeeper``) or found through Exhibitor (``exhibitor``)."""
