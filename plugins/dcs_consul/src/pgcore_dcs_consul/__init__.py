"""Consul as a configuration store (section ``consul``), and the service it can register for a member."""
