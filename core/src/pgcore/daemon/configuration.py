"""The configuration in force: local file, dynamic document, and what follows from both for rules, server and REST."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from pgcore.config.dynamic import Effective, effective, equal, initial_document, read_cache, write_cache
from pgcore.config.load import LocalConfig
from pgcore.config.sections import RestapiSection
from pgcore.config.server import replica_methods, server_settings, settings_by_role
from pgcore.daemon.peers import PeerAccess
from pgcore.errors import ConfigError, ConfigErrors, PluginError
from pgcore.model.basics import Json, Role
from pgcore.model.cluster import ClusterView
from pgcore.model.server import ServerSettings
from pgcore.model.settings import PermanentSlot, RemoteCluster, Settings
from pgcore.rest.settings import RestSettings

logger = logging.getLogger(__name__)

QUICK_RETURN = {"wal_retrieve_retry_interval": "1s"}
"""A standby looks for a restarted primary each second, not every five: until then its commits exist once. Own values win."""
CACHE_NAME = "patroni.dynamic.json"


def changes(before: Mapping[str, Json], after: Mapping[str, Json], path: str = "") -> str:
    """What differs, key by key: values of single settings, of longer ones the key alone."""
    found = []
    for key in sorted({*before, *after}):
        old, new, name = before.get(key), after.get(key), f"{path}{key}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = changes(old, new, f"{name}.")
            found += [inner] if inner else []
        elif old != new:
            plain = not any(isinstance(value, Mapping | list) for value in (old, new))
            found.append(f"{name}: {_spelled(old)} -> {_spelled(new)}" if plain else name)
    return ", ".join(found)


def _spelled(value: Json) -> str:
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def own_standby_names(value: Effective) -> str:
    """The user's ``synchronous_standby_names``; a server has them only while synchronous mode is off."""
    found = {name.lower(): text for name, text in value.postgresql.parameters.items()}.get("synchronous_standby_names")
    return "" if found is None or value.synchronous else str(found)


def permanent_slots(value: Effective) -> tuple[PermanentSlot, ...]:
    """The ``slots`` section as the rules see it, sorted by name."""
    return tuple(
        PermanentSlot(name, cluster_type=entry.get("cluster_type"))
        if entry["type"] == "physical"
        else PermanentSlot(name, entry["database"], entry["plugin"])
        for name, entry in sorted(value.slots.items())
    )


def remote_cluster(value: Effective) -> RemoteCluster | None:
    """The ``standby_cluster`` section as the rules see it."""
    section = value.standby_cluster
    if section is None:
        return None
    return RemoteCluster(
        section.host,
        section.port,
        section.primary_slot_name,
        section.restore_command,
        section.archive_cleanup_command,
        section.recovery_min_apply_delay,
    )


