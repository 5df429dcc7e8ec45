"""The agent as the first process of a container: what init must do there, in a parent of its own. (CLI 8)

Orphans of the whole container become children of process 1, and signals without a handler do not reach it. So process 1 only
reaps and passes signals on; the agent is its child. Nothing but the standard library is imported, to keep it small.
"""

from __future__ import annotations

import os
import signal

FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


def become_init() -> int | None:
    """None in the child, which goes on as the agent; in the parent the agent's exit code, once it has ended.

    An agent killed by a signal counts as in a shell: 128 and the signal's number. Raises OSError if there can be no child.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)  # one that comes before there is a child must not get lost
    try:
        agent = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        raise
    if agent:
        for number in FORWARDED:
            signal.signal(number, lambda got, frame: _pass_on(agent, got))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    return _reap(agent) if agent else None


def _pass_on(agent: int, number: int) -> None:
    try:
        os.kill(agent, number)
    except ProcessLookupError:
        pass  # it has just ended: its code is on the way


def _reap(agent: int) -> int:
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == agent:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
