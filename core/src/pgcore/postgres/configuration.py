"""Which configuration the server has on disk and which it should have: composes the files of ``files`` from the settings."""

from __future__ import annotations

import logging
import os
import signal
import uuid
from collections.abc import Mapping
from typing import Any

from pgcore.errors import ServerError
from pgcore.model.basics import Json, Role, slot_name
from pgcore.model.node import ControlData
from pgcore.model.server import ServerSettings, Upstream
from pgcore.postgres import creation, data_dir, files, parameters, recovery
from pgcore.postgres.parameters import Binary
from pgcore.postgres.postmaster import Postmaster
from pgcore.postgres.programs import OsUser, program_path
from pgcore.postgres.server_log import ServerLog
from pgcore.postgres.synchronous import NAME

logger = logging.getLogger(__name__)


class Configuration:
    """The files of one server. ``values`` are the parameters last written, ``held_back`` those a standby must exceed for now."""

    def __init__(self, settings: ServerSettings, user: OsUser | None, binary: Binary) -> None:
        self._binary = binary
        self.values: dict[str, str] = {}
        self.recovery: dict[str, str] | None = None
        """Recovery settings last written or found on disk; None if nobody looked yet."""
        self._upstream: Upstream | None = None
        self._recorded: Mapping[str, int] = {}
        self._temporary: dict[str, str] = {}
        self._replaced_hba: str | None = None
        self._bootstrapping = False
        self._standby_names: str | None = None
        self._standby_names_known = False
        self._role = Role.UNINITIALIZED
        self.configure(settings, user)
        self.log = ServerLog(_log_path(self.paths.pgpass, settings), user)

    def configure(self, settings: ServerSettings, user: OsUser | None) -> None:
        """Take new settings; nothing is written."""
        self._given, self._user = settings, user
        self._settings = settings.for_role(self._role)
        self.paths = files.Paths.of(settings, user)

    def take_role(self, role: Role) -> None:
        """From now on the files are those of this role (config 6.6); nothing is written."""
        self._role, self._settings = role, self._given.for_role(role)

    # -- composing ---------------------------------------------------------------------------------------------------

    def _major(self) -> int:
        major = data_dir.major_version(self._settings.data_dir)
        if major is None:
            raise ServerError(f"{self._settings.data_dir} has no readable PG_VERSION, nothing is written into it: "
                              "is the file system mounted?")
        return major

    def wanted_recovery(self, upstream: Upstream | None, role: Role) -> dict[str, str]:
        """The recovery settings of a standby of this upstream. Raises ServerError."""
        return recovery.wanted(self._given.for_role(role), upstream, self._major(), self._passfile(upstream), role)

    def _passfile(self, upstream: Upstream | None) -> str | None:
        return self.paths.pgpass if upstream is not None and self._settings.replication.password else None

    def _pgpass_text(self, upstream: Upstream) -> str:
        login = self._settings.replication
        return files.pgpass_text(upstream.host, upstream.port, login.username, login.password or "")

    def password_file_differs(self, upstream: Upstream | None) -> bool:
        """The password file does not hold what this upstream needs (edge case 212)."""
        path = self._passfile(upstream)
        return path is not None and upstream is not None and files.read(path) != self._pgpass_text(upstream)

    def _write_password_file(self) -> None:
        path = self._passfile(self._upstream)
        if path is not None and self._upstream is not None:
            files.write_pgpass(path, self._pgpass_text(self._upstream), self._user)

    def held_back(self) -> dict[str, dict[str, str]]:
        """Parameters a standby runs with a larger value than configured, as reasons for a restart (config 7.5)."""
        configured = parameters.effective(self._settings, parameters.NEWEST)
        return {name: {"old_value": value, "new_value": configured[name]}
                for name, value in parameters.raised(configured, self._recorded).items()}

    def _compose(self) -> str:
        """The text of the main file for the present settings; ``values`` follow it."""
        major = self._major()  # first of all: into a directory that is not mounted nothing is written (edge case 179)
        include = files.ensure_base(self._settings, self.paths, self._user)
        values = parameters.effective(self._settings, major)
        values |= parameters.raised(values, self._recorded) | self._temporary
        own = {"primary_conninfo", "primary_slot_name"}
        settings = dict(self.recovery or {})
        checked = values | {name: value for name, value in settings.items() if name not in own}
        good = self._binary.accepted(program_path(self._settings, "postgres"), self._settings.data_dir, checked,
                                     lambda some: self._write_candidate(some, include))
        self.values = {name: value for name, value in good.items() if name not in parameters.RECOVERY}
        if (names := self.standby_names()) is not None:
            self.values[NAME] = names
        written = {name: value for name, value in good.items() if name in parameters.RECOVERY}
        written |= {name: value for name, value in settings.items() if name in own}
        return files.main_text(self.values, written, include=include, paths=self.paths)

    def standby_names(self) -> str | None:
        """``synchronous_standby_names`` as set by the agent, over whatever is configured; None: the configured value counts.

        Those found on disk stay in force: an agent that is started anew must not let commits go unconfirmed. (HA rules 19)
        """
        if not self._standby_names_known:
            found = files.settings_in(self.paths.main).get(NAME)
            self.set_standby_names(None if found == self._configured_names() else found)
        return self._standby_names

    def _configured_names(self) -> str | None:
        values = {name.lower(): value for name, value in self._settings.parameters.items()}
        return None if values.get(NAME) is None else parameters.text(values[NAME])

    def set_standby_names(self, names: str | None) -> None:
        """Take what the agent wants from now on; nothing is written."""
        self._standby_names, self._standby_names_known = names, True

    def _write_candidate(self, values: Mapping[str, str], include: str) -> str:
        path = os.path.join(self.paths.config_dir, f".check-{uuid.uuid4().hex[:8]}.conf")
        files.write(path, files.main_text(values, {}, include=include, paths=self.paths),
                    mode=files.file_mode(self._settings.data_dir), user=self._user)
        return path

    # -- writing -----------------------------------------------------------------------------------------------------

    def write(self, role: Role, upstream: Upstream | None, *, standby: bool, control: ControlData | None = None) -> None:
        """Write everything for a server that is (about to be) a standby of this upstream or a primary. Raises ServerError.

        ``control`` is given before a start: a standby can't start below the shared-memory settings recorded there.
        """
        if standby:
            self.set_standby_names(None)  # nobody waits on a standby; its own come with its promotion (HA rules 17.5)
        self._upstream = upstream if standby else None
        self.recovery = self.wanted_recovery(upstream, role) if standby else {}
        if control is not None or role == Role.PRIMARY:
            self._recorded = control.parameters if control is not None and standby else {}
        files.ensure_directories(self._settings, self._user)
        self._write_password_file()
        self._write_main_and_lists()
        self._signal_files(standby="standby.signal" if standby else None)
        if standby:
            files.clean_auto_conf(self._settings.data_dir, self._user)

    def write_changes(self) -> bool:
        """Write what differs from the present settings, recovery settings untouched; whether anything did. Raises ServerError."""
        if self._bootstrapping:
            return False  # a configuration is not pushed into a custom bootstrap (edge case 185)
        if self.recovery is None:
            self.remember_from_disk()
        self._write_password_file()
        return self._write_main_and_lists()

    def _write_main_and_lists(self) -> bool:
        text = self._compose()
        changed = files.write_if_different(self.paths.main, text, mode=files.file_mode(self._settings.data_dir), user=self._user)
        if not self._bootstrapping:
            changed |= files.write_lists(self._settings, self.paths, self._user)
        return changed

    def _signal_files(self, *, standby: str | None) -> None:
        directory = self._settings.data_dir
        wanted = os.path.join(directory, standby) if standby else None
        if wanted is None or not os.path.exists(wanted):
            data_dir.remove_recovery_files(directory)
        if wanted is not None:
            files.remove_quietly(os.path.join(directory, "recovery.signal" if standby == "standby.signal" else "standby.signal"))
            files.remove_quietly(os.path.join(directory, "promote"))
            files.write_if_different(wanted, "", mode=files.file_mode(directory), user=self._user)

    def remember_from_disk(self) -> None:
        """Take the recovery settings that somebody wrote before, so that a rewrite keeps them (HA rules 5.4)."""
        found = files.settings_in(self.paths.main) | files.settings_in(
            os.path.join(self._settings.data_dir, "postgresql.auto.conf"))
        self.recovery = {name: value for name, value in found.items() if name in parameters.RECOVERY}

    def copy_aside(self) -> None:
        """Keep copies of the files in the data directory. Raises ServerError."""
        if not self._bootstrapping:
            files.copy_aside(self._settings, self.paths, self._user)

    def signal_reload(self, running: Postmaster | None) -> None:
        """SIGHUP. Raises ServerError if nothing runs."""
        if running is None or not running.signal(signal.SIGHUP):
            raise ServerError("PostgreSQL is not running, it can't read its configuration again")

    # -- after a data directory was made ------------------------------------------------------------------------------

    def after_creation(self) -> None:
        """Put back copied files that a method left out, drop leftovers of the source (config 8.3, HA rules 6.3)."""
        files.restore_missing(self._settings, self.paths, self._user)
        for leftover in ("promote", "postmaster.pid"):
            files.remove_quietly(os.path.join(self._settings.data_dir, leftover))

    def write_for_bootstrap(self, options: Mapping[str, Json], *, custom: bool, control: ControlData | None) -> None:
        """The files for the first start of a new cluster (config 10.4, 8.2). Raises ServerError."""
        keep = bool(options.get("keep_existing_recovery_conf"))
        given: Mapping[str, Any] = options.get("recovery_conf") or {}
        self._bootstrapping = custom
        self.set_standby_names(None)
        self._recorded = control.parameters if control is not None and custom else {}
        if keep:
            self.remember_from_disk()
        else:
            self.recovery = recovery.custom(given, self._major())
        promotes = keep or str(given.get("recovery_target_action", "")).lower() == "promote"
        self._temporary = {"hot_standby": "off"} if custom and promotes else {}
        if custom and self._settings.parameters.get("hba_file"):
            self._temporary["hba_file"] = self.paths.hba  # the foreign one may not let the agent in
        files.ensure_directories(self._settings, self._user)
        self._append_hba()
        self._write_main_and_lists()
        if custom:
            self._trust_local()
        if not keep:
            standby_mode = parameters.text(given.get("standby_mode", "off")).lower() in ("on", "true", "yes", "1")
            self._signal_files(standby=("standby.signal" if standby_mode else "recovery.signal") if given else None)
            files.clean_auto_conf(self._settings.data_dir, self._user)

    def _append_hba(self) -> None:
        """``bootstrap.pg_hba``, a legacy way to add lines where the file is not managed (config 4)."""
        lines = self._settings.bootstrap_pg_hba
        if lines and not self._settings.pg_hba and not self._settings.parameters.get("hba_file"):
            content = files.read(self.paths.hba) or ""
            files.write(self.paths.hba, content + "".join(f"{line}\n" for line in lines),
                        mode=files.file_mode(self._settings.data_dir), user=self._user)

    def _trust_local(self) -> None:
        self._replaced_hba = files.read(self.paths.hba)
        files.write(self.paths.hba, files.list_text(creation.trust_lines(self._settings)),
                    mode=files.file_mode(self._settings.data_dir), user=self._user)

    def end_bootstrap(self) -> recovery.Change:
        """Take back what only the bootstrap needed; what it takes to put that in force. Raises ServerError."""
        if not self._bootstrapping:
            self.copy_aside()
            return "none"
        self._bootstrapping = False
        needs: recovery.Change = "restart" if self._temporary else "reload"
        self._temporary, self.recovery = {}, {}
        if self._replaced_hba is not None:
            files.write(self.paths.hba, self._replaced_hba, mode=files.file_mode(self._settings.data_dir), user=self._user)
        self._write_main_and_lists()
        files.clean_auto_conf(self._settings.data_dir, self._user)  # targets that the tool of the bootstrap left
        self.copy_aside()
        return needs


def _log_path(pgpass: str, settings: ServerSettings) -> str:
    """Beside the password file: a place the agent may write to, which is not the data directory."""
    directory = os.path.dirname(pgpass)
    if not os.path.isdir(directory):
        directory = os.path.dirname(settings.data_dir.rstrip("/"))
    return os.path.join(directory, f".pgcore-{slot_name(settings.scope)}-{slot_name(settings.name)}.log")
