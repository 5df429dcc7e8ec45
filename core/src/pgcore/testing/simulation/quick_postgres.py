"""The agent's look at its simulated server, and all it does to it that is quick: ``pgcore.postgres.quick`` over again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pgcore import threads
from pgcore.clock import Deadline, now
from pgcore.errors import ServerError, ServerUnavailableError
from pgcore.model.basics import Json, Lsn, Role, State
from pgcore.model.node import ControlData, DataDir, NodeView, Slot, WalReceiver
from pgcore.model.server import ServerSettings, Upstream
from pgcore.model.synchronous import StandbyNames
from pgcore.postgres.quick import QUICK_S, SETTLE_S
from pgcore.postgres.recovery import Change
from pgcore.postgres.synchronous import LOOK_EVERY_S, NAME, TAKEN_OVER_S
from pgcore.postgres.timeline import LeaderTimeline, Switch
from pgcore.testing.simulation import parameters
from pgcore.testing.simulation.server import Phase, Server
from pgcore.testing.simulation.server_files import DataFiles, Followed, SlotState
from pgcore.testing.simulation.wal import Branch, beginnings, history, passed, timeline_root

POLL_S = 0.5
PROMOTION_POLL_S = 0.02
"""A promotion that is cancelled ends at once: the stop that follows must not be later than it would be."""
"""How often a wait looks whether it was cancelled; what it waits for wakes it at once."""


class Handle:
    """A postmaster as the agent holds it."""

    __slots__ = ("_server", "pid")

    def __init__(self, server: Server) -> None:
        self._server, self.pid = server, server.pid

    @property
    def alive(self) -> bool:
        """That very process still runs."""
        return self._server.running and self._server.pid == self.pid


class QuickSimulatedPostgres:
    """See ``SimulatedPostgres``."""

    def __init__(self, settings: ServerSettings, server: Server) -> None:
        self.server, self.fleet = server, server.fleet
        self.role = Role.UNINITIALIZED
        self.state = State.STOPPED
        self._acting = 0
        self._followed_at: float | None = None
        self._names: StandbyNames = StandbyNames()
        self._own_names: str | None = None
        self._own_names_known = False
        self._written: Mapping[str, Json] | None = None
        self.configure(settings)

    # -- settings and facts that cost nothing -----------------------------------------------------------------------------

    @property
    def settings(self) -> ServerSettings:
        """The settings last given."""
        return self._settings

    @property
    def user(self) -> None:
        """Programs run as the agent."""

    def configure(self, settings: ServerSettings) -> None:
        """Remember new effective settings."""
        self._settings = settings
        values = settings.parameters
        self._archiving = str(values.get("archive_mode", "off")) not in ("off", "False") and bool(values.get("archive_command"))
        self._restores = bool(settings.recovery_conf.get("restore_command"))
        self._feedback = str(values.get("hot_standby_feedback", "off")).lower() in ("on", "true")

    def program(self, name: str) -> str:
        """A path."""
        return f"/simulated/bin/{name}"

    def major_version(self) -> int:
        """Such as 15."""
        return self.server.version // 10000

    def binary_version(self) -> int:
        """Such as 150006."""
        return self.server.version

    @property
    def _files(self) -> DataFiles | None:
        return None if self.server.pace.unreadable else self.server.files

    def _data(self) -> DataFiles:
        files = self._files
        if files is None:
            raise ServerError(f"{self._settings.data_dir} has no readable PG_VERSION: is the file system mounted?")
        return files

    def system_id(self) -> str | None:
        """The system identifier."""
        files = self._files
        return files.system_id if files else None

    def _branch(self, timeline: int) -> Branch | None:
        files = self._files
        if files is None:
            return None
        found = passed(files.wal.branch, timeline)
        return timeline_root(found) if found is not None else files.known.get(timeline)

    def history(self, timeline_: int) -> tuple[Switch, ...]:
        """The local history file of a timeline."""
        found = self._branch(timeline_)
        return history(found) if found is not None else ()

    def history_written_at(self, timeline_: int) -> float | None:
        """When that file was written."""
        found = self._branch(timeline_)
        return found.began if found is not None and found.parent is not None else None

    def disk_full(self) -> bool:
        """The data directory cannot take another file."""
        return self.server.pace.disk_full

    def control_data(self) -> ControlData | None:
        """pg_controldata of this moment."""
        files = self._files
        return files.control if files else None

    def role_on_disk(self) -> Role:
        """The role an offline data directory implies."""
        files = self._files
        if files is None or files.control is None:
            return Role.UNINITIALIZED
        return Role.REPLICA if files.standby_signal else Role.PRIMARY

    # -- looking -----------------------------------------------------------------------------------------------------------

    def postmaster(self) -> Handle | None:
        """The running postmaster."""
        return Handle(self.server) if self.server.running else None

    def postmaster_fd(self) -> int | None:
        """No descriptor in here: ``Server.on_exit`` tells."""
        return None

    def attach(self) -> bool:
        """Adopt a running server at the agent's start; whether one runs."""
        if not self.server.running:
            role = self.role_on_disk()
            self.role = Role.DEMOTED if role == Role.PRIMARY else role
            self.state = State.STOPPED
            return False
        self.state = State.STARTING
        self.role = Role.REPLICA if self.role_on_disk() == Role.REPLICA else Role.PRIMARY
        self.observe(Deadline.after(QUICK_S))
        return True

    def _answered(self, deadline: Deadline) -> None:
        """Ask the server something; it has answered when this returns. Raises ServerUnavailableError."""
        server = self.server
        if not server.running:
            raise ServerUnavailableError("connection refused")
        if server.phase is not Phase.UP and not server.hung:
            raise ServerUnavailableError("the database system is " + (
                "starting up" if server.phase is Phase.STARTING else "shutting down"))
        takes = server.takes(server.pace.query_s)
        if server.hung or takes > deadline.left():
            threads.sleep(deadline.left())
            raise ServerUnavailableError("no answer in time")
        if takes > 0:
            threads.sleep(takes)
            if not server.answers:
                raise ServerUnavailableError("server closed the connection unexpectedly")

    def observe(self, deadline: Deadline) -> NodeView:
        """One look at the node. It never raises."""
        server, busy, at = self.server, self._acting > 0, now()
        files = self._files
        data_dir = DataDir.UNREADABLE if server.pace.unreadable else DataDir.EMPTY if files is None else DataDir.PRESENT
        if not server.running:
            return self._observe_down(at, data_dir, files, busy)
        pid = server.pid
        try:
            self._answered(deadline.within(QUICK_S))
        except ServerUnavailableError:
            return self._observe_silent(at, data_dir, files, pid, busy)
        if not busy:
            self.state = State.RUNNING
            if not server.in_recovery:
                self.role = Role.PRIMARY
            elif self.role not in (Role.STANDBY_LEADER, Role.PROMOTED):
                self.role = Role.REPLICA
        return self._observe_up(at, data_dir, pid)

    def _observe_down(self, at: Any, data_dir: DataDir, files: DataFiles | None, busy: bool) -> NodeView:
        if not busy:
            if data_dir is not DataDir.PRESENT:
                self.role = Role.UNINITIALIZED
            if self.state in (State.STOPPING, State.STOP_FAILED, State.RESTARTING):
                self.state = State.STOPPED
            elif self.state is State.RUNNING:
                self.state = State.CRASHED
            elif self.state in (State.STARTING, State.BOOTSTRAP_STARTING):
                self.state = State.START_FAILED
        if files is None or data_dir is not DataDir.PRESENT or (busy and self.state == State.CREATING_REPLICA):
            return NodeView(at, data_dir, self.role, self.state)
        return NodeView(at, data_dir, self.role, self.state, control=files.control, restored_backup=files.backup_label,
                        system_id=files.system_id, recovery_files=files.standby_signal, rewind_possible=self._rewindable(files))

    def _rewindable(self, files: DataFiles | None) -> bool:
        return (self._settings.use_pg_rewind and files is not None and files.control is not None and files.control.rewindable)

    def _observe_silent(self, at: Any, data_dir: DataDir, files: DataFiles | None, pid: int, busy: bool) -> NodeView:
        server = self.server
        accepting = server.phase is Phase.UP or not server.running  # postmaster.pid of one that was killed says so
        if not busy and self.state not in (State.STOPPING, State.STOP_FAILED):
            self.state = State.RUNNING if accepting else State.STARTING
        control = files.control if files is not None and not accepting and self.state is State.STARTING else None
        return NodeView(
            at, data_dir, self.role, self.state, running=True, postmaster_pid=pid, accepting=accepting,
            is_primary=self.role == Role.PRIMARY, system_id=files.system_id if files else None, control=control,
            recovery_files=files is not None and files.standby_signal, rewind_possible=self._rewindable(files),
            server_version=self.server.version, postmaster_start=server.started)

    def _observe_up(self, at: Any, data_dir: DataDir, pid: int) -> NodeView:
        server = self.server
        files = server.files
        assert files is not None
        recovering, receiver = server.in_recovery, server.receiver
        position = Lsn(files.wal.position)
        timeline = files.wal.branch.timeline if server.pace.identifies or not recovering or receiver is not None else None
        shown: dict[str, Any] = {}
        if recovering:
            received, replayed = (position if server.received else None), Lsn(files.replayed)
            shown = {"received": received, "replayed": replayed, "replay_paused": server.replay_paused}
            position = max(received or replayed, replayed)
            if receiver is not None:
                above = receiver.upstream
                shown["receiver"] = WalReceiver("streaming", above.host, above.port, receiver.followed.slot, timeline, position)
        return NodeView(
            at, data_dir, self.role, self.state, running=True, answering=True, accepting=True, system_id=files.system_id,
            server_version=self.server.version, postmaster_pid=pid, postmaster_start=server.started, is_primary=not recovering,
            timeline=timeline, position=position, senders=server.waiting.rows() if server.senders else (),
            slots=self._slots(files) if files.slots else (), names=self._look_at_names(files),
            hot_standby_feedback=self._feedback, has_restore_command=self._restores, archiving=self._archiving,
            recovery_files=files.standby_signal, rewind_possible=self._rewindable(files),
            pending_restart=parameters.pending(self._settings, server.parameters), **shown)

    def _slots(self, files: DataFiles) -> tuple[Slot, ...]:
        used = {stream.followed.slot for stream in self.server.senders}
        return tuple(
            Slot(slot.name, slot.physical, slot.active or slot.name in used, None if slot.restart is None else Lsn(slot.restart),
                 None if slot.confirmed is None else Lsn(slot.confirmed), slot.plugin, slot.database,
                 xmin=slot.xmin, catalog_xmin=slot.catalog_xmin,
                 wal_status="lost" if slot.lost else "reserved", failover=slot.failover, synced=slot.synced)
            for slot in files.slots.values() if not slot.temporary)

    def _look_at_names(self, files: DataFiles) -> StandbyNames:
        waiting, ours, known = self.server.waiting, self._standby_names() is not None, self._names
        shown = waiting.shown
        settled = (not shown and not ours) or files.names == shown
        in_force = waiting.in_force == shown
        names = StandbyNames(shown, waiting.commit, settled, in_force, ours)
        if names != known:
            self._names = names
        return self._names

    def position(self, timeout_s: float) -> tuple[Lsn | None, Lsn | None, bool] | None:
        """Received, replayed, whether it is a primary; None without an answer in time."""
        server = self.server
        try:
            self._answered(Deadline.after(timeout_s))
        except ServerError:
            return None
        if server.files is None:
            return None
        end = Lsn(server.at.position)
        if not server.in_recovery:
            return end, end, True
        return (end if server.received else None), Lsn(server.files.replayed), False

    def local_timeline(self, deadline: Deadline) -> int:
        """The timeline by IDENTIFY_SYSTEM: a standby names the one it replays. Raises ServerUnavailableError."""
        self._answered(deadline)
        files = self._data()
        return files.wal.cut(files.replayed).branch.timeline

    # -- other servers -----------------------------------------------------------------------------------------------------

    def _reach(self, source: Upstream, deadline: Deadline, *, read_write: bool = False) -> Server:
        """The server at this address; it has answered. Raises ServerUnavailableError, at the deadline if nothing came back."""
        found = self.fleet.reached(self.server, source.host, source.port, read_write=read_write)
        if found is None:
            silent = any(server.hung or not self.fleet.linked(self.server, server)
                         for server in self.fleet.named(source.host, source.port))
            if silent:
                threads.sleep(deadline.left())
            raise ServerUnavailableError(f"{source.label}: " + ("no answer" if silent else "connection refused"))
        takes = found.takes(found.pace.query_s)
        if takes > 0:
            threads.sleep(min(takes, deadline.left()))
            if deadline.expired or not found.answers or not self.fleet.linked(self.server, found):
                raise ServerUnavailableError(f"{source.label}: no answer")
        return found

    def leader_timeline(self, source: Upstream, deadline: Deadline) -> LeaderTimeline:
        """What a leader says about timeline, history and role. Raises ServerUnavailableError."""
        found = self._reach(source, deadline, read_write=source.read_write)
        at, mine = found.at, self.system_id()
        if mine is not None and at.branch.system_id != mine:
            raise ServerUnavailableError(f"{source.label} is of cluster {at.branch.system_id}, this data directory of {mine}")
        first = {} if found.in_recovery else beginnings(at)
        return LeaderTimeline(at.branch.timeline, found.in_recovery, history(at.branch), at.branch.system_id, first)

    def begins_alike(self, leader: LeaderTimeline, number: int) -> bool | None:
        """Whether this timeline of the leader's begins with the same record here; None if that cannot be said."""
        own = None if self._files is None else beginnings(self._files.wal).get(number)
        theirs = leader.beginnings.get(number)
        return None if own is None or theirs is None else own.content == theirs.content

    def ready_for_rewind(self, source: Upstream, deadline: Deadline) -> None:
        """The source must be a primary whose pg_control shows its new timeline. Raises ServerUnavailableError."""
        found = self._reach(source, deadline)
        if found.in_recovery:
            raise ServerUnavailableError(f"{source.label} is in recovery: no pg_rewind against it yet")
        files, written = found.files, [False]
        if files is not None and files.control is not None and files.control.checkpoint_timeline != found.timeline:
            found.checkpoint(lambda: written.__setitem__(0, True))
            if not self._wait(lambda: written[0] or not found.writable, deadline.left(), watched=found) or not written[0]:
                raise ServerUnavailableError(f"{source.label} has not written its checkpoint")

    def _wait(self, until: Callable[[], bool], timeout_s: float, check: Callable[[], None] = lambda: None,
              watched: Server | None = None, poll_s: float = POLL_S) -> bool:
        """Wait until it is so, at most this long; whether it is. ``check`` is called every ``poll_s`` at least."""
        end = now() + timeout_s
        while not until():
            check()
            left = end - now()
            if left <= 0:
                return False
            (watched or self.server).changed.wait(min(poll_s, left))
        return True

    # -- configuration -----------------------------------------------------------------------------------------------------

    def _configured_names(self) -> str | None:
        value = self._settings.parameters.get(NAME)
        return None if value is None else str(value)

    def _standby_names(self) -> str | None:
        """As set by an agent, over whatever is configured; those found on disk count as set."""
        if not self._own_names_known:
            files = self._files
            found = files.names if files is not None and files.names_ours else None
            self._set_names(None if found == self._configured_names() else found)
        return self._own_names

    def _set_names(self, text: str | None) -> None:
        self._own_names, self._own_names_known = text, True

    def _write_main(self) -> bool:
        """The main file; whether it differs from before."""
        files, names = self._data(), self._standby_names()
        wanted = names if names is not None else self._configured_names() or ""
        changed = files.names != wanted or (self._written is not None and self._written != self._settings.parameters)
        files.names, files.names_ours, self._written = wanted, names is not None, self._settings.parameters
        self.server.waiting.commit = str(self._settings.parameters.get("synchronous_commit", "on"))
        return changed

    def write_files(self, *, role: Role, upstream: Upstream | None, standby: bool) -> None:
        """Write configuration and recovery settings. Raises ServerError."""
        files = self._data()
        if standby:
            self._set_names(None)
        files.followed = self._wanted(upstream) if standby else None
        files.standby_signal = standby
        self._write_main()

    @staticmethod
    def _wanted(upstream: Upstream | None) -> Followed | None:
        return None if upstream is None else Followed(
            upstream.host, upstream.port, upstream.slot, upstream.read_write and bool(upstream.slot))

    def reload(self) -> None:
        """Let the postmaster read its files again. Raises ServerError if there is none."""
        if not self.server.running:
            raise ServerError("PostgreSQL is not running, it can't read its configuration again")
        self.server.reload()

    def apply_settings(self) -> bool:
        """Bring a running server to the settings last given; True if something differed. Raises ServerError."""
        if not self._write_main():
            return False
        self.reload()
        return True

    def set_standby_names(self, text: str | None, deadline: Deadline) -> bool:
        """Set ``synchronous_standby_names``, or hand them back with None; whether they are in force. Raises ServerError."""
        if not self.server.running:
            raise ServerError("PostgreSQL is not running, its synchronous standbys can't be named")
        self._set_names(text)
        self._write_main()
        self.reload()
        if text is None:
            return True
        waiting = self.server.waiting
        self._answered(deadline)
        while waiting.shown != text:
            if deadline.left() < 2 * LOOK_EVERY_S:
                raise ServerError(f"{NAME} was set to {text!r} but the server shows {waiting.shown!r}")
            threads.sleep(LOOK_EVERY_S)
            self._answered(deadline)
        end = deadline.within(TAKEN_OVER_S)
        while text and waiting.in_force != text and end.left() >= 2 * LOOK_EVERY_S:
            threads.sleep(LOOK_EVERY_S)
        self._answered(deadline)
        if text:
            self.server.emit()
        return not text or waiting.in_force == text

    def recovery_change(self, upstream: Upstream | None, *, role: Role) -> Change:
        """What it takes to let the running standby follow this upstream."""
        files, wanted = self._files, self._wanted(upstream)
        if files is None or not files.standby_signal:
            return "restart"
        settling = self._followed_at is not None and now() - self._followed_at < SETTLE_S
        current = files.followed
        if not settling:
            try:
                self._answered(Deadline.after(self._settings.retry_timeout / 2))
                receiver = self.server.receiver
                current = receiver.followed if receiver is not None else self.server.followed
            except ServerError:
                pass  # compared by what was written last
        return "none" if current == wanted else "reload"

    def follow_by_reload(self, upstream: Upstream | None, *, role: Role = Role.REPLICA) -> None:
        """Write the recovery settings for this upstream and reload. Raises ServerError."""
        self.write_files(role=role, upstream=upstream, standby=True)
        self.reload()
        self._followed_at = now()

    def resume_replay(self) -> bool:
        """Let a paused replay go on; whether it was paused."""
        self._quickly()
        paused = self.server.replay_paused
        self.server.resume_replay()
        return paused

    # -- slots -------------------------------------------------------------------------------------------------------------

    def _quickly(self) -> dict[str, SlotState]:
        self._answered(Deadline.after(self._settings.retry_timeout / 2))
        files = self.server.files
        return files.slots if files is not None else {}

    def create_slot(self, name: str) -> None:
        """Make a physical slot; an existing one is fine. Raises ServerError."""
        self._quickly().setdefault(name, SlotState(name, True, self.server.at.position))

    def _in_use(self, name: str) -> bool:
        slot = self.server.files.slots.get(name) if self.server.files is not None else None
        return (slot is not None and slot.active) or any(stream.followed.slot == name for stream in self.server.senders)

    def drop_slot(self, name: str) -> None:
        """Remove a slot; an absent one is fine. Raises ServerError."""
        slots = self._quickly()
        if self._in_use(name):
            raise ServerError(f"replication slot {name} is active")
        slots.pop(name, None)

    def advance_slot(self, name: str, lsn: Lsn) -> None:
        """Let a slot forget WAL before this position. Raises ServerError."""
        slot = self._quickly().get(name)
        if slot is None:
            raise ServerError(f"replication slot {name} does not exist")
        if self._in_use(name):
            raise ServerError(f"replication slot {name} is active")
        if slot.restart is not None and lsn < slot.restart:
            raise ServerError(f"cannot advance replication slot to {lsn}, minimum is {Lsn(slot.restart)}")
        slot.restart = min(int(lsn), self.server.at.position)

    def close(self) -> None:
        """The server goes on running."""
