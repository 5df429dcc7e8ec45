"""`make demo` forms a real cluster, and Ctrl-C leaves nothing of it."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.server, pytest.mark.e2e]

DEMO = Path(__file__).resolve().parents[2] / "scripts" / "demo.py"


class Demo:
    """The running program and what it printed so far."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen([sys.executable, str(DEMO), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        env=os.environ | environment)
        self.text = ""

    def read_until(self, wanted: str, timeout_s: float) -> None:
        """Read on until a pattern appears; fails at the time limit or the end of the output."""
        assert self.process.stdout is not None
        end = time.monotonic() + timeout_s
        while not re.search(wanted, self.text):
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(self.process.stdout.fileno(), 65536).decode() if ready else ""
            assert chunk, f"waited {timeout_s} s for {wanted!r} and saw:\n{self.text}"
            self.text += chunk

    def finish(self, timeout_s: float) -> int:
        """Read the rest and return the exit code."""
        rest, _ = self.process.communicate(timeout=timeout_s)
        self.text += rest.decode()
        return self.process.returncode

    @property
    def directory(self) -> Path:
        """The work directory the program announced."""
        found = re.search(r"node files, data and logs in (\S+)", self.text)
        assert found, self.text
        return Path(found[1])


@pytest.fixture
def demo() -> Iterator[type[Demo]]:
    """Starts demos; whatever a failed test leaves behind ends in the orderly way, too."""
    started: list[Demo] = []

    class Started(Demo):
        def __init__(self, *arguments: str, **environment: str) -> None:
            super().__init__(*arguments, **environment)
            started.append(self)

    yield Started
    for each in started:
        if each.process.poll() is None:
            each.process.send_signal(signal.SIGINT)
            each.process.communicate(timeout=90)


def running_below(directory: Path) -> list[str]:
    commands = [path.read_bytes().replace(b"\0", b" ").decode(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline")]
    return [command for command in commands if str(directory) in command]


@pytest.mark.parametrize("end_signal", [signal.SIGINT, signal.SIGTERM])
def test_three_nodes_form_a_cluster_and_a_signal_ends_all_of_it(demo: type[Demo], end_signal: signal.Signals) -> None:
    program = demo()
    program.read_until(r"node\d: leader, running, timeline 1\n", 90)
    program.read_until(r"(?s)(replica, (streaming|running).*){2}", 90)
    program.process.send_signal(end_signal)
    assert program.finish(90) == 0, program.text
    assert "stopped; nothing is left running" in program.text
    assert not program.directory.exists()
    assert running_below(program.directory) == []


def test_an_agent_that_cannot_start_is_shown_with_the_end_of_its_log(demo: type[Demo], tmp_path: Path) -> None:
    (tmp_path / "pgcore").mkdir()
    (tmp_path / "pgcore" / "__init__.py").write_text("raise SystemExit('broken on purpose')\n")
    program = demo(PYTHONPATH=str(tmp_path))
    assert program.finish(60) == 1
    assert "node1: the agent ended with 1" in program.text
    assert "    broken on purpose" in program.text
    assert not program.directory.exists()
