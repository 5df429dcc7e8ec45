"""Everything about the local server that is quick: one look at it, its files, its slots. ``server`` adds the long actions."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace

from pgcore import clock
from pgcore.clock import Deadline
from pgcore.errors import PgcoreError, ServerError, ServerUnavailableError
from pgcore.model.basics import Instant, Lsn, Role, State
from pgcore.model.node import ControlData, DataDir, NodeView, Writes
from pgcore.model.server import ServerSettings, Upstream
from pgcore.model.synchronous import StandbyNames
from pgcore.postgres import (
    controldata,
    data_dir,
    local,
    monitor,
    parameters,
    postmaster,
    recovery,
    replication,
    synchronous,
    timeline,
    unfinished,
)
from pgcore.postgres.configuration import Configuration
from pgcore.postgres.connection import Session
from pgcore.postgres.local import KeptSession
from pgcore.postgres.lookout import Lookout
from pgcore.postgres.monitor import Monitoring
from pgcore.postgres.postmaster import Postmaster
from pgcore.postgres.programs import ENGLISH, OsUser, ProgramRunner, os_user, program_path
from pgcore.postgres.recovery import Change
from pgcore.postgres.timeline import LeaderTimeline, Switch
from pgcore.postgres.unfinished import Note

logger = logging.getLogger(__name__)

QUICK_S = 5.0
"""A quick method has this long when its caller gives no deadline."""
SETTLE_S = 1.0
"""How long after a reload the server may still show what was in force before."""

_PROGRAM_LIMIT_S = 30.0


class QuickServer:
    """Each method returns within its deadline, or within ``retry_timeout / 2`` when it has none."""

    def __init__(self, settings: ServerSettings, *, now: Callable[[], Instant] = clock.now) -> None:
        self._now = now
        self._followed_at: Instant | None = None
        self._settings = settings
        self._user = os_user(settings)
        self.role = Role.UNINITIALIZED
        self.state = State.STOPPED
        self._complaint = ""
        self._writes = Writes()
        self._postmaster: Postmaster | None = None
        self._postmaster_lock = threading.Lock()
        self._acting = 0
        self._unfinished: Note | None = None
        self._runner = ProgramRunner(self._user, limit_s=_PROGRAM_LIMIT_S)
        self._binary = parameters.Binary(self._run_in_english)
        self._heartbeat = KeptSession("pgcore heartbeat")
        self._rest = KeptSession("pgcore restapi")
        self._configuration = Configuration(settings, self._user, self._binary)
        self._lookout = Lookout(self._run_in_english, self._binary)
        self._names = synchronous.Watch()

    def _run_in_english(self, argv: list[str]) -> str:
        """For programs whose output is read by us."""
        return self._runner.run(argv, env=ENGLISH)

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
        self._refresh_user()
        if changed:
            self._forget_connections()

    def _refresh_user(self) -> None:
        """Whom programs run as depends on the data directory's owner, and that may have been mounted meanwhile."""
        self._user = self._runner.user = os_user(self._settings)
        self._configuration.configure(self._settings, self._user)

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

    def newer_histories(self, timeline_: int, upto: int) -> dict[int, tuple[Switch, ...]]:
        """The local history files of later timelines: those up to one, and from there on as long as there is another."""
        return timeline.newer_histories(self._settings.data_dir, timeline_, upto)

    def set_histories_aside(self, timelines: Iterable[int]) -> None:
        """Rename these history files, so that the server does not find them. Raises ServerError."""
        timeline.set_histories_aside(self._settings.data_dir, timelines)

    def history_written_at(self, timeline_: int) -> float | None:
        """When that file was written, seconds since 1970; None if it is not there."""
        try:
            return os.stat(os.path.join(self._settings.data_dir, "pg_wal", f"{timeline_:08X}.history")).st_mtime
        except OSError:
            return None

    def disk_full(self) -> bool:
        """The data directory cannot take another file."""
        return data_dir.is_full(self._settings.data_dir)

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
                self._postmaster = None
            return self._postmaster

    def _adopt(self, found: Postmaster) -> None:
        self._postmaster = found
        self._forget_connections()

    def postmaster_fd(self) -> int | None:
        """A descriptor that becomes readable when the postmaster ends; None if there is none or the system has no pidfd."""
        running = self.postmaster()
        return running.fileno() if running else None

    def attach(self) -> bool:
        """Adopt a running postmaster at the agent's start; whether one runs (HA rules 5.4, 18.1).

        Nothing is restarted. Recovery settings in force are remembered, so that writing the files keeps them. What an agent that
        was killed was making is not adopted: a half-made cluster is set aside, a half-made copy counts as an empty directory.
        Raises ServerError if such a cluster cannot be set aside.
        """
        self._take_over_unfinished()
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

    def _take_over_unfinished(self) -> None:
        directory = self._settings.data_dir
        note = unfinished.take_over(directory)
        running = self.postmaster()
        if note is not None and note.creates_cluster:
            if running is not None and not _ended(running):
                raise ServerError(f"the half-made server in {directory} does not end on SIGKILL: is a disk hanging?")
            if os.path.lexists(directory):
                logger.error("the cluster that it was making was renamed to %s", data_dir.rename_failed(directory))
        elif running is not None:
            note = None  # somebody has made it a server
        self._unfinished = note

    def observe(self, deadline: Deadline) -> NodeView:
        """One look at the node. It never raises: what can't be found out in time is a value in the result.

        ``task``, ``finished`` and ``watchdog_failed`` are the daemon's to fill in.
        """
        running, busy = self.postmaster(), self._acting > 0
        view = NodeView(at=self._now(), data_dir=DataDir.UNREADABLE, role=self.role, state=self.state,
                        running=running is not None)
        try:
            self._configuration.log.hand_on()
            view = replace(view, data_dir=data_dir.look(self._settings.data_dir))
            if running is None:
                left = None if busy else self._unfinished
                if left is not None:
                    view = replace(view, data_dir=DataDir.EMPTY, claim_left=left.claim)
                self._note_writes(False)
                return replace(self._observe_down(view, busy), writes=self._writes)
            self._unfinished = None
            view = self._observe_up(view, running, deadline, busy)
            if view.answering and not busy:
                self._note_writes(view.is_primary)
            return replace(view, writes=self._writes)
        except (PgcoreError, OSError) as error:
            logger.warning("the look at PostgreSQL is incomplete: %s", error)
            return replace(view, is_primary=running is not None and self.role == Role.PRIMARY, writes=self._writes)

    def _observe_down(self, view: NodeView, busy: bool) -> NodeView:
        if not busy:
            if view.data_dir != DataDir.PRESENT:
                self.role = Role.UNINITIALIZED
            self._explain_absence()
        return self._lookout.add_offline_facts(replace(view, role=self.role, state=self.state), self._settings,
                                               untouchable=busy and self.state == State.CREATING_REPLICA)

    def _note_writes(self, accepted: bool) -> None:
        self._writes = self._writes.seen(accepted, self._now())

    def _explain_absence(self) -> None:
        """Nobody asked it to end, or it did not come up (HA rules 4.12, 14.1)."""
        if self.state in (State.STOPPING, State.STOP_FAILED, State.RESTARTING):
            self.state = State.STOPPED
        elif self.state in (State.RUNNING, State.STARTING, State.BOOTSTRAP_STARTING):
            self.state = State.CRASHED if self.state == State.RUNNING else State.START_FAILED
            logger.error("PostgreSQL is gone (%s): %s", self.state,
                         self._configuration.log.tail(self._settings.data_dir) or "it logged nothing")

    def _complain(self, problem: str) -> None:
        """Log why the monitoring query was not answered, once as long as the reason stays the same."""
        if problem == self._complaint:
            return
        self._complaint = problem
        login = any(word in problem for word in ("authentication failed", "no pg_hba.conf entry", "does not exist"))
        hint = " (check postgresql.authentication.superuser and pg_hba)" if login else ""
        logger.warning("PostgreSQL did not answer the monitoring query: %s%s", problem, hint)

    def _observe_up(self, view: NodeView, running: Postmaster, deadline: Deadline, busy: bool) -> NodeView:
        view = replace(view, postmaster_pid=running.pid)
        try:
            answer, names = self._heartbeat.use(self._settings, self._user, deadline.within(QUICK_S),
                                                lambda session: self._ask(session, running.pid, deadline))
        except ServerError as error:
            accepting = self._lookout.accepts(self._settings.data_dir, error)
            if accepting:
                self._complain(str(error))
            if not busy and self.state not in (State.STOPPING, State.STOP_FAILED):
                self.state = State.RUNNING if accepting else State.STARTING
            return self._lookout.add_silent_facts(
                replace(view, state=self.state, accepting=accepting, is_primary=self.role == Role.PRIMARY), self._settings)
        self._complaint = ""
        self._judge(answer.in_recovery, busy)
        view = replace(view, role=self.role, state=self.state, names=names)
        view = self._lookout.add_online_facts(view, answer, self._settings)
        if view.timeline is None:
            view = replace(view, timeline=self._lookout.standby_timeline(answer, lambda: self._identified(deadline)))
        return replace(view, pending_restart=self._lookout.pending_restart(
            answer, self._settings, self._configuration, self._heartbeat, self._user, deadline))

    def _ask(self, session: Session, postmaster_pid: int, deadline: Deadline) -> tuple[Monitoring, StandbyNames]:
        answer = monitor.ask(session, deadline)
        names = self._names.look(answer, self._configuration, self._settings.data_dir)
        self._names.prove(session, names, postmaster_pid, deadline)
        return answer, names

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
        """Received, replayed (both the flushed position on a primary), whether it is a primary; None without an answer in time.

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
        found = timeline.compare_timelines(source, recovery.login(self._settings.replication, password=True),
                                           recovery.ordinary_login(self._settings), deadline)
        mine = self.system_id()
        if mine is not None and found.system_id != mine:
            raise ServerUnavailableError(f"{source.name or source.host} is of cluster {found.system_id}, this data directory of "
                                         f"{mine}: their timelines cannot be compared")
        return found

    def begins_alike(self, leader: LeaderTimeline, number: int) -> bool | None:
        """Whether this timeline of the leader's begins with the same record here; None if that cannot be said."""
        return timeline.begins_alike(self._settings.data_dir, leader.beginnings.get(number))

    def ready_for_rewind(self, source: Upstream, deadline: Deadline) -> None:
        """The source must be a primary whose pg_control shows its new timeline (HA rules 12.4.3).

        A superuser writes the checkpoint that is missing. Raises ServerUnavailableError: later, perhaps.
        """
        timeline.ready_for_rewind(source, recovery.ordinary_login(self._settings), deadline)

    # -- configuration -----------------------------------------------------------------------------------------------

    def write_files(self, *, role: Role, upstream: Upstream | None, standby: bool) -> None:
        """Write configuration, hba, ident, recovery settings and the password file, each atomically. Raises ServerError."""
        self._configuration.take_role(role)
        self._configuration.write(role, upstream, standby=standby)

    def reload(self) -> None:
        """Let the postmaster read its files again. Raises ServerError if there is none."""
        self._configuration.signal_reload(self.postmaster())

    def apply_settings(self) -> bool:
        """Bring a running server to the settings last given: write what differs and reload; True if something differed.

        Recovery settings stay as they are. What needs a restart shows in ``pending_restart`` of the next look.
        Raises ServerError.
        """
        self._configuration.take_role(self.role)
        if not self._configuration.write_changes():
            return False
        self.reload()
        return True

    def set_standby_names(self, text: str | None, deadline: Deadline) -> bool:
        """Set ``synchronous_standby_names``, or hand them back to the configuration with None; whether they are in force already.

        Returns once the own session shows the value. Raises ServerError, also when it does not show it in time; the files may
        have been changed then.
        """
        running = self.postmaster()
        if running is None:
            raise ServerError("PostgreSQL is not running, its synchronous standbys can't be named")
        self._names.forget()
        self._configuration.set_standby_names(text)
        self._configuration.write_changes()
        self._configuration.signal_reload(running)
        return text is None or self._heartbeat.use(self._settings, self._user, deadline, lambda session: self._names.settle(
            session, text, running.pid, deadline))

    def recovery_change(self, upstream: Upstream | None, *, role: Role) -> Change:
        """What it takes to let the running standby follow this upstream (HA rules 11.3).

        A server that does not answer is compared by what was written last; nothing known means no change: ask again. So is one
        that was told to reload a moment ago, as it may still show the former values.
        """
        deadline = Deadline.after(self._settings.retry_timeout / 2, self._now)

        def ask(action: Callable[[Session, Deadline], recovery.Current]) -> recovery.Current:
            return self._heartbeat.use(self._settings, self._user, deadline, lambda session: action(session, deadline))

        settling = self._followed_at is not None and self._now() - self._followed_at < SETTLE_S
        return self._lookout.recovery_change(self._configuration, self._settings, upstream, role, ask, settling=settling)

    def follow_by_reload(self, upstream: Upstream | None, *, role: Role = Role.REPLICA) -> None:
        """Write the recovery settings for this upstream and reload. Raises ServerError."""
        self.write_files(role=role, upstream=upstream, standby=True)
        self.reload()
        self._followed_at = self._now()

    def resume_replay(self) -> bool:
        """Go on with a replay that waits because pg_control asks for more than this server was started with; whether it did.

        A pause that an operator asked for has other reasons and stays (edge case 214). Raises ServerError.
        """
        control, resumed = self.control_data(), []

        def go_on(session: Session, deadline: Deadline) -> None:
            rows = session.query("SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY(%s)",
                                 (sorted(control.parameters) if control else [],), deadline=deadline)
            small = [name for name, value in rows if control and int(value) < control.parameters[name]]
            if small:
                logger.warning("replay waits because the primary raised %s: it is resumed, the server ends and is started again",
                               ", ".join(small))
                session.query("SELECT pg_catalog.pg_wal_replay_resume()", deadline=deadline)
                resumed.append(True)

        self._quickly(go_on)
        return bool(resumed)

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

    # -- the end -----------------------------------------------------------------------------------------------------

    def _forget_connections(self) -> None:
        self._heartbeat.forget()
        self._rest.forget()

    def close(self) -> None:
        """Drop connections and handles; the server goes on running."""
        self._heartbeat.close()
        self._rest.close()
        with self._postmaster_lock:
            self._postmaster = None


def _ended(running: Postmaster) -> bool:
    """Stop it immediately, by which it takes its lock files along; failing that, kill it."""
    running.signal(signal.SIGQUIT)
    return running.wait(QUICK_S) or running.kill_all()
