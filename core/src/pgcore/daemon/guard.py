"""The agent's side of the guard: start it or find it, tell it until when the lease is proven, ask what it did.

The guard is a process of its own that stops the local primary when the leader lease can't be proven any more, whatever the agent
does and whether it still exists (architecture 11, docs/guard.md). It can only stop, never extend. ``prefork`` is called as
the first thing in the program, so nothing heavy is imported here.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import time
from collections import namedtuple

from pgcore.daemon.guard_loop import FAILED, LOCKED, READY, become_guard
from pgcore.daemon.guard_page import (
    LAYOUT,
    Duty,
    GuardError,
    GuardPage,
    Margins,
    Report,
    Stage,
    live_duty,
    nanoseconds,
    now_ns,
    page_path,
)
from pgcore.daemon.guard_server import Process, status_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pgcore.model.basics import Instant

__all__ = ["Guard", "GuardAction", "GuardError", "Margins", "Prepared", "Stage", "prefork"]

_REPLY_S = 5.0
_TAKEOVER_S = 3.0
_LEAVE_S = 2.0
_SILENT_NS = nanoseconds(5.0)


class GuardAction(namedtuple("GuardAction", ("stage", "at", "pid", "text"))):
    """The last thing the guard did: its Stage, the Instant, the postmaster's pid (0: none), and a sentence fit for the log."""

    __slots__ = ()


class Prepared:
    """A guard process that was forked early and waits to be told what to guard; discarded before, or orphaned, it ends."""

    def __init__(self, command_fd: int, reply_fd: int) -> None:
        self._command_fd, self._reply_fd = command_fd, reply_fd

    def begin(self, path: str, data_dir: str) -> None:
        """Send it to work: afterwards it, or one that was there before, holds the page. Raises GuardError if it can't start."""
        try:
            os.write(self._command_fd, os.fsencode(path) + b"\0" + os.fsencode(data_dir))
        except OSError as error:
            raise GuardError(f"the guard process is gone before it began ({error.strerror}); start the agent again") from error
        finally:
            os.close(self._command_fd)
            self._command_fd = -1
        poll = select.poll()
        poll.register(self._reply_fd, select.POLLIN)
        if not poll.poll(int(_REPLY_S * 1000)):
            raise GuardError(f"the guard process did not answer within {_REPLY_S:g} s; is the machine overloaded?")
        reply = os.read(self._reply_fd, 4096)
        if reply[:1] not in (READY, LOCKED):
            problem = reply.removeprefix(FAILED).decode("utf-8", "replace")
            raise GuardError(problem or "the guard process ended before it was ready; is memory short?")

    def discard(self) -> None:
        """Let go of it: a guard that has begun stays, one that still waits ends."""
        for fd in (self._command_fd, self._reply_fd):
            if fd >= 0:
                os.close(fd)
        self._command_fd = self._reply_fd = -1


def prefork() -> Prepared:
    """Fork the guard while the program is still small and has one thread. Raises GuardError if the system refuses."""
    # The collector would write to every object, and a page that either process writes to is no longer shared.
    gc.freeze()
    try:
        command_read, command_write = os.pipe()
        reply_read, reply_write = os.pipe()
        child = os.fork()
    except OSError as error:
        raise GuardError(f"no guard process can be forked: {error.strerror}; raise the limit on processes or files") from error
    if child == 0:
        try:
            os.setsid()
            # The second fork makes it nobody's child: no agent has to reap it, and its end is no event for one.
            if os.fork() == 0:
                become_guard(command_read, reply_write)
        finally:
            os._exit(0)
    os.close(command_read)
    os.close(reply_write)
    try:
        os.waitpid(child, 0)
    except ChildProcessError:
        pass  # a program that ignores SIGCHLD has its children reaped by the kernel
    return Prepared(command_write, reply_read)


