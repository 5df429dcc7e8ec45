"""``pgcore-wale-restore``: the method ``wal_e`` as a command, with the flags that stand in many files (config 10.3)."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from pgcore.builtin.backup import wal_e
from pgcore.plugin import CommandFailedError, IdleLimit, Json, ReplicaRequest, ServerError, ServerSettings, Upstream

DONE, RETRY_LATER, DO_NOT_RETRY = 0, 1, 2
logger = logging.getLogger("pgcore-wale-restore")


class Terminal:
    """Runs programs for one call of the command; what they print goes to its own output."""

    def run(self, argv: list[str], *, env: Mapping[str, str] | None = None, stdin: str | None = None,
            on_output: Callable[[str], None] | None = None, stall_timeout: float | None = None,
            idle: IdleLimit | None = None) -> str:
        """Raises CommandFailedError."""
        try:
            done = subprocess.run(argv, env={**os.environ, **(env or {})}, input=stdin or "", stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
        except OSError as error:
            raise CommandFailedError(argv, None, str(error)) from error
        if done.returncode != 0:
            raise CommandFailedError(argv, done.returncode, done.stdout)
        return done.stdout

    def report(self, **progress: Json) -> None:
        """Into the log."""
        logger.info("%s", progress.get("phase"))

    def check(self) -> None:
        """A signal ends it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 1 try again later, 2 it would not help."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s: %(message)s", stream=sys.stderr)
    given, ignored = parser().parse_known_args(arguments)
    if ignored:
        logger.warning("ignored: %s", " ".join(ignored))  # keys of the section that are meant for the agent arrive, too
    if not given.connstring and not given.no_leader:
        logger.error("there is no leader to ask how old the backup is, and --no_leader is not set")
        return RETRY_LATER
    options = {key: getattr(given, key) for key in ("envdir", "use_iam", "retries", *wal_e.THRESHOLDS)}
    source = Upstream(host="", port=0) if given.connstring else None
    server = ServerSettings(name="", scope=given.scope, listen="", data_dir=given.datadir)
    try:
        wal_e.make_replica(ReplicaRequest(server=server, source=source, connstring=given.connstring, env={}, options=options,
                                          binary=lambda name: name, task=Terminal(), server_major=0))
    except CommandFailedError as error:
        logger.error("%s", error)
        return RETRY_LATER
    except ServerError as error:
        logger.error("%s", error)
        return DO_NOT_RETRY
    return DONE


def _number(text: str) -> int:
    """A number, or a word of YAML for 1 or 0."""
    word = text.lower()
    return int(word in ("true", "on", "yes")) if word in ("true", "on", "yes", "false", "off", "no") else int(text)


def parser() -> argparse.ArgumentParser:
    """The flags; spelled with - as well as with _."""
    found = argparse.ArgumentParser("pgcore-wale-restore", description="Makes the data directory of a standby by WAL-E.")
    for name, meaning in (("scope", "name of the cluster"), ("datadir", "data directory"),
                          ("connstring", "how to ask the leader"), ("envdir", "directory with WAL-E's variables")):
        found.add_argument(f"--{name}", required=True, help=meaning)
    found.add_argument("--role", help="ignored")
    for name, default, meaning in (
            ("retries", 1, "how often a failed fetch is repeated"),
            ("threshold_megabytes", wal_e.Thresholds.DEFAULTS[0], "WAL since the backup from which on a fresh copy is cheaper"),
            ("threshold_backup_size_percentage", wal_e.Thresholds.DEFAULTS[1], "the same in percent of the backup's size"),
            ("use_iam", 0, "1: the instance's role is the credential"),
            ("no_leader", 0, "1: restore also while nobody leads")):
        found.add_argument(f"--{name}", f"--{name.replace('_', '-')}", dest=name, type=_number, default=default, help=meaning)
    return found
