"""The local configuration: a file, a directory or the environment, read into sections, every mistake reported (config 1.1)."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any

from pgcore.config.document import FILL_IN, Places, patch, read_yaml, unfilled
from pgcore.config.environment import Environment, take_environment
from pgcore.config.schema import is_section, key_names, parse_fields, parse_section, partial_section
from pgcore.config.sections import (
    CALLBACKS,
    DISTRIBUTION_OF,
    DYNAMIC_ONLY,
    PLACEHOLDER_NAME,
    WATCHDOG_MODES,
    BootstrapSection,
    CitusSection,
    CtlSection,
    LogSection,
    NodeSection,
    PostgresqlSection,
    RecorderSection,
    RestapiSection,
    WatchdogSection,
)
from pgcore.config.tags import check_tags
from pgcore.config.values import nearest, split_address, split_addresses, split_list
from pgcore.errors import ConfigError, ConfigErrors
from pgcore.model.basics import Json, Tags

_MIN_THREADS, _MIN_STACK = 5, 64 << 10


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a configuration comes from, so that it can be read again: path, environment of the start, section types."""

    path: str | None
    environment: Environment
    section_types: Mapping[str, type]


@dataclass(frozen=True, slots=True)
class LocalConfig:
    """The configuration of this node. Two are equal if they say the same, whatever they were read from.

    ``tree`` is the merged raw tree; secrets named by ``…_file`` are only in the sections. ``stores`` lists the sections that
    are present and may be stores, known names first in the order of config 3. ``plugin_sections`` holds the parsed
    sections of ``section_types``.
    """

    tree: Mapping[str, Json] = field(repr=False)
    node: NodeSection
    log: LogSection
    recorder: RecorderSection
    restapi: RestapiSection
    ctl: CtlSection
    postgresql: PostgresqlSection
    bootstrap: BootstrapSection | None
    watchdog: WatchdogSection
    tags: Tags
    citus: CitusSection | None
    stores: tuple[str, ...]
    plugin_sections: Mapping[str, Any]
    source: str = field(compare=False)
    warnings: tuple[ConfigError, ...] = field(compare=False)
    origin: Origin = field(compare=False, repr=False)

    def reload(self) -> LocalConfig:
        """Read the file again and apply the environment of the start again (config 1.7). Raises ConfigErrors.

        Without a file nothing can have changed but files named by ``…_file`` keys.
        """
        return _finish(examine(self.origin))


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """What the command line needs of a configuration, which may be a node file or a file of its own (config 2.4)."""

    scope: str | None
    namespace: str
    name: str | None
    restapi: RestapiSection | None
    ctl: CtlSection
    citus: CitusSection | None
    stores: tuple[str, ...]
    plugin_sections: Mapping[str, Any]
    tree: Mapping[str, Json] = field(repr=False)
    source: str
    warnings: tuple[ConfigError, ...]


@dataclass(slots=True)
class Draft:
    """A configuration being read: what could be parsed, and all that is wrong with it.

    While there are errors, required keys in ``sections`` may be None.
    """

    origin: Origin
    tree: dict[str, Any] = field(default_factory=dict)
    places: Places = field(default_factory=Places)
    source: str = ""
    sections: dict[str, Any] = field(default_factory=dict)
    plugin_sections: dict[str, Any] = field(default_factory=dict)
    errors: list[ConfigError] = field(default_factory=list)
    warnings: list[ConfigError] = field(default_factory=list)

    def fail(self, path: str, problem: str, hint: str = "") -> None:
        """Note a mistake that prevents a start."""
        self.errors.append(ConfigError(path, problem, hint, self.places(path)))

    def warn(self, path: str, problem: str, hint: str = "") -> None:
        """Note a mistake with which the agent can start."""
        self.warnings.append(ConfigError(path, problem, hint, self.places(path)))

    @property
    def stores(self) -> tuple[str, ...]:
        """Sections that are present and may be stores."""
        names = [*DISTRIBUTION_OF, *sorted(set(self.origin.section_types) - set(DISTRIBUTION_OF))]
        return tuple(name for name in names if name in self.tree)