class Configuration:
    """Owned by the heartbeat thread. ``update`` is called with every reading of the cluster."""

    def __init__(
        self,
        local: LocalConfig,
        ttl_floor: int,
        server_major: int | None,
        enforced: Callable[[], Mapping[str, str]] = dict,
        floor_reason: str = "",
        leaderless: Callable[[list[tuple[str, Json]]], bool] = lambda methods: False,
    ) -> None:
        """``enforced`` names server parameters that plugins insist on, over everything configured; ``leaderless`` tells whether
        one of these replica methods works while nobody leads.

        ``floor_reason`` says why the store cannot do with a smaller ttl; it goes into the message.
        """
        self._enforced, self._leaderless = enforced, leaderless
        self.floor_reason = floor_reason
        self.local = local
        self.ttl_floor = ttl_floor
        self.server_major = server_major
        self.patroni_present = False
        self.server_stale = False
        self.reload_asked = False
        """An operator asked for a reload: the server is signalled even if nothing of ours changed, as its own files may have."""
        self._refused: Mapping[str, Json] | None = None
        self._cache_path = os.path.join(os.path.abspath(local.postgresql.data_dir), CACHE_NAME)
        self._cached: Mapping[str, Json] | None = self.read_cache()
        self._role = Role.UNINITIALIZED
        self._settings: tuple[tuple[object, ...], Settings] | None = None
        self.effective = self._first()
        self._feedback = any(not slot.physical for slot in permanent_slots(self.effective))
        """Forced until the rules say otherwise: a standby started without it lets its upstream remove what its slots need."""
        self.server = self._server()
        self._log_warnings(self.effective)

    def _first(self) -> Effective:
        """From the cache file of an earlier run, else from ``bootstrap.dcs``. Raises ConfigErrors if the latter is unusable."""
        if self._cached is not None:
            try:
                return self._effective(self._cached)
            except ConfigErrors as error:
                logger.error("%s is not used: %s", self._cache_path, error)
        try:
            return self._effective(initial_document(self.local, ttl_floor=self.ttl_floor))
        except ConfigErrors as errors:
            raise ConfigErrors(
                [ConfigError(f"bootstrap.dcs.{e.path}", e.problem, "correct it there", self.local.source) for e in errors.errors]
            ) from errors

    def _effective(self, document: Mapping[str, Json]) -> Effective:
        return effective(
            self.local, document, server_major=self.server_major, patroni_present=self.patroni_present, ttl_floor=self.ttl_floor
        )

    def _server(self) -> ServerSettings:
        enforced = {**self._enforced(), **({"hot_standby_feedback": "on"} if self._feedback else {})}

        def complete(server: ServerSettings) -> ServerSettings:
            return replace(server, parameters={**QUICK_RETURN, **server.parameters, **enforced})

        roles = settings_by_role(self.effective, self.local, server_major=self.server_major)
        server = complete(server_settings(self.effective, self.local, server_major=self.server_major))
        return replace(server, by_role={role: complete(settings) for role, settings in roles.items()})

    def _log_warnings(self, value: Effective) -> None:
        for warning in value.warnings:
            reason = f" [{self.floor_reason}]" if warning.path == "ttl" and self.floor_reason else ""
            logger.warning("%s%s", warning, reason)

    def update(self, view: ClusterView, server_major: int | None) -> bool:
        """Take over the dynamic configuration of the store; true if anything in force changed. A bad one is refused whole."""
        document = view.config.document if view.config is not None and view.config.document is not None else None
        wanted = document if document is not None else self.effective.document
        reshaped = view.patroni_present != self.patroni_present or server_major != self.server_major
        self.patroni_present, self.server_major = view.patroni_present, server_major
        refused = self._refused is not None and equal(wanted, self._refused)
        if not reshaped and (refused or wanted is self.effective.document or equal(wanted, self.effective.document)):
            if not refused:
                if self._refused is not None:
                    logger.info("the dynamic configuration in the store is the one in force again")
                self._refused = None
            return False
        if not refused and self._accept(wanted):
            return True
        if not reshaped:
            return False
        self.effective = self._effective(self.effective.document)
        self._recompose()
        return True

    def _accept(self, wanted: Mapping[str, Json]) -> bool:
        """Put a document in force; one that cannot be used is remembered, so that it is complained about once."""
        try:
            new = self._effective(wanted)
        except ConfigErrors as error:
            self._refused = wanted
            logger.error("the dynamic configuration in the store is not used, the last good one stays in force: %s", error)
            return False
        self._refused = None
        if changed := changes(self.effective.document, wanted):  # else only the members or the server's version have
            logger.info("the dynamic configuration has changed: %s", changed)
        self._log_warnings(new)
        self.effective = new
        self._recompose()
        return True

    def reload(self) -> bool:
        """Read the local configuration again; a bad one leaves everything as it is. True if it changed."""
        try:
            local = self.read_local()
        except ConfigErrors as error:
            logger.error("the configuration was not reloaded, the old one stays in force:\n%s", error)
            return False
        for warning in local.warnings:
            logger.warning("%s", warning)
        local = self._without_fixed(local)
        changed = local != self.local
        logger.info("the configuration of this node was read again: %s", "it has changed" if changed else "nothing has changed")
        self.local = local
        self.effective = self._effective(self.effective.document)
        self._recompose()
        self.server_stale = self.reload_asked = True
        return changed

    def read_local(self) -> LocalConfig:
        """The local configuration as it is now. Raises ConfigErrors."""
        return self.local.reload()

    def _without_fixed(self, local: LocalConfig) -> LocalConfig:
        """The reloaded configuration with the identity of the start: it cannot change while the agent runs (config 2.1, 6.1)."""
        old_node, old_server = self.local.node, self.local.postgresql
        for path, before, after in (
            ("scope", old_node.scope, local.node.scope),
            ("namespace", old_node.namespace, local.node.namespace),
            ("name", old_node.name, local.node.name),
            ("postgresql.data_dir", old_server.data_dir, local.postgresql.data_dir),
        ):
            if before != after:
                logger.warning("%s stays %s: a change to %s needs a restart of the agent", path, before, after)
        node = replace(local.node, scope=old_node.scope, namespace=old_node.namespace, name=old_node.name)
        return replace(local, node=node, postgresql=replace(local.postgresql, data_dir=old_server.data_dir))

    def _recompose(self) -> None:
        try:
            server = self._server()
        except PluginError as error:
            logger.error("the parameters of the server stay as they are: %s", error)
            return
        if server != self.server:
            self.server, self.server_stale = server, True

    def in_role(self, role: Role) -> None:
        """The server has this role now: settings that it had in another and has not in this one are stale (config 6.6)."""
        if role is not self._role and self.server.for_role(role) != self.server.for_role(self._role):
            self.server_stale = True
        self._role = role

    def force_feedback(self, on: bool) -> None:
        """``hot_standby_feedback`` is on whatever is configured, or as configured again. (HA rules 21.3)"""
        self._feedback = on
        self._recompose()

    def save_cache(self) -> None:
        """Keep the dynamic document in the data directory for a start without the store (config 1.6)."""
        document = self.effective.document
        if self._cached is not None and equal(document, self._cached):
            return
        try:
            self.write_cache(document)
            self._cached = document
        except OSError as error:
            logger.warning("cannot write %s: %s", self._cache_path, error.strerror)

    def read_cache(self) -> dict[str, Json] | None:
        """The document kept in the data directory."""
        return read_cache(self._cache_path)

    def write_cache(self, document: Mapping[str, Json]) -> None:
        """Keep it there. Raises OSError."""
        write_cache(self._cache_path, document)

    # -- what follows from it ------------------------------------------------------------------------------------------------

    def settings(self) -> Settings:
        """What the rules must know; the same object as long as nothing it follows from has changed."""
        basis = (self.local, self.server, self.effective, self._feedback, self.server_stale, self.server_major)
        if self._settings is None or any(old is not new for old, new in zip(self._settings[0], basis, strict=True)):
            self._settings = basis, self._make_settings()
        return self._settings[1]

    def _make_settings(self) -> Settings:
        local, ha, shared = self.local, self.effective.ha, self.effective.postgresql
        rest = self.rest()
        return Settings(
            name=local.node.name,
            scope=local.node.scope,
            timing=self.effective.timing,
            tags=local.tags,
            conn_url=f"postgres://{self.server.connect_address}/{self.server.database}",
            api_url=rest.api_url,
            proxy_url=f"postgres://{self.server.proxy_address}/{self.server.database}" if self.server.proxy_address else "",
            paused=ha.pause,
            maximum_lag_on_failover=ha.maximum_lag_on_failover,
            maximum_lag_on_syncnode=ha.maximum_lag_on_syncnode,
            synchronous_mode=ha.synchronous_mode if self.effective.synchronous else "off",
            synchronous_mode_strict=ha.synchronous_mode_strict,
            synchronous_node_count=ha.synchronous_node_count,
            own_standby_names=own_standby_names(self.effective),
            failsafe_mode=ha.failsafe_mode,
            failsafe_quorum=ha.failsafe_quorum,
            primary_race_backoff=ha.primary_race_backoff,
            check_timeline=ha.check_timeline,
            primary_start_timeout=int(ha.primary_start_timeout),
            primary_stop_timeout=int(ha.primary_stop_timeout),
            member_slots_ttl=int(ha.member_slots_ttl) if (self.server_major or 11) >= 11 else 0,
            max_timelines_history=ha.max_timelines_history,
            use_slots=self.server.use_slots,
            permanent_slots=permanent_slots(self.effective),
            ignore_slots=tuple({k: str(v) for k, v in entry.items()} for entry in self.effective.ignore_slots),
            feedback_forced=self._feedback,
            standby_cluster=remote_cluster(self.effective),
            watchdog=local.watchdog.effective_mode,
            remove_data_directory_on_rewind_failure=shared.remove_data_directory_on_rewind_failure,
            remove_data_directory_on_diverged_timelines=shared.remove_data_directory_on_diverged_timelines,
            has_bootstrap=local.bootstrap is not None,
            leaderless_methods=self._leaderless(self.methods()),
            dynamic=self.effective.document,
            server_stale=self.server_stale,
        )

    def methods(self, *, basebackup_only: bool = False) -> list[tuple[str, Json]]:
        """Names and options of the replica methods, in order."""
        return replica_methods(self.effective, basebackup_only=basebackup_only)

    def rest(self) -> RestSettings:
        """The REST API as configured."""
        return RestSettings.of(self.local.restapi)

    def keep_rest(self, section: RestapiSection) -> None:
        """The REST API could not be changed: it stays configured like this until the next reload."""
        self.local = replace(self.local, restapi=section)

    def peer_access(self) -> PeerAccess:
        """How to address other members."""
        ctl = self.local.ctl
        login = ctl.authentication
        return PeerAccess(
            login.username if login else None,
            login.password if login else None,
            ctl.cacert if ctl.certfile else None,
            ctl.certfile,
            ctl.keyfile,
            ctl.keyfile_password,
        )
