"""The postmaster process: find it, tell it from a stranger with the same pid, signal it, wait for its end.

Waiting uses a pidfd where the kernel has one, so that nothing polls; elsewhere (macOS) the process table is asked every 50 ms.
"""

from __future__ import annotations

import logging
import os
import re
import select
import signal
import subprocess
import time
from dataclasses import dataclass

from pgcore.postgres.programs import descendants

logger = logging.getLogger(__name__)

_LINGER_S = 0.2
"""The log collector reads what is left in its pipe when the postmaster has ended, and then ends by itself."""
START_TOLERANCE_S = 3.0
_POLL_S = 0.05
_EXECUTABLES = ("postgres", "postmaster")


@dataclass(frozen=True, slots=True)
class PidFile:
    """``postmaster.pid``. ``pid`` is negative in single-user mode; ``status`` is ready, standby, starting, stopping or empty."""

    pid: int
    started_at: int = 0
    """Seconds since the epoch."""
    port: int | None = None
    socket_dir: str = ""
    status: str = ""


def read_pid_file(data_dir: str) -> PidFile | None:
    """The pid file, None if there is none or it is being written."""
    try:
        with open(os.path.join(data_dir, "postmaster.pid"), encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file.read(4096).split("\n")]
        pid = int(lines[0])
    except (OSError, ValueError, IndexError):
        return None
    lines += [""] * (8 - len(lines))
    return PidFile(pid, _number(lines[2]) or 0, _number(lines[3]), lines[4], lines[7])


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


@dataclass(frozen=True, slots=True)
class _Process:
    """What the system says about a process. ``started_at`` in seconds since the epoch."""

    started_at: float
    name: str
    cwd: str | None
    parent: int
    zombie: bool


def _inspect(pid: int) -> _Process | None:
    """Look a process up; None if it does not exist (or nothing about it can be found)."""
    if not os.path.exists("/proc/self/stat"):
        return _inspect_portably(pid)
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            head, _, rest = file.read().rpartition(b")")
        fields = rest.split()
        state, parent, ticks = fields[0], int(fields[1]), int(fields[19])
    except (OSError, IndexError, ValueError):
        return None
    started_at = _boot_time() + ticks / os.sysconf("SC_CLK_TCK")
    name = os.path.basename(_link(f"/proc/{pid}/exe") or head.partition(b"(")[2].decode(errors="replace"))
    return _Process(started_at, name.removesuffix(" (deleted)"), _link(f"/proc/{pid}/cwd"), parent, state in (b"Z", b"X"))


def _inspect_portably(pid: int) -> _Process | None:
    try:
        found = subprocess.run(["ps", "-o", "ppid=,stat=,etime=,comm=", "-p", str(pid)], capture_output=True, text=True,
                               timeout=5, check=False).stdout.split(None, 3)
    except (OSError, subprocess.SubprocessError):
        return None
    if len(found) < 4:
        return None
    return _Process(time.time() - elapsed_seconds(found[2]), os.path.basename(found[3].strip()), None, int(found[0]),
                    found[1].startswith("Z"))


def elapsed_seconds(text: str) -> int:
    """Read the ``etime`` of ps: ``[[days-]hours:]minutes:seconds``."""
    days, _, clock = text.rpartition("-")
    total = 0
    for part in clock.split(":"):
        total = total * 60 + int(part)
    return total + 86400 * int(days or 0)


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _boot_time() -> float:
    # Computed anew each time: a stepped wall clock moves the boot time with it, and the pid file has wall time.
    with open("/proc/stat", encoding="ascii") as file:
        match = re.search(r"^btime (\d+)", file.read(), re.MULTILINE)
    return float(match.group(1)) if match else 0.0


