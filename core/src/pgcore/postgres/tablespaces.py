"""The tablespaces of a source, which a copy fills under the same paths on this machine: what a killed copy left there may go.

A path alone proves nothing: another node of this machine may have filled it since. So an empty directory is claimed before the
copy begins: it gets an extended attribute with the mark of the note, under a lock that an agent drops with its life. Only what
lies in a directory with the note's own mark is ever removed. Where a file system has no such attributes nothing is claimed.
(docs/replica-creation.md)
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgcore.clock import Deadline
from pgcore.errors import ServerError
from pgcore.model.server import Upstream
from pgcore.postgres import data_dir
from pgcore.postgres.connection import Session
from pgcore.postgres.programs import OsUser

logger = logging.getLogger(__name__)

ATTRIBUTE = "user.pgcore.unfinished"
ASK_S = 5.0
_LOCATIONS = "SELECT pg_catalog.pg_tablespace_location(oid) FROM pg_catalog.pg_tablespace ORDER BY 1"


def locations(source: Upstream, login: Mapping[str, Any]) -> tuple[str, ...]:
    """Where the source has its tablespaces; none if it does not say, which is logged: the copy shows what is wrong with it."""
    deadline = Deadline.after(ASK_S)
    try:
        session = Session({**login, "host": source.host, "port": source.port, "dbname": source.dbname,
                           "application_name": "pgcore"}, deadline)
        try:
            found = [str(row[0]) for row in session.query(_LOCATIONS, deadline=deadline)]
        finally:
            session.close()
    except ServerError as error:
        logger.warning("%s does not say where its tablespaces are: if this agent is killed while they are copied, they must be "
                       "emptied by hand: %s", source.label, error)
        return ()
    return tuple(path for path in found if os.path.isabs(path))  # '' are the built-in ones, others lie in the data directory


@dataclass(frozen=True, slots=True)
class Claim:
    """A directory that was empty and is ours to fill, until ``end``. ``made`` was not there before, the deepest first."""

    path: str
    descriptor: int
    made: tuple[str, ...] = ()

    def end(self) -> None:
        """What is in there now stays. Never fails."""
        try:
            os.removexattr(self.descriptor, ATTRIBUTE)
            for path in self.made:
                os.rmdir(path)
        except OSError:
            pass  # it was filled, or removed by the program itself
        finally:
            os.close(self.descriptor)


def claim(paths: Iterable[str], mark: str, user: OsUser | None) -> list[Claim]:
    """Claim those of the directories that are empty or missing; the others are left as they are. Never fails."""
    return [found for path in paths if (found := _claim(path, mark, user)) is not None]


def _claim(path: str, mark: str, user: OsUser | None) -> Claim | None:
    made = tuple(_missing(path))
    try:
        if made:
            data_dir.prepare(path, user)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except (ServerError, OSError):
        return None  # the copy says what is wrong with it
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.listdir(descriptor):
            os.setxattr(descriptor, ATTRIBUTE, mark.encode())
            return Claim(path, descriptor, made)
        logger.debug("%s has something in it and is left alone", path)
    except OSError as error:
        logger.warning("%s can't be claimed (%s): if this agent is killed while it is filled, it must be emptied by hand",
                       path, error.strerror or error)
    os.close(descriptor)
    return None


def _missing(path: str) -> Iterator[str]:
    while not os.path.lexists(path):
        yield path
        path = os.path.dirname(path)


def claimed(paths: Sequence[str], mark: str) -> tuple[str, ...]:
    """Those of the directories that carry this mark."""
    return tuple(path for path in paths if _mark_of(path) == mark)


def _mark_of(path: str) -> str | None:
    try:
        return os.getxattr(path, ATTRIBUTE).decode(errors="replace")
    except OSError:
        return None
