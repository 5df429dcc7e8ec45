"""What runs inside the guard process: wait for the end of the lease, then stop the server before it (HA rules 30.1, 30.5).

It can only stop, never extend. It knows the shared page and ``/proc``, and nothing of rules, stores or configuration. Nothing
that happens in here ends it while it is armed; imports stay light.
"""

from __future__ import annotations

import os
import select
import signal

from pgcore.daemon.guard_page import Duty, GuardError, GuardPage, Report, Stage, live_duty, nanoseconds, now_ns
from pgcore.daemon.guard_server import LocalServer, Process

ARMED_LOOK_S = 0.25
DISARMED_LOOK_S = 1.0
_FIND_EVERY_NS = nanoseconds(1.0)
_KILL_LOOK_S = 0.02
_ABANDONED_NS = nanoseconds(60.0)
_SIGNALS = {Stage.FAST: signal.SIGINT, Stage.IMMEDIATE: signal.SIGQUIT}

READY, LOCKED, FAILED = b"R", b"L", b"E"


def become_guard(command_fd: int, reply_fd: int) -> None:
    """Life of the forked process: wait to be told what to guard, guard it, return when there is nothing left to do."""
    _settle(command_fd, reply_fd)
    path, _, data_dir = _read_all(command_fd).partition(b"\0")
    os.close(command_fd)
    if not data_dir:
        return  # the agent ended, or found a running guard, before it needed this one
    loop = None
    try:
        page = _locked_page(os.fsdecode(path))
        if page is None:
            os.write(reply_fd, LOCKED)
            return
        loop = GuardLoop(page, os.fsdecode(data_dir))
        os.write(reply_fd, READY)
    except GuardError as error:
        os.write(reply_fd, FAILED + str(error).encode("utf-8", "replace")[:1000])
    except BrokenPipeError:
        pass  # the agent is gone already; a lease that was armed before is still ours to watch
    finally:
        os.close(reply_fd)
    if loop is not None:
        loop.run()


