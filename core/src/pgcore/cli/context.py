"""What every command needs: the configuration by its rules of lookup, the store as an observer (cli 1.2)."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from pgcore.clock import Deadline
from pgcore.config.load import ClientConfig, load_client
from pgcore.config.schema import parse_section
from pgcore.dcs.codec import by_group, decode, scope_path
from pgcore.dcs.store import Store
from pgcore.errors import ConfigError, ConfigErrors, PluginError
from pgcore.hookspecs import StoreRequest
from pgcore.model.basics import Json, Timing
from pgcore.model.cluster import ClusterView
from pgcore.registry import Registry

logger = logging.getLogger(__name__)
READ_S = 10.0
"""Seconds a command waits for the store."""
OBSERVER = "pgcore-ctl"
_URL_STORES = ("consul", "etcd", "etcd3", "exhibitor", "zookeeper")
_URL_PORTS = {2379: "etcd", 8500: "consul", 2181: "zookeeper", 8181: "exhibitor"}
_DEFAULT_PORTS = {"etcd": 2379, "etcd3": 2379, "consul": 8500, "zookeeper": 2181, "exhibitor": 8181}


class Cluster:
    """One scope of the store, or one group of it; read only unless a command says otherwise."""

    def __init__(self, scope: str, store: Store, group: int | None = None, *, patronictl: bool = False) -> None:
        self.scope = scope
        self.patronictl = patronictl
        """Asked for under that name: nothing is shown that patronictl would not show."""
        self.store = store
        self.group = group
        """The number of the group, None for a cluster without groups and for all groups of one."""

    def read(self, within_s: float = READ_S) -> ClusterView:
        """The cluster as it is now. Raises StoreUnavailableError, and ConfigError if it has groups and none was named."""
        views = self.read_groups(within_s)
        if None not in views and self.group is None:
            numbers = ", ".join(str(number) for number in views)
            raise ConfigError("", f"{self.scope} is a cluster of the groups {numbers}", "name one of them with --group")
        return views[self.group]

    def read_groups(self, within_s: float = READ_S) -> dict[int | None, ClusterView]:
        """Every group by number; a cluster without groups has the number None. Raises StoreUnavailableError."""
        snapshot = self.store.read(fresh=True, deadline=Deadline.after(within_s))
        groups = by_group(snapshot) if self.group is None else {}
        if not groups:
            return {self.group: decode(snapshot)}
        return {number: decode(found) for number, found in groups.items()}


@dataclass
class Session:
    """One call of the command line. Nothing is read before it is needed."""

    config_file: str | None
    dcs_url: str | None
    insecure: bool
    environ: Mapping[str, str]
    patronictl: bool = False
    """Called under that name: what scripts written for it read is printed as they expect it."""

    @functools.cached_property
    def path(self) -> str | None:
        """The configuration file or directory, None if there is none. Raises ConfigError for a named one that is missing."""
        if self.config_file:
            if not os.path.exists(self.config_file):
                remedy = "correct -c, PGCORECTL_CONFIG_FILE or PATRONICTL_CONFIG_FILE"
                raise ConfigError("", "does not exist", remedy, self.config_file)
            return self.config_file
        home = self._home
        own, older = os.path.join(home, "pgcore", "pgcorectl.yaml"), os.path.join(home, "patroni", "patronictl.yaml")
        return next((path for path in ((older, own) if self.patronictl else (own, older)) if os.path.exists(path)), None)

    @property
    def _home(self) -> str:
        """Where this user's programs keep their configurations."""
        own = self.environ.get("HOME", "")
        if sys.platform == "darwin":
            return os.path.join(own, "Library", "Application Support")
        return self.environ.get("XDG_CONFIG_HOME") or os.path.join(own, ".config")

    @functools.cached_property
    def client(self) -> ClientConfig:
        """The configuration, with ``--dcs-url`` laid over it. Raises ConfigErrors, PluginError."""
        plain = load_client(self.path, dict(self.environ), {})
        override = _read_url(self.dcs_url) if self.dcs_url else None
        tree = dict(plain.tree)
        if override:
            tree = {name: value for name, value in tree.items() if name not in plain.stores} | {override.store: override.section}
        client = load_client(self.path, dict(self.environ), self._section_types(tree))
        client = client if override is None else self._overridden(client, override)
        ours = {"scope", "namespace", "ctl", "citus", *client.stores}
        for warning in client.warnings:
            if warning.path.partition(".")[0] in ours:
                logger.warning("%s", warning)
        return client

    @functools.cached_property
    def _registry(self) -> Registry:
        return Registry()

    def _section_types(self, tree: Mapping[str, Json]) -> dict[str, type]:
        return section_types(self._registry, tree, self.environ)

    def _overridden(self, client: ClientConfig, override: _Override) -> ClientConfig:
        backend = self._registry.store(override.store)
        section, errors, _ = parse_section(backend.section, override.section, override.store, "--dcs-url")
        if errors:
            raise ConfigErrors(errors)
        return replace(client, namespace=override.namespace or client.namespace, stores=(override.store,),
                       plugin_sections={override.store: section})

    def scope(self, name: str | None) -> str:
        """The cluster to look at: as named, else ``scope`` of the configuration. Raises ConfigError."""
        scope = name or self.client.scope
        if not scope:
            raise ConfigError("scope", "no cluster is named", "name one on the command line or set scope in the configuration")
        return scope

    @contextmanager
    def cluster(self, name: str | None, group: int | None = None) -> Iterator[Cluster]:
        """Open the store of a cluster, or of one group of it, as an observer. Raises ConfigError, PluginError."""
        scope = self.scope(name)
        store = self.open_store(scope_path(self.client.namespace, scope) + (f"/{group}" if group is not None else ""))
        try:
            yield Cluster(scope, store, group, patronictl=self.patronictl)
        finally:
            store.close()

    def section(self, name: str, file: str | None = None) -> object:
        """A section that a plugin brings, of the configuration or of the file named instead. Raises ConfigError, PluginError."""
        session = self if file is None else replace(self, config_file=file)
        client = session.client
        if name not in client.plugin_sections:
            session._registry.activate([name])
            raise ConfigError(name, "the configuration has no such section", "name a file that has one", client.source)
        return client.plugin_sections[name]

    def own_group(self, group: int | None) -> int | None:
        """The group as named, else that of the configuration (``citus.group``): for commands that are about one group."""
        own = self.client.citus
        return own.group if group is None and own is not None else group

    def open_store(self, path: str) -> Store:
        """The first store of the configuration that is installed (cli 1.2)."""
        client = self.client
        backends = self._registry.stores()
        for name in sorted(client.stores):
            if name in backends and name in client.plugin_sections:
                return backends[name].open(StoreRequest(client.plugin_sections[name], path, OBSERVER, Timing(), observer=True))
        if client.stores:
            self._registry.activate(client.stores)
            raise PluginError(client.stores[0], "brings no store of that name")
        raise ConfigError("", "the configuration has no section for a store", "name a file with -c, or the store with --dcs-url",
                          client.source)


