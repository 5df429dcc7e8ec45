"""Gathers what the check of a node looks at: its configuration and environment, this machine, the cluster. Nothing is changed."""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pgcore.cli.api import ApiError, MemberApi
from pgcore.cli.context import Session
from pgcore.cli.store_version import store_version
from pgcore.cli.validate import look
from pgcore.config.load import Draft, record_path
from pgcore.config.sections import WATCHDOG_MODES
from pgcore.errors import ConfigError, ConfigErrors, PgcoreError
from pgcore.migrate.subject import FileFact, Machine, Subject, mapping
from pgcore.model.cluster import ClusterView
from pgcore.registry import Registry

STORE_S = 5.0
REST_S = 2.0
PROGRAM_S = 5.0
_SECRETS = re.compile(r"^[^#\n]*\b(password|token|secret)\s*:\s*\S", re.MULTILINE)
_KEYS = {"etcd": ("cacert", "cert", "key"), "etcd3": ("cacert", "cert", "key"), "consul": ("cacert", "cert", "key"),
         "zookeeper": ("cacert", "cert", "key"), "exhibitor": ("cacert", "cert", "key"), "kubernetes": ("cacert",)}


@dataclass(frozen=True, slots=True)
class Survey:
    """The subject of the rules; ``unreadable`` says why the cluster could not be read, empty if it was or was not to be."""

    subject: Subject
    source: str
    unreadable: str = ""
    store_version: str = ""


def survey(session: Session, *, offline: bool) -> Survey:
    """Look at everything. Raises ConfigErrors if there is no configuration that can be read."""
    file, environ = session.config_file, session.environ
    registry = Registry()
    draft, found = look(file, environ, registry, ignore_listen_port=True, probe=False)
    if not draft.source:
        raise ConfigErrors(draft.errors)
    cluster, unreadable, answer, version = None, "", None, ""
    if not offline:
        cluster, unreadable = _cluster(session)
        answer = _rest_answer(session, draft)
        version = store_version(draft.stores[0], mapping(draft.tree.get(draft.stores[0]))) if draft.stores else ""
    subject = Subject(draft.tree, draft.places, tuple(found), leftover(environ, draft), _unused_document(file, environ),
                      frozenset((*registry.replica_methods(), *registry.bootstrap_methods())), machine(draft, answer), cluster,
                      _store_path(draft))
    return Survey(subject, draft.source, unreadable, version)


def read_environment_file(path: str) -> dict[str, str]:
    """``NAME=VALUE`` lines as systemd and shells read them. Raises ConfigError."""
    try:
        with open(path, encoding="utf-8") as file:
            words = shlex.split(file.read(), comments=True)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError("", f"cannot be read as lines NAME=VALUE: {reason}", "correct the file", path) from error
    return {name: value for name, equals, value in (word.partition("=") for word in words) if equals}


def leftover(environ: Mapping[str, str], draft: Draft) -> tuple[str, ...]:
    """Variables with our prefixes that no key takes."""
    from pgcore.config.environment import PREFIXES, take_environment

    rest = dict(environ)
    take_environment(rest, draft.origin.section_types)
    return tuple(sorted(name for name in rest if name.startswith(PREFIXES)))


def _unused_document(file: str | None, environ: Mapping[str, str]) -> str:
    if file is None:
        return ""
    return next((name for name in ("PGCORE_CONFIGURATION", "PATRONI_CONFIGURATION") if environ.get(name)), "")


def _store_path(draft: Draft) -> str:
    node = draft.sections[""]
    if draft.stores[:1] == ("kubernetes",):
        return f"{mapping(draft.tree['kubernetes']).get('namespace', 'default')}/{node.scope}"
    group = mapping(draft.tree.get("citus")).get("group")
    below = f"/{group}" if isinstance(group, int) else ""
    return f"/{'/'.join(part for part in f'{node.namespace}/{node.scope}'.split('/') if part)}{below}"


# -- the cluster -----------------------------------------------------------------------------------------------------------------

def _cluster(session: Session) -> tuple[ClusterView | None, str]:
    """The cluster, read once, or why it could not be; a store that members of both cannot share is not asked."""
    try:
        if sorted(session.client.stores)[:1] == ["raft"]:
            return None, ""
        with session.cluster(None, session.own_group(None)) as cluster:
            return cluster.read(STORE_S), ""
    except PgcoreError as error:
        return None, str(error)


