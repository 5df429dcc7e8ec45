"""Runs the operator's scripts: ``postgresql.callbacks``, ``pre_promote`` and ``before_stop`` (config 9.2, 9.4).

Commands are split like a shell does, no shell is run. Each has a time limit, and when that is over the whole process group is
killed, so that no child of a script outlives it.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
from collections import deque
from collections.abc import Callable
from threading import Thread
from time import sleep
from typing import IO

from pgcore.plugin import CallbackEvent, CancelledError, CommandFailedError, GateRequest, Veto, hookimpl, now

log = logging.getLogger(__name__)

CANCEL_POLL_S = 0.1
OUTPUT_LINES = 20
"""How many of the last lines a script printed are kept for the log."""


@hookimpl
def pgcore_callback(event: CallbackEvent) -> None:
    """Run ``<command> <action> <role> <scope>`` and log how it ended. The result is ignored."""
    if not event.command:
        return
    what, result = f"callback {event.action}", "ok"
    try:
        _run(what, event.command, (event.action, str(event.role), event.scope), event.timeout, event.cancelled)
    except (CommandFailedError, CancelledError) as error:
        log.warning("%s: %s", what, error)
        result = "failed" if isinstance(error, CommandFailedError) else "cancelled" if event.cancelled() else "timeout"
    event.report(result)


@hookimpl
def pgcore_before_promote(request: GateRequest) -> Veto | None:
    """Run ``pre_promote``. Not startable, not 0 or not in time means no promotion (HA rules 25)."""
    if not request.command:
        return None
    try:
        _run("pre_promote", request.command, (), request.timeout, request.cancelled)
    except (CommandFailedError, CancelledError) as error:
        return Veto(f"pre_promote: {error}")
    return None


@hookimpl
def pgcore_before_stop(request: GateRequest) -> None:
    """Run ``before_stop`` and wait for it. The result is ignored."""
    if not request.command:
        return
    try:
        _run("before_stop", request.command, (), request.timeout, request.cancelled)
    except (CommandFailedError, CancelledError) as error:
        log.warning("before_stop: %s", error)


def _run(what: str, command: str, arguments: tuple[str, ...], timeout_s: float,
         cancelled: Callable[[], bool] = lambda: False) -> None:
    """Raises CommandFailedError (not startable, not 0) or CancelledError (killed when its time was over, or cancelled)."""
    try:
        argv = [*shlex.split(command), *arguments]
    except ValueError as error:
        raise CommandFailedError([command], None, f"cannot be split into words: {error}") from error
    try:
        script = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  env=_environment(), start_new_session=True)
    except OSError as error:
        raise CommandFailedError(argv, None, str(error)) from error
    tail: deque[str] = deque(maxlen=OUTPUT_LINES)
    assert script.stdout is not None
    reader = Thread(target=_read, args=(script.stdout, tail), name="script-output", daemon=True)
    reader.start()
    code = _wait(script, timeout_s, cancelled)
    if code is None:
        _kill_group(script)
        why = "was cancelled" if cancelled() else f"did not end within {timeout_s:g} s"
        raise CancelledError(f"{argv[0]} {why} and was killed with its children")
    # A child left in the background may keep the pipe open: what it prints later is nobody's concern.
    reader.join(1.0)
    if code != 0:
        raise CommandFailedError(argv, code, "\n".join(tail))
    log.info("%s: %s exited with 0%s", what, argv[0], "".join(f" | {line}" for line in list(tail)[-3:]))


def _wait(script: subprocess.Popen[bytes], timeout_s: float, cancelled: Callable[[], bool]) -> int | None:
    """The exit code; None when the time is over or the question has become pointless."""
    end = now() + timeout_s
    while (left := end - now()) > 0 and not cancelled():
        try:
            return script.wait(min(left, CANCEL_POLL_S))
        except subprocess.TimeoutExpired:
            continue
    return script.poll()


def _read(stream: IO[bytes], tail: deque[str]) -> None:
    with stream:
        for line in stream:
            tail.append(line.decode(errors="replace").rstrip()[:500])


def _kill_group(script: subprocess.Popen[bytes]) -> None:
    """Kill the script and its children. Whoever runs as another user (sudo) cannot be killed and is waited for. (EC 215)"""
    if _signalled(script.pid):
        script.wait()
    if not _signalled(script.pid):
        log.warning("%s runs as another user and cannot be killed: waiting for its end", script.args)
        while not _signalled(script.pid):
            script.poll()  # a zombie would be a member of the group for ever
            sleep(CANCEL_POLL_S)
    script.wait()


def _signalled(group: int) -> bool:
    """SIGKILL whoever is left of the group; false if somebody is and nobody of them may be signalled."""
    try:
        os.killpg(group, signal.SIGKILL)  # start_new_session made the script the leader of its group
    except ProcessLookupError:
        pass
    except PermissionError:
        return False
    return True


def _environment() -> dict[str, str]:
    """The agent's environment without its own settings, which may hold passwords (config 9.1)."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PATRONI_", "PGCORE_"))}
