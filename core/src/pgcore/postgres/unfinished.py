"""What a program is making in the data directory, noted beside it while it does: an agent that succeeds one that was killed
ends what still runs, and knows that what it finds is nobody's only copy. (docs/replica-creation.md)

The note of a copy exists while its method runs, and longer only if the method keeps what it has; that of a new cluster until its
users are made, or until the directory was set aside.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pgcore.errors import ServerError
from pgcore.model.basics import Json
from pgcore.postgres import data_dir, files, programs, tablespaces

if TYPE_CHECKING:
    from pgcore.hookspecs import IdleLimit, TaskContext

logger = logging.getLogger(__name__)

MARK = "PGCORE_UNFINISHED"
"""In the environment of every program that works for the note, and of what those start."""


@dataclass(frozen=True, slots=True)
class Note:
    """``claim`` is the version of the empty ``/initialize`` that stands for this work, ``places`` what else it fills.

    It may also fill the ``tablespaces``, but only what is claimed there is its own.
    """

    method: str
    creates_cluster: bool = False
    keeps_data: bool = False
    claim: str = ""
    places: tuple[str, ...] = ()
    tablespaces: tuple[str, ...] = ()
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def marked(self, ctx: TaskContext) -> TaskContext:
        """The context whose programs carry the mark."""
        return _Marked(ctx, self.mark)


@dataclass(frozen=True, slots=True)
class _Marked:
    inner: TaskContext
    mark: str

    def run(self, argv: list[str], *, env: Mapping[str, str] | None = None, stdin: str | None = None,
            on_output: Callable[[str], None] | None = None, stall_timeout: float | None = None,
            idle: IdleLimit | None = None) -> str:
        return self.inner.run(argv, env={**(env or {}), MARK: self.mark}, stdin=stdin, on_output=on_output,
                              stall_timeout=stall_timeout, idle=idle)

    def report(self, **progress: Json) -> None:
        self.inner.report(**progress)

    def check(self) -> None:
        self.inner.check()


def path_of(directory: str) -> str:
    """Where the note of this data directory is."""
    return f"{directory.rstrip('/')}.unfinished"


def begin(directory: str, note: Note) -> Note:
    """Write the note. Where nothing can be written beside the data directory it is done without."""
    try:
        files.write(path_of(directory), json.dumps(asdict(note)), mode=0o600, user=None)
    except ServerError as error:
        logger.warning("%s: if this agent is killed now, the next one will not know that %s was at work", error, note.method)
    return note


def end(directory: str) -> None:
    """It is done, or undone. Raises ServerError: with the note left, what is there now would count as unfinished later."""
    path = path_of(directory)
    if not os.path.lexists(path):
        return  # it could not be written, perhaps because nothing can be written there
    try:
        os.unlink(path)
        descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ServerError(f"{path} can't be removed: {error.strerror or error}") from error


def read(directory: str) -> Note | None:
    """The note, unless somebody else wrote it, nobody can read it, or a server has run from the directory since."""
    path = path_of(directory)
    try:
        with open(path, encoding="utf-8") as file:
            status, found = os.fstat(file.fileno()), json.load(file)
        if status.st_uid != os.geteuid():
            logger.warning("%s belongs to another account and is ignored", path)
            return None
        note = Note(**{**found, "places": tuple(found["places"]), "tablespaces": tuple(found.get("tablespaces", ()))})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s is ignored, it can't be read: %s", path, error)
        return None
    if not note.creates_cluster and _modified(os.path.join(directory, "postmaster.opts")) > status.st_mtime:
        logger.warning("%s is out of date, a server has run since: it is ignored", path)
        return None
    return note


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def take_over(directory: str) -> Note | None:
    """At the agent's start: end what an agent before this one left running in the middle of its work, and say what that was."""
    note = read(directory)
    if note is None:
        return None
    ended = programs.end_marked(MARK, note.mark)
    logger.warning("the agent before this one was killed while %s was at work in %s%s", note.method, directory,
                   f"; {ended} of its processes still ran and were ended" if ended else "")
    return note


def empty_places(directory: str, note: Note) -> None:
    """Empty what was filled outside the data directory. Only directories of the data directory's owner. Raises ServerError."""
    for place in (*note.places, *tablespaces.claimed(note.tablespaces, note.mark)):
        try:
            if os.stat(place).st_uid == os.stat(directory if os.path.exists(directory) else os.path.dirname(directory)).st_uid:
                data_dir.empty(place)
            else:
                logger.error("%s belongs to another account and is left alone", place)
        except FileNotFoundError:
            pass  # not begun, or removed by the program itself
        except OSError as error:
            raise ServerError(f"{place} can't be emptied: {error.strerror or error}") from error


def unoccupied(places: Sequence[str]) -> tuple[str, ...]:
    """Those of the directories in which nothing is."""
    return tuple(place for place in places if not _names(place))


def _names(place: str) -> Sequence[Any]:
    try:
        return os.listdir(place)
    except FileNotFoundError:
        return ()
    except OSError:
        return (place,)
