"""The configuration of the whole cluster and what it means on this node: merge, defaults, timing, cache file (config 1.2-1.6)."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from pgcore.config.document import equal, patch
from pgcore.config.load import LocalConfig
from pgcore.config.parameters import merge_parameters, role_parameters
from pgcore.config.schema import key_names, parse_fields
from pgcore.config.sections import (
    DYNAMIC_ONLY,
    LOCAL_ONLY,
    ROLE_WORDS,
    DynamicSection,
    PostgresqlSection,
    SharedPostgresql,
    StandbyClusterSection,
)
from pgcore.config.values import nearest
from pgcore.errors import ConfigError, ConfigErrors
from pgcore.model.basics import DEFAULT_LOOP_WAIT, DEFAULT_RETRY_TIMEOUT, DEFAULT_TTL, MIN_TTL, Json, Timing

__all__ = ["Effective", "effective", "equal", "initial_document", "patch", "read_cache", "write_cache"]

CACHE_FILE = "patroni.dynamic.json"
"""Name of the cached dynamic configuration in the data directory (config 1.6)."""

NEW_CLUSTER_TIMING = Timing(10, 3, 3)
"""Recorded for a cluster that pgcore makes, unless its bootstrap says otherwise."""

NOTHING: Mapping[str, Json] = MappingProxyType({})
_REMEDY = "correct it with PATCH /config"
_PROTECTING = frozenset({"synchronous_mode", "synchronous_mode_strict", "synchronous_node_count", "failsafe_mode",
                         "failsafe_quorum", "check_timeline", "pause"})
"""With the default in place of a misspelled value of these, commits or a server in maintenance would lose their protection."""
_SLOT_PROPERTIES = ("name", "type", "database", "plugin")
_SLOT_NAME = re.compile(r"[a-z0-9_]{1,63}")
_SLOT_KEYS = ("permanent_replication_slots", "permanent_slots", "slots")


@dataclass(frozen=True, slots=True)
class Effective:
    """The dynamic document over the defaults and under the local configuration: what is in force on this node.

    ``timing`` already fits together. ``slots`` holds the valid permanent slots: ``type`` is always present, ``database`` and
    ``plugin`` with logical ones, ``cluster_type`` perhaps. ``postgresql`` is the merged section, ``postgresql_tree`` the same
    as raw values with the sections of custom methods. ``document`` is the document as it was given.
    """

    document: Mapping[str, Json]
    timing: Timing
    ha: DynamicSection
    standby_cluster: StandbyClusterSection | None
    slots: Mapping[str, Mapping[str, Json]]
    ignore_slots: tuple[Mapping[str, Json], ...]
    postgresql: SharedPostgresql = field(repr=False)
    postgresql_tree: Mapping[str, Json] = field(repr=False)
    warnings: tuple[ConfigError, ...] = field(default=(), compare=False)

    @property
    def synchronous(self) -> bool:
        """Synchronous mode is on and in force: it is not in a standby cluster (config 11)."""
        return self.ha.synchronous_mode != "off" and self.standby_cluster is None


class Notes:
    """Warnings and errors about one document."""

    def __init__(self, source: str) -> None:
        """``source`` names the document in messages."""
        self.source = source
        self.warnings: list[ConfigError] = []
        self.errors: list[ConfigError] = []

    def warn(self, path: str, problem: str, hint: str) -> None:
        """Note something that is not in force as it was written."""
        self.warnings.append(ConfigError(path, problem, hint, self.source))

    def fail(self, path: str, problem: str, hint: str = _REMEDY) -> None:
        """Note something that makes the whole document unusable."""
        self.errors.append(ConfigError(path, problem, hint, self.source))

    def downgrade(self, errors: list[ConfigError]) -> None:
        """A value that is refused alone: the default is used, and said so."""
        self.warnings += [ConfigError(error.path, f"{error.problem}; the default is used", error.hint or _REMEDY, error.source)
                          for error in errors]


def effective(local: LocalConfig, document: Mapping[str, Json] | None, *, server_major: int | None = None,
              patroni_present: bool = False, ttl_floor: int = MIN_TTL) -> Effective:
    """What ``document`` and ``local`` mean together (config 1.3-1.5, 5, 7.1). None stands for ``initial_document(local)``.

    A wrong value gives a warning and its default. Raises ConfigErrors if the document cannot be used at all: then nothing of it
    is in force and the caller keeps what it had. That is so for timing that is no number, for a ``postgresql``, ``parameters``,
    ``slots`` or ``ignore_slots`` of the wrong shape, for a wrong ``standby_cluster``, because the default would promote it, and
    for a setting that protects commits or a server in maintenance, because its default would not.
    """
    notes = Notes("dynamic configuration")
    if document is None:
        document = initial_document(local, ttl_floor=ttl_floor)
    own = local.tree.get("postgresql") or {}
    result = read_document(document, notes, own=own, own_parameters=local.postgresql.parameters, server_major=server_major,
                           patroni_present=patroni_present, ttl_floor=ttl_floor)
    if notes.errors:
        raise ConfigErrors(notes.errors)
    return replace(result, warnings=tuple(notes.warnings))


def read_document(document: Any, notes: Notes, *, own: Mapping[str, Json] = NOTHING,
                  own_parameters: Mapping[str, Json] = NOTHING, server_major: int | None = None,
                  patroni_present: bool = False, ttl_floor: int = MIN_TTL) -> Effective:
    """Read every part of a document under the local ``postgresql`` section ``own``; all mistakes go to ``notes``.

    The result is good only if ``notes`` holds no errors.
    """
    if not isinstance(document, Mapping):
        notes.fail("", "wants a mapping of keys")
        document = {}
    timing = _timing(document, notes, patroni_present, ttl_floor)
    standby_cluster = _standby_cluster(document.get("standby_cluster"), notes)
    slots = _slots(document, notes)
    ignore_slots = _ignore_slots(document.get("ignore_slots"), notes)
    ha = _ha(document, notes, server_major)
    if ha.failsafe_quorum:
        _failsafe_quorum(ha, notes, patroni_present)
    tree = _postgresql(own, own_parameters, document.get("postgresql"), notes)
    _unknown(document, notes)
    parsed = parse_fields(SharedPostgresql, tree, "postgresql", notes.source, unknown="ignore")
    postgresql = SharedPostgresql(**parsed.values)
    _roles(postgresql, notes)
    return Effective(document, timing, ha, standby_cluster, slots, ignore_slots, postgresql, tree)


def _timing(document: Mapping[str, Json], notes: Notes, patroni_present: bool, ttl_floor: int) -> Timing:
    """Absent keys count 30, 10, 10, as with the predecessor: every member must compute the same (config 1.5)."""
    numbers = {}
    for key, default in (("ttl", DEFAULT_TTL), ("loop_wait", DEFAULT_LOOP_WAIT), ("retry_timeout", DEFAULT_RETRY_TIMEOUT)):
        value = document.get(key)
        try:
            numbers[key] = default if value is None else int(value)
        except (TypeError, ValueError, OverflowError):
            notes.fail(key, f"wants a number of seconds, has {value!r}")
            numbers[key] = default
    wanted = Timing(**numbers)
    fitted = wanted.fitted(patroni_present=patroni_present, ttl_floor=ttl_floor)
    if wanted.ttl < fitted.ttl:
        who = "a Patroni member of this cluster" if patroni_present and fitted.ttl > ttl_floor else "the store"
        notes.warn("ttl", f"is {wanted.ttl}, below the {fitted.ttl} s that {who} needs at least; {fitted.ttl} is used", _REMEDY)
    for key in ("loop_wait", "retry_timeout"):
        if getattr(fitted, key) != getattr(wanted, key):
            notes.warn(key, f"is {getattr(wanted, key)}, which is too small or breaks loop_wait + 2 * retry_timeout <= ttl; "
                            f"{getattr(fitted, key)} is used", _REMEDY)
    return fitted


def _ha(document: Mapping[str, Json], notes: Notes, server_major: int | None) -> DynamicSection:
    parsed = parse_fields(DynamicSection, document, "", notes.source, unknown="ignore")
    for error in parsed.errors:
        if error.path in _PROTECTING:
            notes.fail(error.path, error.problem, error.hint or _REMEDY)
    notes.downgrade([error for error in parsed.errors if error.path not in _PROTECTING])
    notes.warnings += parsed.warnings
    section = DynamicSection(**parsed.values)
    _synchronous(section, notes)
    if server_major is not None and server_major < 11:
        section = replace(section, member_slots_ttl=0)  # such servers cannot advance slots (config 12.4)
    if section.synchronous_node_count < 1 and section.synchronous_mode_strict:
        return replace(section, synchronous_node_count=1)
    return section


def _synchronous(ha: DynamicSection, notes: Notes) -> None:
    """Say when a setting of synchronous replication does not do what it seems to."""
    if ha.synchronous_mode_strict and ha.synchronous_mode == "off":
        notes.warn("synchronous_mode_strict", "has no effect: synchronous_mode is off", "set synchronous_mode to on or quorum")
    if ha.synchronous_mode != "off" and ha.synchronous_node_count < 1:
        effect = "1 is used, as the mode is strict" if ha.synchronous_mode_strict else "commits wait for no standby"
        notes.warn("synchronous_node_count", f"is 0: {effect}", "set it to 1 or more")


def _failsafe_quorum(ha: DynamicSection, notes: Notes, patroni_present: bool) -> None:
    """Say when the setting has no effect: it needs failsafe mode, votes, and members that all know of it."""
    missing = [
        reason
        for reason, holds in (
            ("failsafe_mode is off", not ha.failsafe_mode),
            (f"synchronous_mode is {ha.synchronous_mode}, not quorum", ha.synchronous_mode != "quorum"),
            ("a Patroni member of this cluster does not know it", patroni_present),
        )
        if holds
    ]
    if missing:
        notes.warn("failsafe_quorum", f"has no effect: {', '.join(missing)}", "correct that, or remove it")


def _standby_cluster(value: Any, notes: Notes) -> StandbyClusterSection | None:
    """The section if it makes this a standby cluster: host, port or restore_command is set (config 11)."""
    if value is None or value == {}:
        return None
    parsed = parse_fields(StandbyClusterSection, value, "standby_cluster", notes.source)
    for error in parsed.errors:
        notes.fail(error.path, error.problem, error.hint or _REMEDY)
    notes.warnings += parsed.warnings
    section = StandbyClusterSection(**parsed.values)
    if section.host or section.port or section.restore_command:
        return section
    if not parsed.errors:
        notes.warn("standby_cluster", "has no effect", "set host, port or restore_command, or remove it")
    return None


def _slots(document: Mapping[str, Json], notes: Notes) -> dict[str, Mapping[str, Json]]:
    key = next((key for key in _SLOT_KEYS if document.get(key)), None)
    if key is None:
        return {}
    value = document[key]
    if not isinstance(value, Mapping):
        notes.fail(key, f"wants a mapping from slot name to its properties, has {value!r}")
        return {}
    slots = {}
    for name, wanted in value.items():
        slot = _slot(f"{key}.{name}", str(name), wanted, notes)
        if slot is not None:
            slots[str(name)] = slot
    return slots


def _slot(path: str, name: str, wanted: Any, notes: Notes) -> Mapping[str, Json] | None:
    """One permanent slot by config 12.2, or None after a warning."""
    if not _SLOT_NAME.fullmatch(name):
        notes.warn(path, f"is no slot name: {name!r}; the slot is left out", "use a-z, 0-9 and _, at most 63 of them")
        return None
    if not wanted:
        return {"type": "physical"}
    if not isinstance(wanted, Mapping):
        notes.warn(path, f"wants a mapping, has {wanted!r}; the slot is left out", "write  type: physical  or  type: logical")
        return None
    logical = bool(wanted.get("database") and wanted.get("plugin"))
    kind = str(wanted.get("type") or ("logical" if logical else "physical")).lower()
    if kind not in ("physical", "logical") or (kind == "logical" and not logical):
        notes.warn(path, f"wants type physical, or logical with database and plugin, has {dict(wanted)!r}; the slot is left out",
                   _REMEDY)
        return None
    if wanted.get("cluster_type") not in (None, "primary", "standby"):
        seen = wanted["cluster_type"]
        notes.warn(f"{path}.cluster_type", f"wants primary or standby, has {seen!r}; the slot is left out", _REMEDY)
        return None
    return {**wanted, "type": kind}


def _ignore_slots(value: Any, notes: Notes) -> tuple[Mapping[str, Json], ...]:
    if not value:
        return ()
    if not isinstance(value, list):
        notes.fail("ignore_slots", f"wants a list of mappings, has {value!r}")
        return ()
    good = tuple(item for item in value if isinstance(item, Mapping))
    if len(good) < len(value):
        notes.fail("ignore_slots", f"wants mappings with name, type, database or plugin as its items, has {value!r}")
    for index, item in enumerate(good):
        for key in item:
            if key not in _SLOT_PROPERTIES:
                near = nearest(str(key), _SLOT_PROPERTIES)
                notes.warn(f"ignore_slots[{index}].{key}", "is no property of a slot and does not count: more slots match",
                           f"did you mean {near}?" if near else "use name, type, database, plugin")
    return good


def _postgresql(own: Mapping[str, Json], own_parameters: Mapping[str, Json], value: Any, notes: Notes) -> dict[str, Json]:
    """The merged raw ``postgresql`` section without the local-only keys (config 1.3)."""
    dynamic = {} if value is None else value
    if not isinstance(dynamic, Mapping):
        notes.fail("postgresql", "wants a mapping of keys")
        return {}
    if not isinstance(dynamic.get("parameters") or {}, Mapping):
        notes.fail("postgresql.parameters", "wants a mapping of server parameters")
        return {}
    parsed = parse_fields(SharedPostgresql, dynamic, "postgresql", notes.source, unknown="ignore")
    notes.downgrade(parsed.errors)
    notes.warnings += parsed.warnings
    names: dict[Any, str] = dict(key_names(SharedPostgresql))
    bad = {error.path.split(".")[1] for error in parsed.errors if "." in error.path}
    merged: dict[str, Json] = {}
    for key, setting in dynamic.items():
        if key in LOCAL_ONLY:
            notes.warn(f"postgresql.{key}", "has no effect in the dynamic configuration", "set it in the file of each node")
        elif key not in bad and setting is not None:
            merged[str(names.get(key, key))] = setting
            near = None if key in names else nearest(str(key), names)
            if near:
                notes.warn(f"postgresql.{key}", "is not a known key and has no effect", f"did you mean {near}?")
    # aliases first, so that the present name wins over them
    mine = {names.get(key, key): own[key] for key in sorted(own, key=lambda key: names.get(key, key) == key)
            if key not in key_names(PostgresqlSection) or key in names}
    merged |= {key: setting for key, setting in mine.items() if setting is not None and key not in ("parameters", "use_slots")}
    merged["parameters"] = merge_parameters(dynamic.get("parameters") or {}, own_parameters, notes.warn)
    return merged


def _roles(postgresql: SharedPostgresql, notes: Notes) -> None:
    """Say what of the settings for single roles has no effect, or more than it seems to (config 6.6)."""
    for word in ROLE_WORDS:
        role_parameters(getattr(postgresql, f"parameters_{word}"), f"postgresql.parameters_{word}", notes.warn)
        for name in ("pg_hba", "pg_ident"):
            if getattr(postgresql, f"{name}_{word}") and not getattr(postgresql, name):
                problem = f"stays in force in the other roles: {name} is not set, so nothing replaces it"
                notes.warn(f"postgresql.{name}_{word}", problem, f"set postgresql.{name} too")


def _unknown(document: Mapping[str, Json], notes: Notes) -> None:
    known = DYNAMIC_ONLY | {"postgresql"}
    for key in document:
        if key not in known:
            near = nearest(str(key), known)
            notes.warn(str(key), "is not a known key and has no effect", f"did you mean {near}?" if near else _REMEDY)


def initial_document(local: LocalConfig, *, ttl_floor: int = MIN_TTL) -> dict[str, Json]:
    """The first dynamic configuration of a cluster this node makes: ``bootstrap.dcs`` (config 1.6), or {} without ``bootstrap``.

    Says nothing about timing: then pgcore's own, shorter timing is recorded, raised to the ``ttl_floor`` of the store.
    """
    if local.bootstrap is None:
        return {}
    document = patch({}, local.bootstrap.dcs)
    if local.citus is not None:
        document.setdefault("synchronous_mode", "quorum")
    if not any(key in document for key in ("ttl", "loop_wait", "retry_timeout")):
        timing = NEW_CLUSTER_TIMING.fitted(ttl_floor=ttl_floor)
        document |= {"ttl": timing.ttl, "loop_wait": timing.loop_wait, "retry_timeout": timing.retry_timeout}
    return document


# -- cache file --------------------------------------------------------------------------------------------------------------

def read_cache(path: str) -> dict[str, Json] | None:
    """The cached document, or None if there is no usable one (config 1.6)."""
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and document else None


def write_cache(path: str, document: Mapping[str, Json]) -> None:
    """Replace the cached document atomically; mode 0600, or 0640 in a group-readable directory (config 8.6). Raises OSError.

    An agent that runs as root gives the file to the owner of the directory: a base backup reads every file there.
    """
    folder = os.path.dirname(path)
    owner = os.stat(folder)
    temporary = f"{path}.{os.getpid()}"  # the one agent of this directory is the only writer
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file, separators=(",", ":"))
            file.flush()
            os.fchmod(file.fileno(), 0o640 if owner.st_mode & stat.S_IRGRP else 0o600)
            if os.geteuid() == 0:
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
