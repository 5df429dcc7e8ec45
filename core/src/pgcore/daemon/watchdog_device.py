"""The kinds of watchdog devices: what Linux offers as ``/dev/watchdog``, and a named pipe for tests. (HA rules 10, config 14)

A device that was opened runs, and resets the machine unless something is written to it in time. Only ``close`` after the letter V
stops it ("magic close"): an agent that is killed leaves it running. The descriptor is not inherited by any program we start.
"""

from __future__ import annotations

import errno
import os
import platform
import stat
import struct
from fcntl import ioctl
from typing import Protocol

from pgcore.errors import PgcoreError

TIMEOUTS_S = range(1, 65535)
"""What drivers take as a timeout."""


class WatchdogError(PgcoreError):
    """The device cannot be used; the text names it."""


class Device(Protocol):
    """An open device. Everything returns at once, or raises WatchdogError."""

    can_be_stopped: bool
    """``close`` with V stops it; else it resets the machine whatever is done."""

    def set_timeout(self, seconds: int) -> None:
        """Ask for this timeout; a driver that cannot change its own keeps it."""

    def timeout(self) -> int:
        """The timeout the device really has."""

    def keepalive(self) -> None:
        """The machine is well: count again from now."""

    def close(self, *, stop: bool) -> None:
        """Let go of it, with ``stop`` so that it does not count any more."""


class Devices(Protocol):
    """The watchdogs of a machine."""

    def open(self, driver: str, path: str) -> Device:
        """Open one, which starts it. Raises WatchdogError."""

    def usable(self, path: str) -> bool:
        """It is there and may be written to."""

    def there(self, path: str) -> bool:
        """It exists."""


class SystemDevices:
    """Those of this machine."""

    def open(self, driver: str, path: str) -> Device:
        """Open it."""
        return Pipe(path) if driver == "testing" else LinuxWatchdog(path)

    def usable(self, path: str) -> bool:
        """The agent's account may write to it."""
        return os.access(path, os.W_OK)

    def there(self, path: str) -> bool:
        """There is such a file."""
        return os.path.exists(path)


class _File:
    """What both kinds have in common: a descriptor that takes bytes."""

    def __init__(self, path: str, flags: int = 0) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags)
        except OSError as error:
            raise WatchdogError(_told(path, error)) from error

    def _write(self, data: bytes) -> None:
        try:
            os.write(self._fd, data)
        except OSError as error:
            raise WatchdogError(f"writing to {self.path} failed: {error.strerror}") from error

    def keepalive(self) -> None:
        self._write(b"1")

    def close(self, *, stop: bool) -> None:
        try:
            if stop:
                self._write(b"V")
        finally:
            os.close(self._fd)


def _told(path: str, error: OSError) -> str:
    remedies = {
        errno.ENOENT: "load its driver, for example with: modprobe softdog",
        errno.ENXIO: "nobody is behind it",
        errno.EACCES: "give the agent's account the right to write to it",
        errno.EPERM: "give the agent's account the right to write to it",
        errno.EBUSY: "another program has it; systemd does if RuntimeWatchdogSec is set",
    }
    remedy = remedies.get(error.errno or 0, "")
    return f"{path} cannot be opened: {error.strerror}" + (f" ({remedy})" if remedy else "")


class Pipe(_File):
    """Driver ``testing``: a FIFO that a test reads: ``T<seconds>`` and a line end for a timeout, ``1`` for a keepalive, ``V``."""

    can_be_stopped = True

    def __init__(self, path: str) -> None:
        super().__init__(path, os.O_NONBLOCK)  # a pipe without a reader is a missing device, a full one a broken device
        self._timeout = 60

    def set_timeout(self, seconds: int) -> None:
        self._write(b"T%d\n" % seconds)
        self._timeout = seconds

    def timeout(self) -> int:
        return self._timeout


_TURNED = platform.machine().startswith(("ppc", "mips", "sparc", "alpha", "parisc"))
"""On these the kernel numbers the directions of an ioctl differently."""


def _request(number: int, size: int, *, read: bool, write: bool) -> int:
    """The number of an ioctl of the watchdog family (linux/watchdog.h), as the kernel composes it."""
    if _TURNED:
        direction, shift = 2 * read + 4 * write, 29
    else:
        direction, shift = 2 * read + write, 30
    return direction << shift | size << 16 | ord("W") << 8 | number


_SUPPORT = struct.Struct("=II32s")
_GET_SUPPORT = _request(0, _SUPPORT.size, read=True, write=False)
_SET_TIMEOUT = _request(6, 4, read=True, write=True)
_GET_TIMEOUT = _request(7, 4, read=True, write=False)
_HAS_TIMEOUT, _HAS_MAGIC_CLOSE = 0x0080, 0x0100
_MISC_MAJOR = 10
"""``/dev/watchdog`` is a second name, of this major number, for ``/dev/watchdog0``."""


class LinuxWatchdog(_File):
    """Driver ``default``: the interface of the Linux kernel."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        try:
            self._options, _, identity = _SUPPORT.unpack(ioctl(self._fd, _GET_SUPPORT, bytes(_SUPPORT.size)))
        except OSError as error:
            os.close(self._fd)
            raise WatchdogError(f"{path} is no watchdog: {error.strerror}") from error
        self.identity = identity.split(b"\0")[0].decode(errors="replace")
        self.can_be_stopped = bool(self._options & _HAS_MAGIC_CLOSE) and not _no_way_out(self._fd)

    def set_timeout(self, seconds: int) -> None:
        if self._options & _HAS_TIMEOUT:
            self._ask(_SET_TIMEOUT, seconds)

    def timeout(self) -> int:
        return self._ask(_GET_TIMEOUT, 0)

    def _ask(self, request: int, value: int) -> int:
        try:
            return int(struct.unpack("=i", ioctl(self._fd, request, struct.pack("=i", value)))[0])
        except OSError as error:
            raise WatchdogError(f"{self.path} does not tell or take a timeout: {error.strerror}") from error


def _no_way_out(fd: int) -> bool:
    """The driver was loaded so that nothing stops it; unknown counts as no."""
    number = os.fstat(fd)
    if not stat.S_ISCHR(number.st_mode):
        return False
    major, minor = os.major(number.st_rdev), os.minor(number.st_rdev)
    place = "/sys/class/watchdog/watchdog0" if major == _MISC_MAJOR else f"/sys/dev/char/{major}:{minor}"
    try:
        with open(f"{place}/nowayout", encoding="ascii") as file:
            return file.read().strip() == "1"
    except (OSError, ValueError):
        return False
