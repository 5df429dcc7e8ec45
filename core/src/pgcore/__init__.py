"""pgcore: high availability for PostgreSQL. Plugin authors import ``pgcore.plugin`` and nothing else."""

__version__ = "0.1.0"

API_LEVEL = 1
"""Level of the plugin interface. A plugin module may set ``PGCORE_API_LEVEL``; another number is refused (docs/plugins/)."""

PATRONI_VERSION = "4.1.5"
"""The release line whose wire formats pgcore speaks; published where Patroni members parse a version (dcs-layout 11.1)."""