def load_local(path: str | None, environ: MutableMapping[str, str], section_types: Mapping[str, type]) -> LocalConfig:
    """Read the configuration of this node by the rules of config 1.1 and remove the recognised variables from ``environ``.

    ``section_types`` are the sections of plugins: name to option dataclass. Raises ConfigErrors with every mistake found.
    """
    return _finish(examine(Origin(path, take_environment(environ, section_types), section_types)))


def load_client(path: str | None, environ: MutableMapping[str, str], section_types: Mapping[str, type]) -> ClientConfig:
    """Read what the command line needs; nothing but what is present is checked, and nothing is required.

    Raises ConfigErrors. With neither a path nor anything in the environment the result is empty.
    """
    draft = Draft(Origin(path, take_environment(environ, section_types), section_types))
    _read_sources(draft)
    if path is not None and not draft.source and not draft.errors:
        draft.errors.append(_nothing(path))
    _legacy(draft)
    node = parse_fields(NodeSection, {key: draft.tree[key] for key in ("scope", "namespace", "name") if key in draft.tree}, "",
                        draft.places)
    draft.errors += [error for error in node.errors if error.path in draft.tree]
    _optional(draft, "restapi", RestapiSection)
    _parse(draft, "ctl", CtlSection)
    _optional(draft, "citus", CitusSection)
    _plugins(draft)
    if draft.errors:
        raise ConfigErrors(draft.errors)
    restapi = draft.sections.get("restapi")
    return ClientConfig(node.values.get("scope"), node.values.get("namespace", "service"), node.values.get("name"), restapi,
                        _ctl(draft.sections["ctl"], restapi), draft.sections.get("citus"), draft.stores, draft.plugin_sections,
                        draft.tree, draft.source, tuple(draft.warnings))


def examine(origin: Origin) -> Draft:
    """Read and check everything without raising; the draft holds what could be parsed and all mistakes."""
    draft = Draft(origin)
    _read_sources(draft)
    if not draft.source:
        draft.errors += [] if draft.errors else [_nothing(origin.path)]
        return draft
    _legacy(draft)
    _parse(draft, "", NodeSection)
    for name, cls in (("log", LogSection), ("recorder", RecorderSection), ("restapi", RestapiSection), ("ctl", CtlSection),
                      ("watchdog", WatchdogSection)):
        _parse(draft, name, cls)
    _optional(draft, "bootstrap", BootstrapSection)
    _optional(draft, "citus", CitusSection)
    _parse(draft, "postgresql", PostgresqlSection)
    _plugins(draft)
    check_tags(draft.tree.get("tags"), draft.fail, draft.warn)
    _check_node(draft)
    _check_addresses(draft)
    _check_postgresql(draft)
    _check_bootstrap(draft)
    _check_watchdog(draft)
    _check_recorder(draft)
    _check_top_level(draft)
    _check_filled(draft)
    return draft


def _finish(draft: Draft) -> LocalConfig:
    if draft.errors:
        raise ConfigErrors(draft.errors)
    sections = draft.sections
    node = replace(sections[""], thread_pool_size=max(_MIN_THREADS, sections[""].thread_pool_size),
                   thread_stack_size=max(_MIN_STACK, sections[""].thread_stack_size))
    restapi = sections["restapi"]
    restapi = replace(restapi, connect_address=restapi.connect_address or split_list(restapi.listen)[0],
                      thread_pool_size=max(_MIN_THREADS, restapi.thread_pool_size))
    return LocalConfig(draft.tree, node, sections["log"], sections["recorder"], restapi, _ctl(sections["ctl"], restapi),
                       sections["postgresql"], sections.get("bootstrap"), sections["watchdog"],
                       Tags(draft.tree.get("tags") or {}), sections.get("citus"), draft.stores, draft.plugin_sections,
                       draft.source, tuple(draft.warnings), draft.origin)


def _ctl(ctl: CtlSection, restapi: RestapiSection | None) -> CtlSection:
    """Login and authorities fall back to those of the REST API (config 2.4)."""
    if restapi is None:
        return ctl
    return replace(ctl, authentication=ctl.authentication or restapi.authentication, cacert=ctl.cacert or restapi.cafile)


