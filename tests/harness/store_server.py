"""What a cluster under test asks of the server its agents share. A further store is a file with a subclass of this."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from pgcore.testing.processes import ServerProcess


class StoreServer(ServerProcess):
    """One server on an address of its own. Ports and data survive ``kill`` and ``stop``: ``start`` brings the same store back.

    ``prefix`` begins its command line, for a server in a namespace of its own.
    """

    programs: ClassVar[tuple[str, ...]] = ()
    """What must be on PATH for this server."""
    lease_slack_s: ClassVar[float] = 2.0
    """How much later than ttl the store may end a lease."""
    ttl_floor_s: ClassVar[int] = 0
    """The smallest ttl that the store's plugin accepts."""

    def __init__(self, directory: Path, host: str = "127.0.0.1", prefix: tuple[str, ...] = (), *, name: str = "store") -> None:
        super().__init__(name, directory / name)
        self.host, self._prefix = host, prefix

    @classmethod
    def missing(cls) -> str:
        """What this machine lacks to run the server; empty if nothing."""
        return ", ".join(program for program in cls.programs if shutil.which(program) is None)

    def end_leases(self) -> bool:
        """End every lease at once, as an operator could; false where nobody can."""
        return False

    def requests(self) -> dict[str, float]:
        """Requests that clients made since it began, by kind, as it counts them itself. Raises ``OSError`` without an answer."""
        raise NotImplementedError

    def expect(self, scope: str, member: str, home: Path) -> None:
        """A member of this name, whose agent has ``home`` as its home, will use this store; it runs or will be started first."""

    def section(self) -> dict[str, Any]:
        """The part of a node file that leads an agent here, ``{"etcd3": {...}}``."""
        raise NotImplementedError


def summed(lines: Iterable[str], label: str) -> dict[str, float]:
    """The values of lines in the format of Prometheus, added up by one of their labels."""
    counted: dict[str, float] = {}
    for line in lines:
        labels, _, number = line.rpartition(" ")
        kind = labels.partition(f'{label}="')[2].partition('"')[0]
        counted[kind] = counted.get(kind, 0.0) + float(number)
    return counted
