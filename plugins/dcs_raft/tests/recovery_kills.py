"""Kill a recovery before every call that touches files, each time on a copy of the same files; in a process of its own.

argv: the section as JSON. For each kill, a line of JSON: the call, the number of other voters that a later look finds, and how
many are left when the recovery is begun again after it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sys
from typing import Any

from pgcore_dcs_raft.plugin import RaftSection
from pgcore_dcs_raft.recovery import survivor

SYSTEM = ("posix", "io", "_io")
HARMLESS = ("stat", "fspath", "geteuid")


def touches_files(function: Any) -> bool:
    """Whether this is a call that may change a file."""
    modules = getattr(function, "__module__", None), type(getattr(function, "__self__", None)).__module__
    return function.__name__ not in HARMLESS and any(module in SYSTEM for module in modules)


def recover(section: RaftSection, kill_at: int) -> None:
    """Recover in this process, which ends at that event."""
    seen = 0

    def watch(frame: Any, event: str, function: Any) -> None:
        nonlocal seen
        if event == "c_call" and touches_files(function):
            if seen == kill_at:
                sys.setprofile(None)
                os.write(1, json.dumps([function.__name__]).encode()[:-1])
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    with survivor(section) as left:
        sys.setprofile(watch)
        left.recover()
        sys.setprofile(None)


def others(section: RaftSection) -> int:
    """How many other voters there are by the files."""
    with survivor(section) as left:
        return len(left.others)


def main() -> None:
    """Kill at one event after the other, until a recovery ends by itself."""
    described = json.loads(sys.argv[1])
    section = RaftSection(**described | {"partner_addrs": tuple(described["partner_addrs"])})
    for kill_at in range(10_000):
        copy = dataclasses.replace(section, data_dir=f"{section.data_dir}-{kill_at}")
        shutil.copytree(section.data_dir, copy.data_dir)
        child = os.fork()
        if child == 0:
            recover(copy, kill_at)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if ended != -signal.SIGKILL:
            sys.exit(ended)
        found = others(copy)
        if found:
            with survivor(copy) as left:
                left.recover()
        print(f", {found}, {others(copy)}]", flush=True)
        shutil.rmtree(copy.data_dir)


main()
