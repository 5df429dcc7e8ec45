"""What the rules must know of the configuration: local and dynamic settings as they are in force. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pgcore.model.basics import Json, Tags, Timing


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
    check_timeline: bool = False
    primary_start_timeout: int = 300
    primary_stop_timeout: int = 0
    member_slots_ttl: int = 1800
    max_timelines_history: int = 0
    use_slots: bool = True
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
