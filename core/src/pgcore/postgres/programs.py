"""Running PostgreSQL programs: as the right OS user, with a clean environment, cancellable, with bounded output.

Nothing here puts a password on a command line; secrets travel in files named by the environment.
"""

from __future__ import annotations

import codecs
import logging
import os
import pwd
import re
import select
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pgcore import threads
from pgcore.errors import CancelledError, CommandFailedError, ServerError
from pgcore.hookspecs import IdleLimit
from pgcore.model.basics import Json
from pgcore.model.server import ServerSettings
from pgcore.postgres.idleness import IdleWatch

logger = logging.getLogger(__name__)

KILL_AFTER_S = 10.0
LEFTOVER_S = 2.0
"""Nobody waits for what a program of a killed agent would still put in order."""
OUTPUT_CHUNKS = 2000
"""Lines of output kept in memory; longer output loses its beginning."""

ENGLISH = {"LANG": "C", "LC_ALL": "C"}
"""Environment for programs whose output is read by a program."""

_HIDDEN = ("PGCORE_", "PATRONI_")
_LINE_END = re.compile(r"[\r\n]+")


@dataclass(frozen=True, slots=True)
class OsUser:
    """An OS account that programs are run as and that owns what the agent writes for them."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

    def popen_options(self) -> dict[str, Any]:
        """The arguments that make ``subprocess`` become this user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": list(self.groups)}


def os_user(settings: ServerSettings) -> OsUser | None:
    """Whom PostgreSQL programs run as: None for "as the agent itself", which is so unless the agent runs as root.

    The configured account, else the owner of the data directory, else ``postgres``. Raises ServerError if root is all there is,
    because PostgreSQL refuses to run as root.
    """
    if os.geteuid() != 0:
        return None
    if settings.os_user:
        return _account(settings.os_user)
    try:
        uid = os.stat(settings.data_dir).st_uid
    except OSError:
        uid = 0
    return _account(uid if uid else "postgres")


def _account(who: str | int) -> OsUser:
    try:
        entry = pwd.getpwnam(who) if isinstance(who, str) else pwd.getpwuid(who)
    except KeyError as error:
        raise ServerError(f"PostgreSQL refuses to run as root and the OS account {who!r} does not exist: set postgresql.os_user "
                          "to an existing account") from error
    if entry.pw_uid == 0:
        raise ServerError(f"the OS account {who!r} is root, as which PostgreSQL refuses to run: set postgresql.os_user")
    return OsUser(entry.pw_name, entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)), entry.pw_dir)


def clean_environment(user: OsUser | None, extra: Mapping[str, str] | None = None, *,
                      hidden: tuple[str, ...] = ()) -> dict[str, str]:
    """The environment of children: nothing of the agent or systemd-notify in it, nor what begins like one of ``hidden``.

    (HA rules 18.2, config 9.1)
    """
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith((*_HIDDEN, *hidden)) and name != "NOTIFY_SOCKET"}
    if user is not None:
        environment |= {"HOME": user.home, "USER": user.name, "LOGNAME": user.name}
    return environment | dict(extra or {})


def program_path(settings: ServerSettings, name: str) -> str:
    """Path of a PostgreSQL program, respecting ``bin_dir`` and ``bin_name``; a bare name if it is looked up in PATH."""
    actual = settings.bin_name.get(name, name)
    if settings.bin_dir:
        return os.path.join(settings.bin_dir, actual)
    return shutil.which(actual) or actual


def descendants(pid: int) -> list[int]:
    """All living processes below this one, children first. Empty where /proc does not exist."""
    below: dict[int, list[int]] = {}
    for entry in _numeric_entries():
        parent = parent_of(entry)
        if parent is not None:
            below.setdefault(parent, []).append(entry)
    found: list[int] = []
    queue = deque(below.get(pid, ()))
    while queue:
        child = queue.popleft()
        found.append(child)
        queue.extend(below.get(child, ()))
    return found


def end_marked(variable: str, value: str) -> int:
    """End every process that has this in its environment, with its children; how many there were. Returns when they are gone.

    Terminated, killed after ``LEFTOVER_S``. What this account may not look at or signal is not found.
    """
    found = _marked(variable, value)
    family = {*found, *(child for pid in found for child in descendants(pid))}
    left, kill_at = family, time.monotonic() + LEFTOVER_S
    _signal_all([*family], signal.SIGTERM)
    while left and time.monotonic() < kill_at + KILL_AFTER_S:
        time.sleep(0.05)
        left = {pid for pid in {*family, *_marked(variable, value)} if parent_of(pid) is not None}
        if time.monotonic() > kill_at:
            _signal_all([*left], signal.SIGKILL)
    if left:
        logger.error("the processes %s do not end on SIGKILL (is a disk hanging?), going on without them", sorted(left))
    return len(family)


def _marked(variable: str, value: str) -> list[int]:
    wanted, found = f"{variable}={value}".encode(), []
    for pid in _numeric_entries():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    found.append(pid)
        except OSError:
            continue  # gone, or another account's
    return found


