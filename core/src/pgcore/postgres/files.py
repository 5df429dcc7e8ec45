"""Files the agent writes for the server, each whole or not at all: configuration, hba, ident, passwords, and their copies."""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pgcore.errors import ServerError
from pgcore.model.basics import slot_name
from pgcore.model.server import ServerSettings
from pgcore.postgres import parameters
from pgcore.postgres.programs import OsUser

logger = logging.getLogger(__name__)

HEADER = "# Written by pgcore: whatever is changed here will be lost.\n"
HINT = "# Use `PATCH /config` of any agent for the cluster, the node's configuration file, or the included file for this node.\n"
RECOVERY_TITLE = "# recovery.conf"

_SETTING = re.compile(r"\s*([A-Za-z_][\w.]*)(?:\s*=\s*|\s+)(?:'((?:[^'\\]|''|\\.)*)'|([^\s#']+))")


def write(path: str, content: str, *, mode: int, user: OsUser | None) -> None:
    """Replace a file atomically, with this mode and owner. Raises ServerError."""
    scratch = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                if user is not None:
                    os.fchown(file.fileno(), user.uid, user.gid)
                os.fchmod(file.fileno(), mode)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.rename(scratch, path)
        except BaseException:
            os.unlink(scratch)
            raise
    except OSError as error:
        raise ServerError(f"{path} can't be written: {error.strerror or error}") from error


def write_if_different(path: str, content: str, *, mode: int, user: OsUser | None) -> bool:
    """Write unless the file already holds exactly this; whether it was written."""
    if read(path) == content:
        return False
    write(path, content, mode=mode, user=user)
    return True


def read(path: str, *, user: OsUser | None = None) -> str | None:
    """The content, None if there is none or it can't be read.

    With ``user`` only what that account could read itself: what root reads and then writes for it must not be root's secret
    behind a symbolic link.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            if user is not None and not _may_read(user, os.fstat(file.fileno())):
                logger.warning("%s can't be read by %s and is left alone", path, user.name)
                return None
            return file.read()
    except OSError:
        return None


def _may_read(user: OsUser, status: os.stat_result) -> bool:
    mode = status.st_mode
    return bool(mode & 0o004 or (status.st_uid == user.uid and mode & 0o400) or (status.st_gid in user.groups and mode & 0o040))


def file_mode(data_dir: str) -> int:
    """0640 for a data directory that lets its group read, else 0600 (config 8.6)."""
    try:
        return 0o640 if stat.S_IMODE(os.stat(data_dir).st_mode) & 0o050 == 0o050 else 0o600
    except OSError:
        return 0o600


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the files of one node are (config 6.1, 8)."""

    config_dir: str
    main: str
    base: str
    hba: str
    ident: str
    pgpass: str

    @classmethod
    def of(cls, settings: ServerSettings, user: OsUser | None) -> Paths:
        """The paths by these settings."""
        directory = settings.config_dir or settings.data_dir
        stem = os.path.join(directory, settings.config_base_name)
        return cls(directory, f"{stem}.conf", f"{stem}.base.conf", os.path.join(directory, "pg_hba.conf"),
                   os.path.join(directory, "pg_ident.conf"), settings.pgpass or _default_pgpass(settings, user))

    def copied(self) -> tuple[str, ...]:
        """The files of which copies are kept in the data directory (config 8.3)."""
        return self.main, self.base, self.hba, self.ident


def _default_pgpass(settings: ServerSettings, user: OsUser | None) -> str:
    """In the home directory of the account PostgreSQL runs as, else beside the data directory.

    The member's name is part of it: two nodes of one machine must not overwrite each other's passwords.
    """
    home = user.home if user else os.path.expanduser("~")
    writable = os.path.isdir(home) and (user is not None or os.access(home, os.W_OK))
    directory = home if writable else os.path.dirname(settings.data_dir.rstrip("/"))
    return os.path.join(directory, f".pgpass-{slot_name(settings.name)}")


def main_text(values: Mapping[str, str], recovery: Mapping[str, str], *, include: str, paths: Paths) -> str:
    """``postgresql.conf`` (config 8.1)."""
    own = {name: value for name, value in values.items() if name not in ("hba_file", "ident_file")}
    lines = [HEADER, HINT, f"include {parameters.quoted(include)}\n", "\n"]
    lines += [f"{name} = {parameters.quoted(value)}\n" for name, value in sorted(own.items())]
    for name, default in (("hba_file", paths.hba), ("ident_file", paths.ident)):
        path = os.path.join(paths.config_dir, values.get(name) or default)
        lines.append(f"{name} = {parameters.quoted(path)}\n")
    if recovery:
        lines += ["\n", f"{RECOVERY_TITLE}\n"]
        lines += [f"{name} = {parameters.quoted(value)}\n" for name, value in sorted(recovery.items())]
    return "".join(lines)


def settings_in(path: str) -> dict[str, str]:
    """The ``name = 'value'`` lines of a configuration file, last one wins; included files are not looked at."""
    found = {}
    for line in (read(path) or "").splitlines():
        match = _SETTING.match(line)
        if match:
            name, quoted, bare = match.groups()
            found[name.lower()] = bare if quoted is None else re.sub(r"''|\\(.)", lambda pair: pair.group(1) or "'", quoted)
    return found


