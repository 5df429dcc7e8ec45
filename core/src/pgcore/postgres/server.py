"""The local PostgreSQL server: one look at it, and one method per thing that can be done to it.

Nothing here knows about leadership: the daemon decides, this performs. The heartbeat thread calls ``observe`` and the quick
methods, the task thread the slow ones (those with a ``ctx``), REST threads ``position``. ``role`` and ``state`` are the cached
words of HA rules 1; they are plain values that any thread may read.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from pgcore import clock
from pgcore.clock import Deadline
from pgcore.errors import PgcoreError, ServerError, ServerUnavailableError
from pgcore.hookspecs import BootstrapMethod, ReplicaMethod
from pgcore.model.basics import Instant, Json, Lsn, Role, State
from pgcore.model.node import ControlData, DataDir, NodeView
from pgcore.model.server import ServerSettings, Upstream
from pgcore.postgres import (
    controldata,
    creation,
    data_dir,
    lifecycle,
    local,
    monitor,
    parameters,
    postmaster,
    promote,
    recovery,
    replication,
    rewind,
    timeline,
)
from pgcore.postgres.configuration import Configuration
from pgcore.postgres.connection import Session
from pgcore.postgres.local import KeptSession
from pgcore.postgres.lookout import Lookout
from pgcore.postgres.postmaster import Postmaster
from pgcore.postgres.programs import OsUser, ProgramRunner, os_user, program_path
from pgcore.postgres.recovery import Change
from pgcore.postgres.rewind import Archiving, RewindPlan
from pgcore.postgres.timeline import LeaderTimeline, Switch

if TYPE_CHECKING:
    from pgcore.hookspecs import TaskContext

logger = logging.getLogger(__name__)

QUICK_S = 5.0
"""A quick method has this long when its caller gives no deadline."""

_PROGRAM_LIMIT_S = 30.0


class Postgres:
    """The port. See the module's docstring for who may call what."""

    def __init__(self, settings: ServerSettings, *, now: Callable[[], Instant] = clock.now) -> None:
        self._now = now
        self._settings = settings
        self._user = os_user(settings)
        self.role = Role.UNINITIALIZED
        self.state = State.STOPPED
        self._postmaster: Postmaster | None = None
        self._postmaster_lock = threading.Lock()
        self._acting = 0
        self._runner = ProgramRunner(self._user, limit_s=_PROGRAM_LIMIT_S)
        self._binary = parameters.Binary(self._runner.run)
        self._heartbeat = KeptSession("pgcore heartbeat")
        self._rest = KeptSession("pgcore restapi")
        self._configuration = Configuration(settings, self._user, self._binary)
        self._lookout = Lookout(self._runner.run, self._binary)

    # -- settings and facts that cost nothing -------------------------------------------------------------------------

    @property
    def settings(self) -> ServerSettings:
        """The settings last given."""
        return self._settings

    @property
    def user(self) -> OsUser | None:
        """The account PostgreSQL's programs run as; None for the agent's own. For the daemon's ``ProgramRunner``."""
        return self._user

    def configure(self, settings: ServerSettings) -> None:
        """Remember new effective settings; files are written by ``write_files``, ``apply_settings`` or the next start."""
        logins = ("superuser", "listen", "use_unix_socket", "database")
        changed = any(getattr(settings, name) != getattr(self._settings, name) for name in logins)
        self._settings = settings
        self._user = self._runner.user = os_user(settings)
        self._configuration.configure(settings, self._user)
        if changed:
            self._forget_connections()

    def program(self, name: str) -> str:
        """Path of a PostgreSQL program."""
        return program_path(self._settings, name)

    def major_version(self) -> int:
        """Of the data directory, else of the binary. Raises ServerError if neither says."""
        return data_dir.major_version(self._settings.data_dir) or self.binary_version() // 10000

    def binary_version(self) -> int:
        """Such as 150006. Raises ServerError."""
        return self._binary.version(self.program("postgres"))

    def system_id(self) -> str | None:
        """The system identifier; None without a readable pg_control."""
        return controldata.peek_system_id(self._settings.data_dir)

    def history(self, timeline_: int) -> tuple[Switch, ...]:
        """The local history file of a timeline, oldest first; empty if there is none."""
        return timeline.local_history(self._settings.data_dir, timeline_)

    def control_data(self) -> ControlData | None:
        """pg_controldata of this moment, remembered until the file changes; None if it can't be read."""
        return self._lookout.control_data(self._settings)

    def role_on_disk(self) -> Role:
        """The role an offline data directory implies (HA rules 1)."""
        if self.control_data() is None:
            return Role.UNINITIALIZED
        return Role.REPLICA if data_dir.has_recovery_files(self._settings.data_dir) else Role.PRIMARY

    # -- looking -----------------------------------------------------------------------------------------------------

    def postmaster(self) -> Postmaster | None:
        """The running postmaster. A handle once taken is kept even if the data directory vanishes (HA rules 18.1)."""
        with self._postmaster_lock:
            found = postmaster.find(self._settings.data_dir, self._postmaster)
            if found is not None and found is not self._postmaster:
                self._adopt(found)
            elif found is None and self._postmaster is not None and not self._postmaster.alive:
                self._postmaster.close()
                self._postmaster = None
            return self._postmaster

    def _adopt(self, found: Postmaster) -> None:
        if self._postmaster is not None:
            self._postmaster.close()
        self._postmaster = found
        self._forget_connections()

    def postmaster_fd(self) -> int | None:
        """A descriptor that becomes readable when the postmaster ends; None if there is none or the system has no pidfd."""
        running = self.postmaster()
        return running.fileno() if running else None

    def attach(self) -> bool:
        """Adopt a running postmaster at the agent's start; whether one runs (HA rules 5.4, 18.1).

        Nothing is restarted. Recovery settings in force are remembered, so that writing the files keeps them.
        """
        running = self.postmaster()
        if running is None:
            role = self.role_on_disk()
            self.role = Role.DEMOTED if role == Role.PRIMARY else role
            self.state = State.STOPPED
            return False
        self.state = State.STARTING
        on_disk = self.role_on_disk()
        self.role = Role.REPLICA if on_disk == Role.REPLICA else Role.PRIMARY
        self._configuration.remember_from_disk()
        self.observe(Deadline.after(QUICK_S, self._now))
        logger.info("PostgreSQL runs already as process %d, adopted as %s", running.pid, self.role)
        return True

    def observe(self, deadline: Deadline) -> NodeView:
        """One look at the node. It never raises: what can't be found out in time is a value in the result.

        ``task``, ``finished`` and ``watchdog_failed`` are the daemon's to fill in.
        """
        try:
            running = self.postmaster()
            busy = self._acting > 0
            self._configuration.log.hand_on()
            view = NodeView(at=self._now(), data_dir=data_dir.look(self._settings.data_dir), role=self.role, state=self.state)
            if running is None:
                return self._observe_down(view, busy)
            return self._observe_up(view, running, deadline, busy)
        except PgcoreError as error:
            logger.warning("the look at PostgreSQL is incomplete: %s", error)
            return NodeView(at=self._now(), data_dir=DataDir.UNREADABLE, role=self.role, state=self.state)

    def _observe_down(self, view: NodeView, busy: bool) -> NodeView:
        if not busy:
            if view.data_dir != DataDir.PRESENT:
                self.role = Role.UNINITIALIZED
            if self.state in (State.RUNNING, State.STARTING, State.BOOTSTRAP_STARTING):
                logger.error("PostgreSQL is gone: %s", self._configuration.log.tail(self._settings.data_dir) or "it logged nothing")
                self.state = State.CRASHED
        return self._lookout.add_offline_facts(replace(view, role=self.role, state=self.state), self._settings,
                                               untouchable=busy and self.state == State.CREATING_REPLICA)

    def _observe_up(self, view: NodeView, running: Postmaster, deadline: Deadline, busy: bool) -> NodeView:
        view = replace(view, running=True, postmaster_pid=running.pid)
        try:
            answer = self._heartbeat.use(self._settings, self._user, deadline.within(QUICK_S),
                                         lambda session: monitor.ask(session, deadline))
        except ServerError as error:
            accepting = self._lookout.accepts(self._settings.data_dir, error)
            if accepting:
                logger.warning("PostgreSQL did not answer the monitoring query: %s", error)
            if not busy and self.state not in (State.STOPPING, State.STOP_FAILED):
                self.state = State.RUNNING if accepting else State.STARTING
            return self._lookout.add_silent_facts(
                replace(view, state=self.state, accepting=accepting, is_primary=self.role == Role.PRIMARY), self._settings)
        self._judge(answer.in_recovery, busy)
        view = self._lookout.add_online_facts(replace(view, role=self.role, state=self.state), answer, self._settings)
        if view.timeline is None:
            view = replace(view, timeline=self._lookout.standby_timeline(answer, lambda: self._identified(deadline)))
        pending = self._lookout.pending_restart(answer, self._settings, self._configuration, self._heartbeat, self._user, deadline)
        return replace(view, pending_restart=pending)

    def _judge(self, in_recovery: bool, busy: bool) -> None:
        """Role and state by the server's own word, unless a long action is changing them right now."""
        if busy:
            return
        self.state = State.RUNNING
        if not in_recovery:
            self.role = Role.PRIMARY
        elif self.role not in (Role.STANDBY_LEADER, Role.PROMOTED):
            self.role = Role.REPLICA

    def _identified(self, deadline: Deadline) -> int | None:
        try:
            return self.local_timeline(deadline.within(1.0))
        except ServerError as error:
            logger.info("the local timeline is unknown: %s", error)
            return None

    def position(self, timeout_s: float) -> tuple[Lsn | None, Lsn | None, bool] | None:
        """Received, replayed (both the flushed position on a primary) and whether it is a primary; None if no answer came in time.

        Fresh, on a connection of its own; several threads may ask, one after another.
        """
        deadline = Deadline.after(timeout_s, self._now)
        try:
            return self._rest.use(self._settings, self._user, deadline, lambda session: monitor.ask_position(session, deadline))
        except ServerError:
            return None

    def local_timeline(self, deadline: Deadline) -> int:
        """The timeline by IDENTIFY_SYSTEM, the only word trusted for rewind decisions. Raises ServerUnavailableError."""
        try:
            return timeline.identify(local.replication(self._settings), deadline)[1]
        except ServerUnavailableError:
            raise
        except ServerError as error:
            raise ServerUnavailableError(f"the local timeline is unknown: {error}") from error

    def leader_timeline(self, source: Upstream, deadline: Deadline) -> LeaderTimeline:
        """What a leader says about timeline, history and role (HA rules 12.2). Raises ServerUnavailableError when undecided."""
        ordinary = self._settings.rewind if self._settings.rewind.username else self._settings.superuser
        return timeline.compare_timelines(source, recovery.login(self._settings.replication, password=True),
                                          recovery.login(ordinary, password=True), deadline)

    # -- configuration -----------------------------------------------------------------------------------------------

    def write_files(self, *, role: Role, upstream: Upstream | None, standby: bool) -> None:
        """Write configuration, hba, ident, recovery settings and the password file, each atomically. Raises ServerError."""
        self._configuration.write(role, upstream, standby=standby)

    def reload(self) -> None:
        """Let the postmaster read its files again. Raises ServerError if there is none."""
        self._configuration.signal_reload(self.postmaster())

    def apply_settings(self) -> bool:
        """Bring a running server to the settings last given: write what differs and reload; True if something differed.

        Recovery settings stay as they are. What needs a restart shows in ``pending_restart`` of the next look. Raises ServerError.
        """
        if not self._configuration.write_changes():
            return False
        self.reload()
        return True

    def recovery_change(self, upstream: Upstream | None, *, role: Role) -> Change:
        """What it takes to let the running standby follow this upstream (HA rules 11.3).

        A server that does not answer is compared by what was written last; nothing known means no change: ask again.
        """
        deadline = Deadline.after(self._settings.retry_timeout / 2, self._now)
        return self._lookout.recovery_change(self._configuration, self._settings, upstream, lambda action: self._heartbeat.use(
            self._settings, self._user, deadline, lambda session: action(session, deadline)))

    def follow_by_reload(self, upstream: Upstream | None) -> None:
        """Write the recovery settings for this upstream and reload. Raises ServerError."""
        self.write_files(role=self.role, upstream=upstream, standby=True)
        self.reload()

    # -- slots -------------------------------------------------------------------------------------------------------

    def create_slot(self, name: str) -> None:
        """Make a physical slot that keeps WAL from now on; an existing one is fine. Raises ServerError."""
        self._quickly(lambda session, deadline: replication.create(session, name, deadline))

    def drop_slot(self, name: str) -> None:
        """Remove a slot; an absent one is fine. Raises ServerError."""
        self._quickly(lambda session, deadline: replication.drop(session, name, deadline))

    def advance_slot(self, name: str, lsn: Lsn) -> None:
        """Let a slot forget WAL before this position. Raises ServerError."""
        self._quickly(lambda session, deadline: replication.advance(session, name, lsn, deadline))

    def _quickly(self, action: Callable[[Session, Deadline], None]) -> None:
        deadline = Deadline.after(self._settings.retry_timeout / 2, self._now)
        self._heartbeat.use(self._settings, self._user, deadline, lambda session: action(session, deadline))

    # -- slow actions ------------------------------------------------------------------------------------------------

    @contextmanager
    def _action(self, during: State | None = None) -> Iterator[None]:
        """While it lasts, looks leave role and state to the action."""
        self._acting += 1
        try:
            if during is not None:
                self.state = during
            yield
        finally:
            self._acting -= 1

    def start(self, ctx: TaskContext, *, role: Role, upstream: Upstream | None, timeout_s: float) -> bool:
        """Write the files and start the server in this role; True once it accepts connections.

        False means it is still starting (recovering) when the time is over: it goes on, ``observe`` tells when it is up.
        Raises ServerError with the server's last log lines if it ended, CancelledError after having stopped it again.
        """
        with self._action(State.STARTING):
            return self._start(ctx, role, lambda: self._configuration.write(role, upstream, standby=role != Role.PRIMARY,
                                                                            control=self.control_data()), timeout_s)

    def _start(self, ctx: TaskContext, role: Role, write: Callable[[], None], timeout_s: float) -> bool:
        directory = self._settings.data_dir
        try:
            self._check_startable()
            postmaster.clear_orphans(directory)
            self._forget_connections()
            write()
            started = lifecycle.launch(self._settings, self._user, self._configuration.values, self._configuration.paths.main,
                                       self._configuration.log)
            with self._postmaster_lock:
                self._adopt(started)
            self.role = role
            up = lifecycle.wait_until_up(started, directory, self._configuration.log, timeout_s, ctx.check)
        except ServerError:
            self.state = State.START_FAILED
            raise
        except PgcoreError:
            self.state = State.STOPPED
            raise
        if up:
            self.state = State.RUNNING
            self._configuration.copy_aside()
        return up

    def _check_startable(self) -> None:
        if self.postmaster() is not None:
            raise ServerError(f"PostgreSQL is already running on {self._settings.data_dir}")
        file = postmaster.read_pid_file(self._settings.data_dir)
        if file is not None and file.pid < 0 and os.path.exists(f"/proc/{-file.pid}"):
            raise ServerError(f"process {-file.pid} uses {self._settings.data_dir} in single-user mode")
        of_data = data_dir.major_version(self._settings.data_dir)
        of_binary = self.binary_version() // 10000
        if of_data is None:
            raise ServerError(f"{self._settings.data_dir} has no readable PG_VERSION: is the file system mounted?")
        if of_data != of_binary:
            raise ServerError(f"{self._settings.data_dir} was made by PostgreSQL {of_data}, {self.program('postgres')} is "
                              f"version {of_binary}: set postgresql.bin_dir to the programs of version {of_data}")

    def stop(self, ctx: TaskContext, *, mode: lifecycle.StopMode, checkpoint: bool = False, timeout_s: float | None,
             on_shut_down: Callable[[ControlData], None] | None = None) -> None:
        """Stop the server and wait for its end; at the limit fast becomes immediate, and then SIGKILL (HA rules 18.3).

        ``on_shut_down`` is called as soon as pg_control says "shut down", the checkpoint's end included, while the postmaster may
        still be archiving. A server that does not run is fine. Raises ServerError if it survives.
        """
        running = self.postmaster()
        if running is None:
            self.state = State.STOPPED
            return
        with self._action():
            if checkpoint and self.state == State.RUNNING:
                self._checkpoint_quietly(ctx)
            self.state = State.STOPPING
            try:
                lifecycle.Stopping(running, self._settings.data_dir, ctx, self.control_data, on_shut_down).run(mode, timeout_s)
            except ServerError:
                self.state = State.STOP_FAILED
                raise
            self.state = State.STOPPED
            self._forget_connections()
            self._configuration.log.hand_on()

    def _checkpoint_quietly(self, ctx: TaskContext) -> None:
        try:
            self.checkpoint(ctx)
        except ServerError as error:
            logger.warning("the checkpoint before the stop failed, stopping without it: %s", error)

    def stop_orphan(self) -> None:
        """End a postmaster whose data directory is gone or unreadable: immediately, then by SIGKILL (edge case 11)."""
        running = self.postmaster()
        if running is not None:
            self.stop(self._runner, mode="immediate", timeout_s=self._settings.retry_timeout)

    def terminate(self) -> None:
        """SIGKILL the postmaster with everything below it, at once; for a server that must not go on in any case."""
        running = self.postmaster()
        if running is not None:
            running.kill_all()

    def checkpoint(self, ctx: TaskContext) -> None:
        """CHECKPOINT on a connection of its own, however long it takes. Raises ServerError or CancelledError."""
        session = Session(local.superuser(self._settings, self._user, statement_timeout_s=0), Deadline.after(QUICK_S, self._now))
        try:
            session.query("CHECKPOINT", deadline=Deadline.after(86400, self._now), check=ctx.check)
        finally:
            session.close()

    def promote(self, ctx: TaskContext, *, timeout_s: float) -> None:
        """Promote a standby; returns as soon as it accepts writes. Raises ServerError when the time is over or it dies.

        The caller must own the lock: nothing is asked here.
        """
        running = self.postmaster()
        if running is None:
            raise ServerError("PostgreSQL is not running, it can't be promoted")
        with self._action():
            promote.request(running, self._settings.data_dir, self._user)
            self.role = Role.PROMOTED
            promote.watch(running, self._settings.data_dir, lambda _: local.superuser(self._settings, self._user),
                          Deadline.after(timeout_s, self._now), ctx.check)
            self.role = Role.PRIMARY

    def rewind(self, ctx: TaskContext, source: Upstream) -> None:
        """Make a stopped (or first stop a running) diverged server a follower of ``source`` (HA rules 12.4).

        Raises ServerError, CancelledError.
        """
        if self.postmaster() is not None:
            self.stop(ctx, mode="fast", timeout_s=None)
        with self._action():
            self._wake_files()
            archiving = self._archiving()
            rewind.archive_ready(ctx, self._settings.data_dir, archiving)
            connstring, credentials = creation.rewind_source(self._settings, source, self.major_version())
            with creation.password_env(source.host, source.port, credentials, self._user) as env:
                rewind.run(ctx, RewindPlan(self._settings, self.major_version(), self._configuration.paths.main, connstring,
                                                  env, archiving), self._lookout.redo_file)

    def crash_recover(self, ctx: TaskContext) -> None:
        """Single-user crash recovery (HA rules 13.3). Raises ServerError if it failed, which the caller only logs."""
        with self._action():
            self._check_startable()
            postmaster.clear_orphans(self._settings.data_dir)
            rewind.single_user(ctx, self._settings, self.major_version(), self._archiving())

    def _wake_files(self) -> None:
        """A postmaster that was killed leaves children and shared memory behind; pg_rewind would stumble over them."""
        postmaster.clear_orphans(self._settings.data_dir)

    def _archiving(self) -> Archiving:
        def value(name: str) -> str:
            found = self._binary.value_at_next_start(self.program("postgres"), self._settings.data_dir,
                                                     self._configuration.paths.main, name)
            return "" if found == "?" else found

        restore = str(self._settings.recovery_conf.get("restore_command") or value("restore_command"))
        return Archiving(value("archive_mode"), value("archive_command"), restore)

    # -- making data directories -------------------------------------------------------------------------------------

    def bootstrap(self, ctx: TaskContext, method: BootstrapMethod, options: Json) -> None:
        """Make a new cluster and start it (HA rules 6.2). Raises ServerError or CancelledError.

        Methods other than ``initdb`` may leave a backup that still has to recover: then it is up, but not yet a primary.
        """
        custom = method.name != "initdb"
        with self._action(State.CUSTOM_BOOTSTRAP if custom else State.INITDB):
            try:
                creation.run_bootstrap(ctx, self._settings, self._user, method, options)
            except PgcoreError:
                self.state = State.CUSTOM_BOOTSTRAP_FAILED if custom else State.INITDB_FAILED
                raise
            self._configuration.after_creation()
            self.state = State.BOOTSTRAP_STARTING if custom else State.STARTING
            given: Mapping[str, Json] = options if custom and isinstance(options, Mapping) else {}
            # What still has to recover must not count as a primary while it can't be asked.
            recovers = bool(given.get("recovery_conf") or given.get("keep_existing_recovery_conf"))
            self._start(ctx, Role.REPLICA if recovers else Role.PRIMARY, lambda: self._configuration.write_for_bootstrap(
                given, custom=custom, control=self.control_data()), self._settings.pg_ctl_timeout)

    def post_bootstrap(self, ctx: TaskContext, command: str | None) -> None:
        """Users and the operator's script on the new primary (HA rules 6.4.3). Raises ServerError if anything fails."""
        def script() -> None:
            if command:
                creation.run_post_bootstrap(ctx, self._settings, self._user, command)

        creation.create_users(self._settings, self._user, script)
        self.role = Role.PRIMARY
        if self._configuration.end_bootstrap():
            self.reload()

    def clone(self, ctx: TaskContext, methods: Sequence[tuple[ReplicaMethod, Json]], source: Upstream | None) -> None:
        """Make the data directory of a standby by the first method that works (HA rules 6.3).

        An existing directory is removed. Raises ServerError or CancelledError; nothing half-built is left behind.
        """
        if self.postmaster() is not None:
            raise ServerError(f"PostgreSQL runs on {self._settings.data_dir}: stop it before a new copy is made")
        with self._action(State.CREATING_REPLICA):
            try:
                creation.clone(ctx, self._settings, self._user, methods, source, self.binary_version() // 10000)
                self._configuration.after_creation()
                self.role = Role.REPLICA
            finally:
                self.state = State.STOPPED

    def remove_data_dir(self) -> None:
        """Remove the data directory with its WAL directory and tablespaces. Raises ServerError."""
        if self.postmaster() is not None:
            raise ServerError(f"PostgreSQL runs on {self._settings.data_dir}, it is not removed")
        data_dir.remove(self._settings.data_dir)

    def rename_failed_data_dir(self) -> str:
        """Put the data directory aside as ``<dir>.failed``; the new name. Raises ServerError."""
        return data_dir.rename_failed(self._settings.data_dir)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _forget_connections(self) -> None:
        self._heartbeat.forget()
        self._rest.forget()

    def close(self) -> None:
        """Drop connections and handles; the server goes on running."""
        self._heartbeat.close()
        self._rest.close()
        with self._postmaster_lock:
            if self._postmaster is not None:
                self._postmaster.close()
                self._postmaster = None
