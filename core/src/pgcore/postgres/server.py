"""The local PostgreSQL server: one look at it, and one method per thing that can be done to it.

Nothing here knows about leadership: the daemon decides, this performs. The heartbeat thread calls ``observe`` and the quick
methods, the task thread the slow ones (those with a ``ctx``), REST threads ``position``. ``role`` and ``state`` are the cached
words of HA rules 1; they are plain values that any thread may read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from pgcore.clock import Deadline
from pgcore.errors import PgcoreError, ServerError, ServerUnavailableError
from pgcore.hookspecs import BootstrapMethod, ReplicaMethod
from pgcore.model.basics import Json, Lsn, Role, State
from pgcore.model.node import ControlData, ControlState
from pgcore.model.server import Upstream
from pgcore.model.settings import PermanentSlot
from pgcore.postgres import (
    creation,
    data_dir,
    lifecycle,
    local,
    parameters,
    postmaster,
    promote,
    recovery,
    replication,
    rewind,
    unfinished,
)
from pgcore.postgres.connection import Session
from pgcore.postgres.quick import QUICK_S, QuickServer
from pgcore.postgres.rewind import Archiving, RewindPlan

if TYPE_CHECKING:
    from pgcore.hookspecs import TaskContext

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SLOT_LIMIT_S = 86400.0
_COPY_READ_S = 10.0
_DEFAULT_SLOTS = 10


class Postgres(QuickServer):
    """The port. See the module's docstring for who may call what."""

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

    def start(self, ctx: TaskContext, *, role: Role, upstream: Upstream | None, timeout_s: float,
              launched: Callable[[], None] = lambda: None) -> bool:
        """Write the files and start the server in this role; True once it accepts connections.

        ``launched`` is called as soon as the postmaster runs, before it is up.

        False means it is still starting (recovering) when the time is over: it goes on, ``observe`` tells when it is up.
        Raises ServerError with the server's last log lines if it ended, CancelledError after having stopped it again.
        """
        with self._action(State.STARTING):
            return self._start(ctx, role, lambda: self._configuration.write(role, upstream, standby=role != Role.PRIMARY,
                                                                            control=self.control_data()), timeout_s, launched)

    def _start(self, ctx: TaskContext, role: Role, write: Callable[[], None], timeout_s: float,
               launched: Callable[[], None] = lambda: None) -> bool:
        directory = self._settings.data_dir
        try:
            self._check_startable()
            postmaster.clear_orphans(directory)
            self._forget_connections()
            self._configuration.take_role(role)
            write()
            ctx.report(phase="starting")
            started = lifecycle.launch(self._settings, self._user, self._configuration.values, self._configuration.paths.main,
                                       self._configuration.log)
            with self._postmaster_lock:
                self._adopt(started)
            self.role = role
            launched()
            up = lifecycle.wait_until_up(started, directory, self._configuration.log, timeout_s, ctx.check)
            if up and role == Role.PRIMARY:
                self._note_writes(True)
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
        self._refresh_user()
        if self.postmaster() is not None:
            raise ServerError(f"PostgreSQL is already running on {self._settings.data_dir}")
        alone = postmaster.single_user_pid(self._settings.data_dir)
        if alone is not None:
            raise ServerError(f"process {alone} uses {self._settings.data_dir} in single-user mode")
        of_data = data_dir.major_version(self._settings.data_dir)
        of_binary = self.binary_version() // 10000
        if of_data is None:
            raise ServerError(f"{self._settings.data_dir} has no readable PG_VERSION: is the file system mounted?")
        if of_data != of_binary:
            raise ServerError(f"{self._settings.data_dir} was made by PostgreSQL {of_data}, {self.program('postgres')} is "
                              f"version {of_binary}: set postgresql.bin_dir to the programs of version {of_data}")

    def stop(self, ctx: TaskContext, *, mode: lifecycle.StopMode, checkpoint: bool = False, timeout_s: float | None,
             sessions_s: float | None = None, on_shut_down: Callable[[ControlData], None] | None = None) -> bool:
        """Stop the server and wait for its end; at the limit fast becomes immediate, and then SIGKILL (HA rules 18.3).

        True if there was one to stop. ``sessions_s`` bounds the wait for users' sessions alone; that none is left is told as
        progress ``safe_point``. ``on_shut_down`` is called as soon as pg_control says "shut down", the checkpoint's end included,
        while the postmaster may still be archiving. A server that does not run is fine. Raises ServerError if it survives.
        """
        running = self.postmaster()
        if running is None:
            self.state = State.STOPPED
            return False
        with self._action():
            if checkpoint and self.state in (State.RUNNING, State.RESTARTING):
                ctx.report(phase="checkpoint")
                self._checkpoint_quietly(ctx)
            ctx.report(phase="stopping")
            self.state = State.STOPPING
            self._note_writes(False)
            try:
                stopping = lifecycle.Stopping(running, self._settings.data_dir, ctx, self.control_data, on_shut_down)
                stopping.run(mode, timeout_s, sessions_s)
            except ServerError:
                self.state = State.STOP_FAILED
                raise
            self.state = State.STOPPED
            self._forget_connections()
            self._configuration.log.hand_on()
        return True

    def _checkpoint_quietly(self, ctx: TaskContext) -> None:
        try:
            self.checkpoint(ctx)
        except ServerError as error:
            logger.warning("the checkpoint before the stop failed, stopping without it: %s", error)

    def restart(self, ctx: TaskContext, *, role: Role, upstream: Upstream | None, stop_limit_s: float, start_limit_s: float,
                ready: Callable[[], None]) -> bool:
        """Checkpoint, stop fast and start again in this role; like ``start`` in what it returns and raises.

        ``ready`` is called right before the start and may forbid it by raising.
        """
        with self._action(State.RESTARTING):
            self.stop(ctx, mode="fast", checkpoint=True, timeout_s=stop_limit_s)
            ctx.check()
            ready()
            self.state = State.STARTING
            ctx.report(restart="starting")
            try:
                return self.start(ctx, role=role, upstream=upstream, timeout_s=start_limit_s)
            except ServerError:
                self.state = State.RESTART_FAILED
                raise

    def empty(self, ctx: TaskContext, *, stop_limit_s: float, ready: Callable[[], None]) -> None:
        """Stop at once and remove the data directory; nothing is removed when this raises ServerError or CancelledError.

        ``ready`` is called right before the removal and may forbid it by raising.
        """
        with self._action(State.CREATING_REPLICA):
            self.stop(ctx, mode="immediate", timeout_s=stop_limit_s)
            ctx.check()
            ready()
            self.role, self.state = Role.UNINITIALIZED, State.CREATING_REPLICA
            ctx.report(phase="removing the data directory")
            self.remove_data_dir()

    def terminate(self) -> None:
        """SIGKILL the postmaster with everything below it, at once; for a server that must not go on in any case."""
        running = self.postmaster()
        if running is not None:
            running.kill_all()
            self._note_writes(False)

    def checkpoint(self, ctx: TaskContext) -> None:
        """CHECKPOINT on a connection of its own, however long it takes. Raises ServerError or CancelledError."""
        session = Session(local.superuser(self._settings, self._user, statement_timeout_s=0), Deadline.after(QUICK_S, self._now))
        try:
            session.query("CHECKPOINT", deadline=Deadline.after(86400, self._now), check=ctx.check)
        finally:
            session.close()

    def promote(self, ctx: TaskContext, *, timeout_s: float, accepted: Callable[[], None] = lambda: None,
                received: Lsn | None = None) -> None:
        """Promote a standby; returns as soon as it accepts writes. Raises ServerError when the time is over or it dies.

        ``received``: how far it had WAL. Where the old primary died in the middle of a record, its standbys ask for what
        follows the part they have: the new primary moves there at once, or they would not stream until it has written as much.

        The caller must own the lock: nothing is asked here.
        """
        running = self.postmaster()
        if running is None:
            raise ServerError("PostgreSQL is not running, it can't be promoted")
        with self._action():
            promote.request(running, self._settings.data_dir, self._user)
            self.role = Role.PROMOTED
            accepted()
            promote.watch(running, self._settings.data_dir, lambda _: local.superuser(self._settings, self._user),
                          Deadline.after(timeout_s, self._now), ctx.check)
            self.role = Role.PRIMARY
            self._note_writes(True)
            if received is not None:
                self._pass(received)

    def _pass(self, received: Lsn) -> None:
        try:
            session = Session(local.superuser(self._settings, self._user), Deadline.after(QUICK_S, self._now))
            try:
                session.query("SELECT pg_catalog.pg_switch_wal() WHERE pg_catalog.pg_current_wal_lsn() < %s::pg_catalog.pg_lsn",
                              (str(received),), deadline=Deadline.after(QUICK_S, self._now))
            finally:
                session.close()
        except ServerError as error:
            logger.warning("standbys that hold part of the last record may not stream before %s is written: %s", received, error)

    def rewind(self, ctx: TaskContext, source: Upstream) -> None:
        """Make a stopped (or first stop a running) diverged server a follower of ``source`` (HA rules 12.4).

        Raises ServerError, CancelledError.
        """
        self._stop_for_rewind(ctx)
        with self._action():
            postmaster.clear_orphans(self._settings.data_dir)  # what a killed postmaster left would be in pg_rewind's way
            archiving = self._archiving()
            rewind.archive_ready(ctx, self._settings.data_dir, archiving)
            connstring, credentials = creation.rewind_source(self._settings, source, self.major_version())
            with creation.password_env(source.host, source.port, credentials, self._user) as env:
                rewind.run(ctx, RewindPlan(self._settings, self.major_version(), self._configuration.paths.main, connstring,
                                                  env, archiving), self._lookout.redo_file)

    def _stop_for_rewind(self, ctx: TaskContext) -> None:
        if self.postmaster() is None:
            return
        try:
            self.stop(ctx, mode="fast", timeout_s=None)
        except ServerError as error:  # nothing was changed: it is tried again
            raise ServerUnavailableError(f"no pg_rewind while the server runs: {error}") from error

    def crash_recover(self, ctx: TaskContext) -> None:
        """Single-user crash recovery (HA rules 13.3). Raises ServerError if it failed, which the caller only logs."""
        with self._action():
            self._check_startable()
            postmaster.clear_orphans(self._settings.data_dir)
            rewind.single_user(ctx, self._settings, self.major_version(), self._archiving())

    def archive_shutdown_wal(self, ctx: TaskContext) -> None:
        """Archive the WAL file in which the shutdown checkpoint of a stopped primary stands (HA rules 17, demote-cluster).

        The server archives what is full; this last file would stay behind. Nothing to do without an archive_command, or when
        it was not shut down cleanly. Raises ServerError or CancelledError.
        """
        with self._action():
            control, archiving = self.control_data(), self._archiving()
            if control is None or control.state != ControlState.SHUT_DOWN or not archiving.active:
                return
            rewind.archive_file(ctx, self._settings.data_dir, archiving, self._lookout.redo_file())

    def _archiving(self) -> Archiving:
        def value(name: str) -> str:
            found = self._binary.value_at_next_start(self.program("postgres"), self._settings.data_dir,
                                                     self._configuration.paths.main, name)
            return "" if found == "?" else found

        in_file = value("restore_command")
        restore = str(self._settings.recovery_conf.get("restore_command") or in_file)
        return Archiving(value("archive_mode"), value("archive_command"), restore, bool(in_file))

    # -- logical slots, for the thread that serves them, and their copies -------------------------------------------------

    def create_logical_slot(self, slot: PermanentSlot) -> bool:
        """Make it in its database, however long transactions there go on; false if one is there already. Raises ServerError."""
        return self._in_database(
            slot, lambda session, deadline, check: replication.create_logical(session, slot, deadline, check))

    def advance_logical_slot(self, slot: PermanentSlot, lsn: Lsn) -> bool:
        """Move it to a position, however long that takes; false if that can never work again. Raises ServerError."""
        return self._in_database(
            slot, lambda session, deadline, check: replication.advance_logical(session, slot, lsn, deadline, check))

    def _in_database(self, slot: PermanentSlot, action: Callable[[Session, Deadline, replication.Check], T]) -> T:
        """Do it in the slot's database until the server's role changes: then clients come, and the slot must be free for them."""
        login = local.superuser(self._settings, self._user, application_name="pgcore slots", statement_timeout_s=0)
        if self.major_version() >= 14:  # else the server goes on for a client that is gone
            login["options"] += " -c client_connection_check_interval=500ms"
        before = self.role

        def check() -> None:
            if self.role is not before:
                raise ServerError(f"given up, the server has become {self.role}")

        session = Session(login | {"dbname": slot.database}, Deadline.after(QUICK_S, self._now))
        try:
            return action(session, Deadline.after(_SLOT_LIMIT_S, self._now), check)
        finally:
            session.close()

    def leader_slots(self, source: Upstream, names: Iterable[str], timeout_s: float) -> dict[str, int | None]:
        """The oldest transaction that each of these slots keeps on the leader. Raises ServerError."""
        deadline = Deadline.after(timeout_s, self._now)
        session = self._at_leader(source, deadline)
        try:
            return replication.catalog_xmins(session, names, deadline)
        finally:
            session.close()

    def _at_leader(self, source: Upstream, deadline: Deadline) -> Session:
        """A connection as the rewind user, who may read files of the data directory."""
        credentials = self._settings.rewind if self._settings.rewind.username else self._settings.superuser
        return Session({"dbname": self._settings.database, "host": source.host, "port": source.port, "application_name": "pgcore",
                        "options": "-c search_path=pg_catalog -c statement_timeout=5000"}
                       | recovery.login(credentials, password=True), deadline)

    def copy_slots(self, ctx: TaskContext, source: Upstream, slots: Iterable[PermanentSlot], upstream: Upstream | None, *,
                   timeout_s: float) -> None:
        """Write what the leader has of these logical slots into this standby; it is restarted for that (HA rules 21.4).

        It is not stopped when the leader has none of them. Raises ServerError or CancelledError.
        """
        deadline = Deadline.after(_COPY_READ_S, self._now)
        session = self._at_leader(source, deadline)
        try:
            states = replication.read_states(session, slots, deadline)
        finally:
            session.close()
        if not states:
            logger.info("%s has none of the logical slots to copy", source.name or source.host)
            return
        states = replication.readable_here(states, self._settings.data_dir)
        if not states:
            return
        self._check_room(states)
        ctx.check()
        self.stop(ctx, mode="fast", timeout_s=None)
        try:
            for name, state in states.items():
                replication.write_state(self._settings.data_dir, name, state.content, self._user)
                logger.info("logical slot %s copied from %s", name, source.name or source.host)
        finally:
            self.start(ctx, role=self.role, upstream=upstream, timeout_s=timeout_s)

    def _check_room(self, added: Iterable[str]) -> None:
        """With more slots than it may have, or a lower ``wal_level``, the server would not start again. Raises ServerError."""
        values = parameters.effective(self._settings, self.major_version())
        if values.get("wal_level") != "logical":
            raise ServerError(f"logical slots need wal_level logical, configured is {values.get('wal_level', 'replica')}")
        slots = replication.on_disk(self._settings.data_dir) | set(added)
        limit = int(values.get("max_replication_slots", _DEFAULT_SLOTS))
        if len(slots) > limit:
            raise ServerError(f"{', '.join(sorted(slots))} would be {len(slots)} replication slots, the server starts with "
                              f"{limit} at most: raise max_replication_slots")

    # -- making data directories -------------------------------------------------------------------------------------

    def bootstrap(self, ctx: TaskContext, method: BootstrapMethod, options: Json, claim: str = "") -> None:
        """Make a new cluster and start it (HA rules 6.2). Raises ServerError or CancelledError.

        ``claim`` is the version of the empty ``/initialize`` that stands for it. Methods other than ``initdb`` may leave a backup
        that still has to recover: then it is up, but not yet a primary.
        """
        custom = method.name != "initdb"
        self._unfinished = None
        with self._action(State.CUSTOM_BOOTSTRAP if custom else State.INITDB):
            try:
                wanted = method.recovery(options, self._settings)
                creation.run_bootstrap(ctx, self._settings, self._user, method, options, claim)
            except PgcoreError:
                self.state = State.CUSTOM_BOOTSTRAP_FAILED if custom else State.INITDB_FAILED
                raise
            self._configuration.after_creation()
            self.state = State.BOOTSTRAP_STARTING if custom else State.STARTING
            given: Mapping[str, Json] = options if custom and isinstance(options, Mapping) else {}
            if wanted:
                given = {**given, "recovery_conf": {**wanted, **(given.get("recovery_conf") or {})}}
            # What still has to recover must not count as a primary while it can't be asked.
            recovers = bool(given.get("recovery_conf") or given.get("keep_existing_recovery_conf"))
            self._start(ctx, Role.REPLICA if recovers else Role.PRIMARY, lambda: self._configuration.write_for_bootstrap(
                given, custom=custom, control=self.control_data()), self._settings.pg_ctl_timeout)

    def post_bootstrap(self, ctx: TaskContext, command: str | None, stall_s: float = 0) -> None:
        """Users and the operator's script on the new primary (HA rules 6.4.3). Raises ServerError if anything fails.

        The script may do nothing for ``stall_s`` seconds; 0: for ever.
        """
        def script() -> None:
            if command:
                creation.run_post_bootstrap(ctx, self._settings, self._user, command, stall_s)

        creation.create_users(self._settings, self._user, script)
        unfinished.end(self._settings.data_dir)
        self.role = Role.PRIMARY
        needs = self._configuration.end_bootstrap()
        if needs == "reload":
            self.reload()
        elif needs == "restart":
            self.stop(ctx, mode="fast", timeout_s=self._settings.pg_ctl_timeout)
            self.start(ctx, role=Role.PRIMARY, upstream=None, timeout_s=self._settings.pg_ctl_timeout)

    def clone(self, ctx: TaskContext, methods: Sequence[tuple[ReplicaMethod, Json]], source: Upstream | None,
              claim: str = "") -> None:
        """Make the data directory of a standby by the first method that works (HA rules 6.3).

        With ``claim`` it is the beginning of a new standby cluster, see ``bootstrap``. An existing directory is removed. Raises
        ServerError or CancelledError; nothing half-built is left behind.
        """
        if self.postmaster() is not None:
            raise ServerError(f"PostgreSQL runs on {self._settings.data_dir}: stop it before a new copy is made")
        with self._action(State.CREATING_REPLICA):
            try:
                creation.clone(ctx, self._settings, self._user, methods, source, self.binary_version() // 10000,
                               claim)
                self._configuration.after_creation()
                self.role = Role.REPLICA
            finally:
                self._unfinished = unfinished.read(self._settings.data_dir)
                self.state = State.STOPPED

    def remove_data_dir(self) -> None:
        """Remove the data directory with its WAL directory and tablespaces. Raises ServerError."""
        if self.postmaster() is not None:
            raise ServerError(f"PostgreSQL runs on {self._settings.data_dir}, it is not removed")
        data_dir.remove(self._settings.data_dir)

    def rename_failed_data_dir(self) -> str:
        """Put the data directory aside as ``<dir>.failed``; the new name. Raises ServerError."""
        renamed = data_dir.rename_failed(self._settings.data_dir)
        unfinished.end(self._settings.data_dir)
        return renamed