def ensure_base(settings: ServerSettings, paths: Paths, user: OsUser | None) -> str:
    """The name of the file to include; at the first write what ``initdb`` or the administrator wrote becomes it (config 8.1)."""
    if settings.custom_conf:
        return settings.custom_conf
    if not os.path.exists(paths.base):
        existing = read(paths.main, user=user)
        if existing is None and paths.config_dir != settings.data_dir:
            existing = read(os.path.join(settings.data_dir, "postgresql.conf"), user=user)
        if existing is None or existing.startswith(HEADER):
            existing = "# Settings of this node only.\n"
        write(paths.base, existing, mode=file_mode(settings.data_dir), user=user)
    return os.path.basename(paths.base)


def write_lists(settings: ServerSettings, paths: Paths, user: OsUser | None) -> bool:
    """pg_hba.conf and pg_ident.conf where they are managed (config 8.2); whether one of them changed."""
    changed = False
    for name, path, lines in (("hba_file", paths.hba, settings.pg_hba), ("ident_file", paths.ident, settings.pg_ident)):
        foreign = settings.parameters.get(name)
        if lines and (not foreign or os.path.join(paths.config_dir, str(foreign)) == path):
            changed |= write_if_different(path, list_text(lines), mode=file_mode(settings.data_dir), user=user)
    return changed


def list_text(lines: Iterable[str]) -> str:
    """A managed hba or ident file."""
    return HEADER + HINT + "".join(f"{line}\n" for line in lines)


def clean_auto_conf(data_dir: str, user: OsUser | None) -> None:
    """Remove recovery settings from postgresql.auto.conf: there they would win over ours (HA rules 11.3)."""
    path = os.path.join(data_dir, "postgresql.auto.conf")
    content = read(path)
    if content is None:
        return
    kept = [line for line in content.splitlines(keepends=True)
            if line.partition("=")[0].strip().lower() not in parameters.RECOVERY]
    if "".join(kept) != content:
        logger.info("removing recovery settings from %s", path)
        write(path, "".join(kept), mode=file_mode(data_dir), user=user)


def copy_aside(settings: ServerSettings, paths: Paths, user: OsUser | None) -> None:
    """Keep copies of the configuration in the data directory, so that a clone brings them along (config 8.3)."""
    for path in paths.copied():
        content = read(path, user=user)
        if content is not None:
            write_if_different(_copy(settings, path), content, mode=file_mode(settings.data_dir), user=user)


def restore_missing(settings: ServerSettings, paths: Paths, user: OsUser | None) -> None:
    """Put copies back where the originals are missing; a missing ident file becomes an empty one (config 8.3)."""
    for path in paths.copied():
        if os.path.exists(path):
            continue
        content = read(_copy(settings, path), user=user)
        if content is None and path == paths.ident:
            content = ""
        if content is not None:
            write(path, content, mode=file_mode(settings.data_dir), user=user)


def _copy(settings: ServerSettings, path: str) -> str:
    return os.path.join(settings.data_dir, os.path.basename(path) + ".backup")


def pgpass_text(host: str, port: int | str | None, user: str | None, password: str) -> str:
    """Lines of a password file: one for each host, one more as ``localhost`` for a socket path (config 8.5)."""
    def escaped(value: object) -> str:
        return str(value).replace("\\", "\\\\").replace(":", "\\:")

    hosts = [part.strip() for part in host.split(",")] if host else ["*"]
    if any(part.startswith("/") for part in hosts):
        hosts.append("localhost")
    tail = f"{escaped(port or '*')}:*:{escaped(user or '*')}:{escaped(password)}"
    return "".join(f"{escaped(part)}:{tail}\n" for part in hosts)


def write_pgpass(path: str, content: str, user: OsUser | None) -> None:
    """A password file that only its owner can read. Raises ServerError."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ServerError(f"{path} is not a file: set postgresql.pgpass to the path of a file that the agent may overwrite")
    ensure_directory(os.path.dirname(path), user, mode=0o700)
    if read(path) != content:
        write(path, content, mode=0o600, user=user)


def ensure_directory(path: str, user: OsUser | None, *, mode: int = 0o755) -> None:
    """Create a missing directory. Raises ServerError."""
    if not path or os.path.isdir(path):
        return
    try:
        os.makedirs(path, mode=mode, exist_ok=True)
        if user is not None:
            os.chown(path, user.uid, user.gid)
    except OSError as error:
        raise ServerError(f"the directory {path} can't be created: {error.strerror or error}") from error


def ensure_directories(settings: ServerSettings, user: OsUser | None) -> None:
    """Directories the server needs at start (config 6.4)."""
    for name in ("unix_socket_directories", "stats_temp_directory"):
        for directory in str(settings.parameters.get(name) or "").split(","):
            path = directory.strip()
            if path and not path.startswith("@"):
                ensure_directory(os.path.join(settings.data_dir, path), user)


def remove_quietly(path: str) -> None:
    """Remove a file or a directory tree that may be gone already."""
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass  # wanted
    except OSError as error:
        logger.warning("%s can't be removed: %s", path, error)
