"""The local server as the guard sees it: found, watched and stopped through /proc and signals alone.

Nothing here opens a file of the data directory while a postmaster is known, because a dead disk would hang the guard together
with everything else. A process is held by its pidfd, so a recycled pid is never signalled and a postmaster whose data
directory vanished can still be stopped (HA rules 18.1). Imports stay light, like those of ``guard_page``.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections import namedtuple
from collections.abc import Iterable

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_START_TOLERANCE_S = 3.0
_DEAD_STATES = ("Z", "X", "x")
_STOPPED_STATES = ("T", "t")


class Status(namedtuple("Status", ("name", "state", "parent", "start"))):
    """What ``/proc/<pid>/stat`` says; ``start`` in clock ticks since boot names a process together with its pid."""

    __slots__ = ()


def status_of(pid: int) -> Status | None:
    """The status of a process, None when there is none. Reads no memory of that process, so it cannot hang on it."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return None
    name, _, rest = text[text.index("(") + 1 :].rpartition(")")
    fields = rest.split()
    return Status(name, fields[0], int(fields[1]), int(fields[19]))


class Process:
    """One process that stays the same one: by pidfd, or by its start time on kernels without."""

    __slots__ = ("fd", "pid", "start")

    def __init__(self, pid: int, start: int, fd: int) -> None:
        self.pid, self.start, self.fd = pid, start, fd

    @classmethod
    def find(cls, pid: int, start: int | None = None) -> Process | None:
        """The living process with this pid, and with this start time if one is given."""
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        except (OSError, AttributeError):  # before Linux 5.3, or forbidden by a seccomp filter
            fd = -1
        status = status_of(pid)
        if status is None or status.state in _DEAD_STATES or start not in (None, status.start):
            if fd >= 0:
                os.close(fd)
            return None
        return cls(pid, status.start, fd)

    def alive(self) -> bool:
        """Whether it still runs; a zombie doesn't."""
        if self.fd >= 0:
            return not _readable(self.fd, 0)
        status = status_of(self.pid)
        return status is not None and status.start == self.start and status.state not in _DEAD_STATES

    def wait(self, seconds: float) -> bool:
        """Whether it ended within this time."""
        if self.fd >= 0:
            return _readable(self.fd, seconds)
        deadline = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        return True

    def send(self, number: int) -> None:
        """Send a signal; nothing happens if it has ended. Raises PermissionError."""
        try:
            if self.fd >= 0:
                signal.pidfd_send_signal(self.fd, number)
            elif self.alive():
                os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def close(self) -> None:
        """Give the pidfd back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class LocalServer:
    """Every process of the server of one data directory, whether or not its postmaster still lives."""

    def __init__(self, data_dir: str) -> None:
        self._data_dir = data_dir
        self._postmaster: Process | None = None
        self._program = ""

    def postmaster(self, hint_pid: int = 0, hint_start: int = 0) -> Process | None:
        """The postmaster: the one remembered, else the one the agent named, else the one found by its working directory, else
        by postmaster.pid. When only orphaned backends are left, the oldest of those."""
        known = self._postmaster
        if known is not None:
            if known.alive():
                return known
            known.close()
            self._postmaster = None
        found = Process.find(hint_pid, hint_start) if hint_pid else None
        self._postmaster = found or self._oldest_at_home() or self._from_pid_file()
        if self._postmaster is not None:
            self._program = _link(self._postmaster.pid, "exe") or self._program
        return self._postmaster

    def postmaster_fd(self) -> int:
        """Descriptor that becomes readable when the remembered postmaster ends; -1 if there is none."""
        return self._postmaster.fd if self._postmaster is not None else -1

    def kill(self, patience_s: float) -> int:
        """SIGKILL every process and wait that long for the end; how many were killed. Raises PermissionError.

        The postmaster is halted first so that it cannot start new processes behind our back, and dies last: its
        children are known by their parent as long as it exists.
        """
        postmaster = self.postmaster()
        if postmaster is None:
            return 0
        postmaster.send(signal.SIGSTOP)
        self._await_halt(postmaster, patience_s)
        killed: set[tuple[int, int]] = set()
        for _ in range(5):
            others = self._others(postmaster)
            fresh = [other for other in others if (other.pid, other.start) not in killed]
            for other in fresh:
                other.send(signal.SIGKILL)
                killed.add((other.pid, other.start))
            deadline = time.monotonic() + patience_s
            for other in others:
                other.wait(max(0.0, deadline - time.monotonic()))
                other.close()
            if not fresh:
                break
        postmaster.send(signal.SIGKILL)
        postmaster.wait(patience_s)
        return len(killed) + 1

    def forget(self) -> None:
        """Drop what was remembered."""
        if self._postmaster is not None:
            self._postmaster.close()
            self._postmaster = None

    @staticmethod
    def _await_halt(postmaster: Process, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            status = status_of(postmaster.pid)
            if status is None or status.state in _STOPPED_STATES + _DEAD_STATES:
                return
            time.sleep(0.001)

    def _others(self, postmaster: Process) -> list[Process]:
        statuses = ((pid, status_of(pid)) for pid in _all_pids())
        ours = [
            (pid, status.start)
            for pid, status in statuses
            if status is not None
            and pid != postmaster.pid
            and status.state not in _DEAD_STATES
            and (status.parent == postmaster.pid or self._at_home(pid))
        ]
        return [process for pid, start in ours if (process := Process.find(pid, start))]

    def _oldest_at_home(self) -> Process | None:
        home = {pid: status for pid in _all_pids() if self._at_home(pid) and (status := status_of(pid))}
        roots = [(status.start, pid) for pid, status in home.items() if status.parent not in home]
        for start, pid in sorted(roots):
            process = Process.find(pid, start)
            if process is not None:
                return process
        return None

    def _at_home(self, pid: int) -> bool:
        """Whether it is a PostgreSQL process in our data directory; shells and archive commands started there are not."""
        home = _link(pid, "cwd")
        if home != self._data_dir:
            return False
        program = _link(pid, "exe")
        return bool(program) and (program == self._program or _is_server_name(os.path.basename(program)))

    def _from_pid_file(self) -> Process | None:
        """For a process whose working directory we may not read (root without CAP_SYS_PTRACE in a container)."""
        try:
            with open(os.path.join(self._data_dir, "postmaster.pid"), encoding="ascii", errors="replace") as file:
                lines = file.read(4096).splitlines()
            pid, started = int(lines[0]), float(lines[2])
        except (OSError, ValueError, IndexError):
            return None
        status = status_of(pid) if pid > 0 else None  # a negative pid is single-user mode
        if status is None:
            return None
        if _link(pid, "cwd"):
            # It can be read and the search did not take it: the pid belongs to someone else by now.
            return None
        same_start = abs(_started_at(status.start) - started) <= _START_TOLERANCE_S
        return Process.find(pid, status.start) if same_start or _is_server_name(status.name) else None


def _is_server_name(name: str) -> bool:
    return "postgres" in name or name == "postmaster"


def _all_pids() -> Iterable[int]:
    own = os.getpid()
    return (pid for name in os.listdir("/proc") if name.isdigit() and (pid := int(name)) != own)


def _link(pid: int, name: str) -> str:
    """Target of ``/proc/<pid>/cwd`` or ``exe``, without the mark of a removed file; empty when it may not be read."""
    try:
        return os.readlink(f"/proc/{pid}/{name}").removesuffix(" (deleted)")
    except OSError:
        return ""


def _started_at(ticks: int) -> float:
    """Wall-clock seconds at which a process with this start time began."""
    with open("/proc/stat", encoding="ascii") as file:
        booted = next((int(line.split()[1]) for line in file if line.startswith("btime")), 0)
    return booted + ticks / _TICKS_PER_SECOND


def _readable(fd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(int(seconds * 1000)))
