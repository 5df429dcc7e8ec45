"""Turns what the monitoring query, pg_control and the file system say into the fields of a ``NodeView``."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pgcore.clock import Deadline
from pgcore.errors import PgcoreError, ServerError
from pgcore.model.basics import Lsn, Role, State
from pgcore.model.node import ControlData, DataDir, NodeView
from pgcore.model.server import ServerSettings, Upstream
from pgcore.postgres import controldata, creation, data_dir, parameters, recovery
from pgcore.postgres.connection import Session, parse_conninfo
from pgcore.postgres.local import KeptSession
from pgcore.postgres.monitor import Monitoring
from pgcore.postgres.parameters import Binary
from pgcore.postgres.postmaster import read_pid_file
from pgcore.postgres.programs import OsUser, program_path

if TYPE_CHECKING:
    from pgcore.postgres.configuration import Configuration

logger = logging.getLogger(__name__)

Asker = Callable[[Callable[[Session, Deadline], recovery.Current]], recovery.Current]

_NOT_YET = ("starting up", "not yet accepting", "in recovery mode", "not accepting connections", "shutting down")


class Lookout:
    """Remembers what is expensive to find out until the file or the server behind it changes."""

    def __init__(self, run: Callable[[list[str]], str], binary: Binary) -> None:
        self._run = run
        self._binary = binary
        self._control: tuple[tuple[str, int], ControlData | None, str] | None = None
        self._rewindable: tuple[tuple[str, int], bool] | None = None
        self._rewind_program: dict[tuple[str, float], bool] = {}
        self._timeline: tuple[str, int, int | None] = ("", 0, None)
        self._identified: Lsn | None = None
        self._pending: tuple[tuple[object, ...], dict[str, dict[str, str]]] = ((), {})
        self._settings_read: tuple[tuple[object, ...], recovery.Current] | None = None
        self._last: Monitoring | None = None

    # -- control data ------------------------------------------------------------------------------------------------

    def control_data(self, settings: ServerSettings) -> ControlData | None:
        """pg_controldata, run again only when the file has changed; None if it can't be run or read (edge case 97)."""
        try:
            key = (settings.data_dir, os.stat(controldata.control_path(settings.data_dir)).st_mtime_ns)
        except OSError:
            return None
        remembered = self._control
        if remembered is not None and remembered[0] == key:
            return remembered[1]
        try:
            text = self._run([program_path(settings, "pg_controldata"), settings.data_dir])
        except PgcoreError as error:
            logger.warning("pg_control can't be read: %s", error)
            return None
        control = controldata.parse(text)
        if control is not None and control.shut_down_primary:
            control = replace(control, checkpoint_end=controldata.checkpoint_end(
                self._run, program_path(settings, "pg_waldump"), settings.data_dir, control, controldata.segment_size(text)))
        self._control = (key, control, controldata.fields(text).get("Latest checkpoint's REDO WAL file", ""))
        return control

    def redo_file(self) -> str:
        """The oldest WAL file the last checkpoint needs, for ``%r`` of restore_command."""
        return self._control[2] if self._control else ""

    def _rewind_possible(self, settings: ServerSettings, rewindable: bool) -> bool:
        if not settings.use_pg_rewind or not rewindable:
            return False
        path = program_path(settings, "pg_rewind")
        try:
            key = (path, os.stat(path).st_mtime)
        except OSError:
            return False
        if key not in self._rewind_program:
            self._rewind_program[key] = creation.help_works(self._run, path)
        return self._rewind_program[key]

    def _running_rewindable(self, settings: ServerSettings, pid: int) -> bool:
        """Checksums and hint logging do not change while a server runs, so pg_control is read once for each."""
        if self._rewindable is None or self._rewindable[0] != (settings.data_dir, pid):
            control = self.control_data(settings)
            if control is None:
                return False
            self._rewindable = ((settings.data_dir, pid), control.rewindable)
        return self._rewindable[1]

    # -- views -------------------------------------------------------------------------------------------------------

    def add_offline_facts(self, view: NodeView, settings: ServerSettings, *, untouchable: bool) -> NodeView:
        """What can be said without a server. While a copy is being made pg_control is left alone (HA rules 6.3)."""
        self._last = None
        if untouchable or view.data_dir != DataDir.PRESENT:
            return view
        control = self.control_data(settings)
        backup = os.path.exists(os.path.join(settings.data_dir, "backup_label"))
        return replace(view, control=control,
                       restored_backup=backup and (data_dir.major_version(settings.data_dir) or parameters.NEWEST) >= 15,
                       system_id=control.system_id if control else controldata.peek_system_id(settings.data_dir),
                       recovery_files=data_dir.has_recovery_files(settings.data_dir),
                       rewind_possible=self._rewind_possible(settings, control is not None and control.rewindable))

    def add_silent_facts(self, view: NodeView, settings: ServerSettings) -> NodeView:
        """What can be said about a server that runs but did not answer; the last answer's identity still holds."""
        rewindable = self._running_rewindable(settings, view.postmaster_pid or 0)
        view = replace(view, system_id=controldata.peek_system_id(settings.data_dir),
                       recovery_files=data_dir.has_recovery_files(settings.data_dir),
                       rewind_possible=self._rewind_possible(settings, rewindable),
                       control=None if view.accepting or view.state != State.STARTING else self.control_data(settings))
        if self._last is not None:
            view = replace(view, server_version=self._last.server_version, postmaster_start=self._last.postmaster_start)
        return view

    def add_online_facts(self, view: NodeView, answer: Monitoring, settings: ServerSettings) -> NodeView:
        """The server's own answer."""
        self._last = answer
        standby_position = max(answer.received or Lsn(0), answer.replayed or Lsn(0))
        return replace(
            view, answering=True, accepting=True, system_id=answer.system_id, server_version=answer.server_version,
            postmaster_start=answer.postmaster_start, is_primary=not answer.in_recovery, timeline=answer.primary_timeline,
            position=standby_position if answer.in_recovery else answer.flushed, received=answer.received,
            replayed=answer.replayed, replayed_at=answer.replayed_at, replay_paused=answer.replay_paused,
            receiver=answer.receiver, senders=answer.senders, slots=answer.slots,
            hot_standby_feedback=answer.hot_standby_feedback,
            has_restore_command=bool(answer.restore_command), archiving=answer.archiving,
            recovery_files=data_dir.has_recovery_files(settings.data_dir),
            rewind_possible=self._rewind_possible(settings, self._running_rewindable(settings, view.postmaster_pid or 0)))

    @staticmethod
    def accepts(directory: str, error: Exception) -> bool:
        """Whether a server that failed to answer is up nevertheless: overloaded or frozen, as opposed to starting or stopping."""
        file = read_pid_file(directory)
        if file is None or file.status not in ("ready", "standby"):
            return False
        return not any(words in str(error) for words in _NOT_YET)

    def standby_timeline(self, answer: Monitoring, identify: Callable[[], int | None]) -> int | None:
        """The WAL receiver's timeline, else IDENTIFY_SYSTEM, asked again whenever more was replayed (HA rules 11.5).

        A receiver may have moved to another timeline and died between two looks; the last known timeline would keep this server
        out of every race. Nor does it fall back behind the receiver, which may be ahead of what was replayed.
        """
        start, recovered = answer.postmaster_start, answer.minimum_recovery_timeline
        if answer.receiver is not None and answer.receiver.timeline:
            self._timeline, self._identified = (start, recovered, answer.receiver.timeline), None
            return self._timeline[2]
        known = self._timeline[2] if self._timeline[:2] == (start, recovered) else None
        if known is None or self._identified is None or self._identified != answer.replayed:
            found = identify()
            self._identified = answer.replayed if found else None
            self._timeline = (start, recovered, max(known or 0, found or 0) or recovered or None)
        return self._timeline[2]

    # -- pending restart ---------------------------------------------------------------------------------------------

    def pending_restart(self, answer: Monitoring, settings: ServerSettings, configuration: Configuration, kept: KeptSession,
                        user: OsUser | None, deadline: Deadline) -> Mapping[str, Mapping[str, str]]:
        """Parameters that act only after a restart, with both values (config 7.4)."""
        held_back = configuration.held_back()
        names = answer.pending_restart
        if not names:
            return held_back
        stamps = tuple(_mtime(path) for path in (configuration.paths.main, configuration.paths.base,
                                                 os.path.join(settings.data_dir, "postgresql.auto.conf")))
        key = (names, answer.postmaster_start, stamps)
        if self._pending[0] != key:
            try:
                rows = kept.use(settings, user, deadline, lambda session: session.query(
                    "SELECT name, pg_catalog.current_setting(name), unit FROM pg_catalog.pg_settings WHERE name = ANY(%s)",
                    (sorted(names),), deadline=deadline))
            except ServerError:
                return held_back | {name: {"old_value": "?", "new_value": "?"} for name in names}
            postgres = program_path(settings, "postgres")
            self._pending = (key, {name: {"old_value": old, "new_value": parameters.human(self._binary.value_at_next_start(
                postgres, settings.data_dir, configuration.paths.main, name), unit)} for name, old, unit in rows})
        return held_back | self._pending[1]

    # -- recovery settings -------------------------------------------------------------------------------------------

    def recovery_change(self, configuration: Configuration, settings: ServerSettings, upstream: Upstream | None, role: Role,
                        ask: Asker, *, settling: bool) -> recovery.Change:
        """Compare the recovery settings wanted in this role with those in force (HA rules 11.3).

        While it is ``settling`` after a reload the server is not asked: what it showed then would be kept for good.
        """
        if not os.path.exists(os.path.join(settings.data_dir, "standby.signal")):
            return "restart"
        major = data_dir.major_version(settings.data_dir) or parameters.NEWEST
        want = configuration.wanted_recovery(upstream, role)
        if settling:
            return self._by_what_was_written(configuration, want, major)
        try:
            current = self._in_force(configuration, settings, ask)
        except ServerError:
            return self._by_what_was_written(configuration, want, major)
        receiver = None
        if self._last is not None and self._last.receiver is not None and self._last.receiver_conninfo:
            receiver = (parse_conninfo(self._last.receiver_conninfo), self._last.receiver.slot)
        found = recovery.change(want, current, major=major, config_file=configuration.paths.main, receiver=receiver)
        if found == "none" and configuration.password_file_differs(upstream):
            return "reload"
        return found

    def _in_force(self, configuration: Configuration, settings: ServerSettings, ask: Asker) -> recovery.Current:
        """The server's settings, read again only after a restart or a changed file."""
        stamps = (_mtime(configuration.paths.main), _mtime(os.path.join(settings.data_dir, "postgresql.auto.conf")))
        key = (self._last.postmaster_start if self._last else None, stamps)
        if self._settings_read is None or key[0] is None or self._settings_read[0] != key:
            self._settings_read = (key, ask(recovery.ask))
        return self._settings_read[1]

    @staticmethod
    def _by_what_was_written(configuration: Configuration, want: Mapping[str, str], major: int) -> recovery.Change:
        written = configuration.recovery
        if written is None or written == want:
            return "none"
        different = {name for name in {*written, *want} if written.get(name) != want.get(name)}
        return "restart" if different & recovery.needing_restart(major) else "reload"


def _mtime(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0

