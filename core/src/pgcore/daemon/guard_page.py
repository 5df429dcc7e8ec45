"""The page of memory that an agent and its guard share (architecture 11): what the agent owes, what the guard did.

Each side writes one record of its own and only reads the other's, so neither needs a lock. A record has two slots written in
turn, each with a sequence number and a checksum: a reader takes the newest intact one, and a writer that is killed in the
middle of a write leaves the record before it, which can only end a lease earlier. Imports stay light, as what is imported
before the fork stays in the guard's memory for good: no dataclasses (2 MiB), not even typing (1 MiB).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
import struct
import time
from binascii import crc32
from collections import namedtuple
from enum import IntEnum

from pgcore.errors import PgcoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PAGE_BYTES = 4096
LAYOUT = 1
"""Grows with every change of what lies where; the header's first four fields never move."""

_MAGIC = b"pgcguard"
_HEADER = struct.Struct("<8sIIQ16sH")
_FIRST_RECORD, _RECORD_SPACE = 3072, 512
_LONGEST_PATH = _FIRST_RECORD - _HEADER.size
_CLOCK_ID = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""The clock of ``pgcore.clock.now``, not imported from there because that brings the whole model along; a test compares them."""


class GuardError(PgcoreError):
    """No guard can be had: the leader lease would not be enforced if this agent hung or died."""


class Stage(IntEnum):
    """What the guard did or found last. The first four are the order of escalation."""

    NONE = 0
    FAST = 1
    IMMEDIATE = 2
    KILL = 3
    STOPPED = 4
    NOTHING = 5
    RENEWED = 6
    REFUSED = 7
    SURVIVED = 8


class Margins(namedtuple("Margins", ("fast", "immediate", "kill", "kill_floor_s"), defaults=(0.30, 0.15, 0.05, 0.25))):
    """How long before the end of the lease each stage starts, as shares of ``ttl``; ``kill_floor_s`` is in seconds."""

    __slots__ = ()

    def before_end_ns(self, ttl_s: float) -> tuple[int, int, int]:
        """Nanoseconds before the end at which fast, immediate and kill start, in this order whatever the shares."""
        kill = max(self.kill * ttl_s, self.kill_floor_s)
        immediate = max(self.immediate * ttl_s, kill)
        fast = max(self.fast * ttl_s, immediate)
        return nanoseconds(fast), nanoseconds(immediate), nanoseconds(kill)

    def checked(self) -> Margins:
        """These margins. Raises ValueError unless ``1 > fast >= immediate >= kill > 0`` and the floor is not negative."""
        if not 1 > self.fast >= self.immediate >= self.kill > 0 or self.kill_floor_s < 0:
            raise ValueError(f"guard margins {self}: wanted 1 > fast >= immediate >= kill > 0 and kill_floor_s >= 0")
        return self


_DutyFields = namedtuple(
    "_DutyFields",
    (
        "agent_pid",
        "agent_start",
        "armed",
        "until_ns",
        "ttl_ns",
        "fast_ns",
        "immediate_ns",
        "kill_ns",
        "server_pid",
        "server_start",
    ),
    defaults=(0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
)
_ReportFields = namedtuple(
    "_ReportFields",
    (
        "beat_ns",
        "served_pid",
        "served_start",
        "cleared_ns",
        "stage",
        "method",
        "at_ns",
        "until_ns",
        "pid",
        "killed",
    ),
    defaults=(0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
)


class Duty(_DutyFields):
    """The agent's record. Instants are nanoseconds on the clock of ``pgcore.clock.now``, starts are clock ticks since boot."""

    __slots__ = ()

    def stage_due(self, now: int) -> Stage:
        """The stage that the time left calls for."""
        left = self.until_ns - now
        if left <= self.kill_ns:
            return Stage.KILL
        if left <= self.immediate_ns:
            return Stage.IMMEDIATE
        return Stage.FAST if left <= self.fast_ns else Stage.NONE

    def next_stage_ns(self, now: int) -> int:
        """Nanoseconds until a later stage, or the end itself, is due; 0 when it has passed."""
        left = self.until_ns - now
        return min((left - margin for margin in (self.fast_ns, self.immediate_ns, self.kill_ns, 0) if left > margin), default=0)


class Report(_ReportFields):
    """The guard's record: when it last looked, whom it serves, what it did last.

    ``cleared_ns`` is the end of the lease it has finished with: a duty with that end is no longer in force, while an agent
    that thaws and proves another lease is protected again.
    """

    __slots__ = ()


class Header(namedtuple("Header", ("layout", "guard_pid", "guard_start", "data_dir"))):
    """Who guards what; written once by a guard when it starts."""

    __slots__ = ()


