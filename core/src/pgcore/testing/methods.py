"""Requests for tests of replica and bootstrap methods: a plugin's ``run`` is called with them, and its programs run for real."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pgcore.errors import CommandFailedError
from pgcore.hookspecs import BootstrapRequest, IdleLimit, ReplicaRequest
from pgcore.model.basics import Json
from pgcore.model.server import ServerSettings


@dataclass
class TestTask:
    """A TaskContext that runs programs to their end and remembers what was reported."""

    __test__ = False
    reported: list[dict[str, Json]] = field(default_factory=list)

    def run(self, argv: list[str], *, env: Mapping[str, str] | None = None, stdin: str | None = None,
            on_output: Callable[[str], None] | None = None, stall_timeout: float | None = None,
            idle: IdleLimit | None = None) -> str:
        """Raises CommandFailedError as the agent's does; ``env`` is all the program sees besides PATH."""
        path = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        try:
            done = subprocess.run(argv, env=path | dict(env or {}), input=stdin or "", stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, check=False, timeout=stall_timeout)
        except subprocess.TimeoutExpired as error:
            raise CommandFailedError(argv, None, ended=f"printed nothing for {stall_timeout} s and was ended") from error
        except OSError as error:
            raise CommandFailedError(argv, None, str(error)) from error
        for line in done.stdout.splitlines() if on_output else ():
            on_output(line)  # type: ignore[misc]
        if done.returncode != 0:
            raise CommandFailedError(argv, done.returncode, done.stdout)
        return done.stdout

    def report(self, **progress: Json) -> None:
        """Kept in ``reported``."""
        self.reported.append(progress)

    def check(self) -> None:
        """Nobody cancels it."""


def replica_request(data_dir: Path, options: Json = None) -> ReplicaRequest:
    """Make a standby in ``data_dir``, which is created empty; there is no leader to copy from."""
    return ReplicaRequest(server=_server(data_dir), source=None, connstring="host=127.0.0.1 user=replicator", env={},
                          options=options, binary=_binary, task=TestTask(), server_major=17)


def bootstrap_request(data_dir: Path, options: Json = None) -> BootstrapRequest:
    """Make a new cluster in ``data_dir``, which is created empty."""
    return BootstrapRequest(server=_server(data_dir), options=options, superuser_password_file=None, binary=_binary,
                            task=TestTask())


def _server(data_dir: Path) -> ServerSettings:
    data_dir.mkdir(mode=0o700, parents=True)
    return ServerSettings(name="a", scope="main", listen="127.0.0.1:5432", data_dir=str(data_dir))


def _binary(name: str) -> str:
    return shutil.which(name) or name
