"""Which children of a postmaster serve clients: told by the titles that PostgreSQL gives its processes. (HA rules 18.3)

A client's process shows where the client is: ``[local]`` or an address with a port. Auxiliary processes and background workers
show no client. A child whose title is not PostgreSQL's yet has just been forked and may become anything, so it counts.
"""

from __future__ import annotations

import os
import re

from pgcore.postgres.programs import parent_of

_TITLE = "postgres: "
_REPLICATION = re.compile(r"^postgres: (?:.*: )?walsender ")
_CLIENT = re.compile(r"(?:\[local\]|[^\s()]+\(\d+\))(?: |$)")


def serves_client(title: str) -> bool:
    """Whether the process of this title may still write for a client; an empty title is a process that is ending. (EC 91)"""
    if not title:
        return False
    if not title.startswith(_TITLE):
        return True
    return bool(_CLIENT.search(title)) and not _REPLICATION.match(title)


def user_backends(postmaster_pid: int) -> list[int] | None:
    """The living children of this postmaster that serve clients; None where that cannot be found out."""
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return None
    return [pid for pid in pids if parent_of(pid) == postmaster_pid and serves_client(_title(pid))]


def _title(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
