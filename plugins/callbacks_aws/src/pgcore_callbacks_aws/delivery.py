"""Delivers the newest role: one child process at a time, bounded, repeated until it succeeds or a newer role replaces it."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from threading import Condition, Thread
from typing import IO

from pgcore.plugin import CallbackEvent, Deadline
from pgcore_callbacks_aws.section import AwsSection

log = logging.getLogger(__name__)

GRACE_S = 5.0
"""The child ends by itself at the end of its limit; this much later it is killed."""
LONGEST_PAUSE_S = 600.0
"""The pause after a delivery that failed within its limit is doubled each time, up to this."""
OUTPUT_LINES = 20


@dataclass(slots=True)
class Order:
    """A role to be told, and who wants to know how that ended."""

    event: CallbackEvent
    section: AwsSection
    reported: bool = False

    def report(self, result: str) -> None:
        """Say how it ended, the first time only: repetitions are ours."""
        if not self.reported:
            self.reported = True
            self.event.report(result)

    def argv(self) -> list[str]:
        """The command line of the child."""
        section = self.section
        words = [sys.executable, "-m", "pgcore_callbacks_aws.worker", "--attended", f"--limit={section.limit}",
                 f"--volume-name={section.volume_name}"]
        words += [f"--region={section.region}"] if section.region else []
        words += [f"--endpoint-url={section.endpoint_url}"] if section.endpoint_url else []
        words += [] if section.tag_volumes else ["--instance-only"]
        return [*words, "--", self.event.action, str(self.event.role), self.event.scope]


class Delivery:
    """A thread that starts with the first order. A newer order replaces the one that is under way."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._order: Order | None = None
        """The newest; None once it is delivered."""
        self._child: subprocess.Popen[bytes] | None = None
        self._thread: Thread | None = None
        self._ended = False

    def deliver(self, event: CallbackEvent, section: AwsSection) -> None:
        """Take an order and return at once. After ``finish`` it begins anew."""
        with self._changed:
            self._ended = False
            if self._order is not None:
                self._order.report("cancelled")
            self._order = Order(event, section)
            self._kill()
            self._changed.notify_all()
            if self._thread is None:
                self._thread = Thread(target=self._loop, name="aws-tags", daemon=True)
                self._thread.start()

    def finish(self, deadline: Deadline) -> None:
        """Wait for the newest order; what is under way at the end of the time is killed."""
        with self._changed:
            self._changed.wait_for(lambda: self._order is None or self._ended, deadline.left())
            delivered = self._order is None
            self._ended = True
            self._kill()
            self._changed.notify_all()
        if not delivered:
            log.warning("aws: the agent ends before the last role could be told to AWS; its next start tells it anew")

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()  # it has no children

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._order is not None)
                order = self._order
                if self._ended or order is None:
                    self._thread = self._order = None
                    return
            self._told(order)

    def _told(self, order: Order) -> None:
        """Run children until one has succeeded or the order is not the newest any more."""
        pause, failures = float(order.section.retry), 0
        while True:
            problem = self._run(order)
            with self._changed:
                if self._obsolete(order):
                    return
                order.report("failed" if problem else "ok")
                if not problem:
                    self._order = None
                    self._changed.notify_all()
                    return
                failures += 1
                if failures & (failures - 1) == 0:  # the 1st, 2nd, 4th, 8th … time
                    role = order.event.role
                    log.warning("aws: role %s is not told to AWS (failure %d, tried again): %s", role, failures, problem)
                if self._changed.wait_for(lambda: self._obsolete(order), pause * random.uniform(0.75, 1.25)):
                    return
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _obsolete(self, order: Order) -> bool:
        return self._ended or self._order is not order

    def _run(self, order: Order) -> str:
        """Run one child to its end; what went wrong, or nothing."""
        try:
            with self._changed:
                if self._obsolete(order):
                    return "replaced"
                child = self._child = subprocess.Popen(
                    order.argv(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=_environment())
        except OSError as error:
            return f"{sys.executable} could not be started: {error}"
        tail: deque[str] = deque(maxlen=OUTPUT_LINES)
        assert child.stdin is not None and child.stdout is not None
        reader = Thread(target=_read, args=(child.stdout, tail), name="aws-output", daemon=True)
        reader.start()
        late = False
        try:
            code = child.wait(order.section.limit + GRACE_S)
        except subprocess.TimeoutExpired:
            late = True
            child.kill()
            code = child.wait()
        reader.join(1.0)
        child.stdin.close()
        with self._changed:
            self._child = None
        if late:
            return f"it did not end within {order.section.limit} s and was killed"
        if code != 0:
            return " | ".join(tail) or f"exit code {code}"
        log.info("aws: %s", "".join(list(tail)[-1:]))
        return ""


def _read(stream: IO[bytes], tail: deque[str]) -> None:
    with stream:
        for line in stream:
            text = line.decode(errors="replace").rstrip()[:500]
            tail.append(text)
            log.debug("aws: %s", text)


def _environment() -> dict[str, str]:
    """The agent's environment without its own settings, which may hold passwords."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PATRONI_", "PGCORE_"))}
