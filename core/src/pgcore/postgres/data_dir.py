"""The data directory as a directory: is there a cluster in it, removing it with everything it points to, putting it aside.

WAL and tablespaces may live elsewhere, behind symbolic links; what is done to the directory is done to those targets too.
Nothing follows any other link.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator

from pgcore.errors import ServerError
from pgcore.model.node import DataDir
from pgcore.postgres.controldata import control_path
from pgcore.postgres.programs import OsUser

logger = logging.getLogger(__name__)

RECOVERY_FILES = ("standby.signal", "recovery.signal", "recovery.conf")
ROOM_BYTES = 32 << 20
"""Two WAL files of the usual size."""


def look(data_dir: str) -> DataDir:
    """Empty, present or unreadable (HA rules 4, last paragraph).

    The presence of pg_control is asked first: listing a directory takes minutes on a machine under I/O stress (edge case 13).
    """
    try:
        os.stat(control_path(data_dir))
        return DataDir.PRESENT
    except (FileNotFoundError, NotADirectoryError):
        pass  # maybe empty
    except OSError:
        return DataDir.UNREADABLE
    try:
        names = os.listdir(data_dir)
    except FileNotFoundError:
        return DataDir.EMPTY
    except OSError:
        return DataDir.UNREADABLE
    return DataDir.PRESENT if any(not _ignorable(name) for name in names) else DataDir.EMPTY


def _ignorable(name: str) -> bool:
    return name.startswith(".") or name == "lost+found"


def is_full(directory: str) -> bool:
    """There is hardly any room left on its file system."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < ROOM_BYTES


def major_version(data_dir: str) -> int | None:
    """The number in PG_VERSION, None if there is none (edge case 179: then nothing is written into the directory)."""
    try:
        with open(os.path.join(data_dir, "PG_VERSION"), encoding="ascii") as file:
            return int(file.read().strip().partition(".")[0])
    except (OSError, ValueError):
        return None


def has_recovery_files(data_dir: str) -> bool:
    """A start would begin in recovery."""
    return any(os.path.exists(os.path.join(data_dir, name)) for name in RECOVERY_FILES)


def remove_recovery_files(data_dir: str) -> None:
    """Take away what makes a start begin in recovery, and leftovers of a promotion."""
    for name in (*RECOVERY_FILES, "promote"):
        _unlink(os.path.join(data_dir, name))


def prepare(data_dir: str, user: OsUser | None) -> None:
    """Make an empty directory that only its owner can read. Raises ServerError."""
    try:
        os.makedirs(data_dir, mode=0o700, exist_ok=True)
        os.chmod(data_dir, 0o700)
        if user is not None:
            os.chown(data_dir, user.uid, user.gid)
    except OSError as error:
        raise ServerError(f"the data directory {data_dir} can't be created: {error.strerror or error}") from error


def _targets(data_dir: str) -> Iterator[tuple[str, str]]:
    """The links behind which parts of the cluster live, with the directories they lead to.

    Only directories of the data directory's owner: whoever owns it must not make an agent that runs as root remove others' files.
    """
    owner = os.stat(data_dir).st_uid
    for link in list(_links(data_dir)):
        target = os.path.realpath(link)
        if not os.path.isdir(target):
            continue
        if os.stat(target).st_uid == owner:
            yield link, target
        else:
            logger.error("%s leads to %s, which belongs to another account and is left alone", link, target)


def _links(data_dir: str) -> Iterator[str]:
    """The symbolic links themselves: the WAL directory and the tablespaces."""
    for name in ("pg_wal", "pg_xlog"):
        path = os.path.join(data_dir, name)
        if os.path.islink(path):
            yield path
    spaces = os.path.join(data_dir, "pg_tblspc")
    try:
        names = os.listdir(spaces)
    except OSError:
        return
    for name in names:
        path = os.path.join(spaces, name)
        if os.path.islink(path):
            yield path


def remove(data_dir: str) -> None:
    """Remove the cluster: the contents of the directory, of its WAL directory and of its tablespaces (HA rules 6.3).

    The directory itself stays where it is a mount point or a link. What can't be removed is renamed instead, so that a new
    copy can be made. Raises ServerError if neither works.
    """
    if not os.path.lexists(data_dir):
        return
    logger.info("removing the data directory %s", data_dir)
    try:
        for link, target in list(_targets(data_dir)):
            empty(target, only_clusters=os.path.basename(os.path.dirname(link)) == "pg_tblspc")
        empty(data_dir)
        if not os.path.islink(data_dir) and not os.path.ismount(data_dir):
            os.rmdir(data_dir)
    except OSError as error:
        aside = f"{data_dir.rstrip('/')}.removed-{time.strftime('%Y%m%d-%H%M%S')}"
        logger.error("the data directory %s can't be removed (%s), renaming it to %s", data_dir, error, aside)
        _move(data_dir, aside)


def empty(directory: str, *, only_clusters: bool = False) -> None:
    """Remove what is inside. Raises OSError. In a tablespace only the directories that PostgreSQL makes there."""
    for entry in os.scandir(directory):
        if only_clusters and not entry.name.startswith("PG_"):
            logger.warning("%s is not PostgreSQL's, it stays in the tablespace", entry.path)
            continue
        if entry.name == "lost+found":
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def rename_failed(data_dir: str) -> str:
    """Put a directory aside as ``<dir>.failed``, an older one of that name is removed (HA rules 6.4, edge case 173).

    WAL directory and tablespaces get the same suffix and the links are mended. Raises ServerError.
    """
    aside = f"{data_dir.rstrip('/')}.failed"
    if os.path.lexists(aside):
        remove(aside)
    try:
        for link, target in list(_targets(data_dir)):
            if os.path.ismount(target):
                continue
            renamed = f"{target.rstrip('/')}.failed"
            if os.path.lexists(renamed):
                shutil.rmtree(renamed)
            os.rename(target, renamed)
            _relink(link, renamed)
    except OSError as error:
        raise ServerError(f"the WAL directory or a tablespace of {data_dir} can't be put aside: {error}") from error
    _move(data_dir, aside)
    return aside


def _relink(link: str, target: str) -> None:
    owner = os.lstat(link)
    os.unlink(link)
    os.symlink(target, link)
    os.lchown(link, owner.st_uid, owner.st_gid)


def _move(data_dir: str, aside: str) -> None:
    try:
        if not os.path.ismount(data_dir):
            os.rename(data_dir.rstrip("/"), aside)
            return
        # A mount point can't be renamed, what is in it can be moved into a directory below it that counts as empty.
        inner = os.path.join(data_dir, "." + os.path.basename(aside))
        os.makedirs(inner, mode=0o700)
        for entry in list(os.scandir(data_dir)):
            if entry.path != inner and entry.name != "lost+found":
                os.rename(entry.path, os.path.join(inner, entry.name))
    except OSError as error:
        raise ServerError(f"the data directory {data_dir} can't be renamed to {aside}: {error}") from error


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # wanted
    except OSError as error:
        raise ServerError(f"{path} can't be removed: {error.strerror or error}") from error
