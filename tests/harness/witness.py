"""A voter of the embedded store without PostgreSQL, ``pgcore raft-witness``, as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from harness.processes import MARKER, send


class Witness:
    """Starts and kills it; its files stay in ``directory``."""

    def __init__(self, directory: Path, section: Mapping[str, Any], mark: str) -> None:
        directory.mkdir()
        self._file, self._log_file, self._mark = directory / "witness.yml", directory / "witness.log", mark
        self._file.write_text(yaml.safe_dump(dict(section)))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it unless it runs."""
        if self._process is None or self._process.poll() is not None:
            argv = [sys.executable, "-m", "pgcore", "raft-witness", str(self._file)]
            with open(self._log_file, "ab") as log:
                self._process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                                 env=os.environ | {MARKER: self._mark}, start_new_session=True)

    def kill(self) -> None:
        """SIGKILL it."""
        assert self._process is not None, "the witness was never started"
        send(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def log(self) -> str:
        """Everything it wrote."""
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""
