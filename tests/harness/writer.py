"""Continuous writes from a client process, and what can be learned from their acknowledgements."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from harness.processes import MARKER, wait_for

NUMBERS_PER_WRITER = 10_000_000
ORPHANS_S = 1.0
STEADY_S = 0.3
_writers = itertools.count(1)


UNDISTURBED_S = 1.5
"""A gap up to this may come from a busy machine alone: nobody's connection or role need have changed."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """One write the server confirmed; instants are seconds of CLOCK_MONOTONIC. ``server`` is ``host:port``."""

    number: int
    sent_s: float
    acknowledged_s: float
    server: str


@dataclass(frozen=True, slots=True)
class Gap:
    """A pause between two acknowledged writes as the client saw it."""

    seconds: float
    since_s: float
    until_s: float
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.seconds:.3f} s"


@dataclass(frozen=True, slots=True)
class WriterReport:
    """Everything one writer had confirmed between ``started_s`` and ``ended_s``."""

    started_s: float
    ended_s: float
    acknowledged: tuple[Acknowledged, ...]

    def longest_gap(self, after_s: float = 0.0, before_s: float = float("inf")) -> Gap:
        """The longest pause that ends after ``after_s`` and begins before ``before_s``.

        A writer that never came back is counted until its end.
        """
        longest = Gap(0.0, 0.0, 0.0, "", "")
        ended = Acknowledged(0, self.ended_s, self.ended_s, "")
        for left, right in itertools.pairwise((*self.acknowledged, ended)):
            seconds = right.acknowledged_s - left.acknowledged_s
            if right.acknowledged_s > after_s and left.acknowledged_s < before_s and seconds > longest.seconds:
                longest = Gap(seconds, left.acknowledged_s, right.acknowledged_s, left.server, right.server)
        return longest

    def missing(self, present: Collection[int]) -> list[int]:
        """Acknowledged numbers that are not among those ``present``: lost commits."""
        held = set(present)
        return [note.number for note in self.acknowledged if note.number not in held]

    def last_on(self, server: str) -> float | None:
        """When the last write on ``host:port`` was acknowledged."""
        return max((note.acknowledged_s for note in self.acknowledged if note.server == server), default=None)

    def first_elsewhere(self, server: str, after_s: float) -> float | None:
        """When the first write accepted by another server after ``after_s`` was sent: it may have been written right then."""
        return min((note.sent_s for note in self.acknowledged if note.server != server and note.sent_s > after_s), default=None)


class Writer:
    """A client process writing unique numbers through one connection string.

    ``prefix`` begins its command line, for instance to put it into a network namespace.
    """

    def __init__(self, connection: str, directory: Path, mark: str, *, table: str = "written", interval_s: float = 0.005,
                 answer_timeout_s: float = 3.0, prefix: tuple[str, ...] = ()) -> None:
        number = next(_writers)
        self._path = directory / f"writer-{number}.txt"
        self._settings = {"dsn": connection, "path": str(self._path), "table": table, "interval_s": interval_s,
                          "answer_timeout_s": answer_timeout_s, "first": number * NUMBERS_PER_WRITER}
        self._mark, self._prefix = mark, prefix
        self._process: subprocess.Popen[str] | None = None
        self._started_s = self._ended_s = 0.0

    def start(self, *, wait: bool = True) -> Writer:
        """Start; with ``wait`` return after the first acknowledged write, without it the servers may be read-only for now."""
        script = Path(__file__).with_name("writer_process.py")
        self._started_s = time.monotonic()
        self._process = subprocess.Popen([*self._prefix, sys.executable, str(script)], stdin=subprocess.PIPE, text=True,
                                         start_new_session=True, env={**os.environ, MARKER: self._mark})
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(self._settings) + "\n")
        self._process.stdin.close()
        if not wait:
            self._path.touch()
            return self
        wait_for(lambda: self._path.exists() and self._path.stat().st_size > 0, 30, "the first write is acknowledged")
        return self

    def stop(self) -> WriterReport:
        """End the client and return what it saw."""
        if self._process is not None:
            self._ended_s = time.monotonic()
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(5)
            self._process = None
        return self.report()

    def report(self) -> WriterReport:
        """What was acknowledged so far."""
        notes = []
        for line in self._path.read_text().splitlines():
            fields = line.split(" ")
            if len(fields) == 4:
                notes.append(Acknowledged(int(fields[0]), float(fields[1]), float(fields[2]), fields[3]))
        return WriterReport(self._started_s, self._ended_s or time.monotonic(), tuple(notes))

    def errors(self) -> list[str]:
        """Every failed attempt, as the client saw it."""
        path = Path(f"{self._path}.errors")
        return path.read_text().splitlines() if path.exists() else []

    def wait_resumed(self, after_s: float, timeout_s: float) -> None:
        """Wait until writes sent a second or more after ``after_s`` are acknowledged steadily.

        The second is for the backends of a killed postmaster, which may finish a statement before they notice.
        """

        def resumed() -> bool:
            last = self.report().acknowledged[-1:]
            return any(note.sent_s > after_s + ORPHANS_S and time.monotonic() - note.acknowledged_s < STEADY_S for note in last)

        wait_for(resumed, timeout_s, "writes are acknowledged again")
        time.sleep(STEADY_S)

    def __enter__(self) -> Writer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