def _rest_answer(session: Session, draft: Draft) -> str | None:
    """Which agent answers at the address this node publishes; empty if nobody does."""
    rest = draft.sections["restapi"]
    address = rest.connect_address or str(rest.listen or "").partition(",")[0]
    if not address:
        return None
    url = f"{'https' if rest.certfile else 'http'}://{address}/patroni"
    try:
        body = MemberApi(session).call("GET", url, "", None, REST_S).body
    except ApiError:
        return ""
    except PgcoreError:
        return None
    try:
        document = mapping(json.loads(body))
    except ValueError:
        document = {}
    own, patroni = mapping(document.get("pgcore")).get("version"), mapping(document.get("patroni"))
    if not patroni:
        return "what answers is no agent"
    agent = f"pgcore {own}" if own else f"Patroni {patroni.get('version')}"
    return f"{agent} as {patroni.get('name')}"


# -- this machine ----------------------------------------------------------------------------------------------------------------

def machine(draft: Draft, answer: str | None) -> Machine:
    """Programs, data directory, files and permissions, as the present account sees them."""
    section = draft.sections["postgresql"]
    directory = os.path.expanduser(section.bin_dir) if section.bin_dir else None
    postgres = shutil.which(section.bin_name.get("postgres", "postgres"), path=directory)
    control = shutil.which(section.bin_name.get("pg_controldata", "pg_controldata"), path=directory)
    data_dir = os.path.expanduser(section.data_dir) if section.data_dir else None
    version = re.search(r"\) (\d+(?:\.\d+)?)", _output(postgres, "--version")) if postgres else None
    identifier = re.search(r"system identifier:\s+(\d+)", _output(control, data_dir)) if control and data_dir else None
    return Machine(_account(os.geteuid()), postgres, version[1] if version else None, _owner(data_dir),
                   identifier[1] if identifier else None, tuple(_files(draft)), tuple(_readable_by_all(draft.source)), answer)


def _output(*argv: str) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=PROGRAM_S, check=False,
                              env={**os.environ, "LC_ALL": "C"}).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _owner(folder: str | None) -> str | None:
    try:
        return _account(os.stat(folder).st_uid) if folder else None
    except OSError:
        return None


def _readable_by_all(source: str) -> Iterator[str]:
    """Configuration files with passwords and a mode that lets everybody read them."""
    names = [source]
    if os.path.isdir(source):
        names = sorted(os.path.join(source, name) for name in os.listdir(source) if name.endswith((".yml", ".yaml")))
    for name in names:
        try:
            with open(name, encoding="utf-8") as file:
                if os.fstat(file.fileno()).st_mode & 0o004 and _SECRETS.search(file.read()):
                    yield name
        except OSError:
            continue  # the source is a variable


def _files(draft: Draft) -> Iterator[FileFact]:
    """What keys of stores, database users, log, recorder and watchdog name; `pgcore validate` looks at the rest."""
    for store, keys in _KEYS.items():
        section = mapping(draft.tree.get(store))
        for key in keys:
            if isinstance(section.get(key), str):
                yield _readable(f"{store}.{key}", str(section[key]))
    users = mapping(mapping(draft.tree.get("postgresql")).get("authentication"))
    for user, keys in users.items():
        for key in ("sslcert", "sslkey", "sslrootcert", "sslcrl"):
            if isinstance(mapping(keys).get(key), str):
                yield _readable(f"postgresql.authentication.{user}.{key}", str(mapping(keys)[key]))
    log, recorder, postgresql = (draft.sections[name] for name in ("log", "recorder", "postgresql"))
    if log.dir and os.path.isdir(log.dir):
        yield _writable("log.dir", log.dir)
    if recorder.enabled and postgresql.data_dir and draft.sections[""].scope and draft.sections[""].name:
        yield _recorder(os.path.dirname(record_path(recorder, log, postgresql, draft.sections[""])))
    watchdog = draft.sections["watchdog"]
    if WATCHDOG_MODES.get(str(watchdog.mode).lower(), "off") != "off" and (
            mapping(draft.tree.get("watchdog")) or os.path.exists(watchdog.device)):
        yield _writable("watchdog.device", watchdog.device)


def _readable(path: str, name: str) -> FileFact:
    if not os.path.exists(name):
        return FileFact(path, name, "does not exist")
    return FileFact(path, name, "" if os.access(name, os.R_OK) else "cannot be read by this account")


def _writable(path: str, name: str) -> FileFact:
    if not os.path.exists(name):
        return FileFact(path, name, "does not exist")
    return FileFact(path, name, "" if os.access(name, os.W_OK) else "cannot be written by this account")


def _recorder(folder: str) -> FileFact:
    """The recorder makes its directory, if the one above lets it."""
    if os.path.isdir(folder):
        return _writable("recorder.dir", folder)
    above = os.path.dirname(folder)
    made = os.path.isdir(above) and os.access(above, os.W_OK)
    return FileFact("recorder.dir", folder, "" if made else "cannot be made by this account")