# -- sources ---------------------------------------------------------------------------------------------------------------

def _read_sources(draft: Draft) -> None:
    """Choose the source by config 1.1 and merge it; ``draft.source`` stays empty if there is none."""
    path, environment = draft.origin.path, draft.origin.environment
    draft.warnings += environment.warnings
    if path is not None and os.path.exists(path):
        if _read_files(draft, path):
            draft.source = path
            _merge(draft, environment.tree, environment.places)
        return
    if environment.document is not None:
        if _read_text(draft, environment.document, environment.document_name):
            draft.source = environment.document_name
    elif environment.tree:
        draft.source = "environment"
        _merge(draft, environment.tree, environment.places)
    if draft.source and path is not None:
        draft.warnings.append(ConfigError("", "does not exist; the environment is used instead", "correct the path", path))


def _nothing(path: str | None) -> ConfigError:
    return ConfigError("", "does not exist" if path else "Config is empty.",
                       "name a file or a directory, or set PGCORE_CONFIGURATION or PGCORE_* variables", path or "")


def _read_files(draft: Draft, path: str) -> bool:
    if os.path.isdir(path):
        try:
            names = sorted(name for name in os.listdir(path) if name.endswith((".yml", ".yaml")))
        except OSError as error:
            draft.errors.append(ConfigError("", f"cannot be listed: {error.strerror}", "make it readable", path))
            return False
        files = [full for full in (os.path.join(path, name) for name in names) if os.path.isfile(full)]
        if not files:
            draft.errors.append(ConfigError("", "holds no .yml or .yaml file", "put the configuration there", path))
        return bool(files) and all([_read_file(draft, file) for file in files])
    if not os.path.isfile(path):
        draft.errors.append(ConfigError("", "is neither a file nor a directory", "name a YAML file", path))
        return False
    return _read_file(draft, path)


