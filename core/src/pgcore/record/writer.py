"""Writes the record: rotating files, a thread of its own, a bounded queue. What cannot be written is counted and dropped."""

from __future__ import annotations

import errno
import logging
import os
from collections import deque
from dataclasses import dataclass

from pgcore import threads
from pgcore.clock import Deadline, now, wall
from pgcore.record.beats import BeatRecord, RecordEntry, line, lost_line

logger = logging.getLogger(__name__)

QUEUE = 64
"""Entries that may wait for a slow disk."""
AGAIN_S = 2.0
"""After a failure nothing is tried for so long."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the record of a node goes and how much of it is kept: ``count`` rotated files beside the one being written."""

    path: str
    node: str
    scope: str
    size: int
    count: int


class Writer:
    """Takes entries without waiting and writes them in the background, as lines that survive the death of this process."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._entries: deque[RecordEntry] = deque()
        self._changed = threads.condition()
        self._lost = 0
        self._busy = self._closed = False
        self._file = _RotatingFile(place)
        self._failing_since: float | None = None
        threads.start("flight recorder", self._loop)

    def put(self, entry: RecordEntry) -> None:
        """Queue an entry; dropped and counted while too many wait."""
        with self._changed:
            if len(self._entries) >= QUEUE:
                self._lost += 1
                return
            self._entries.append(entry)
            self._changed.notify_all()

    def close(self, wait_s: float = 1.0) -> None:
        """Write what is waiting, within so many seconds, and end."""
        deadline = Deadline.after(wait_s)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while (self._entries or self._busy) and deadline.left() > 0:
                self._changed.wait(deadline.left())

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._entries:
                    if self._closed:
                        self._file.close()
                        return
                    self._changed.wait()
                entries, lost = list(self._entries), self._lost
                self._entries.clear()
                self._lost, self._busy = 0, True
            self._write(entries, lost)

    def _write(self, entries: list[RecordEntry], lost: int) -> None:
        if self._failing_since is not None and now() - self._failing_since < AGAIN_S:
            self._drop(lost + len(entries))
            return
        written = 0
        try:
            if lost:
                self._file.write(lost_line(self._place.node, self._place.scope, wall(), lost))
                lost = 0
            for entry in entries:
                self._file.write(_line(entry))
                written += 1
        except OSError as error:
            self._drop(lost + len(entries) - written)
            if self._failing_since is None:
                logger.warning(
                    "the flight recorder cannot write %s: %s. The agent does without it (recorder.dir names another directory)",
                    self._place.path,
                    error.strerror or error,
                )
            self._failing_since = now()
            return
        if self._failing_since is not None:
            logger.info("the flight recorder writes %s again", self._place.path)
            self._failing_since = None

    def _drop(self, entries: int) -> None:
        with self._changed:
            self._lost += entries


def _line(entry: RecordEntry) -> str:
    """The line of an entry; one that cannot be made is a bug, told in its place."""
    try:
        return line(entry)
    except Exception:
        logger.exception("bug in the flight recorder: a heartbeat could not be recorded")
        if isinstance(entry, BeatRecord):
            return lost_line(entry.start.settings.name, entry.start.settings.scope, entry.start.wall, 1)
        return lost_line(entry.node, entry.scope, entry.at, 1)


class _RotatingFile:
    """The newest file of a record. A line is written whole or, after a failure in its middle, ended before the next one."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._descriptor: int | None = None
        self._size = 0
        self._torn = False

    def write(self, text: str) -> None:
        """Append a line. Raises OSError; then nothing of it counts."""
        data = text.encode() + b"\n"
        if self._descriptor is None or not self._same_file():
            self._open()
        if self._size and self._size + len(data) > self._place.size:
            self._rotate()
            self._open()
        assert self._descriptor is not None
        if self._torn:
            data = b"\n" + data
        written = os.write(self._descriptor, data)
        if written < len(data):
            self._torn = True
            os.ftruncate(self._descriptor, self._size)
            self._torn = False
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += written
        self._torn = False

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _same_file(self) -> bool:
        """Nobody has moved or removed it."""
        try:
            assert self._descriptor is not None
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self._place.path))
        except FileNotFoundError:
            return False

    def _open(self) -> None:
        self.close()
        path = self._place.path
        if not os.path.isdir(os.path.dirname(path)):
            os.mkdir(os.path.dirname(path), 0o700)
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._descriptor).st_size
        self._torn = self._size > 0 and os.pread(self._descriptor, 1, self._size - 1) != b"\n"

    def _rotate(self) -> None:
        self.close()
        path, count = self._place.path, self._place.count
        for number in range(count, 0, -1):
            older = f"{path}.{number - 1}" if number > 1 else path
            if os.path.exists(older):
                os.replace(older, f"{path}.{number}")
        if not count:
            os.remove(path)