def _settle(command_fd: int, reply_fd: int) -> None:
    """Cut every tie to the agent: its files, its terminal, its working directory, its signal handlers."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in (command_fd, reply_fd):
            try:
                os.close(int(name))
            except OSError:
                pass  # the descriptor that listed the directory
    _write_quietly("/proc/self/comm", "pgcore-guard")
    _write_quietly("/proc/self/oom_score_adj", "-900")
    try:
        os.nice(-5)
    except OSError:
        pass  # only root may; the guard needs little


def _write_quietly(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    except OSError:
        pass  # helpful, not needed


def _read_all(fd: int) -> bytes:
    content = b""
    while chunk := os.read(fd, 65536):
        content += chunk
    return content


def _locked_page(path: str) -> GuardPage | None:
    """The page with its lock held by us; None if another guard holds it."""
    while True:
        page = GuardPage.open(path)
        if not page.lock():
            return None
        if page.in_place():
            return page
        page.close()  # a guard that ended removed it between our opening and our locking


class GuardLoop:
    """Looks at the page a few times a second, and acts when the time left of the lease asks for it."""

    def __init__(self, page: GuardPage, data_dir: str) -> None:
        me = Process.find(os.getpid())
        page.claim(data_dir, os.getpid(), me.start if me else 0)
        if me:
            me.close()
        self._page = page
        self._server = LocalServer(data_dir)
        former = page.report.read()
        self._report = former[1]._replace(served_pid=0, served_start=0) if former else Report()
        self._agent: Process | None = None
        self._agent_gone_ns: int | None = None
        self._asked_to_leave = False
        self._target: tuple[int, int] | None = None
        self._applied = Stage.NONE
        self._stopping = False
        self._found_ns = 0
        self._wake_fd = _catch_signals()
        self._publish()

    def run(self) -> None:
        """Guard until there is nothing to guard and nobody who wants it."""
        while True:
            try:
                look_again_s = self._look()
            except (OSError, ValueError, MemoryError, GuardError):
                # A guard that dies of a surprise protects nobody: out of descriptors, an unreadable /proc entry. Try again.
                look_again_s = _KILL_LOOK_S
            if look_again_s is None:
                self._page.unlink()
                return
            self._sleep(look_again_s)

    def _look(self) -> float | None:
        """One look at the page; seconds until the next, None to end."""
        duty, armed = live_duty(self._page)
        self._meet(duty)
        if armed:
            return self._enforce(duty)
        self._server.forget()
        self._target, self._applied, self._stopping = None, Stage.NONE, False
        self._publish()
        return None if self._asked_to_leave or self._abandoned() else DISARMED_LOOK_S

    def _meet(self, duty: Duty) -> None:
        """Note which agent writes the page; a new one cancels what was said about the old one."""
        if (duty.agent_pid, duty.agent_start) == (self._report.served_pid, self._report.served_start):
            return
        if self._agent is not None:
            self._agent.close()
        self._agent = Process.find(duty.agent_pid, duty.agent_start) if duty.agent_pid else None
        self._agent_gone_ns, self._asked_to_leave = None, False
        self._report = self._report._replace(served_pid=duty.agent_pid, served_start=duty.agent_start)

    def _abandoned(self) -> bool:
        """Whether there has been no agent for a minute: long enough for a restarted one to come back."""
        if self._agent is not None and self._agent.alive():
            return False
        if self._agent_gone_ns is None:
            self._agent_gone_ns = now_ns()
        return now_ns() - self._agent_gone_ns > _ABANDONED_NS

    def _enforce(self, duty: Duty) -> float | None:
        now = now_ns()
        due = duty.stage_due(now)
        self._stopping = due is not Stage.NONE
        if due is Stage.NONE:
            if self._applied is not Stage.NONE and self._report.stage != Stage.RENEWED:
                self._record(Stage.RENEWED, duty)  # a shutdown that has begun can't be taken back
            self._remember_server(duty, now)
            self._publish()
            return min(ARMED_LOOK_S, duty.next_stage_ns(now) / 1e9)
        if self._page.superseded():
            return None
        postmaster = self._server.postmaster(duty.server_pid, duty.server_start)
        if postmaster is None:
            return self._server_gone(duty, now)
        if self._target != (postmaster.pid, postmaster.start):
            self._target, self._applied = (postmaster.pid, postmaster.start), Stage.NONE
        if due > self._applied or due is Stage.KILL:
            self._apply(due, duty)
        self._publish()
        if due is Stage.KILL:
            return _KILL_LOOK_S
        return min(ARMED_LOOK_S, duty.next_stage_ns(now_ns()) / 1e9)

    def _remember_server(self, duty: Duty, now: int) -> None:
        """Hold the postmaster's pidfd before it is needed, as its data directory may vanish; search at most once a second."""
        if now - self._found_ns >= _FIND_EVERY_NS:
            self._found_ns = now
            self._server.postmaster(duty.server_pid, duty.server_start)

    def _apply(self, stage: Stage, duty: Duty) -> None:
        postmaster = self._server.postmaster()
        if postmaster is None:
            return
        first_time = stage > self._applied
        killed = 0
        try:
            if stage is Stage.KILL:
                killed = self._server.kill(patience_s=0.05)
            else:
                postmaster.send(_SIGNALS[stage])
        except PermissionError:
            self._applied = stage
            self._record(Stage.REFUSED, duty, method=stage)
            return
        self._applied = stage
        if first_time:
            self._record(stage, duty, method=stage, killed=killed)
        elif now_ns() >= duty.until_ns and self._report.stage != Stage.SURVIVED and self._server.postmaster() is not None:
            self._record(Stage.SURVIVED, duty, method=stage, killed=killed)

    def _server_gone(self, duty: Duty, now: int) -> float:
        """No process of the server is left: the duty is done, unless nothing ran and a start may still be on its way."""
        if self._applied is not Stage.NONE:
            self._record(Stage.STOPPED, duty, cleared_ns=duty.until_ns)
        elif now > duty.until_ns + duty.ttl_ns:
            self._record(Stage.NOTHING, duty, cleared_ns=duty.until_ns)
        self._publish()
        return ARMED_LOOK_S / 2

    def _record(self, stage: Stage, duty: Duty, **changes: int) -> None:
        pid = self._target[0] if self._target else 0
        news = {"stage": stage, "at_ns": now_ns(), "until_ns": duty.until_ns, "pid": pid, **changes}
        self._report = self._report._replace(**news)
        self._publish()

    def _publish(self) -> None:
        self._report = self._report._replace(beat_ns=now_ns())
        self._page.report.write(self._report)

    def _sleep(self, seconds: float) -> None:
        """Until the time is up, a signal arrives, or the server being stopped has ended."""
        poll = select.poll()
        poll.register(self._wake_fd, select.POLLIN)
        stopping = self._server.postmaster_fd() if self._stopping else -1
        if stopping >= 0:
            poll.register(stopping, select.POLLIN)
        if any(fd == self._wake_fd for fd, _ in poll.poll(max(1, int(seconds * 1000 + 0.999)))):
            received = os.read(self._wake_fd, 4096)
            self._asked_to_leave |= any(number in (signal.SIGTERM, signal.SIGINT) for number in received)


def _catch_signals() -> int:
    """Turn signals into bytes of a pipe, so that none can end the guard while it is armed. SIGHUP only wakes it."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    os.set_blocking(write_fd, False)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda _number, _frame: None)
    return read_fd
