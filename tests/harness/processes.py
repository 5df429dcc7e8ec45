"""Processes for tests: free ports, bounded waits, and finding everything a cluster left behind.

Every process the harness starts carries a mark in its environment. PostgreSQL overwrites its environment and outlives the agent,
so a process also counts as ours when its working directory or command line lies under the cluster's own directory.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psycopg2

# Not PGCORE_..., which an agent would take for configuration and keep from its children.
MARKER = "HARNESS_RUN_MARK"
POLL_INTERVAL_S = 0.05
SEGMENT_LINE = 6
"""Where ``postmaster.pid`` has the key and the number of the server's segment."""

Found = TypeVar("Found")


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens on at ``host`` right now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def wait_for(question: Callable[[], Found | None], timeout_s: float, what: str, interval_s: float = POLL_INTERVAL_S) -> Found:
    """The first truthy answer of ``question``, asked every ``interval_s``.

    Raises ``AssertionError`` naming ``what`` after ``timeout_s``. A refused connection or a failed query counts as "not yet".
    """
    deadline = time.monotonic() + timeout_s
    last: object = None
    while True:
        try:
            answer = question()
            last = answer
            if answer:
                return answer
        except (OSError, psycopg2.Error) as error:
            last = error
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what}: not within {timeout_s:g} s (last answer: {last!r})")
        time.sleep(interval_s)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def state_of(pid: int) -> str | None:
    """The one-letter state of a process (``Z``: ended, not yet reaped), ``None`` when it is gone."""
    stat = _read(f"/proc/{pid}/stat").decode(errors="replace")
    return stat.rpartition(") ")[2][:1] or None


def alive(pid: int) -> bool:
    """Whether the process exists and has not ended."""
    return state_of(pid) not in (None, "Z", "X")


def parent_of(pid: int) -> int:
    """The parent's pid, 0 when the process is gone."""
    fields = _read(f"/proc/{pid}/stat").decode(errors="replace").rpartition(") ")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def all_pids() -> list[int]:
    """Every process of this machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def is_postgres(pid: int) -> bool:
    """Whether the process runs the PostgreSQL server binary."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith("postgres")
    except OSError:
        return False


def belongs(pid: int, mark: str, directory: Path | None) -> bool:
    """Whether a process was started by (or on behalf of) the run with this mark or works inside ``directory``."""
    if f"{MARKER}={mark}".encode() in _read(f"/proc/{pid}/environ").split(b"\0"):
        return True
    if directory is None:
        return False
    try:
        working_directory = os.readlink(f"/proc/{pid}/cwd").removesuffix(" (deleted)")
    except OSError:
        return False
    inside = f"{directory}/"
    return f"{working_directory}/".startswith(inside) or inside.encode() in _read(f"/proc/{pid}/cmdline")


def marked(mark: str, directory: Path | None = None) -> list[int]:
    """The pids of everything that belongs to the run, never this process itself."""
    return [pid for pid in all_pids() if pid != os.getpid() and alive(pid) and belongs(pid, mark, directory)]


def send(pid: int, number: signal.Signals) -> bool:
    """Signal one process; ``False`` when it is gone already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def kill_marked(mark: str, directory: Path | None = None, timeout_s: float = 10.0) -> list[int]:
    """SIGKILL everything that belongs to the run until nothing is left; returns what was killed. Frozen processes die as well."""
    killed: list[int] = []
    deadline = time.monotonic() + timeout_s
    while (left := marked(mark, directory)) and time.monotonic() < deadline:
        for pid in left:
            if send(pid, signal.SIGKILL) and pid not in killed:
                killed.append(pid)
        time.sleep(0.02)
    if left:
        raise AssertionError(f"processes {left} survived SIGKILL for {timeout_s:g} s")
    if directory is not None:
        for path in directory.glob("*/data"):
            free_shared_memory(path)
    return killed


def free_shared_memory(data_dir: Path) -> None:
    """Remove the segment of a killed server, which leaves one: without a free one no server starts on this machine."""
    lines = _read(str(data_dir / "postmaster.pid")).decode(errors="replace").splitlines()
    if len(lines) > SEGMENT_LINE and (segment := lines[SEGMENT_LINE].split()[-1:]):
        subprocess.run(["ipcrm", "-m", *segment], check=False, capture_output=True)
