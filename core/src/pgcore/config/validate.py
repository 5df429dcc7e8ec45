"""Checks of a configuration before the agent runs: everything ``load`` finds, and what only this machine can tell (config 19)."""

from __future__ import annotations

import errno
import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pgcore.config.document import FILL_IN, unfilled
from pgcore.config.dynamic import Notes, read_document
from pgcore.config.environment import take_environment
from pgcore.config.load import Draft, Origin, examine
from pgcore.config.parameters import local_parameters, role_parameters
from pgcore.config.sections import DISTRIBUTION_OF, ROLE_WORDS, PostgresqlSection, RestapiSection
from pgcore.config.server import local_address
from pgcore.config.values import split_address, split_addresses, split_list
from pgcore.errors import ConfigError
from pgcore.model.basics import Json
from pgcore.model.secrets import HIDDEN, text_without_secrets

_NEEDED = ("pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready")
_LOOPBACK, _WILDCARD = ("127.0.0.1", "localhost", "::1"), ("", "0.0.0.0", "*", "::")
_SECRET = re.compile(r"(?<![a-z])(password|token|auth_data|sslpassword|key_password)$")
_DEFAULT_PORTS = {"etcd": 2379, "etcd3": 2379, "consul": 8500, "zookeeper": 2181, "exhibitor": 8181}
_FORBIDDEN_INITDB = ("pgdata", "nosync", "pwfile", "sync-only", "version")
_PROBE_S = 1.0


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. ``level`` is ``error`` (the agent will not work) or ``warning``; secrets in ``value`` are masked."""

    level: str
    path: str
    value: Json
    problem: str
    remedy: str = ""
    source: str = ""

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.level, self.source, self.path) if part)
        text = f"{where}: {self.problem}" + (f" ({self.remedy})" if self.remedy else "")
        return " ".join(text.split())


def validate(path: str | None, environ: Mapping[str, str], section_types: Mapping[str, type], *,
             ignore_listen_port: bool = False, probe: bool = True) -> list[Problem]:
    """Every problem of the configuration, errors first; an empty list means it is fine. ``environ`` is not changed.

    ``probe`` allows what touches the world: binding the listen addresses, running ``postgres --version``, connecting to
    the store. ``ignore_listen_port`` leaves out the first, for a node that is running.
    """
    draft = examine(Origin(path, take_environment(dict(environ), section_types), section_types))
    if draft.source:
        _check_stores(draft, probe)
        _check_reachability(draft)
        _check_files(draft)
        _check_server(draft, probe)
        _check_parameters(draft)
        _check_seed(draft)
        _check_tags(draft)
        if probe and not ignore_listen_port:
            _check_ports(draft)
    waiting = unfilled(draft.tree)
    found = [_problem("error", error, draft) for error in draft.errors if error.path not in waiting or FILL_IN in error.problem]
    found += [_problem("warning", warning, draft) for warning in draft.warnings]
    return found


def _problem(level: str, error: ConfigError, draft: Draft) -> Problem:
    value = masked(error.path, _value(draft.tree, error.path))
    return Problem(level, error.path, value, error.problem, error.hint, error.source)


def _value(tree: Any, path: str) -> Json:
    for part in re.findall(r"[^.\[\]]+", path):
        if isinstance(tree, Mapping):
            tree = tree.get(part)
        elif isinstance(tree, list) and part.isdecimal() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return None
    return tree if path else None


def masked(path: str, value: Json) -> Json:
    """The value at this path with ``***`` in place of every secret, known by its key or by what it looks like."""
    if value is not None and _SECRET.search(path.lower()):
        return HIDDEN
    if isinstance(value, Mapping):
        return {key: masked(str(key), item) for key, item in value.items()}
    if isinstance(value, list):
        return [masked("", item) for item in value]
    return text_without_secrets(value) if isinstance(value, str) else value


# -- stores ------------------------------------------------------------------------------------------------------------------

def _check_stores(draft: Draft, probe: bool) -> None:
    for name in draft.stores:
        if name not in draft.origin.section_types:
            draft.fail(name, "needs a plugin that is not installed", f"pip install {DISTRIBUTION_OF[name]}")
        section = draft.tree[name]
        if probe and isinstance(section, Mapping) and name in _DEFAULT_PORTS:
            _probe_store(draft, name, section)


def _probe_store(draft: Draft, name: str, section: Mapping[str, Any]) -> None:
    """At least one of the endpoints must answer now."""
    key = next((key for key in ("proxy", "url", "hosts", "host") if section.get(key)), None)
    if key is None:
        return
    given = section[key]
    words = split_list(given) if isinstance(given, str) else [str(word) for word in given if word]
    silent = []
    for word in words:
        authority = re.sub(r"^[a-z0-9+]+://", "", word).partition("/")[0].rpartition("@")[2]
        try:
            default = int(section.get("port") or _DEFAULT_PORTS[name])
            with socket.create_connection(split_address(authority, default), timeout=_PROBE_S):
                return
        except (OSError, ValueError) as error:
            silent.append(f"{authority} ({getattr(error, 'strerror', None) or error})")
    draft.fail(f"{name}.{key}", "no endpoint answers: " + ", ".join(silent), "start the store, or correct the addresses")


# -- addresses ---------------------------------------------------------------------------------------------------------------

def _check_reachability(draft: Draft) -> None:
    """Published addresses must mean something to the other nodes."""
    restapi: RestapiSection = draft.sections["restapi"]
    postgresql: PostgresqlSection = draft.sections["postgresql"]
    _check_published(draft, "restapi.connect_address", restapi.connect_address or (restapi.listen or "").partition(",")[0])
    if restapi.verify_client != "none" and not restapi.certfile:
        draft.warn("restapi.verify_client", f"is {restapi.verify_client}, but has no effect without TLS", "set restapi.certfile")
    address = postgresql.connect_address
    if not address and postgresql.listen:
        try:
            address = "{}:{}".format(*local_address(postgresql.listen))
        except ValueError:
            address = None  # already reported by load
    _check_published(draft, "postgresql.connect_address", address or "")
    _check_published(draft, "postgresql.proxy_address", postgresql.proxy_address or "")
    raft = draft.tree.get("raft")
    if isinstance(raft, Mapping) and raft.get("self_addr"):
        _check_published(draft, "raft.self_addr", str(raft["self_addr"]))


def _check_published(draft: Draft, path: str, address: str) -> None:
    try:
        host, _ = split_address(address)
    except ValueError:
        return  # missing, or already reported by load
    given = "" if _value(draft.tree, path) else "is not set, and its default "
    remedy = "set it to an address of this machine that the other nodes can reach"
    if host in _WILDCARD:
        draft.fail(path, f"{given}{address!r} is no address to connect to", remedy)
    elif host in _LOOPBACK:
        draft.warn(path, f"{given}{address!r} works only while all nodes are on this machine", remedy)


def _check_ports(draft: Draft) -> None:
    """Every listen address can be bound now (config 19)."""
    taken: dict[tuple[str, int], str] = {}
    for name, read in (("restapi", split_addresses), ("postgresql", _server_addresses)):
        path = f"{name}.listen"
        try:
            addresses = read(draft.sections[name].listen or "")
        except ValueError:
            continue  # missing or already reported by load
        for host, port in addresses:
            if (host, port) in taken:
                draft.fail(path, f"is the same address as {taken[host, port]}: {host}:{port}", "choose another port")
                continue
            taken[host, port] = path
            _check_bind(draft, path, host, port)


def _server_addresses(listen: str) -> list[tuple[str, int]]:
    hosts, port = split_address(listen, 5432)
    return [(host, port) for host in split_list(hosts) or ["*"]]


def _check_bind(draft: Draft, path: str, host: str, port: int) -> None:
    try:
        name = None if host in ("*", "") else host
        family, kind, protocol, _, address = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        draft.fail(path, f"names the host {host!r}, which cannot be resolved: {error.strerror}", "correct the host")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            draft.fail(path, f"port {port} of {host} is in use", "stop what listens there, choose another port, or pass "
                                                                 "--ignore-listen-port if it is this node")
        elif error.errno == errno.EADDRNOTAVAIL:
            draft.fail(path, f"{host} is no address of this machine", "use one that  ip address  shows")
        else:
            draft.fail(path, f"cannot listen on {host}:{port}: {error.strerror}", "choose another address")


# -- files and programs --------------------------------------------------------------------------------------------------------

def _check_files(draft: Draft) -> None:
    for name, keys in (("restapi", ("certfile", "keyfile", "cafile")), ("ctl", ("certfile", "keyfile", "cacert"))):
        for key in keys:
            file = getattr(draft.sections[name], key)
            if file and not os.access(file, os.R_OK):
                draft.fail(f"{name}.{key}", f"names {file!r}, which cannot be read", "correct the path or its permissions")
    folder = draft.sections["log"].dir
    if folder and not os.path.isdir(folder):
        draft.fail("log.dir", f"names {folder!r}, which is no directory", "create it")
    folder = draft.sections["recorder"].dir
    above = os.path.dirname(os.path.abspath(os.path.expanduser(folder))) if folder else None
    if above and not os.path.isdir(above):
        draft.fail("recorder.dir", f"names {folder!r}, but there is no directory {above}", "create it")


def _check_server(draft: Draft, probe: bool) -> None:
    section: PostgresqlSection = draft.sections["postgresql"]
    if not section.authentication.superuser.username:
        draft.warn("postgresql.authentication.superuser.username", "is missing; the name of the operating system account is used",
                   "name the superuser")
    if section.os_user:
        try:
            pwd.getpwnam(section.os_user)
        except KeyError:
            draft.fail("postgresql.os_user", f"names the account {section.os_user!r}, which does not exist", "create it")
    elif os.geteuid() == 0 and not os.path.exists(section.data_dir or "/"):
        draft.warn("postgresql.os_user", "is not set; PostgreSQL does not run as root", "name the account, for example postgres")
    postgres = _check_programs(draft, section)
    if section.data_dir:
        _check_data_dir(draft, section.data_dir, program_major(postgres) if probe and postgres else None)


def _check_programs(draft: Draft, section: PostgresqlSection) -> str | None:
    """All needed programs exist; returns the path of ``postgres``."""
    path = os.path.expanduser(section.bin_dir) if section.bin_dir else None
    wanted = [section.bin_name.get(name, name) for name in (*_NEEDED, *(("pg_rewind",) if section.use_pg_rewind else ()))]
    missing = [name for name in wanted if not shutil.which(name, path=path)]
    if missing:
        place = f"{section.bin_dir!r} has" if section.bin_dir else "is not set, and PATH has"
        draft.fail("postgresql.bin_dir", f"{place} no program {', '.join(missing)}",
                   "set it to the bin directory of PostgreSQL, for example /usr/lib/postgresql/15/bin")
    return shutil.which(section.bin_name.get("postgres", "postgres"), path=path)


def program_major(postgres: str) -> str | None:
    """Major version of a ``postgres`` program, such as 15 or 9.6; None if it does not say."""
    try:
        text = subprocess.run([postgres, "--version"], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\) (9\.\d+|\d+)", text)
    return found.group(1) if found else None


def _check_data_dir(draft: Draft, folder: str, major: str | None) -> None:
    """Absent, empty, or a cluster of the version of the programs."""
    folder = os.path.expanduser(folder)
    path = "postgresql.data_dir"
    try:
        content = os.listdir(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        draft.fail(path, f"{folder!r} cannot be read: {error.strerror}", "make it a directory of the agent's account")
        return
    if not content or content == ["lost+found"]:
        return
    if "PG_VERSION" not in content or not {"pg_wal", "pg_xlog"} & set(content):
        draft.fail(path, f"{folder!r} is neither empty nor a PostgreSQL cluster",
                   "name an empty directory, or move its content away")
        return
    try:
        with open(os.path.join(folder, "PG_VERSION"), encoding="ascii", errors="replace") as file:
            version = file.read().strip()
    except OSError as error:
        draft.fail(path, f"PG_VERSION in {folder!r} cannot be read: {error.strerror}", "run as the account that owns it")
        return
    if major is not None and version != major:
        draft.fail(path, f"holds a cluster of PostgreSQL {version}, but the programs are of {major}", "correct bin_dir")


# -- values --------------------------------------------------------------------------------------------------------------------

def _check_parameters(draft: Draft) -> None:
    section = draft.sections["postgresql"]
    local_parameters(section.parameters, "postgresql.parameters", draft.warn)
    for word in ROLE_WORDS:
        role_parameters(getattr(section, f"parameters_{word}"), f"postgresql.parameters_{word}", draft.warn)


def _check_seed(draft: Draft) -> None:
    """``bootstrap.dcs`` is a good dynamic configuration, and the options of initdb are well-formed (config 4, 5, 10.6)."""
    raw = draft.tree.get("bootstrap")
    if not isinstance(raw, Mapping):
        return
    if raw.get("dcs") is None:
        draft.warn("bootstrap.dcs", "is missing; a new cluster starts with the defaults", "add it")
    elif isinstance(raw["dcs"], Mapping):
        notes = Notes("")
        read_document(raw["dcs"], notes)
        for findings, report in ((notes.errors, draft.fail), (notes.warnings, draft.warn)):
            for finding in findings:
                hint = finding.hint.replace("correct it with PATCH /config", "correct it")
                report(f"bootstrap.dcs.{finding.path}".rstrip("."), finding.problem, hint)
    _check_options(draft, "bootstrap.initdb", raw.get("initdb"))


def _check_options(draft: Draft, path: str, options: Any) -> None:
    if options is None:
        return
    if isinstance(options, Mapping):
        options = [{key: value} for key, value in options.items()]
    if not isinstance(options, list):
        draft.fail(path, "wants a list of options", "write one per line, as  - data-checksums")
        return
    for index, item in enumerate(options):
        place = f"{path}[{index}]"
        if isinstance(item, Mapping) and len(item) == 1:
            (word, value), = item.items()
            if not isinstance(value, str):
                draft.fail(place, f"option {word} wants a text, has {value!r}", "put the value in quotes")
        elif isinstance(item, str):
            word = item.partition("=")[0]
        else:
            draft.fail(place, "wants a word or one key with a value", "give each option a line of its own")
            continue
        if str(word).startswith("-"):
            draft.fail(place, f"option {word} has leading dashes", "leave them out")
        elif str(word) in _FORBIDDEN_INITDB:
            draft.fail(place, f"option {word} is not allowed", "remove it: the agent sets or needs it itself")


def _check_tags(draft: Draft) -> None:
    tags = draft.tree.get("tags")
    for flag, priority in (("nofailover", "failover_priority"), ("nosync", "sync_priority")):
        told = any(warning.path == f"tags.{flag}" for warning in draft.warnings)
        if isinstance(tags, Mapping) and not told and tags.get(flag) is not None and tags.get(priority) is not None:
            draft.warn(f"tags.{flag}", f"is set together with {priority}; {flag} wins", "keep one of them")