class Guard:
    """A guard at work for one data directory. Used from one thread."""

    def __init__(self, page: GuardPage, margins: Margins, process: Process, duty: Duty) -> None:
        self._page, self._margins, self._process, self._duty = page, margins, process, duty

    @classmethod
    def start(
        cls, data_dir: str, *, margins: Margins | None = None, prepared: Prepared | None = None, run_dir: str | None = None
    ) -> Guard:
        """Take over the running guard of this data directory, armed or not, or set a new one to work.

        Call it before there are threads and listening sockets, best with the ``prefork`` of program start. The lease that was
        armed before stays armed. Raises GuardError if no guard can be had, or if another agent lives that uses it; ValueError
        for margins that make no sense.
        """
        margins = (margins or Margins()).checked()
        waiting = prepared or prefork()
        try:
            home = os.path.realpath(data_dir)
            path = page_path(home, run_dir)
            for _ in range(3):
                waiting.begin(path, home)
                page = GuardPage.open(path)
                guard = cls._attach(page, home, margins)
                if guard is not None:
                    return guard
                page.close()
                waiting.discard()
                waiting = prefork()
        finally:
            waiting.discard()
        raise GuardError(f"the guard of {home} neither answers nor ends (page {path}); end it, then start the agent again")

    @classmethod
    def _attach(cls, page: GuardPage, home: str, margins: Margins) -> Guard | None:
        """Introduce ourselves to the guard of this page; None if it is gone or of another make and has been asked to leave."""
        header = page.header()
        process = Process.find(header.guard_pid, header.guard_start) if header else None
        if header is None or process is None:
            time.sleep(0.05)  # its guard is just ending, or has not written its name yet
            return None
        if header.layout != LAYOUT or header.data_dir != home:
            process.send(signal.SIGTERM)
            process.wait(_LEAVE_S)
            process.close()
            return None
        former, armed = live_duty(page)
        _refuse_second_agent(former, page.path)
        me = status_of(os.getpid())
        duty = former._replace(agent_pid=os.getpid(), agent_start=me.start if me else 0, armed=int(armed))
        guard = cls(page, margins, process, duty)
        page.duty.write(duty)
        if guard._acknowledged():
            return guard
        process.close()
        return None

    @property
    def pid(self) -> int:
        """Process id of the guard."""
        return self._process.pid

    @property
    def armed(self) -> bool:
        """Whether it will stop the server at the end of the lease; false again after it has done so."""
        return live_duty(self._page)[1]

    @property
    def until(self) -> Instant | None:
        """End of the lease it enforces, also one armed by an agent before this one; None when disarmed."""
        duty, armed = live_duty(self._page)
        return _instant(duty.until_ns) if armed else None

    def arm(self, until: Instant, ttl_s: float) -> None:
        """Enforce a lease that ends at ``until`` and has this ``ttl``. A few memory writes.

        An end further away than ``ttl`` from now can't be right and is cut to that, which only shortens it.
        """
        if not ttl_s > 0:
            raise ValueError(f"guard armed with ttl {ttl_s}: wanted more than 0 seconds")
        ttl = nanoseconds(ttl_s)
        fast, immediate, kill = self._margins.before_end_ns(ttl_s)
        self._write(
            armed=1,
            until_ns=min(nanoseconds(until), now_ns() + ttl),
            ttl_ns=ttl,
            fast_ns=fast,
            immediate_ns=immediate,
            kill_ns=kill,
        )

    def extend(self, until: Instant) -> None:
        """Move the end after a confirmed renewal or failsafe check. Raises ValueError if it was never armed."""
        if not self._duty.ttl_ns:
            raise ValueError("guard extended before it was armed: its ttl is not known")
        self._write(armed=1, until_ns=min(nanoseconds(until), now_ns() + self._duty.ttl_ns))

    def disarm(self) -> None:
        """Nothing to enforce: not leader, paused, or the server is stopped."""
        self._write(armed=0)

    def watch(self, postmaster_pid: int) -> None:
        """Name the postmaster, so that it is found without a search (a container that hides working directories, a data
        directory reached by another path)."""
        status = status_of(postmaster_pid)
        if status is not None:
            self._write(server_pid=postmaster_pid, server_start=status.start)

    @property
    def gone(self) -> bool:
        """Its process has ended: nobody enforces the lease."""
        return not self._process.alive()

    def alive(self) -> bool:
        """Whether the guard runs and has looked at the page in the last seconds."""
        found = self._page.report.read()
        return found is not None and now_ns() - found[1].beat_ns < _SILENT_NS and self._process.alive()

    def last_action(self) -> GuardAction | None:
        """What it did last, also for an agent before this one; None if it never had to act."""
        found = self._page.report.read()
        if found is None or found[1].stage == Stage.NONE:
            return None
        report = found[1]
        return GuardAction(Stage(report.stage), _instant(report.at_ns), report.pid, _describe(report))

    def close(self, stop: bool) -> None:
        """Leave the guard; with ``stop`` ask it to end and remove its page, which an armed one declines."""
        if stop and not self.armed:
            self._process.send(signal.SIGTERM)
            self._process.wait(_LEAVE_S)
        self._process.close()
        self._page.close()

    def _write(self, **changes: int) -> None:
        self._duty = self._duty._replace(**changes)
        self._page.duty.write(self._duty)

    def _acknowledged(self) -> bool:
        """Whether the guard noticed us: it must be awake, not merely exist."""
        self._process.send(signal.SIGHUP)
        deadline = time.monotonic() + _TAKEOVER_S
        wanted = (self._duty.agent_pid, self._duty.agent_start)
        while time.monotonic() < deadline and self._process.alive():
            found = self._page.report.read()
            if found and (found[1].served_pid, found[1].served_start) == wanted:
                return True
            time.sleep(0.005)
        return False


def _refuse_second_agent(former: Duty, path: str) -> None:
    if former.agent_pid in (0, os.getpid()):
        return
    other = Process.find(former.agent_pid, former.agent_start)
    if other is not None:
        other.close()
        raise GuardError(
            f"another agent (pid {former.agent_pid}) already uses the guard of this data directory (page {path}); "
            "end it first: two agents on one data directory would extend each other's lease"
        )


def _describe(report: Report) -> str:
    """One sentence for the log."""
    server = f"the server (postmaster {report.pid})" if report.pid else "the server"
    left = (report.until_ns - report.at_ns) / 1e9
    when = f"{left:.2f} s before the end of the leader lease" if left >= 0 else f"{-left:.2f} s after the end of the leader lease"
    method = {Stage.FAST: "a fast shutdown", Stage.IMMEDIATE: "an immediate shutdown"}.get(Stage(report.method), "SIGKILL")
    sentences = {
        Stage.FAST: f"sent {server} {method} {when}, because the lease was not renewed",
        Stage.IMMEDIATE: f"sent {server} {method} {when}: the fast shutdown had not ended",
        Stage.KILL: f"killed {report.killed} process(es) of {server} {when}: no shutdown had ended",
        Stage.STOPPED: f"{server} was stopped by {method}; it was gone {when}",
        Stage.NOTHING: f"the leader lease ended and no server ran; the guard is disarmed {when}",
        Stage.RENEWED: f"the lease was renewed {when}, after {server} had been sent {method}, which can't be taken back",
        Stage.REFUSED: f"may not signal {server} for {method}, {when}: run the agent as the server's user or as root",
        Stage.SURVIVED: f"{server} still has processes {when} despite SIGKILL: is its storage hanging? Fence this machine",
    }
    return "guard: " + sentences[Stage(report.stage)]


def _instant(nanoseconds_: int) -> Instant:
    return nanoseconds_ / 1e9  # type: ignore[return-value]
