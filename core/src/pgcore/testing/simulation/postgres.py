"""The interface of ``pgcore.postgres.server.Postgres`` over a simulated server: what the real agent talks to in a simulation.

Methods run in the agent's process and are killed and frozen with it. They tell the server and wait; what it was told, the server
does on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from pgcore import threads
from pgcore.clock import Deadline, now
from pgcore.errors import PgcoreError, ServerError, ServerUnavailableError
from pgcore.hookspecs import BootstrapMethod, ReplicaMethod
from pgcore.model.basics import Json, Lsn, Role, State
from pgcore.model.node import ControlData, ControlState
from pgcore.model.server import Upstream
from pgcore.model.settings import PermanentSlot
from pgcore.postgres.lifecycle import StopMode
from pgcore.postgres.timeline import Switch
from pgcore.testing.simulation import copying, parameters
from pgcore.testing.simulation.quick_postgres import POLL_S, PROMOTION_POLL_S, QuickSimulatedPostgres
from pgcore.testing.simulation.server import Phase, Server
from pgcore.testing.simulation.server_files import SlotState
from pgcore.testing.simulation.wal import Commit, history, passed, timeline_root

if TYPE_CHECKING:
    from pgcore.hookspecs import TaskContext

_LAST_RESORT_S = 30.0
_DEFAULT_SLOTS = 10


class SimulatedPostgres(QuickSimulatedPostgres):
    """The port. A new one for each life of an agent, on the same ``Server``."""

    @contextmanager
    def _action(self, during: State | None = None) -> Iterator[None]:
        self._acting += 1
        try:
            if during is not None:
                self.state = during
            yield
        finally:
            self._acting -= 1

    # -- starting and stopping ---------------------------------------------------------------------------------------------

    def start(self, ctx: TaskContext, *, role: Role, upstream: Upstream | None, timeout_s: float,
              launched: Callable[[], None] = lambda: None) -> bool:
        """Write the files and start the server; True once it accepts connections, False if it is still starting.

        Raises ServerError if it ended, CancelledError after having stopped it again.
        """
        with self._action(State.STARTING):
            return self._start(ctx, role, upstream, timeout_s, launched)

    def _start(self, ctx: TaskContext, role: Role, upstream: Upstream | None, timeout_s: float,
               launched: Callable[[], None] = lambda: None) -> bool:
        during = self.state
        try:
            self._check_startable()
            self.write_files(role=role, upstream=upstream, standby=role != Role.PRIMARY)
            self.server.parameters = parameters.at_start(
                self._settings, self._data().control, follows=role != Role.PRIMARY or during is State.BOOTSTRAP_STARTING)
            self.server.launch()
            self.role = role
            launched()
            up = self._wait_until_up(ctx, timeout_s)
        except ServerError:
            self.state = State.START_FAILED
            raise
        except PgcoreError:
            self.state = State.STOPPED
            raise
        if up:
            self.state = State.RUNNING
        return up

    def _check_startable(self) -> None:
        if self.server.running:
            raise ServerError(f"PostgreSQL is already running on {self._settings.data_dir}")
        self._data()

    def _wait_until_up(self, ctx: TaskContext, timeout_s: float) -> bool:
        server, pid = self.server, self.server.pid

        def settled() -> bool:
            return server.pid != pid or server.phase in (Phase.UP, Phase.DOWN)

        try:
            if not self._wait(settled, timeout_s, ctx.check):
                return False
        except PgcoreError:
            server.stop_immediately()
            if not self._wait(lambda: not server.running, 10.0):
                server.kill()
            raise
        if server.pid != pid or not server.running:
            raise ServerError("PostgreSQL ended while it was starting")
        return True

    def stop(self, ctx: TaskContext, *, mode: StopMode, checkpoint: bool = False, timeout_s: float | None,
             sessions_s: float | None = None, on_shut_down: Callable[[ControlData], None] | None = None) -> bool:
        """Stop the server and wait for its end; at the limit fast becomes immediate, and then SIGKILL.

        True if there was one to stop. Raises ServerError if it survives.
        """
        if not self.server.running:
            self.state = State.STOPPED
            return False
        with self._action():
            if checkpoint and self.state in (State.RUNNING, State.RESTARTING):
                try:
                    self.checkpoint(ctx)
                except ServerError:
                    pass  # stopped without it
            self.state = State.STOPPING
            try:
                _Stopping(self.server, ctx, on_shut_down).run(mode, timeout_s, sessions_s)
            except ServerError:
                self.state = State.STOP_FAILED
                raise
            self.state = State.STOPPED
        return True

    def restart(self, ctx: TaskContext, *, role: Role, upstream: Upstream | None, stop_limit_s: float, start_limit_s: float,
                ready: Callable[[], None]) -> bool:
        """Checkpoint, stop fast and start again in this role; ``ready`` may forbid the start by raising."""
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
        """Stop at once and remove the data directory; ``ready`` may forbid the removal by raising."""
        with self._action(State.CREATING_REPLICA):
            self.stop(ctx, mode="immediate", timeout_s=stop_limit_s)
            ctx.check()
            ready()
            self.role, self.state = Role.UNINITIALIZED, State.CREATING_REPLICA
            self.remove_data_dir()

    def terminate(self) -> None:
        """SIGKILL."""
        self.server.kill()

    def checkpoint(self, ctx: TaskContext) -> None:
        """CHECKPOINT, however long it takes. Raises ServerError or CancelledError."""
        server, pid, written = self.server, self.server.pid, [False]
        self._answered(Deadline.after(5.0))
        server.checkpoint(lambda: written.__setitem__(0, True))
        self._wait(lambda: written[0] or not server.running or server.pid != pid, 86400.0, ctx.check)
        if not written[0]:
            raise ServerUnavailableError("server closed the connection unexpectedly")

    def promote(self, ctx: TaskContext, *, timeout_s: float, accepted: Callable[[], None] = lambda: None,
                received: Lsn | None = None) -> None:
        """Promote a standby; returns as soon as it accepts writes. Raises ServerError when the time is over or it dies."""
        server, pid = self.server, self.server.pid
        if not server.running:
            raise ServerError("PostgreSQL is not running, it can't be promoted")
        with self._action():
            server.promote()
            self.role = Role.PROMOTED
            accepted()
            end = Deadline.after(timeout_s)
            if not self._wait(lambda: (server.writable and server.answers) or server.pid != pid or not server.running, end.left(),
                              ctx.check, poll_s=PROMOTION_POLL_S):
                raise ServerError("PostgreSQL was asked to promote but is still in recovery when the time is over")
            if server.pid != pid or not server.writable:
                raise ServerError("PostgreSQL died during its promotion")
            self.role = Role.PRIMARY

    # -- histories ---------------------------------------------------------------------------------------------------------

    def newer_histories(self, timeline_: int, upto: int) -> dict[int, tuple[Switch, ...]]:
        """The history files of later timelines: those up to one, and from there on as long as there is another."""
        found, number = {}, timeline_ + 1
        while (branch := self._branch(number)) is not None or number <= upto:
            if branch is not None:
                found[number] = history(branch)
            number += 1
        return found

    def set_histories_aside(self, timelines: Iterable[int]) -> None:
        """The server does not find them any more, so WAL of these timelines means nothing to it."""
        files = self._data()
        for number in timelines:
            files.known.pop(number, None)
            found = passed(files.wal.branch, number)
            if found is not None and (parent := timeline_root(found).parent) is not None:
                files.wal = Commit(parent, timeline_root(found).start)

    # -- mending -----------------------------------------------------------------------------------------------------------

    def rewind(self, ctx: TaskContext, source: Upstream) -> None:
        """Make a diverged server a follower of ``source``. Raises ServerError, CancelledError."""
        if self.server.running:
            try:
                self.stop(ctx, mode="fast", timeout_s=None)
            except ServerError as error:
                raise ServerUnavailableError(f"no pg_rewind while the server runs: {error}") from error
        with self._action():
            self._data()
            copying.rewind(self.server, ctx, source)

    def crash_recover(self, ctx: TaskContext) -> None:
        """Single-user crash recovery. Raises ServerError if it failed."""
        with self._action():
            self._check_startable()
            copying.recover_alone(self.server, ctx)

    def archive_shutdown_wal(self, ctx: TaskContext) -> None:
        """Archive the file with the shutdown checkpoint; nothing to do without an archive_command."""
        control = self.control_data()
        if control is not None and control.state is ControlState.SHUT_DOWN and self._archiving:
            ctx.report(phase="archiving")
            threads.sleep(0.1)
            ctx.check()

    # -- logical slots -----------------------------------------------------------------------------------------------------

    def create_logical_slot(self, slot: PermanentSlot) -> bool:
        """Make it; false if one is there already. Raises ServerError."""
        slots = self._quickly()
        if self.server.in_recovery:
            raise ServerError("logical decoding cannot be used while in recovery")
        if slot.name in slots:
            return False
        at = self.server.at.position
        slots[slot.name] = SlotState(slot.name, False, at, at, slot.plugin, slot.database, catalog_xmin=at)
        return True

    def advance_logical_slot(self, slot: PermanentSlot, lsn: Lsn) -> bool:
        """Move it to a position; false if that can never work again. Raises ServerError."""
        found = self._quickly().get(slot.name)
        if found is None:
            raise ServerError(f"replication slot {slot.name} does not exist")
        if found.lost:
            return False
        if lsn < (found.confirmed or 0):
            raise ServerError(f"cannot advance replication slot to {lsn}, minimum is {Lsn(found.confirmed or 0)}")
        files = self._data()
        reached = min(int(lsn), files.replayed)
        found.confirmed = found.restart = found.catalog_xmin = max(reached, found.confirmed or 0)
        return True

    def leader_slots(self, source: Upstream, names: Iterable[str], timeout_s: float) -> dict[str, int | None]:
        """The oldest transaction that each of these slots keeps on the leader. Raises ServerError."""
        found = self._reach(source, Deadline.after(timeout_s))
        if found.in_recovery or found.files is None:
            return {}
        slots = found.files.slots
        return {name: slots[name].catalog_xmin for name in names if name in slots}

    def copy_slots(self, ctx: TaskContext, source: Upstream, slots: Iterable[PermanentSlot], upstream: Upstream | None, *,
                   timeout_s: float) -> None:
        """Write what the leader has of these logical slots into this standby. Raises ServerError or CancelledError."""
        found = self._reach(source, Deadline.after(10.0))
        states = {} if found.in_recovery or found.files is None else {
            slot.name: replace(state)
            for slot in slots
            if (state := found.files.slots.get(slot.name)) is not None and not state.physical
            and (state.database, state.plugin) == (slot.database, slot.plugin)}
        if not states:
            return
        self._check_room(states)
        ctx.check()
        self.stop(ctx, mode="fast", timeout_s=None)
        try:
            self._data().slots.update(states)
        finally:
            self.start(ctx, role=self.role, upstream=upstream, timeout_s=timeout_s)

    def _check_room(self, added: Mapping[str, SlotState]) -> None:
        values = self._settings.parameters
        if values.get("wal_level") != "logical":
            raise ServerError(f"logical slots need wal_level logical, configured is {values.get('wal_level', 'replica')}")
        slots = self._data().slots.keys() | added.keys()
        limit = int(values.get("max_replication_slots", _DEFAULT_SLOTS))
        if len(slots) > limit:
            raise ServerError(f"{len(slots)} replication slots, the server starts with {limit} at most")

    # -- making data directories -------------------------------------------------------------------------------------------

    def bootstrap(self, ctx: TaskContext, method: BootstrapMethod, options: Json, claim: str = "") -> None:
        """Make a new cluster and start it. Raises ServerError or CancelledError."""
        custom = method.name != "initdb"
        with self._action(State.CUSTOM_BOOTSTRAP if custom else State.INITDB):
            try:
                (copying.restore if custom else copying.make_cluster)(self.server, ctx)
            except PgcoreError:
                self.state = State.CUSTOM_BOOTSTRAP_FAILED if custom else State.INITDB_FAILED
                raise
            self.state = State.BOOTSTRAP_STARTING if custom else State.STARTING
            self._set_names(None)
            self._start(ctx, Role.PRIMARY, None, self._settings.pg_ctl_timeout)

    def post_bootstrap(self, ctx: TaskContext, command: str | None, stall_s: float = 0) -> None:
        """Users on the new primary. Raises ServerError if anything fails."""
        self._answered(Deadline.after(5.0))
        if self.server.in_recovery:
            raise ServerError("cannot execute CREATE ROLE in a read-only transaction")
        self.server.emit(500)
        self.role = Role.PRIMARY

    def clone(self, ctx: TaskContext, methods: Sequence[tuple[ReplicaMethod, Json]], source: Upstream | None,
              claim: str = "") -> None:
        """Make the data directory of a standby; an existing one is removed. Raises ServerError or CancelledError."""
        if self.server.running:
            raise ServerError(f"PostgreSQL runs on {self._settings.data_dir}: stop it before a new copy is made")
        with self._action(State.CREATING_REPLICA):
            try:
                copying.clone(self.server, ctx, methods, source)
                self.role = Role.REPLICA
            finally:
                self.state = State.STOPPED

    def remove_data_dir(self) -> None:
        """Remove the data directory. Raises ServerError."""
        if self.server.running:
            raise ServerError(f"PostgreSQL runs on {self._settings.data_dir}, it is not removed")
        if self.server.pace.unreadable:
            raise ServerError(f"{self._settings.data_dir} cannot be removed: input/output error")
        self.server.remove()

    def rename_failed_data_dir(self) -> str:
        """Put the data directory aside; the new name. Raises ServerError."""
        self.remove_data_dir()
        return f"{self._settings.data_dir}.failed"


class _Stopping:
    """One stop: the signal, the wait, the safe point, the moment pg_control says "shut down", the escalation."""

    def __init__(self, server: Server, ctx: TaskContext, on_shut_down: Callable[[ControlData], None] | None) -> None:
        self._server, self._pid, self._ctx, self._on_shut_down = server, server.pid, ctx, on_shut_down
        self._safe = False
        self._shut_down_at: float | None = None

    def run(self, mode: StopMode, timeout_s: float | None, sessions_s: float | None) -> None:
        """Fast, then immediate, then SIGKILL, each with the same time. Raises ServerError if it survives all."""
        server, last_resort = self._server, _LAST_RESORT_S if timeout_s is None else timeout_s
        if mode == "fast":
            server.stop_fast()
        else:
            server.stop_immediately()
        if not self._wait(timeout_s if mode == "fast" else last_resort, sessions_s):
            if mode == "fast":
                server.stop_immediately()
            if (mode == "immediate" or not self._wait(last_resort)) and not server.kill():
                threads.sleep(5.0)
                if not self._ended:
                    raise ServerError(f"process {self._pid} survived SIGKILL: is a disk hanging?")
        self._tell_if_shut_down()
        self._tell_safe()

    @property
    def _ended(self) -> bool:
        return not self._server.running or self._server.pid != self._pid

    def _wait(self, timeout_s: float | None, sessions_s: float | None = None) -> bool:
        began = now()
        while not self._ended:
            self._tell_if_shut_down()
            if self._server.safe:
                self._tell_safe()
            self._ctx.check()
            limits = [POLL_S] if timeout_s is None else [POLL_S, began + timeout_s - now()]
            since = began if not self._safe else self._shut_down_at
            if sessions_s is not None and since is not None:
                limits.append(since + sessions_s - now())
            if min(limits) <= 0:
                return False
            self._server.changed.wait(min(limits))
        return True

    def _tell_safe(self) -> None:
        if not self._safe:
            self._safe = True
            self._ctx.report(safe_point=True)

    def _tell_if_shut_down(self) -> None:
        control = self._server.files.control if self._server.files is not None else None
        if self._on_shut_down is not None and control is not None and control.state is ControlState.SHUT_DOWN:
            tell, self._on_shut_down = self._on_shut_down, None
            self._shut_down_at = now()
            tell(control)