def _read_file(draft: Draft, path: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        draft.errors.append(ConfigError("", f"cannot be read: {reason}", "make it readable for the user the agent runs as", path))
        return False
    return _read_text(draft, text, path)


def _read_text(draft: Draft, text: str, name: str) -> bool:
    try:
        tree, places, warnings = read_yaml(text, name)
    except ConfigError as error:
        draft.errors.append(error)
        return False
    draft.warnings += warnings
    _merge(draft, tree, places)
    return True


def _merge(draft: Draft, tree: Mapping[str, Any], places: Places) -> None:
    draft.tree = patch(draft.tree, tree)
    draft.places.update(places)


# -- sections --------------------------------------------------------------------------------------------------------------

def _parse(draft: Draft, name: str, cls: type) -> None:
    value = draft.tree.get(name) if name else draft.tree
    open_ended = cls in (NodeSection, PostgresqlSection, BootstrapSection)
    parsed = parse_fields(cls, value, name, draft.places, unknown="ignore" if open_ended else "warn")
    draft.errors += parsed.errors
    draft.warnings += parsed.warnings
    draft.sections[name] = partial_section(cls, parsed.values)


def _optional(draft: Draft, name: str, cls: type) -> None:
    if draft.tree.get(name) is not None:
        _parse(draft, name, cls)


def _plugins(draft: Draft) -> None:
    for name, cls in draft.origin.section_types.items():
        if name not in draft.tree or not is_section(cls):
            continue
        section, errors, warnings = parse_section(cls, draft.tree[name], name, draft.places)
        draft.errors += errors
        draft.warnings += warnings
        if section is not None:
            draft.plugin_sections[name] = section


def _legacy(draft: Draft) -> None:
    """Turn the older forms of config 21 into the present ones."""
    tree = draft.tree
    postgresql = tree.get("postgresql")
    if isinstance(postgresql, Mapping):
        postgresql = dict(postgresql)
        if "authentication" not in postgresql and ("replication" in postgresql or "superuser" in postgresql):
            users = {"superuser": "superuser", "replication": "replication", "pg_rewind": "rewind"}
            postgresql["use_pg_rewind"] = "pg_rewind" in postgresql
            postgresql["authentication"] = {new: postgresql.pop(old) for old, new in users.items() if old in postgresql}
            draft.warn("postgresql", "holds the database users in an old form", "move them below postgresql.authentication")
        name = postgresql.pop("name", None)
        if name is not None:
            tree.setdefault("name", name)
            draft.warn("postgresql.name", "is an old place for the node's name", "move it to the top level")
        tree["postgresql"] = postgresql
    zookeeper = tree.get("zookeeper")
    if isinstance(zookeeper, Mapping) and "exhibitor" in zookeeper:
        tree.setdefault("exhibitor", zookeeper["exhibitor"])
        del tree["zookeeper"]
        draft.warn("zookeeper.exhibitor", "is an old place for this section", "move it to the top level")


# -- checks over several keys ------------------------------------------------------------------------------------------------

def _check_node(draft: Draft) -> None:
    node = draft.sections[""]
    if node.name == PLACEHOLDER_NAME:
        draft.fail("name", "is reserved", "choose another name")
    for path, text in (("name", node.name), ("scope", node.scope)):
        if text is not None and (not text.strip() or "/" in text):
            draft.fail(path, f"wants a name without slashes, has {text!r}", "use letters, digits, - and _")
    for path, value, least in (("thread_pool_size", node.thread_pool_size, _MIN_THREADS),
                               ("restapi.thread_pool_size", draft.sections["restapi"].thread_pool_size, _MIN_THREADS),
                               ("thread_stack_size", node.thread_stack_size, _MIN_STACK)):
        if value < least:
            draft.warn(path, f"is {value}; {least} is used", f"set at least {least}")


def _check_addresses(draft: Draft) -> None:
    """Every address can be split; ``restapi.listen`` needs its port (config 2.3, 6.1)."""
    listen = draft.sections["restapi"].listen
    try:
        split_addresses(listen if listen is not None else ":8008")  # that it is missing was said already
    except ValueError as error:
        draft.fail("restapi.listen", str(error), "write it as 10.0.0.1:8008, [::1]:8008 or *:8008, several with commas between")
    wishes: list[tuple[str, str, int | None]] = [("restapi", "connect_address", None), ("postgresql", "listen", 5432),
                                                 ("postgresql", "connect_address", 5432), ("postgresql", "proxy_address", 5432)]
    for name, key, default in wishes:
        text = getattr(draft.sections[name], key)
        if text is None:
            continue
        try:
            host, _ = split_address(text, default)
        except ValueError as error:
            draft.fail(f"{name}.{key}", str(error), f"write it as 10.0.0.1:{default or 8008}")
            continue
        if not host and key != "listen":
            draft.fail(f"{name}.{key}", f"wants host:port, has {text!r}", "name an address that the other nodes can reach")
        if key == "listen" and "*" in host and host != "*":
            draft.fail(f"{name}.{key}", f"mixes * with other hosts: {text!r}", "* must stand alone")


def _check_postgresql(draft: Draft) -> None:
    raw = draft.tree.get("postgresql")
    if not isinstance(raw, Mapping):
        return
    methods = raw.get("create_replica_methods") or raw.get("create_replica_method") or ()
    _unknown(draft, "postgresql", raw, key_names(PostgresqlSection), methods if isinstance(methods, Collection) else ())
    section = draft.sections["postgresql"]
    if not section.authentication.replication.username:
        draft.fail("postgresql.authentication.replication.username", "is required but missing", "name the role that streams WAL")
    for event in section.callbacks:
        if event not in CALLBACKS:
            draft.warn(f"postgresql.callbacks.{event}", "is not a known callback and has no effect",
                       "known are " + ", ".join(CALLBACKS))
    if "use_slots" in raw:
        draft.warn("postgresql.use_slots", "has no effect in a local file", _dynamic_remedy("postgresql.use_slots"))
    if os.path.isdir(os.path.expanduser(section.pgpass or "")):
        draft.fail("postgresql.pgpass", f"names the directory {section.pgpass!r}", "name a file")


def _check_bootstrap(draft: Draft) -> None:
    raw = draft.tree.get("bootstrap")
    if not isinstance(raw, Mapping):
        return
    if raw.get("users"):
        draft.warn("bootstrap.users", "has no effect", "create database users in bootstrap.post_bootstrap")
    _unknown(draft, "bootstrap", {key: value for key, value in raw.items() if key != "users"}, key_names(BootstrapSection),
             [str(raw.get("method"))])


def _check_filled(draft: Draft) -> None:
    """A generated file is complete; what else is wrong with a value that is not there yet is not told."""
    paths = unfilled(draft.tree)
    draft.errors = [error for error in draft.errors if error.path not in paths]
    for path in paths:
        draft.fail(path, f"is still {FILL_IN}", "fill it in")


def _check_watchdog(draft: Draft) -> None:
    """A mode that means nothing is no mode (HA rules 10)."""
    mode = draft.sections["watchdog"].mode
    if mode is not None and str(mode).lower() not in WATCHDOG_MODES:
        draft.warn("watchdog.mode", f"is {mode!r}, which counts as off", "write off, automatic or required")


def record_path(recorder: RecorderSection, log: LogSection, postgresql: PostgresqlSection, node: NodeSection) -> str:
    """The file of the flight recorder. Never below the data directory: copies, pg_rewind and a new copy would take it along."""
    beside = os.path.normpath(os.path.expanduser(postgresql.data_dir)) + ".flight"
    directory = recorder.dir or (beside if log.dir is None or _within(log.dir, postgresql.data_dir) else log.dir)
    return os.path.join(os.path.expanduser(directory), f"flight-{node.scope}-{node.name}.jsonl")


def _check_recorder(draft: Draft) -> None:
    section, data_dir = draft.sections["recorder"], draft.sections["postgresql"].data_dir
    if section.dir and data_dir and _within(section.dir, data_dir):
        draft.fail("recorder.dir", f"lies in the data directory: {section.dir!r}", "name one outside, as a new copy removes it")


def _within(path: str, directory: str) -> bool:
    inner, outer = (os.path.realpath(os.path.expanduser(name)) for name in (path, directory))
    return os.path.commonpath((inner, outer)) == outer


def _unknown(draft: Draft, name: str, raw: Mapping[Any, Any], known: Mapping[str, str], methods: Collection[str]) -> None:
    """Other keys may be the options of a method; report those that are not, or look like a misspelling."""
    for key, value in raw.items():
        key = str(key)
        if key in known or key in methods:
            continue
        near = nearest(key, known)
        if near or not isinstance(value, Mapping | list):
            draft.warn(f"{name}.{key}", "is not a known key and has no effect", f"did you mean {near}?" if near else "remove it")


def _check_top_level(draft: Draft) -> None:
    """Keys that mean nothing here; several stores or none (config 1.3, 3)."""
    known = {*key_names(NodeSection), "log", "recorder", "restapi", "ctl", "postgresql", "bootstrap", "watchdog", "tags", "citus",
             "plugins", *DISTRIBUTION_OF, *draft.origin.section_types}
    for key in draft.tree:
        if key in DYNAMIC_ONLY:
            draft.warn(key, "has no effect in a local file", _dynamic_remedy(key))
        elif key not in known:
            near = nearest(key, known)
            draft.warn(key, "is not a known key and has no effect", f"did you mean {near}?" if near else "remove it")
    stores = draft.stores
    if not stores:
        draft.fail("", "has no section for a store", "add one of " + ", ".join([*DISTRIBUTION_OF, *(
            name for name in draft.origin.section_types if name not in DISTRIBUTION_OF)]))
    several = [name for name in stores if name in DISTRIBUTION_OF]
    if len(several) > 1:
        draft.warn(several[1], f"is one of several store sections: {', '.join(several)}", "keep exactly one")


def _dynamic_remedy(key: str) -> str:
    return f"set {key} with PATCH /config; bootstrap.dcs.{key} only counts while a new cluster is made"
