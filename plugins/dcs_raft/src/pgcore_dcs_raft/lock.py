"""Who uses the files of a member: one process at a time, by a lock of the kernel that ends with the process.

``<self_addr>.lock`` beside the journal, which itself is replaced now and then. The lock belongs to the process: a forked child
(the guard, which outlives its agent) does not hold it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from pgcore.plugin import ConfigError

SUFFIX = ".lock"


class FilesLock:
    """The lock on the files ``<base>.*``, held from the call of the class until ``release``."""

    def __init__(self, base: str) -> None:
        """Take it without waiting. Raises ConfigError that names the process that has it."""
        path = base + SUFFIX
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError("raft.data_dir", f"{path} cannot be opened: {error.strerror}",
                              "make the directory writable for the user pgcore runs as") from error
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._file, 20).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise ConfigError("raft.data_dir", f"the files {base}.* are in use by the process {holder}",
                              "stop the agent, witness or command that uses them") from error
        with contextlib.suppress(OSError):  # for people; the lock holds without it
            give_to_owner(self._file, os.path.dirname(path))
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let go; doing it again changes nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def give_to_owner(file: int | str, directory: str) -> None:
    """Let a file that root made in a member's directory belong to whom the directory belongs. Raises OSError."""
    if os.geteuid() == 0:
        owner = os.stat(directory or ".")
        os.chown(file, owner.st_uid, owner.st_gid)
