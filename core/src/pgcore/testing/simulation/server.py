"""One simulated PostgreSQL server: a data directory, and the processes that serve it while they live. (docs/simulation.md)

Whoever tells it something goes on; what was told is done by the server's own processes, whether its agent lives or not. Each run
of the server is a ``Process`` of the scheduler, so what a killed server had still to do never happens.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING

from pgcore.model.basics import Lsn
from pgcore.model.node import ControlState
from pgcore.testing.simulation.acknowledgement import Waiting
from pgcore.testing.simulation.scheduler import Condition, Process
from pgcore.testing.simulation.server_files import (
    CHECKPOINT_RECORD,
    END_OF_RECOVERY_RECORD,
    DataFiles,
    Followed,
    Pace,
    new_control,
)
from pgcore.testing.simulation.wal import Commit

if TYPE_CHECKING:
    from pgcore.testing.simulation.replication import Fleet, Stream


class Phase(StrEnum):
    """What the processes are doing."""

    DOWN = "down"
    STARTING = "starting"
    UP = "up"
    STOPPING = "stopping"


CLEAN = (ControlState.SHUT_DOWN, ControlState.SHUT_DOWN_IN_RECOVERY)


class Server:
    """``name`` is the member's, ``machine`` where it runs, ``host`` and ``port`` where it is reached."""

    def __init__(self, fleet: Fleet, name: str, host: str, *, machine: str = "", port: int = 5432,
                 pace: Pace | None = None) -> None:
        self.fleet, self.scheduler, self.dice = fleet, fleet.scheduler, fleet.dice
        self.name, self.machine, self.host, self.port = name, machine or name, host, port
        self.pace = pace or Pace()
        self.files: DataFiles | None = None
        self.phase = Phase.DOWN
        self.in_recovery = False
        self.life: Process | None = None
        self.pid = 0
        self.started = ""
        self.safe = False
        """Nobody's session is left in a fast stop."""
        self.hung = False
        self.changed = Condition(self.scheduler)
        """Notified when the phase changes, and when something that was asked for is done."""
        self.followed: Followed | None = None
        """``primary_conninfo`` in force."""
        self.received = False
        """This run has received WAL over a stream."""
        self.receiver: Stream | None = None
        self.version = 150006
        self.parameters: dict[str, int] = {}
        """Those in force that only a start changes, see ``parameters``."""
        self.replay_paused = False
        self.backup: DataFiles | None = None
        """What the method ``restore`` finds in an archive."""
        self.senders: list[Stream] = []
        self.waiting = Waiting(self)
        self.on_exit: list[Callable[[int], None]] = []
        """Called with the process id when the server has ended."""
        self.seeking = False
        """It will look for its upstream again."""
        self._doomed = self._killable = False
        self._was_up = False
        self._replaying = False
        fleet.add(self)

    def __repr__(self) -> str:
        return f"{self.name} ({self.phase}, {self.files.wal if self.files else 'no data'})"

    # -- what is true of it ------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """There are processes."""
        return self.life is not None

    @property
    def answers(self) -> bool:
        """It answers queries."""
        return self.phase is Phase.UP and not self.hung

    @property
    def writable(self) -> bool:
        """It accepts writes, or would if it could move."""
        return self.phase is Phase.UP and not self.in_recovery

    @property
    def at(self) -> Commit:
        """Where its WAL ends. Only while it has data."""
        assert self.files is not None
        return self.files.wal

    @property
    def timeline(self) -> int:
        """The number it gives its timeline."""
        return self.at.branch.timeline

    def takes(self, seconds: float) -> float:
        """So long it takes on this machine at present."""
        return seconds * self.pace.slow

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        assert self.life is not None
        self.scheduler.after(self.takes(seconds), call, self.life)

    def tell(self, kind: str, **facts: object) -> None:
        """Tell the observer of the world."""
        self.fleet.observer(kind, self, facts)

    def _turn(self, phase: Phase) -> None:
        self.phase = phase
        self.changed.notify_all()

    # -- starting ----------------------------------------------------------------------------------------------------------

    def launch(self) -> None:
        """Start the processes on the data directory; how they come up is written there."""
        assert self.life is None and self.files is not None
        self.fleet.starts += 1
        self.pid, self.started = 1000 + self.fleet.starts, f"start {self.fleet.starts} of {self.name}"
        self.life = Process(self.scheduler, f"postgres {self.name}")
        self.safe = self.received = self.seeking = self._replaying = self._was_up = self.replay_paused = False
        self.in_recovery = self.files.standby_signal
        self.followed = self.files.followed if self.in_recovery else None
        self.waiting.begin(self.files.names)
        self._turn(Phase.STARTING)
        control = self.files.control
        lost = self.in_recovery and self.files.follows_no_history()
        if control is None or self.files.torn or self.pace.broken or self.pace.disk_full or lost:
            self._later(min(0.1, self.pace.start_s), lambda: self.end("start failed"))
            return
        state = control.state
        self.files.backup_label = False
        if self.in_recovery:
            self.files.note(state=ControlState.IN_ARCHIVE_RECOVERY)
        elif state is not ControlState.SHUT_DOWN:
            self.files.note(state=ControlState.IN_CRASH_RECOVERY)
        self._later(self.pace.start_s + (0.0 if state in CLEAN else self.pace.recovery_s),
                    lambda: self._come_up(state is not ControlState.SHUT_DOWN))

    def _come_up(self, recovered: bool) -> None:
        files = self.files
        if self.phase is not Phase.STARTING or files is None:
            return
        if not self.in_recovery:
            if recovered:
                begin = files.wal.position
                files.checkpoint(Commit(self._write(CHECKPOINT_RECORD).branch, begin))
            files.note(state=ControlState.IN_PRODUCTION, checkpoint_end=None, minimum_recovery=Lsn(0),
                       minimum_recovery_timeline=0, parameters=dict(self.parameters))
        else:
            known = files.control.checkpoint if files.control is not None else Lsn(0)
            self._recovered_to(max(known, files.control.minimum_recovery if files.control is not None else Lsn(0)))
        files.replayed = files.wal.position
        self._was_up = True
        self._turn(Phase.UP)
        self.tell("started", primary=not self.in_recovery)
        if self.in_recovery:
            self.fleet.seek(self)
        else:
            self.tell("writable", how="start", commit=files.wal)

    def _recovered_to(self, position: int) -> None:
        assert self.files is not None
        at = self.files.wal.cut(position)
        self.files.note(minimum_recovery=Lsn(position), minimum_recovery_timeline=at.branch.timeline)

    # -- writing -----------------------------------------------------------------------------------------------------------

    def _write(self, size: int) -> Commit:
        assert self.files is not None
        self.files.wal = self.fleet.wal.append(self.files.wal, size, self.scheduler.EPOCH + self.scheduler.now)
        return self.files.wal

    def write(self, on_acknowledged: Callable[[Commit], None] | None = None, size: int = 100) -> Commit | None:
        """A client's transaction: where its commit stands, None if the server refuses it.

        ``on_acknowledged`` is called when the client is told, perhaps at once, perhaps never.
        """
        if not self.writable or self.hung or self.pace.disk_full or self.files is None:
            return None
        commit = self._write(size)
        self.files.replayed = commit.position
        self.waiting.add(commit, on_acknowledged)
        self.fleet.push(self)
        self.waiting.judge()
        return commit

    def emit(self, size: int = 50) -> None:
        """A little WAL nobody waits for."""
        if self.writable and not self.hung and not self.pace.disk_full and self.files is not None:
            self.files.replayed = self._write(size).position
            self.fleet.push(self)

    # -- receiving, for ``Fleet`` ------------------------------------------------------------------------------------------

    def receive(self, until: Commit) -> None:
        """WAL from a stream is on disk here."""
        assert self.files is not None
        self.files.wal = until
        self.received = True
        self._replay()
        self.fleet.push(self)

    def _replay(self) -> None:
        assert self.files is not None
        if self.pace.replay_s <= 0 and not self.replay_paused:
            self.files.replayed = self.files.wal.position
            return
        if self._replaying or self.replay_paused or self.files.replayed >= self.files.wal.position:
            return
        target, self._replaying = self.files.wal.position, True

        def replayed() -> None:
            self._replaying = False
            if self.files is not None and self.in_recovery:
                self.files.replayed = max(self.files.replayed, target)
                if self.receiver is not None:
                    self.fleet.confirm(self.receiver)
                self._replay()

        self._later(self.pace.replay_s, replayed)

    def resume_replay(self) -> None:
        """``pg_wal_replay_resume``."""
        self.replay_paused = False
        self._replay()

    # -- being told --------------------------------------------------------------------------------------------------------

    def promote(self) -> None:
        """What ``pg_ctl promote`` asks for. Nothing to do for a primary."""
        if self.phase is not Phase.UP or not self.in_recovery:
            return
        lag = self.pace.replay_s if self.files is not None and self.files.replayed < self.files.wal.position else 0.0
        self._later(self.pace.promote_s + lag, self._promoted)

    def _promoted(self) -> None:
        files = self.files
        if self.phase is not Phase.UP or not self.in_recovery or files is None:
            return
        if self.pace.disk_full:
            self.end("crashed")
            return
        self.fleet.leave(self)
        before = files.wal
        number = 1 + max([before.branch.timeline, *files.known, *self.fleet.archived(before.branch.system_id)])
        files.wal = self.fleet.wal.promoted(before, number, self.scheduler.EPOCH + self.scheduler.now)
        self.fleet.archive(files.wal.branch)
        self._write(END_OF_RECOVERY_RECORD)
        files.replayed = files.wal.position
        files.standby_signal, files.followed, self.followed = False, None, None
        files.note(state=ControlState.IN_PRODUCTION, parameters=dict(self.parameters))
        self.in_recovery = False
        self.fleet.switched(self)
        self.changed.notify_all()
        self.tell("writable", how="promotion", commit=files.wal, before=before)
        self.fleet.push(self)
        self._later(self.pace.checkpoint_s, self.checkpoint_now)

    def checkpoint(self, done: Callable[[], None]) -> None:
        """CHECKPOINT, a restartpoint on a standby."""

        def written() -> None:
            if self.pace.disk_full and not self.in_recovery:
                self._later(1.0, written)
                return
            self.checkpoint_now()
            done()
            self.changed.notify_all()

        self._later(self.pace.checkpoint_s, written)

    def checkpoint_now(self) -> None:
        """A checkpoint is finished at this moment."""
        if self.phase is not Phase.UP or self.files is None:
            return
        if self.in_recovery:
            self._recovered_to(self.files.replayed)
            self.files.restartpoint()
        elif not self.pace.disk_full:
            begin = self.files.wal.position
            self.files.checkpoint(Commit(self._write(CHECKPOINT_RECORD).branch, begin))
            self.files.replayed = self.files.wal.position
            self.files.note(minimum_recovery=Lsn(0), minimum_recovery_timeline=0)
            self.fleet.push(self)

    def reload(self) -> None:
        """SIGHUP."""
        def shown() -> None:
            if self.files is None:
                return
            self.waiting.show(self.files.names)
            if self.in_recovery and self.followed != self.files.followed:
                self.followed = self.files.followed
                self.fleet.seek(self)
            names = self.files.names
            self._later(self.pace.in_force_s, lambda: self.waiting.take_over(names))

        self._later(self.pace.shown_s, shown)

    # -- ending ------------------------------------------------------------------------------------------------------------

    def stop_fast(self) -> None:
        """SIGINT: sessions end, a checkpoint, the rest goes to the standbys, and that was it."""
        if self.phase in (Phase.DOWN, Phase.STOPPING):
            return
        if self.phase is Phase.STARTING:
            self._turn(Phase.STOPPING)
            self._later(self.pace.stop_s / 3, lambda: self.end("crashed"))
            return
        self._turn(Phase.STOPPING)
        self.waiting.give_up()
        self.fleet.leave(self)
        self._end_sessions()

    def _end_sessions(self) -> None:
        if self.pace.hung_stop:
            self._later(1.0, self._end_sessions)
        else:
            self._later(self.pace.stop_s / 3, self._sessions_ended)

    def _sessions_ended(self) -> None:
        self.safe = True
        self.changed.notify_all()
        self._later(self.pace.stop_s / 3, self._shut_down)

    def _shut_down(self) -> None:
        files = self.files
        if files is None:
            return
        if self.in_recovery:
            self._recovered_to(files.replayed)
            files.restartpoint()
            files.note(state=ControlState.SHUT_DOWN_IN_RECOVERY)
        else:
            begin = files.wal.position
            end = self._write(CHECKPOINT_RECORD)
            files.replayed = end.position
            files.checkpoint(Commit(end.branch, begin))
            files.note(state=ControlState.SHUT_DOWN, checkpoint_end=Lsn(end.position))
            self.fleet.push(self)
        self.changed.notify_all()
        self._later(self.pace.stop_s / 3, self._wait_for_standbys)

    def _wait_for_standbys(self) -> None:
        """The shutdown checkpoint reaches every standby that still streams."""
        if not self.in_recovery and any(stream.behind for stream in self.senders):
            self._later(0.05, self._wait_for_standbys)
        else:
            self.end("stopped")

    def stop_immediately(self) -> None:
        """SIGQUIT."""
        if self.life is not None:
            if self.phase is not Phase.STOPPING:
                self._turn(Phase.STOPPING)
            self._later(self.pace.immediate_s, lambda: self.end("crashed"))

    def kill(self) -> bool:
        """SIGKILL for all its processes; false when they do not end, because they hang in the kernel."""
        if self.life is None:
            return True
        if self.hung and not self._killable:
            self._doomed = True
            return False
        self.end("crashed")
        return True

    def power_off(self) -> None:
        """Its machine loses power: nobody is told, streams find out by themselves."""
        self.hung = False
        if self.life is not None:
            self.end("crashed", silently=True)

    def hang(self, *, killable: bool = False) -> None:
        """Its processes are there and do nothing; unless ``killable`` not even end."""
        self.hung, self._killable = True, killable
        if self.life is not None:
            self.life.freeze()

    def resume(self) -> None:
        """It goes on."""
        self.hung = False
        doomed, self._doomed = self._doomed, False
        if self.life is None:
            return
        if doomed:
            self.end("crashed")
            return
        self.life.thaw()
        self.fleet.push(self)
        self.waiting.judge()

    def end(self, how: str, *, silently: bool = False) -> None:
        """Its processes are gone: ``stopped`` in order, ``crashed`` or ``start failed``."""
        life, pid = self.life, self.pid
        if life is None:
            return
        life.kill()
        self.life, self.hung, self._doomed = None, False, False
        files = self.files
        if files is not None and self._was_up and self.in_recovery and how == "crashed":
            self._recovered_somewhere(files)
        self.waiting.give_up()
        self.fleet.ended(self, silently=silently)
        self.followed = None
        self._turn(Phase.DOWN)
        self.tell(how, commit=files.wal if files else None, primary=not self.in_recovery)
        self.in_recovery = False
        for call in self.on_exit:
            call(pid)

    def _recovered_somewhere(self, files: DataFiles) -> None:
        """A killed standby's pg_control tells less than was replayed."""
        if files.control is not None and files.control.state is ControlState.IN_ARCHIVE_RECOVERY:
            self._recovered_to(self.dice.randint(min(files.control.minimum_recovery, files.replayed), files.replayed))

    # -- the data directory ------------------------------------------------------------------------------------------------

    def make_cluster(self) -> None:
        """What initdb leaves."""
        wal = self.fleet.wal.new_cluster(self.scheduler.EPOCH + self.scheduler.now)
        self.files = DataFiles(wal, new_control(wal, rewindable=self.pace.rewindable), wal.position)
        self.tell("created", commit=wal)

    def begin_copy(self, program: str) -> None:
        """Something begins to fill the data directory; until it is done no server starts from it."""
        self.files = DataFiles(Commit(self.fleet.wal.nothing, 0), None, torn=program)

    def remove(self) -> None:
        """The data directory is gone."""
        if self.files is not None:
            had, self.files = self.files, None
            self.tell("removed", commit=had.wal, torn=had.torn)
