"""Which program runs a node: its command line, the user it must be, and the timing its tests may use."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

POSTGRES_USER = "postgres"


@dataclass(frozen=True, slots=True)
class AgentKind:
    """One kind of agent.

    ``command`` is followed by the node file; ``quick_timing`` is ttl, loop_wait, retry_timeout in seconds: short, but accepted.
    """

    name: str
    command: tuple[str, ...]
    as_postgres: bool
    quick_timing: tuple[int, int, int]

    def argv(self, node_file: Path) -> list[str]:
        """The whole command line; an agent that may not be root is started through setpriv, which replaces itself."""
        drop = ("setpriv", f"--reuid={POSTGRES_USER}", f"--regid={POSTGRES_USER}", "--init-groups", "--")
        return [*(drop if self.as_postgres and os.geteuid() == 0 else ()), *self.command, str(node_file)]


def pgcore_agent(python: str = sys.executable) -> AgentKind:
    """``pgcore run`` of this interpreter, as root: it starts PostgreSQL as the owner of the data directory."""
    return AgentKind("pgcore", (python, "-m", "pgcore", "run"), as_postgres=False, quick_timing=(8, 2, 3))


def patroni_agent(environment: Path, quick_timing: tuple[int, int, int] = (20, 5, 5)) -> AgentKind:
    """The predecessor, installed in a virtual environment that the user postgres can read."""
    return AgentKind("patroni", (str(environment / "bin" / "patroni"),), as_postgres=True, quick_timing=quick_timing)


def chosen_agent() -> AgentKind:
    """pgcore, unless ``PGCORE_E2E_PATRONI`` names a virtual environment with the predecessor.

    Running a test on the predecessor shows whether it asks for something possible.
    """
    environment = os.environ.get("PGCORE_E2E_PATRONI")
    return patroni_agent(Path(environment)) if environment else pgcore_agent()
