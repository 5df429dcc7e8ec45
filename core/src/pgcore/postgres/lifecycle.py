"""Starting and stopping the postmaster (HA rules 18.2, 18.3). The caller has written the files and knows the role."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from pgcore.errors import PgcoreError, ServerError
from pgcore.model.node import ControlData, ControlState
from pgcore.model.server import ServerSettings
from pgcore.postgres import backends, controldata, files, parameters, postmaster
from pgcore.postgres.postmaster import Postmaster, read_pid_file
from pgcore.postgres.programs import OsUser, clean_environment, program_path
from pgcore.postgres.server_log import ServerLog

if TYPE_CHECKING:
    from pgcore.hookspecs import TaskContext

logger = logging.getLogger(__name__)

StopMode = Literal["fast", "immediate"]

_LOOK_EVERY_S = 0.01
_PEEK_EVERY_S = 0.02
_COUNT_EVERY_S = 0.05
_LAST_RESORT_S = 30.0
"""An immediate stop without a limit of its own gets this long before SIGKILL."""
_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


def launch(settings: ServerSettings, user: OsUser | None, values: Mapping[str, str], config_file: str,
           log: ServerLog) -> Postmaster:
    """Start a postmaster in a session of its own. Raises ServerError if the program can't be run.

    It becomes a child of the agent, so that its exit is reaped in containers whose first process reaps nothing.
    """
    environment: dict[str, str] = {}
    stranger = postmaster.foreign_pid(settings.data_dir)
    if stranger is not None:
        logger.warning("postmaster.pid of %s names process %d, which is not PostgreSQL; the new server is told to ignore it",
                       settings.data_dir, stranger)
        environment["PG_GRANDPARENT_PID"] = str(stranger)
    if "PG_MALLOC_ARENA_MAX" in os.environ:
        environment["MALLOC_ARENA_MAX"] = os.environ["PG_MALLOC_ARENA_MAX"]
    argv = [program_path(settings, "postgres"), "-D", settings.data_dir, f"--config-file={config_file}",
            *parameters.command_line(values)]
    output = log.open()
    try:
        child = subprocess.Popen(
            argv, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            umask=0o027 if files.file_mode(settings.data_dir) == 0o640 else 0o077,
            env=clean_environment(user, environment, hidden=("KUBERNETES_",)), **(user.popen_options() if user else {}))
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerError(f"{argv[0]} can't be started: {error}") from error
    finally:
        os.close(output)
    logger.info("started PostgreSQL on %s, process %d", settings.data_dir, child.pid)
    return Postmaster(child.pid, child=child)


def wait_until_up(server: Postmaster, data_dir: str, log: ServerLog, timeout_s: float, check: Callable[[], None]) -> bool:
    """Wait until connections are accepted; False if it is still starting when the time is over.

    The postmaster writes its status into postmaster.pid the moment it changes; reading that costs less than connecting.
    Raises ServerError with the server's last words if it dies, CancelledError after having stopped it.
    """
    end = time.monotonic() + timeout_s
    while True:
        if server.wait(_LOOK_EVERY_S):
            raise ServerError(f"PostgreSQL ended while it was starting: {log.tail(data_dir, wait_s=1.0) or 'it logged nothing'}")
        file = read_pid_file(data_dir)
        if file is not None and file.pid == server.pid and file.status in ("ready", "standby"):
            return True
        if time.monotonic() >= end:
            return False
        try:
            check()
        except PgcoreError:
            server.signal(signal.SIGQUIT)
            if not server.wait(10.0):
                server.kill_all()
            raise


class Stopping:
    """One stop: the signal, the wait, the safe point, the moment pg_control says "shut down", the escalation.

    The safe point is reported as progress ``safe_point`` once no session of a user is left: nothing is written for anybody then.
    """

    def __init__(self, server: Postmaster, data_dir: str, ctx: TaskContext, read_control: Callable[[], ControlData | None],
                 on_shut_down: Callable[[ControlData], None] | None) -> None:
        self._server = server
        self._data_dir = data_dir
        self._ctx = ctx
        self._read_control = read_control
        self._on_shut_down = on_shut_down
        self._safe = False
        self._count_at = 0.0
        self._shut_down_at: float | None = None

    def run(self, mode: StopMode, timeout_s: float | None, sessions_s: float | None = None) -> None:
        """Stop within the limit: fast, then immediate, then SIGKILL, each with the same time.

        ``sessions_s`` bounds the wait for users' sessions, which were told to end, and later, once all is on disk, that for the
        archiver and the standbys; the checkpoint between them takes what it takes.
        Raises ServerError if it survives all.
        """
        last_resort = _LAST_RESORT_S if timeout_s is None else timeout_s
        self._server.signal(_SIGNALS[mode])
        if not self._wait(timeout_s if mode == "fast" else last_resort, sessions_s):
            if mode == "fast":
                logger.warning("PostgreSQL did not stop within %s s%s, it is stopped immediately",
                               timeout_s if timeout_s is not None else sessions_s, "" if self._safe else self._who_is_left())
                self._server.signal(signal.SIGQUIT)
            if mode == "immediate" or not self._wait(last_resort):
                logger.error("PostgreSQL did not stop within %s s, it is killed", last_resort)
                if not self._server.kill_all():
                    raise ServerError(f"process {self._server.pid} survived SIGKILL: is a disk hanging?")
        self._tell_if_shut_down()
        postmaster.clear_orphans(self._data_dir)
        self._tell_safe()

    def _wait(self, timeout_s: float | None, sessions_s: float | None = None) -> bool:
        began = time.monotonic()
        while not self._server.wait(_PEEK_EVERY_S):
            self._tell_if_shut_down()
            self._tell_if_safe()
            self._ctx.check()
            waited = time.monotonic() - began
            if timeout_s is not None and waited >= timeout_s:
                return False
            since = began if not self._safe else self._shut_down_at
            if sessions_s is not None and since is not None and time.monotonic() - since >= sessions_s:
                return False
        return True

    def _tell_if_safe(self) -> None:
        """New sessions are refused since the signal, so once none is left none will come."""
        if self._safe or time.monotonic() < self._count_at:
            return
        self._count_at = time.monotonic() + _COUNT_EVERY_S
        if backends.user_backends(self._server.pid) == []:
            self._tell_safe()

    def _tell_safe(self) -> None:
        if not self._safe:
            self._safe = True
            self._ctx.report(safe_point=True)

    def _who_is_left(self) -> str:
        left = backends.user_backends(self._server.pid)
        return f" (sessions of processes {', '.join(map(str, left))} do not end)" if left else ""

    def _tell_if_shut_down(self) -> None:
        """The shutdown checkpoint is safe on disk while the postmaster may live for minutes, archiving (edge case 63)."""
        if self._on_shut_down is None:
            return
        peeked = controldata.peek(self._data_dir)
        if peeked is None or peeked[0] != ControlState.SHUT_DOWN:
            return
        control = self._read_control()
        if control is None or control.state != ControlState.SHUT_DOWN:
            return
        tell, self._on_shut_down = self._on_shut_down, None
        self._shut_down_at = time.monotonic()
        tell(control)
