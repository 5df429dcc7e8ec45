"""What the rules must know of the configuration: local and dynamic settings as they are in force. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pgcore.model.basics import Json, Tags, Timing


@dataclass(frozen=True, slots=True)
class RemoteCluster:
    """``standby_cluster``: the cluster that this one replicates as a whole (HA rules 22, config 11)."""

    host: str | None = None
    """One host, or several separated by commas; None: the archive only."""
    port: int | None = None
    primary_slot_name: str | None = None
    restore_command: str | None = None
    archive_cleanup_command: str | None = None
    recovery_min_apply_delay: str | None = None
    """Acts on the standby leader only."""


@dataclass(frozen=True, slots=True)
class PermanentSlot:
    """A slot of the ``slots`` section: physical, or logical with ``database`` and ``plugin`` (HA rules 21.1, config 12)."""

    name: str
    database: str | None = None
    plugin: str | None = None
    cluster_type: str | None = None
    """``primary`` or ``standby``: the kind of cluster a physical slot is meant for; None: both."""

    @property
    def physical(self) -> bool:
        """It keeps WAL for a standby or an archiver; else it decodes one database."""
        return self.plugin is None


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings decisions depend on. Times in seconds, sizes in bytes, defaults of config 5."""

    name: str
    scope: str
    timing: Timing = field(default_factory=Timing)
    tags: Tags = field(default_factory=Tags)
    conn_url: str = ""
    api_url: str = ""
    proxy_url: str = ""
    paused: bool = False
    maximum_lag_on_failover: int = 1048576
    maximum_lag_on_syncnode: int = -1
    synchronous_mode: str = "off"
    """``off``, ``on`` or ``quorum``; ``off`` in a standby cluster (HA rules 19)."""
    synchronous_mode_strict: bool = False
    synchronous_node_count: int = 1
    own_standby_names: str = ""
    """The user's ``synchronous_standby_names`` of ``postgresql.parameters``, for when synchronous mode is off."""
    failsafe_mode: bool = False
    failsafe_quorum: bool = False
    """In failsafe mode with quorum commit, silent members are tolerated while too few votes are left for another leader."""
    primary_race_backoff: int = 0
    check_timeline: bool = False
    primary_start_timeout: int = 300
    primary_stop_timeout: int = 0
    member_slots_ttl: int = 1800
    max_timelines_history: int = 0
    use_slots: bool = True
    permanent_slots: tuple[PermanentSlot, ...] = ()
    ignore_slots: tuple[Mapping[str, str], ...] = ()
    """A slot that matches every key of one entry (name, database, plugin, type) is never dropped (HA rules 21.5)."""
    feedback_forced: bool = False
    """``hot_standby_feedback`` is on whatever is configured, for the sake of logical slots (HA rules 21.3)."""
    standby_cluster: RemoteCluster | None = None
    watchdog: str = "off"
    """``off``, ``automatic`` or ``required`` (HA rules 10)."""
    remove_data_directory_on_rewind_failure: bool = False
    remove_data_directory_on_diverged_timelines: bool = False
    has_bootstrap: bool = False
    """The local configuration has a ``bootstrap`` section: this node may initialise a new cluster."""
    leaderless_methods: bool = False
    """A configured replica method works without a running source (HA rules 6.1)."""
    dynamic: Mapping[str, Json] = field(default_factory=dict)
    """The dynamic configuration document in force; the holder restores it to the store when it is missing."""
    server_stale: bool = False
    """The running server has not yet been given the configuration in force."""
