"""Mending a data directory (HA rules 12.4, 13.3): pg_rewind, single-user crash recovery, archiving WAL that either would lose."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgcore.errors import CommandFailedError, ServerError
from pgcore.model.basics import Json
from pgcore.model.options import option_pairs
from pgcore.model.server import ServerSettings
from pgcore.postgres import data_dir, postmaster
from pgcore.postgres.programs import ENGLISH, program_path

if TYPE_CHECKING:
    from pgcore.hookspecs import TaskContext

logger = logging.getLogger(__name__)

_READY = re.compile(r"^([0-9A-F]{24}(?:\.partial)?)\.ready$")
_MISSING = re.compile(r"could not open file .*?([0-9A-F]{24})\b|could not (?:find|read) .*?WAL.*?\b([0-9A-F]{24})\b")
_COPIED = re.compile(r"(\d+)/(\d+) kB \(\d+%\) copied")
_MAX_FETCHED = 10_000
_FORBIDDEN = frozenset({"target-pgdata", "source-pgdata", "source-server", "write-recovery-conf", "dry-run", "restore-target-wal",
                        "config-file", "no-ensure-shutdown", "version", "help"})


@dataclass(frozen=True, slots=True)
class Archiving:
    """Archive settings as the configuration files give them at the next start."""

    mode: str
    command: str
    restore_command: str
    restore_in_file: bool = False
    """The configuration files of the server hold restore_command at this moment, so pg_rewind can find it there."""

    @property
    def active(self) -> bool:
        """WAL is to be archived by a command."""
        return self.mode.lower() in ("on", "always", "true", "yes", "1") and bool(self.command)


def archive_ready(ctx: TaskContext, directory: str, archiving: Archiving) -> None:
    """Archive every segment still marked ready: the new leader may never have had it, and rewind deletes it (edge case 113).

    A failure is logged only: the segment then stays marked.
    """
    status_dir = os.path.join(directory, "pg_wal", "archive_status")
    if not archiving.active or not os.path.isdir(status_dir):
        return
    for name in sorted(match.group(1) for match in map(_READY.match, os.listdir(status_dir)) if match):
        if not os.path.exists(os.path.join(directory, "pg_wal", name)):
            continue
        try:
            ctx.run(_shell(directory, archiving.command, {"p": f"pg_wal/{name}", "f": name}))
            os.rename(os.path.join(status_dir, f"{name}.ready"), os.path.join(status_dir, f"{name}.done"))
        except (CommandFailedError, OSError) as error:
            logger.warning("WAL file %s could not be archived: %s", name, error)


def archive_file(ctx: TaskContext, directory: str, archiving: Archiving, name: str) -> None:
    """Archive one WAL file, complete or not. Raises CommandFailedError or CancelledError."""
    ctx.report(phase="archiving WAL", file=name)
    ctx.run(_shell(directory, archiving.command, {"p": f"pg_wal/{name}", "f": name}))


def _shell(directory: str, command: str, values: Mapping[str, str]) -> list[str]:
    """A server-style command with its ``%`` placeholders, run by a shell in the data directory as the server would."""
    filled = re.sub(r"%(.)", lambda match: {"%": "%", **values}.get(match.group(1), match.group(0)), command)
    return ["/bin/sh", "-c", f"cd {shlex.quote(directory)} && {filled}"]


@dataclass(frozen=True, slots=True)
class RewindPlan:
    """All that pg_rewind needs. ``source`` is a connection string without password, ``env`` names the password file."""

    settings: ServerSettings
    major: int
    config_file: str
    source: str
    env: Mapping[str, str]
    archiving: Archiving

    def restores_itself(self) -> bool:
        """This version's pg_rewind can call restore_command (HA rules 12.4.4)."""
        return self.archiving.restore_in_file and (self.major >= 15 or (self.major >= 13 and self._config_inside()))

    def _config_inside(self) -> bool:
        return os.path.dirname(self.config_file) == self.settings.data_dir.rstrip("/")

    def argv(self) -> list[str]:
        """The command line; it holds no password."""
        argv = [program_path(self.settings, "pg_rewind"), "--progress"]
        if self.restores_itself():
            argv.append("--restore-target-wal")
        if self.major >= 15 and not self._config_inside():
            argv.append(f"--config-file={self.config_file}")
        given = command_options(self.settings.rewind_options)
        return [*argv, "-D", self.settings.data_dir, f"--source-server={self.source}", *given]