class Postmaster:
    """A running postmaster. The handle stays valid for its process only, even if the pid is used again."""

    def __init__(self, pid: int, *, child: subprocess.Popen[bytes] | None = None) -> None:
        self._fd: int | None = None
        self.pid = pid
        self._child = child
        self._started_at = _started_at(pid)
        self._fd = _open_pidfd(pid)

    def fileno(self) -> int | None:
        """A descriptor that becomes readable when the process ends; None where the system has no pidfd."""
        return self._fd

    @property
    def alive(self) -> bool:
        """It runs. A zombie does not count."""
        if self._child is not None and self._child.poll() is not None:
            return False
        if self._fd is not None:
            return not _readable(self._fd, 0.0)
        process = _inspect(self.pid)
        return process is not None and not process.zombie and abs(process.started_at - self._started_at) <= START_TOLERANCE_S

    def signal(self, number: int) -> bool:
        """Send a signal to exactly this process; False if it is gone."""
        if not self.alive:
            return False
        try:
            if self._fd is not None:
                signal.pidfd_send_signal(self._fd, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end, at most this long; whether it has ended."""
        end = time.monotonic() + timeout_s
        while self.alive:
            left = end - time.monotonic()
            if left <= 0:
                return False
            if self._fd is not None:
                _readable(self._fd, left)
            else:
                time.sleep(min(left, _POLL_S))
        return True

    def children(self) -> list[int]:
        """Living processes it started."""
        return descendants(self.pid) if self.alive else []

    def kill_all(self, timeout_s: float = 5.0) -> bool:
        """SIGKILL it with everything below it; whether it has ended."""
        below = self.children()
        self.signal(signal.SIGKILL)
        for pid in below:
            _kill(pid, signal.SIGKILL)
        return self.wait(timeout_s)

    def __del__(self) -> None:
        # Not earlier: another thread may be waiting on the descriptor, and its number would be used again.
        if self._fd is not None:
            os.close(self._fd)


def find(data_dir: str, known: Postmaster | None = None) -> Postmaster | None:
    """The postmaster that serves this data directory, None if none does (HA rules 18.1)."""
    file = read_pid_file(data_dir)
    if file is None or file.pid <= 0:
        return None
    if known is not None and known.pid == file.pid and known.alive:
        return known
    candidate = Postmaster(file.pid)  # opened before it is judged, so that the pid can't change hands in between
    return candidate if is_ours(file, data_dir) and candidate.alive else None


def is_ours(file: PidFile, data_dir: str) -> bool:
    """Whether the process named in the pid file is that postmaster and not a stranger with a recycled pid.

    Equal start times (3 s) settle it; else the executable and the working directory do; undeterminable means ours. The pid of a
    single-user server is negative in the file.
    """
    pid = abs(file.pid)
    if pid in (os.getpid(), os.getppid()):
        return False
    process = _inspect(pid)
    if process is None or process.zombie:
        return False
    if abs(process.started_at - file.started_at) <= START_TOLERANCE_S:
        return True
    if process.parent == os.getpid() or process.name not in _EXECUTABLES:
        return False
    return process.cwd is None or os.path.realpath(process.cwd) == os.path.realpath(data_dir)


def foreign_pid(data_dir: str) -> int | None:
    """The pid of a stale pid file that a stranger uses now: the new postmaster must be told to ignore it (HA rules 18.1)."""
    file = read_pid_file(data_dir)
    if file is None or file.pid == 0 or is_ours(file, data_dir) or _inspect(abs(file.pid)) is None:
        return None
    return abs(file.pid)


def single_user_pid(data_dir: str) -> int | None:
    """The single-user server that uses this data directory; it cannot be stopped, only waited for (HA rules 18.1)."""
    file = read_pid_file(data_dir)
    return -file.pid if file is not None and file.pid < 0 and is_ours(file, data_dir) else None


def orphans(data_dir: str) -> list[int]:
    """Server processes of this directory whose postmaster is dead: they keep its shared memory in use and block a new start.

    Safe to signal: the executable is PostgreSQL's, the working directory is this very directory, the parent is not a server, and
    the caller has established that no postmaster runs.
    """
    wanted = os.path.realpath(data_dir)
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if not name.isdigit() or _link(f"/proc/{name}/cwd") != wanted:
            continue
        process = _inspect(int(name))
        if process is None or process.zombie or process.name not in _EXECUTABLES:
            continue
        parent = _inspect(process.parent)
        if parent is None or parent.name not in _EXECUTABLES:
            found.append(int(name))
    return found


def _ends_by_itself(pid: int) -> bool:
    """The log collector, or a process that has given its memory back already."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            title = file.read().strip(b" \0")
    except OSError:
        return True
    return not title or title.endswith(b"logger")


def clear_orphans(data_dir: str, timeout_s: float = 5.0) -> int:
    """End the leftovers of a dead postmaster, first politely (SIGQUIT), then by SIGKILL; how many there were."""
    left = orphans(data_dir)
    if all(_ends_by_itself(pid) and Postmaster(pid).wait(_LINGER_S) for pid in left):
        return 0
    logger.warning("ending %d server processes of %s whose postmaster is dead: %s", len(left), data_dir, left)
    handles = [Postmaster(pid) for pid in left]
    for number, patience_s in ((signal.SIGQUIT, min(1.0, timeout_s)), (signal.SIGKILL, timeout_s)):
        end = time.monotonic() + patience_s
        for handle in handles:
            handle.signal(number)
        if all([handle.wait(max(0.0, end - time.monotonic())) for handle in handles]):
            break
    return len(left)


def _started_at(pid: int) -> float:
    process = _inspect(pid)
    return process.started_at if process else 0.0


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _readable(descriptor: int, timeout_s: float) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(int(timeout_s * 1000 + 0.999)))


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # gone meanwhile
