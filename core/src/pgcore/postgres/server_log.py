"""What the server writes to its standard error: kept in a small file, handed on to the agent's own, quoted when a start fails.

A pipe would tie the server to the agent: a frozen agent would block every backend that logs. A file can't block. The server
appends to it, so that the agent may cut it back at any time. With ``logging_collector`` the file holds only what precedes the
collector.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator

from pgcore.postgres.programs import OsUser

logger = logging.getLogger(__name__)

LIMIT_BYTES = 1024 * 1024
"""Beyond this size the file is emptied; what was in it has been handed on."""

_QUOTED_LINES = 15
_COLLECTOR = "logging collector process"


class ServerLog:
    """The file and how far it has been handed on."""

    def __init__(self, path: str, user: OsUser | None) -> None:
        self.path = path
        self._user = user
        self._handed_on = self._size()
        self._start = self._handed_on

    def open(self) -> int:
        """A descriptor for a new server."""
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            if self._user is not None:
                os.fchown(descriptor, self._user.uid, self._user.gid)
        except OSError as error:
            logger.warning("the server's output file %s can't be opened (%s), it writes to the agent's standard error instead",
                           self.path, error.strerror or error)
            return os.dup(2)
        self._start = self._size()
        return descriptor

    def hand_on(self) -> None:
        """Copy what is new to the agent's standard error, and cut the file back when it has grown."""
        size = self._size()
        if size < self._handed_on:
            self._handed_on = 0
        if size > self._handed_on:
            text = self._read(max(self._handed_on, size - LIMIT_BYTES))
            self._handed_on = size
            self._handed_on = size
            try:
                sys.stderr.write(text)
                sys.stderr.flush()
            except OSError:
                return  # nobody listens
        if size > LIMIT_BYTES:
            try:
                os.truncate(self.path, 0)
            except OSError:
                return  # tried again at the next look
            self._handed_on = self._start = 0

    def tail(self, data_dir: str, *, wait_s: float = 0.0) -> str:
        """The last lines since the start of the server, those of its log collector included.

        The collector outlives the postmaster by a moment; ``wait_s`` bounds the wait for its last words.
        """
        own = self._read(self._start)
        collected = list(_collected(data_dir, self._start_time()))
        end = time.monotonic() + wait_s
        while _COLLECTOR in own and not any("FATAL" in line for line in collected) and time.monotonic() < end:
            time.sleep(0.02)
            collected = list(_collected(data_dir, self._start_time()))
        lines = [*own.splitlines(), *collected]
        return " | ".join(line.strip() for line in lines[-_QUOTED_LINES:] if line.strip())

    def _start_time(self) -> float:
        try:
            return os.stat(self.path).st_mtime - 60
        except OSError:
            return 0.0

    def _size(self) -> int:
        try:
            return os.stat(self.path).st_size
        except OSError:
            return 0

    def _read(self, start: int) -> str:
        return _read_from(self.path, start)


def _read_from(path: str, start: int) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, start))
            return file.read(LIMIT_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _collected(data_dir: str, since: float) -> Iterator[str]:
    """The end of the log collector's file, if it wrote lately."""
    try:
        with open(os.path.join(data_dir, "current_logfiles"), encoding="utf-8") as file:
            path = os.path.join(data_dir, file.readline().strip().partition(" ")[2])
        status = os.stat(path)
    except OSError:
        return
    if status.st_mtime >= since:
        yield from _read_from(path, status.st_size - 8192).splitlines()[-_QUOTED_LINES:]