class Record:
    """One side's record in its two slots. One writer, any number of readers, no locks."""

    def __init__(self, memory: mmap.mmap, number: int, kind: type[Duty] | type[Report]) -> None:
        self._memory, self._kind = memory, kind
        self._format = struct.Struct("<Q" + "Q" * len(kind._fields))
        start = _FIRST_RECORD + number * _RECORD_SPACE
        self._slots = (start, start + _RECORD_SPACE // 2)

    def read(self) -> tuple[int, Any] | None:
        """The newest intact record with its sequence number; None if none was ever written. A torn read is tried again."""
        for _ in range(100):
            found = [values for slot in self._slots if (values := self._intact(slot))]
            if found:
                newest = max(found)
                return newest[0], self._kind(*newest[1:])
        return None

    def write(self, values: Duty | Report) -> int:
        """Store into the older slot and return the sequence number given."""
        current = self.read()
        sequence = current[0] + 1 if current else 1
        content = self._format.pack(sequence, *values)
        content += crc32(content).to_bytes(4, "little")
        slot = self._slots[sequence % 2]
        self._memory[slot : slot + len(content)] = content
        return sequence

    def _intact(self, slot: int) -> tuple[int, ...] | None:
        content = self._memory[slot : slot + self._format.size + 4]
        if crc32(content[:-4]) != int.from_bytes(content[-4:], "little"):
            return None
        values: tuple[int, ...] = self._format.unpack(content[:-4])
        return values if values[0] else None


class GuardPage:
    """The mapped page. ``duty`` is written by the agent, ``report`` and the header by the guard."""

    def __init__(self, path: str, fd: int, memory: mmap.mmap) -> None:
        self.path, self._fd, self._memory = path, fd, memory
        self.duty = Record(memory, 0, Duty)
        self.report = Record(memory, 1, Report)

    @classmethod
    def open(cls, path: str) -> GuardPage:
        """Create or open the page. Raises GuardError for a link, a file of another user or one that others may write."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise GuardError(f"guard page {path} cannot be opened: {error.strerror}; {_REMEDY}") from error
        try:
            _check_ours(path, os.fstat(fd))
            # Sparse tmpfs pages are allocated at the first touch: a full file system would then kill the agent with SIGBUS.
            os.posix_fallocate(fd, 0, PAGE_BYTES)
            return cls(path, fd, mmap.mmap(fd, PAGE_BYTES))
        except OSError as error:
            os.close(fd)
            raise GuardError(f"guard page {path} cannot be set up: {error.strerror}; free some space there") from error
        except GuardError:
            os.close(fd)
            raise

    def close(self) -> None:
        """Let go of the page; the other side keeps its own."""
        self._memory.close()
        os.close(self._fd)

    def lock(self) -> bool:
        """Whether this open file is now the locked one. A lock outlives its taker in forked children, so only guards take it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def in_place(self) -> bool:
        """Whether the path still leads to this very page (a page can be removed: systemd's RemoveIPC, a cleaner of /tmp)."""
        try:
            there, here = os.stat(self.path, follow_symlinks=False), os.fstat(self._fd)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def superseded(self) -> bool:
        """Whether another guard works on a newer page of this path, so that the agent no longer writes to this one."""
        if self.in_place():
            return False
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            _check_ours(self.path, os.fstat(fd))
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except GuardError:
            return False
        finally:
            os.close(fd)
        return False

    def claim(self, data_dir: str, pid: int, start: int) -> None:
        """As the guard that holds the lock: keep the records of a guard that died in this boot, else begin with an empty page."""
        header = self.header()
        if header is None or header.layout != LAYOUT or header.data_dir != data_dir:
            self._memory[:] = bytes(PAGE_BYTES)
        encoded = os.fsencode(data_dir)
        if len(encoded) > _LONGEST_PATH:
            problem = f"the data directory's path has {len(encoded)} bytes, the guard can take {_LONGEST_PATH}"
            raise GuardError(f"{problem}; use a shorter path")
        self._memory[_HEADER.size : _HEADER.size + len(encoded)] = encoded
        self._memory[: _HEADER.size] = _HEADER.pack(_MAGIC, LAYOUT, pid, start, boot_id(), len(encoded))

    def header(self) -> Header | None:
        """Who guards here; None for an empty page or one from before the last boot."""
        magic, layout, pid, start, boot, length = _HEADER.unpack(self._memory[: _HEADER.size])
        if magic != _MAGIC or boot != boot_id() or length > _LONGEST_PATH:
            return None
        return Header(layout, pid, start, os.fsdecode(self._memory[_HEADER.size : _HEADER.size + length]))

    def unlink(self) -> None:
        """Remove the file if it is still this page."""
        if self.in_place():
            os.unlink(self.path)


_REMEDY = "it must be a plain file of the user that runs the agent, with mode 0600; remove it if nothing of yours uses it"


def _check_ours(path: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077 or found.st_nlink > 1:
        seen = f"owner {found.st_uid}, mode {stat.filemode(found.st_mode)}, {found.st_nlink} link(s)"
        raise GuardError(f"guard page {path} is not ours: {seen}, wanted owner {os.geteuid()}; {_REMEDY}")


def page_path(data_dir: str, run_dir: str | None = None) -> str:
    """Where the page of a data directory lies: one per user and real path."""
    # Imported here: OpenSSL would stay in the memory of a guard that never needs it.
    from hashlib import sha256

    if run_dir is None:
        run_dir = "/dev/shm" if os.path.isdir("/dev/shm") else _temporary_directory()
    digest = sha256(os.fsencode(os.path.realpath(data_dir))).hexdigest()
    return os.path.join(run_dir, f"pgcore-guard-{os.geteuid()}-{digest[:16]}")


def _temporary_directory() -> str:
    import tempfile

    return tempfile.gettempdir()


def boot_id() -> bytes:
    """16 bytes that name this boot of the machine. Raises GuardError where the kernel does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except (OSError, ValueError) as error:
        raise GuardError("the guard needs Linux with /proc mounted: no boot id can be read there") from error


def now_ns() -> int:
    """Nanoseconds on the clock of ``pgcore.clock.now``."""
    return time.clock_gettime_ns(_CLOCK_ID)


def nanoseconds(seconds: float) -> int:
    """Whole nanoseconds, never below 0."""
    return max(0, int(seconds * 1_000_000_000))


def live_duty(page: GuardPage) -> tuple[Duty, bool]:
    """The agent's record, and whether it is in force: armed, and not one the guard has finished with."""
    found = page.duty.read()
    if found is None:
        return Duty(), False
    report = page.report.read()
    cleared_ns = report[1].cleared_ns if report else 0
    return found[1], bool(found[1].armed) and found[1].until_ns != cleared_ns