def section_types(registry: Registry, tree: Mapping[str, Json], environ: Mapping[str, str]) -> dict[str, type]:
    """Activate the installed plugins that the configuration names; the section types they bring.

    Raises PluginError for one that cannot be used, unless another store is named that can.
    """
    block = tree.get("plugins")
    blocked = block.get("block") or () if isinstance(block, Mapping) else ()
    failed: PluginError | None = None
    for name in registry.names:
        named = name in tree or any(variable.startswith(f"PGCORE_{name.upper()}_") for variable in environ)
        if named and name not in blocked:
            try:
                registry.activate([name])
            except PluginError as error:
                failed = error
    if failed is not None and not registry.stores():
        raise failed
    return registry.sections()


@dataclass(frozen=True, slots=True)
class _Override:
    store: str
    section: dict[str, Json]
    namespace: str | None


def _read_url(text: str) -> _Override:
    """``[scheme://]host[:port][/namespace]`` (cli 1.2)."""
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        port = parts.port
    except ValueError as error:
        raise ConfigError("", f"--dcs-url has no valid port: {text!r}", "for example etcd3://127.0.0.1:2379/service") from error
    store = parts.scheme or _URL_PORTS.get(port or 0, "etcd")
    if store not in _URL_STORES:
        raise ConfigError("", f"--dcs-url has the scheme {store!r}", "use one of " + ", ".join(_URL_STORES))
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError("", "--dcs-url holds more than a scheme, a host, a port and a namespace",
                          f"write user, password and certificates into the section {store} of the configuration")
    host = parts.hostname or "localhost"
    host = f"[{host}]" if ":" in host else host
    port = port or _DEFAULT_PORTS[store]
    if store == "exhibitor":
        section: dict[str, Json] = {"hosts": [host], "port": port}
    elif store == "zookeeper":
        section = {"hosts": [f"{host}:{port}"]}
    else:
        section = {"host": f"{host}:{port}"}
    return _Override(store, section, parts.path.strip("/") or None)