def _numeric_entries() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def parent_of(pid: int) -> int | None:
    """The parent of a living process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    # A zombie is nobody's child any more: it can't be signalled and goes away by itself (edge case 91).
    return int(fields[1]) if fields and fields[0] not in (b"Z", b"X") else None


class ProgramRunner:
    """Runs programs to their end for one long action. It implements ``TaskContext``.

    ``cancelled`` may be set by any thread: the running program is terminated, and killed with all its children after 10 s.
    """

    def __init__(self, user: OsUser | None = None, cancelled: threads.Event | None = None,
                 report: Callable[[Mapping[str, Json]], None] | None = None, limit_s: float | None = None) -> None:
        """``limit_s`` bounds every single program; one that takes longer is ended and counts as failed."""
        self.user = user
        self.cancelled = cancelled or threads.event()
        self._report = report
        self._limit_s = limit_s

    def report(self, **progress: Json) -> None:
        """Hand progress to whoever listens."""
        if self._report is not None:
            self._report(progress)

    def check(self) -> None:
        """Raise CancelledError if the action was cancelled."""
        if self.cancelled.is_set():
            raise CancelledError("the action was cancelled")

    def run(self, argv: list[str], *, env: Mapping[str, str] | None = None, stdin: str | None = None,
            on_output: Callable[[str], None] | None = None, stall_timeout: float | None = None,
            idle: IdleLimit | None = None) -> str:
        """Run a program to its end and return what it wrote on both channels.

        Raises CommandFailedError (not found, exit code not 0, nothing printed for ``stall_timeout`` seconds, nothing done for as
        long as ``idle`` says) or CancelledError.
        """
        self.check()
        collected = _Output(on_output)
        process = self._start(argv, env, stdin)
        try:
            self._drain(process, collected, argv, stall_timeout, _watch(process.pid, idle))
        except BaseException:
            self._end(process)
            raise
        finally:
            assert process.stdout is not None
            process.stdout.close()
        output = collected.text()
        if process.returncode != 0:
            raise CommandFailedError(argv, process.returncode, output)
        return output

    def _start(self, argv: list[str], env: Mapping[str, str] | None, stdin: str | None) -> subprocess.Popen[bytes]:
        options = self.user.popen_options() if self.user else {}
        try:
            process = subprocess.Popen(
                argv, env=clean_environment(self.user, env), cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE, start_new_session=True, umask=0o077, **options)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise CommandFailedError(argv, None, str(error)) from error
        if process.stdin is not None:
            try:
                process.stdin.write((stdin or "").encode())
                process.stdin.close()
            except BrokenPipeError:
                pass  # it ended without reading: its exit code tells
        return process

    def _drain(self, process: subprocess.Popen[bytes], collected: _Output, argv: list[str], stall_timeout: float | None,
               watch: IdleWatch | None) -> None:
        """Read until the program ends. A daemon it left behind may hold the pipe open, so its end counts, not the pipe's."""
        assert process.stdout is not None
        end = None if self._limit_s is None else time.monotonic() + self._limit_s
        descriptor = process.stdout.fileno()
        open_pipe, heard = True, time.monotonic()
        while True:
            self.check()
            if end is not None and time.monotonic() > end:
                raise CommandFailedError(argv, None, collected.text(), f"did not end within {self._limit_s:g} s")
            if stall_timeout and time.monotonic() - heard > stall_timeout:
                raise CommandFailedError(argv, None, collected.text(), f"printed nothing for {stall_timeout:g} s and was ended")
            if watch is not None and watch.over(time.monotonic()):
                raise CommandFailedError(argv, None, collected.text(), "did nothing for as long as its stall-timeout allows: it "
                                         "printed nothing, used no CPU, and moved no data; it was ended")
            ended = process.poll() is not None
            if open_pipe:
                readable, _, _ = select.select([descriptor], [], [], 0.0 if ended else 0.05)
                if readable:
                    chunk, heard = os.read(descriptor, 65536), time.monotonic()
                    collected.feed(chunk)
                    if watch is not None:
                        watch.heard(heard)
                    open_pipe = bool(chunk)
                    continue
            if ended:
                collected.finish()
                return
            if not open_pipe:
                try:
                    process.wait(0.05)
                except subprocess.TimeoutExpired:
                    pass

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Terminate a program, kill it and everything below it after a grace time."""
        if process.poll() is not None:
            return
        family = [process.pid, *descendants(process.pid)]
        _signal_all(family, signal.SIGTERM)
        try:
            process.wait(KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            _signal_all([*descendants(process.pid), *family], signal.SIGKILL)
            try:
                process.wait(KILL_AFTER_S)
            except subprocess.TimeoutExpired:
                logger.error("process %d does not end on SIGKILL (is a disk hanging?), going on without it", process.pid)
        # Children that outlived their parent would go on writing into the data directory.
        _kill_group(process.pid)


def _watch(pid: int, idle: IdleLimit | None) -> IdleWatch | None:
    return IdleWatch(idle, lambda: [pid, *descendants(pid)], time.monotonic()) if idle is not None else None


class _Output:
    """Splits a stream into lines (or carriage-return chunks), shows them, remembers the last ones."""

    def __init__(self, on_output: Callable[[str], None] | None) -> None:
        self._on_output = on_output
        self._kept: deque[str] = deque(maxlen=OUTPUT_CHUNKS)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""

    def feed(self, chunk: bytes) -> None:
        *lines, self._rest = _LINE_END.split(self._rest + self._decoder.decode(chunk))
        for line in lines:
            self._show(line)

    def finish(self) -> None:
        if self._rest:
            self._show(self._rest)
            self._rest = ""

    def _show(self, line: str) -> None:
        self._kept.append(line)
        if self._on_output is not None and line:
            self._on_output(line)

    def text(self) -> str:
        return "\n".join(self._kept) + ("\n" if self._kept else "")


def _signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # gone meanwhile


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # nobody is left in it
