"""What the tests of backup tools share: programs run as postgres, rows around a restore point, an archive that has it all."""

from __future__ import annotations

import subprocess

from harness.agents import POSTGRES_USER
from harness.node import Node
from harness.processes import alive, wait_for


def as_postgres(*argv: str, timeout_s: float = 120, **environment: str) -> str:
    """Run a program as the user postgres and return what it printed. Raises ``AssertionError`` with that when it fails."""
    drop = ["setpriv", f"--reuid={POSTGRES_USER}", f"--regid={POSTGRES_USER}", "--init-groups", "--"]
    words = ["env", *(f"{name}={value}" for name, value in environment.items()), *argv]
    done = subprocess.run([*drop, *words], capture_output=True, text=True, timeout=timeout_s, check=False, cwd="/")
    assert done.returncode == 0, f"{argv} exited with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def marker_rows(primary: Node) -> None:
    """A table ``marker`` with the row ``before``, the restore point ``here``, and the row ``after``."""
    primary.query("CREATE TABLE marker (word text)")
    primary.query("INSERT INTO marker VALUES ('before')")
    primary.query("SELECT pg_create_restore_point('here')")
    primary.query("INSERT INTO marker VALUES ('after')")


def archived(primary: Node) -> None:
    """Wait until all WAL written so far is in the archive."""
    segment = primary.query("SELECT pg_walfile_name(pg_current_wal_lsn())")[0][0]
    primary.query("SELECT pg_switch_wal()")

    def done() -> bool:
        return bool(primary.query("SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name = %s", f"{segment}.done")[0][0])

    wait_for(done, 60, f"{segment} is in the archive")


def killed_in_the_middle(standby: Node, program: str, option: str = "program") -> None:
    """The tool has filled half a directory and hangs; the agent is killed. Its successor ends the tool and begins anew.

    ``program`` is put in front of by a script that hangs once; the section of the first replica method gets it as ``option``.
    """
    slow = standby.directory.with_name(f"slow-{standby.name}")
    slow.write_text("#!/bin/sh\n[ -e $0.pid ] || { mkdir -p " + str(standby.data_dir / "base") + "; echo 15 > "
                    + str(standby.data_dir / "PG_VERSION") + "; echo $$ > $0.new; mv $0.new $0.pid; exec sleep 600; }\n"
                    + f'exec {program} "$@"\n')
    slow.chmod(0o755)
    slow.parent.chmod(0o777)  # the script notes its process there
    settings = standby.document["postgresql"]
    settings[settings["create_replica_methods"][0]][option] = str(slow)
    standby.start()
    noted = slow.with_name(f"{slow.name}.pid")
    wait_for(noted.exists, 60, "the tool is at work")
    standby.kill_agent()
    standby.start()
    wait_for(standby.streams, 120, "the standby streams after the second attempt")
    assert not alive(int(noted.read_text())), "the first attempt's tool still runs"
