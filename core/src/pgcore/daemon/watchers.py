"""Threads that only wait and wake: the store's watch and the postmaster's end. (architecture 11)"""

from __future__ import annotations

import os
import select
from collections.abc import Callable

from pgcore import threads
from pgcore.clock import now
from pgcore.daemon.mailbox import Mailbox
from pgcore.dcs.store import Store

SETTLE_S = 1.0
"""How long the watch waits for the heartbeat to read a change before it looks again."""
LEAST_WATCH_S = 0.05
PORTABLE_POLL_S = 0.25
"""Without pidfd (macOS) the postmaster is looked for this often."""


def watch_store(store: Store, mailbox: Mailbox, revision: Callable[[], str], pause_s: Callable[[], float]) -> None:
    """Start the thread that turns changes in the store into wake-ups."""

    def loop() -> None:
        while True:
            seen = revision()
            if not seen:  # nothing was read yet
                threads.sleep(0.05)
                continue
            began = now()
            changed = store.watch(seen, timeout=pause_s())
            if not changed and now() - began < LEAST_WATCH_S:
                threads.sleep(LEAST_WATCH_S)  # a closed store answers at once
            if changed:
                mailbox.wake("the store changed")
                deadline = now() + SETTLE_S
                while revision() == seen and now() < deadline:
                    threads.sleep(0.002)

    threads.start("watch", loop)


class PostmasterWatch:
    """Wakes the heartbeat when the postmaster ends, through pidfd where the system has it."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._condition = threads.condition()
        self._pid: int | None = None
        threads.start("postmaster", self._loop)

    def follow(self, pid: int | None) -> None:
        """Watch this process from now on."""
        if pid == self._pid:
            return
        with self._condition:
            self._pid = pid
            self._condition.notify()

    def _loop(self) -> None:
        watched: int | None = None
        while True:
            with self._condition:
                while self._pid is None or self._pid == watched:
                    self._condition.wait()
                watched = self._pid
            if self._ended(watched):
                self._mailbox.wake("the postmaster ended")
            else:
                watched = None  # the same one may be named again

    def _ended(self, pid: int) -> bool:
        """Wait until it ends (true) or another one is to be watched (false)."""
        try:
            descriptor = os.pidfd_open(pid)
        except (AttributeError, OSError):
            return self._ended_portably(pid)
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            while self._pid == pid:
                if poll.poll(1000):
                    return True
            return False
        finally:
            os.close(descriptor)

    def _ended_portably(self, pid: int) -> bool:
        while self._pid == pid:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return True
            except PermissionError:
                pass
            threads.sleep(PORTABLE_POLL_S)
        return False
