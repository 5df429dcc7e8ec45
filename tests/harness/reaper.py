"""The last resort of a test run, as a process: when whoever started it is gone, kill what that one left and remove its directory.

``python reaper.py MARK DIRECTORY``; the end of its standard input is the signal, so that even SIGKILL of the test run leaves
nothing behind.
"""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness.processes import kill_marked


def main() -> None:
    mark, directory = sys.argv[1], Path(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while sys.stdin.buffer.read(4096):
        pass
    if directory.exists():
        kill_marked(mark, directory)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