def command_options(configured: Json) -> list[str]:
    """The operator's options as arguments (config 10.6); forbidden and malformed ones are logged and skipped."""
    options = []
    for name, value in option_pairs(configured):
        if not isinstance(name, str) or (value is not None and not isinstance(value, str)) or name.startswith("-"):
            logger.error("postgresql.rewind: option %r is skipped: names without dashes and values must be strings", name)
        elif name in _FORBIDDEN:
            logger.error("postgresql.rewind: option %s is skipped, pgcore decides on it itself", name)
        else:
            options.append(f"--{name}" if value is None else f"--{name}={value}")
    return options


def run(ctx: TaskContext, plan: RewindPlan, redo_file: Callable[[], str]) -> None:
    """Rewind; a recycled segment is fetched with restore_command and the run repeated (edge case 114).

    Raises CommandFailedError or CancelledError.
    """
    fetched: set[str] = set()
    env = {**plan.env, **_environment(plan.settings.data_dir), "PGOPTIONS": "-c statement_timeout=0"}
    while True:
        try:
            ctx.report(phase="rewind")
            ctx.run(plan.argv(), env=env, on_output=lambda line: _report(ctx, line))
            return
        except CommandFailedError as error:
            missing = missing_segment(error.output)
            if missing is None or missing in fetched or len(fetched) >= _MAX_FETCHED:
                raise
            if plan.restores_itself() or not plan.archiving.restore_command:
                raise
            fetched.add(missing)
            logger.info("pg_rewind misses WAL file %s, fetching it with restore_command", missing)
            values = {"p": f"pg_wal/{missing}", "f": missing, "r": redo_file()}
            try:
                ctx.run(_shell(plan.settings.data_dir, plan.archiving.restore_command, values))
            except CommandFailedError as fetching:
                logger.error("WAL file %s could not be fetched: %s", missing, fetching)
                raise error from fetching


def _environment(directory: str) -> dict[str, str]:
    """English, and a stale postmaster.pid whose pid a stranger uses now is no obstacle (HA rules 18.1)."""
    stranger = postmaster.foreign_pid(directory)
    return ENGLISH if stranger is None else {**ENGLISH, "PG_GRANDPARENT_PID": str(stranger)}


def _report(ctx: TaskContext, line: str) -> None:
    match = _COPIED.search(line)
    if match:
        ctx.report(phase="rewind", bytes_done=int(match.group(1)) * 1024, bytes_total=int(match.group(2)) * 1024)


def missing_segment(output: str) -> str | None:
    """The WAL file whose absence made pg_rewind fail, if that was the reason."""
    for line in output.splitlines():
        match = _MISSING.search(line)
        if match:
            return match.group(1) or match.group(2)
    return None


def single_user(ctx: TaskContext, settings: ServerSettings, major: int, archiving: Archiving) -> None:
    """Crash recovery without opening the server to anybody (HA rules 13.3).

    A restored backup of version 15 or later recovers at a normal start and is left alone. Raises ServerError.
    """
    directory = settings.data_dir
    if major >= 15 and os.path.exists(os.path.join(directory, "backup_label")):
        logger.info("%s holds a restored backup: no single-user recovery", directory)
        return
    archive_ready(ctx, directory, archiving)
    _forget_archive_status(directory)
    data_dir.remove_recovery_files(directory)
    argv = [program_path(settings, "postgres"), "--single", "-D", directory, *_recorded_options(directory),
            "-c", "archive_mode=on", "-c", "archive_command=false", "template1"]
    ctx.report(phase="crash recovery")
    ctx.run(argv, env=_environment(directory))


def _forget_archive_status(directory: str) -> None:
    status_dir = os.path.join(directory, "pg_wal", "archive_status")
    try:
        for name in os.listdir(status_dir):
            os.unlink(os.path.join(status_dir, name))
    except OSError as error:
        raise ServerError(f"{status_dir} can't be emptied: {error}") from error


def _recorded_options(directory: str) -> list[str]:
    """The options the server was started with, without the data directory."""
    try:
        with open(os.path.join(directory, "postmaster.opts"), encoding="utf-8") as file:
            words = shlex.split(file.read())[1:]
    except (OSError, ValueError):
        return []
    kept: list[str] = []
    while words:
        word = words.pop(0)
        if word == "-D" and words:
            words.pop(0)
        elif not word.startswith("-D"):
            kept.append(word)
    return kept
